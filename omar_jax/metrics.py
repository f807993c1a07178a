"""What a run tells about itself: numbers of every iteration, games in full, statistics of games.

The life of a number: `game_metrics` and the update make a dict of floats; `MetricsWriter.write` adds it to
`metrics.jsonl` (one line an iteration) and to TensorBoard's events, and stops the run when one is not finite.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tensorboardX import SummaryWriter

from omar_jax.types import Episode, Turn

# One for every program that XLA was asked for, whether compiled or found in the persistent cache.
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompilationCounter:
    """Counts this process's XLA compilations from its construction on; a second one counts for itself."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        self.count += event == _COMPILE_EVENT


class MetricsWriter:
    """`metrics.jsonl` and TensorBoard's events of a run, in `folder`.

    Args:
      folder: the run's; made if it is missing.
      start_iteration: the first iteration that will be written. What an interrupted run wrote of it and of
        later ones is dropped, so a killed and resumed run leaves the same file as one left alone.

    Attributes:
      history: the metrics of the iterations before it.
    """

    def __init__(self, folder: Path, start_iteration: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _is_before(line, start_iteration)]
        write_atomically(path, kept)
        self.history = [json.loads(line) for line in kept]
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder), purge_step=start_iteration)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Writes one iteration's line, to the disk before it returns. Non-finite numbers become null.

        Raises:
          FloatingPointError: some are not finite; the line is written first.
        """
        numbers = {name: float(value) for name, value in metrics.items()}
        wrong = [name for name, number in numbers.items() if not math.isfinite(number)]
        legal = {name: None if name in wrong else number for name, number in numbers.items()}
        self._file.write(json.dumps({"iteration": iteration, **legal}, allow_nan=False) + "\n")
        self._file.flush()
        for name, number in numbers.items():
            self._board.add_scalar(name, number, iteration)
        self._board.flush()
        if wrong:
            values = ", ".join(f"{name} is {numbers[name]}" for name in wrong)
            raise FloatingPointError(f"iteration {iteration}: {values}")

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._board.close()


def _is_before(line: str, iteration: int) -> bool:
    try:
        return json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):  # half a line: the run was killed while writing it
        return False


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Puts the lines into `path`, which is at every moment the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(line + "\n" for line in lines))
    os.replace(temporary, path)


def write_episodes(folder: Path, iteration: int, episodes: Sequence[Mapping[str, Any]]) -> None:
    """Writes games (`episode_record`) to `<folder>/episodes/000012.jsonl`, one a line, replacing the file."""
    path = folder / "episodes" / f"{iteration:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [json.dumps(record, allow_nan=False) for record in episodes])


def episode_record(
    episode: Episode,
    advantages: Mapping[tuple[int, int], np.ndarray] | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    turn_advantages: Mapping[tuple[int, int], float] | None = None,
    scores: Sequence[Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """A game as JSON.

    Args:
      episode: the game.
      advantages: by (seat, step), [J] each: one an action token; turns that are not in it have null.
      decode: token ids to text; adds the turns' cues as text.
      turn_advantages: by (seat, step), the whole turn's; turns that are not in it have null.
      scores: [P] a judge's, by dimension, if there was one.

    Returns:
      game, seed, names, roles, rewards, scores (if given), events, transcript (visible_to, text) and turns, in the
      order they were said: step, seat, name, role, cue (if `decode`), text, tokens, log_probs, values, advantages,
      turn_advantage, kept. Floats have 4 digits after the point; non-finite ones are null.
    """
    turns = []
    for step, seat, turn in _turns(episode):
        of_tokens = advantages.get((seat, step)) if advantages is not None else None
        of_turn = turn_advantages.get((seat, step)) if turn_advantages is not None else None
        turns.append(
            {
                "step": step,
                "seat": seat,
                "name": episode.names[seat],
                "role": episode.roles[seat],
                **({"cue": decode(turn.cue)} if decode else {}),
                "text": turn.text,
                "tokens": [int(token) for token in turn.action],
                "log_probs": _rounded(turn.log_probs),
                "values": _rounded(turn.values),
                "advantages": _rounded(of_tokens) if of_tokens is not None else None,
                "turn_advantage": _rounded(of_turn)[0] if of_turn is not None else None,
                "kept": bool(turn.kept),
            }
        )
    return {
        "game": int(episode.game),
        "seed": int(episode.seed),
        "names": list(episode.names),
        "roles": list(episode.roles),
        "rewards": _rounded(episode.rewards) if episode.rewards is not None else None,
        **({"scores": [{name: round(of, 2) for name, of in seat.items()} for seat in scores]} if scores else {}),
        "events": {name: float(count) for name, count in episode.events.items()},
        "transcript": [{"visible_to": who, "text": text} for who, text in episode.transcript],
        "turns": turns,
    }


def _rounded(numbers: Any) -> list[float | None]:
    return [round(float(x), 4) if math.isfinite(x) else None for x in np.asarray(numbers).reshape(-1)]


def _turns(episode: Episode) -> Iterable[tuple[int, int, Turn]]:
    for step, said in enumerate(episode.steps):
        for seat, turn in said.turns.items():
            yield step, seat, turn


def game_metrics(episodes: Sequence[Episode], team_of: Callable[[str], str] | None = None) -> dict[str, float]:
    """Statistics of games, over the seats and turns that learn (`Episode.learns`; all if it is empty).

    Args:
      episodes: the games.
      team_of: role to team, for rates by team besides those by role.

    Returns:
      game/count, game/cut_share (games without rewards), game/steps (mean);
      win_rate/ROLE, reward/ROLE and the same by team: over seats of finished games; a seat wins if its reward
      is above 0;
      turn/count, turn/tokens (mean), turn/filtered_share, turn/distinct_2;
      events/NAME: mean a game, 0 where a game lacks the event;
      invalid/per_game, invalid/per_turn if there is an event "invalid": these count everybody's actions.
      What there is nothing to average for is left out.
    """
    if not episodes:
        return {"game/count": 0.0}
    metrics = {
        "game/count": float(len(episodes)),
        "game/cut_share": _mean(episode.rewards is None for episode in episodes),
        "game/steps": _mean(len(episode.steps) for episode in episodes),
    }
    return metrics | _reward_metrics(episodes, team_of) | _turn_metrics(episodes) | _event_metrics(episodes)


def _reward_metrics(episodes: Sequence[Episode], team_of: Callable[[str], str] | None) -> dict[str, float]:
    rewards: dict[str, list[float]] = {}
    for episode in episodes:
        for seat, reward in enumerate(episode.rewards or ()):
            if episode.is_learner(seat):
                role = episode.roles[seat]
                # A set: a role may be a team of its own, and must not count twice.
                for group in {role, team_of(role)} if team_of else {role}:
                    rewards.setdefault(group, []).append(reward)
    metrics = {f"reward/{group}": _mean(of_group) for group, of_group in sorted(rewards.items())}
    return metrics | {f"win_rate/{group}": _mean(r > 0 for r in rs) for group, rs in sorted(rewards.items())}


def _turn_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    turns = [turn for e in episodes for _, seat, turn in _turns(e) if e.is_learner(seat)]
    if not turns:
        return {"turn/count": 0.0}
    return {
        "turn/count": float(len(turns)),
        "turn/tokens": _mean(len(turn.action) for turn in turns),
        "turn/filtered_share": _mean(not turn.kept for turn in turns),
        "turn/distinct_2": distinct_n([turn.text for turn in turns], 2),
    }


def _event_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    totals = Counter()
    for episode in episodes:
        totals.update(episode.events)
    metrics = {f"events/{name}": total / len(episodes) for name, total in sorted(totals.items())}
    turns = sum(len(step.turns) for episode in episodes for step in episode.steps)
    if "invalid" in totals and turns:
        metrics["invalid/per_game"] = totals["invalid"] / len(episodes)
        metrics["invalid/per_turn"] = totals["invalid"] / turns
    return metrics


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Different n-grams of words over all n-grams of words, in [0, 1]; 0 if no text has n words.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models" (2016), section 5.
    It falls as texts get more: compare equal numbers of them.
    """
    seen, total = set(), 0
    for text in texts:
        words = text.split()
        grams = list(zip(*(words[start:] for start in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else 0.0


def rate_interval(rate: float, count: int) -> tuple[float, float]:
    """The 95% interval of a rate over `count` independent trials.

    Wilson, "Probable inference, the law of succession, and statistical inference" (1927): sound near 0 and 1 too.
    """
    z = 1.96**2 / count
    middle = (rate + z / 2) / (1 + z)
    margin = math.sqrt(z * rate * (1 - rate) + z * z / 4) / (1 + z)
    return max(middle - margin, 0.0), min(middle + margin, 1.0)


class PairedDifference(NamedTuple):
    """Two means over the same seeds, their difference a - b and its 95% interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float


def paired_difference(a: np.ndarray, b: np.ndarray, clusters: Sequence[Any] | None = None) -> PairedDifference:
    """Compares two line-ups that played the same seeds.

    The interval is the normal approximation on the differences by seed, d = a - b:
    mean(d) ± 1.96 std(d) / sqrt(n), std with n - 1. Luck of the seed that both share cancels. It is too
    narrow for few seeds (below about 30) and a point where all differences are equal. With clusters, whose members
    are alike, the same holds for their sums of d - mean(d), and few clusters are as bad as few seeds.

    Args:
      a: [n] what line-up A got on each seed, such as 1 for a win and 0 for none.
      b: [n] the same of line-up B.
      clusters: [n] what seeds have in common, such as a scenario; None: each stands alone.

    Raises:
      ValueError: the lengths differ, or there are fewer than 2 seeds or clusters.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"paired_difference needs two arrays [n] of n >= 2 seeds, got {a.shape} and {b.shape}")
    by_seed = a - b
    difference, n = by_seed.mean(), len(by_seed)
    _, of_seed = np.unique(range(n) if clusters is None else [str(of) for of in clusters], return_inverse=True)
    sums = np.bincount(of_seed, by_seed - difference)
    if len(sums) < 2:
        raise ValueError("paired_difference needs at least 2 clusters")
    margin = 1.96 * math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / n
    means = (a.mean(), b.mean(), difference, difference - margin, difference + margin)
    return PairedDifference(*(float(x) for x in means))
