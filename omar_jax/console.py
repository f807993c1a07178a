"""What a run shows in the terminal: a progress bar while it plays, a line an iteration, its warnings."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

COLUMNS = {  # of an iteration's line
    "wolves win": ("win_rate/werewolves", "{:.2f}"),
    "agreed": ("events/agreement", "{:.2f}"),
    "joint points": ("events/joint_share", "{:.2f}"),
    "judged": ("judge/overall", "{:+.2f}"),
    "kl": ("policy/kl", "{:.4f}"),
    "entropy": ("policy/entropy", "{:.3f}"),
    "clipped": ("policy/clip_fraction", "{:.3f}"),
    "explained": ("critic/explained_variance", "{:+.2f}"),
    "play s": ("time/play", "{:.1f}"),
    "update s": ("time/update", "{:.1f}"),
    "tokens/s": ("time/tokens_per_second", "{:.0f}"),
}


class Console:
    """Writes to standard output, unless it is to be quiet; the bar is drawn in a terminal only."""

    def __init__(self, quiet: bool = False):
        self._console = RichConsole(highlight=False, soft_wrap=True, quiet=quiet)
        self._wins = ""  # of the iteration before

    def line(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    def table(self, table: Table) -> None:
        """A rich table."""
        self._console.print(table)

    @contextlib.contextmanager
    def progress(self, title: str, total: int, check: Callable[[], None]) -> Iterator[Callable[[int, int], None]]:
        """A bar over `total` games; call the result with (games over, tokens so far). Each call calls `check`."""
        columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        speed = TextColumn("{task.fields[speed]}")
        with Progress(
            *columns, speed, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as bar:
            task, begun = bar.add_task(title, total=total, speed=""), time.perf_counter()

            def show(finished: int, tokens: int) -> None:
                check()
                seconds = max(time.perf_counter() - begun, 1e-9)
                speed = f"{finished / seconds:.0f} games/s  {tokens / seconds:.0f} tokens/s  {self._wins}"
                bar.update(task, completed=finished, speed=speed)

            yield show

    def iteration(self, number: int, numbers: Mapping[str, float]) -> None:
        """The line of a finished iteration."""
        known = {title: form.format(numbers[name]) for title, (name, form) in COLUMNS.items() if name in numbers}
        if left_out := numbers.get("game/oversize_share"):
            # Long games may end otherwise than short ones, and then what is learned from is no fair sample.
            known["left out"] = f"{left_out:.0%} (too long for config.play.transcript_tokens or config.layout.buckets?)"
        shown = "  ".join(f"{title} {value}" for title, value in known.items())
        self.line(f"iteration {number:4d}  {shown}")
        wins = {name.split("/")[1]: rate for name, rate in numbers.items() if name.startswith("win_rate/")}
        self._wins = "  ".join(f"{team} {wins[team]:.0%}" for team in ("werewolves", "village") if team in wins)
