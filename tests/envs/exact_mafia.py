"""Exact win probabilities of plain Mafia (no powers), to hold the environment to.

n alive, m of them werewolves. Night: one uniformly random villager dies. Day: one vote. Werewolves win
once they are at least half, the village once none is left; both are looked at after every death.
"""

import itertools
from collections import Counter
from fractions import Fraction
from functools import cache


@cache
def wolf_is_out(n: int, m: int, bloc: bool) -> Fraction:
    """P(the vote puts a werewolf out), ties at random, by going through all ways to vote.

    Villagers vote for any other uniformly. With `bloc`, all werewolves vote for one random villager together;
    else they vote as villagers do, and by symmetry each seat is out as likely as any other.
    """
    if not bloc:
        return Fraction(m, n)
    # By symmetry between villagers the werewolves' victim may be seat m; werewolves are seats 0 to m - 1.
    ballots = [[target for target in range(n) if target != voter] for voter in range(m, n)]
    total = ways = Fraction(0)
    for votes in itertools.product(*ballots):
        counts = Counter(votes)
        counts[m] += m
        top = max(counts.values())
        tied = [seat for seat, count in counts.items() if count == top]
        total += Fraction(sum(seat < m for seat in tied), len(tied))
        ways += 1
    return total / ways


@cache
def wolves_win(n: int, m: int, first: str, bloc: bool = False) -> Fraction:
    """P(the werewolves win) with n alive, m werewolves, at the start of a "night" or a "day"."""
    if m == 0 or 2 * m >= n:
        return Fraction(m > 0)
    if first == "night":
        return wolves_win(n - 1, m, "day", bloc)
    out = wolf_is_out(n, m, bloc)
    return out * wolves_win(n - 1, m - 1, "night", bloc) + (1 - out) * wolves_win(n - 1, m, "night", bloc)
