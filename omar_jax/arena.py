"""One policy against another, side by side: what did training add?

Every seed deals one game, played by three line-ups: A's werewolves against B's village, B against itself, and B's
werewolves against A's village. Each side's difference is taken seed by seed, where the luck of the deal cancels.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from omar_jax import hosts
from omar_jax.console import Console
from omar_jax.metrics import PairedDifference, paired_difference, write_atomically
from omar_jax.rollout import Game, Rollout, environment_seed
from omar_jax.runtime import Stop
from omar_jax.types import Episode, Params

SIDES = ("werewolves", "village")


def _line_up(rollout: Rollout, players: dict[str, int]) -> Callable[[tuple[str, ...]], Sequence[int]]:
    return lambda roles: [players[rollout.env.team(role)] for role in roles]


def _won(rollout: Rollout, episodes: Sequence[Episode], side: str) -> np.ndarray:
    """[games] 1 where the side won; a game cut short is nobody's."""

    def wins(episode):
        seat = next(s for s, role in enumerate(episode.roles) if rollout.env.team(role) == side)
        return episode.rewards is not None and episode.rewards[seat] > 0

    return np.array([wins(episode) for episode in episodes], float)


def compare(
    rollout: Rollout,
    a: Params,
    b: Params,
    num_games: int,
    seed: int,
    temperature: float,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, PairedDifference], list[Episode]]:
    """Plays both line-ups of `num_games` seeds.

    Args:
      rollout: of the environment.
      a, b: the two policies.
      num_games: seeds; three games each.
      seed: of deals and words.
      temperature: of the sampler.
      progress: told how many games are over, and of how many tokens so far.

    Returns:
      By side, A's rate of wins on it against B, B's against itself, and their difference; and the games of A's
      werewolves.

    Raises:
      StopRequested: `progress` did, in this process or another.
    """
    over = spoken = 0  # games of all, and tokens of the first process, which alone shows them

    def play(werewolves, village, policies):
        nonlocal over, spoken
        players = dict(zip(SIDES, (werewolves, village), strict=True))
        games = [Game(game, environment_seed(seed, game), _line_up(rollout, players)) for game in range(num_games)]
        # No more at once than all processes' batches hold, so that a stop is not agreed on late.
        at_once = jax.process_count() * rollout.sampler.shapes.games[0]
        episodes = []
        for first in range(0, num_games, at_once):
            some = games[first : first + at_once]

            def report(finished, tokens, over=over, spoken=spoken):
                progress(over + finished, spoken + tokens)

            of_mine = (hosts.share(some), policies, rollout.sampler.key(seed), temperature, report)
            everywhere = hosts.together(lambda of_mine=of_mine: rollout.play(*of_mine))
            episodes += [episode for played, _ in everywhere for episode in played]
            over, spoken = over + len(some), spoken + everywhere[0][1].action_tokens
        return episodes

    of_a = {}
    with_a_wolves = play(0, 1, [a, b])
    of_a["werewolves"] = _won(rollout, with_a_wolves, "werewolves")
    of_a["village"] = _won(rollout, play(1, 0, [a, b]), "village")
    among_b = play(0, 0, [b])
    return {side: paired_difference(of_a[side], _won(rollout, among_b, side)) for side in SIDES}, with_a_wolves


def record(names: tuple[str, str], num_games: int, sides: dict[str, PairedDifference]) -> dict[str, Any]:
    """The content of `arena.json`."""
    return {
        "a": names[0],
        "b": names[1],
        "games": 3 * num_games,
        "seeds": num_games,
        "sides": {
            side: {
                "a": of.a,
                "b": of.b,
                "difference": of.difference,
                "interval": [of.low, of.high],
                "games": num_games,
            }
            for side, of in sides.items()
        },
    }


def table(names: tuple[str, str], num_games: int, sides: dict[str, PairedDifference]) -> Table:
    """The same for the terminal."""
    shown = Table(title=f"{names[0]} against {names[1]}: rate of wins, {num_games} games a side and line-up")
    for column in ("side", names[0], names[1], "difference", "95% interval"):
        shown.add_column(column, justify="left" if column == "side" else "right")
    for side, of in sides.items():
        shown.add_row(
            side,
            f"{of.a:.1%}",
            f"{of.b:.1%}",
            f"{100 * of.difference:+.1f} points",
            f"{100 * of.low:+.1f} to {100 * of.high:+.1f}",
        )
    return shown


def report(
    rollout: Rollout,
    trained: Params,
    reference: Params,
    config: ConfigDict,
    workdir: Path,
    console: Console,
    stop: Stop,
) -> None:
    """Compares the trained policy with its cold start: the table, three lines of a game, `arena.json`."""
    names, num_games = ("trained", "cold start"), config.arena.games
    with console.progress("arena", 3 * num_games, stop.check) as progress:
        sides, episodes = compare(
            rollout, trained, reference, num_games, config.arena.seed, config.play.temperature, progress
        )
    if hosts.is_first():
        write_atomically(workdir / "arena.json", [json.dumps(record(names, num_games, sides), indent=1)])
    console.table(table(names, num_games, sides))
    console.line("From a game of the trained werewolves:")
    for line in example(episodes[0]):
        console.line(f"  {line}")
    console.line(f"Everything else is in {workdir}")


def example(episode: Episode, lines: int = 3) -> list[str]:
    """A few lines of a game: the first things said aloud."""
    spoken = [line for who, text in episode.transcript if who == "public" for line in text.split("\n")]
    return [line for line in spoken if ": " in line and not line.startswith("Players: ")][:lines]
