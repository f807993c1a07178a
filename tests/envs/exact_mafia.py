"""Exact win probabilities of plain Mafia (no powers), to hold the environment to.

n alive, m of them werewolves. Night: one uniformly random villager dies. Day: one vote. Werewolves win
once they are at least half, the village once none is left; both are looked at after every death.
"""

import itertools
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import Literal

Votes = Literal["random", "apart", "together"]  # of werewolves


@cache
def wolf_is_out(n: int, m: int, votes: Votes) -> Fraction:
    """P(the vote puts a werewolf out), ties at random, by going through all ways to vote.

    Villagers vote for any other uniformly. Werewolves do so too ("random"; by symmetry each seat is out as likely as
    any other), or each for a random villager ("apart"), or all for one random villager ("together").
    """
    if votes == "random":
        return Fraction(m, n)
    # Werewolves are seats 0 to m - 1. By symmetry between villagers their common victim may be seat m.
    ballots = [range(m, n) if votes == "apart" else [m]] * m
    ballots += [[target for target in range(n) if target != voter] for voter in range(m, n)]
    total = ways = Fraction(0)
    for cast in itertools.product(*ballots):
        counts = Counter(cast)
        top = max(counts.values())
        tied = [seat for seat, count in counts.items() if count == top]
        total += Fraction(sum(seat < m for seat in tied), len(tied))
        ways += 1
    return total / ways


@cache
def wolves_win(n: int, m: int, first: str, votes: Votes = "random") -> Fraction:
    """P(the werewolves win) with n alive, m werewolves, at the start of a "night" or a "day"."""
    if m == 0 or 2 * m >= n:
        return Fraction(m > 0)
    if first == "night":
        return wolves_win(n - 1, m, "day", votes)
    out = wolf_is_out(n, m, votes)
    return out * wolves_win(n - 1, m - 1, "night", votes) + (1 - out) * wolves_win(n - 1, m, "night", votes)
