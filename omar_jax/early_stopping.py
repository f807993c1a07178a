"""When a run has gone on for long enough: its words fall apart, it drifts too far, or it plays worse than it did.

The life of a decision: every iteration's metrics join the history, which an interrupted run reads again from
`metrics.jsonl`; a measure that has been beyond its bound for `patience` iterations in a row is the reason to stop.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

History = Sequence[Mapping[str, float | None]]

ENTROPY, KL, FILTERED, ARENA = "policy/entropy", "policy/kl", "turn/filtered_share", "arena/score"


class Bounds(NamedTuple):
    """What stops a run; 0 is no bound.

    Attributes:
      entropy_growth: of the entropy over what it was in the first iteration, as a part of that.
      kl: of the mean KL divergence from the reference, nats a token.
      filtered_share: of turns that the filter takes out.
      arena_drop: of the score against the cold start under the best there was, from 0 to 1; see `arena.every`.
      patience: how many iterations in a row, or times that the arena was played, a bound must be exceeded.
    """

    entropy_growth: float = 0.0
    kl: float = 0.0
    filtered_share: float = 0.0
    arena_drop: float = 0.0
    patience: int = 3


def _values(history: History, name: str) -> list[float]:
    """What there is of a measure; an iteration without a finite number of it is passed over."""
    found = (numbers.get(name) for numbers in history)
    return [value for value in found if value is not None and math.isfinite(value)]


def _limits(history: History, bounds: Bounds) -> Iterator[tuple[str, str, list[bool]]]:
    """(setting, what is said of it, whether it was exceeded each time)."""
    if bounds.entropy_growth and (entropies := _values(history, ENTROPY)):
        limit = (1 + bounds.entropy_growth) * entropies[0]
        yield "entropy_growth", f"{ENTROPY} above {limit:.4f}", [value > limit for value in entropies]
    for setting, name in (("kl", KL), ("filtered_share", FILTERED)):
        if limit := getattr(bounds, setting):
            yield setting, f"{name} above {limit}", [value > limit for value in _values(history, name)]
    if bounds.arena_drop and (scores := _values(history, ARENA)):
        drops = [max(scores[: n + 1]) - score > bounds.arena_drop for n, score in enumerate(scores)]
        yield "arena_drop", f"{ARENA} more than {bounds.arena_drop} under its best, {max(scores):.3f}", drops


def reason(history: History, bounds: Bounds) -> str | None:
    """Why a run with these metrics, an iteration each, is to stop; None if it is not."""
    for setting, said, exceeded in _limits(history, bounds):
        if len(exceeded) >= bounds.patience and all(exceeded[-bounds.patience :]):
            return f"config.stop.{setting}: {said}, {bounds.patience} times in a row"
    return None
