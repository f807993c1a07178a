"""Elo ratings of policies that played one another, with intervals.

The life of a rating: every game between two policies is a score of the first (1 won, 0.5 drawn, 0 lost); ratings and
the sides' advantages are those under which the scores are most likely (Bradley and Terry, "Rank analysis of incomplete
block designs", 1952); intervals come from drawing whole deals again and again (the bootstrap over clusters), since
games of one deal are no independent evidence.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

POINTS = 400 / math.log(10)  # of a rating for odds of e

# Games that every pairing counts as having been drawn besides: else whoever won every game would rate infinitely.
PRIOR_GAMES = 1.0
RESAMPLES = 400


class Pairing(NamedTuple):
    """The games of one line-up of two policies.

    Attributes:
      first: number of the policy that plays one side.
      second: number of the one that plays against it.
      side: number of the side that `first` plays.
      scores: [n] `first`'s score by deal; the same deals in all pairings.
    """

    first: int
    second: int
    side: int
    scores: np.ndarray


class Rating(NamedTuple):
    """A rating, relative to the first policy's, with its 95% interval."""

    elo: float
    low: float
    high: float


def _fit(pairings: Sequence[Pairing], means: np.ndarray, num_deals: int, num_policies: int) -> np.ndarray:
    """[R, num_policies] ratings, the first 0, by Newton's method on the penalised likelihood.

    `means` [R, pairings] are the scores' means, of R resamples.
    """
    num_sides = 1 + max(pairing.side for pairing in pairings)
    design = np.zeros((len(pairings), num_policies + num_sides))
    for row, pairing in enumerate(pairings):
        design[row, pairing.first] += 1
        design[row, pairing.second] -= 1
        design[row, num_policies + pairing.side] = 1
    drawn = design.copy()
    drawn[:, num_policies:] = 0  # of no side's advantage
    rows = np.concatenate([design, drawn])[:, 1:]  # the first policy's rating stays 0
    scores = np.concatenate([means, np.full_like(means, 0.5)], axis=1)
    weights = np.repeat([float(num_deals), PRIOR_GAMES], len(pairings))
    found = np.zeros((len(means), rows.shape[1]))
    for _ in range(100):
        chance = 1 / (1 + np.exp(-found @ rows.T))
        gradient = (weights * (scores - chance)) @ rows
        curvature = np.einsum("rw,wf,wg->rfg", weights * chance * (1 - chance), rows, rows, optimize=True)
        step = np.linalg.solve(curvature + 1e-6 * np.eye(rows.shape[1]), gradient[..., None])[..., 0]
        found += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return POINTS * np.concatenate([np.zeros((len(means), 1)), found], axis=1)[:, :num_policies]


def ratings(pairings: Sequence[Pairing], num_policies: int, seed: int = 0) -> list[Rating]:
    """Rates policies.

    Args:
      pairings: of policies that are all connected by games; each with the same deals.
      num_policies: how many there are.
      seed: of the bootstrap.

    Returns:
      [num_policies]; the first is 0 with the interval 0 to 0. Intervals are percentiles of `RESAMPLES` bootstraps.

    Raises:
      ValueError: there are no pairings, or they differ in their deals.
    """
    lengths = {len(pairing.scores) for pairing in pairings}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(f"ratings need pairings of the same deals, got {sorted(lengths)} deals")
    (num_deals,) = lengths
    scores = np.stack([np.asarray(pairing.scores, np.float64) for pairing in pairings])
    (point,) = _fit(pairings, scores.mean(1)[None], num_deals, num_policies)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_deals, np.full(num_deals, 1 / num_deals), RESAMPLES)  # how often each deal counts
    again = _fit(pairings, drawn @ scores.T / num_deals, num_deals, num_policies)
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    return [Rating(float(p), float(a), float(b)) for p, a, b in zip(point, low, high, strict=True)]
