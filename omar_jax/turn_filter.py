"""Degenerate turns, found by cheap rules; they keep their place in the game and train nothing.

A turn is degenerate when it says nothing, when it ran out of tokens before it ended, or when it repeats itself. Turns
chosen among given options are never judged.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from omar_jax.types import Episode, Turn


class FilterSettings(NamedTuple):
    """Which rules hold; see `config.filter`."""

    unfinished: bool
    empty: bool
    repeated_words: int  # a run of this many equal words, or a phrase said again at once with this many words in all


def repeats(words: Sequence[str], limit: int) -> bool:
    """Whether some phrase stands twice or more in a row, its repetitions counting `limit` words together.

    "no no no no" repeats at limit 4, and so does "vote Bob vote Bob"; "I think I think" does at limit 4 too.
    """
    for length in range(1, len(words) // 2 + 1):
        needed = max(limit, 2 * length)
        run = length
        for i in range(length, len(words)):
            run = run + 1 if words[i] == words[i - length] else length
            if run >= needed:
                return True
    return False


def is_degenerate(turn: Turn, ends: tuple[int, ...], settings: FilterSettings) -> bool:
    """Whether a rule catches the turn; `ends` are the ids that end one."""
    if turn.legal is not None:
        return False
    words = turn.text.split()
    return (
        (settings.unfinished and (not turn.action or turn.action[-1] not in ends))
        or (settings.empty and not words)
        or (settings.repeated_words > 0 and repeats(words, settings.repeated_words))
    )


def filter_turns(episode: Episode, ends: tuple[int, ...], settings: FilterSettings) -> Episode:
    """The episode with `kept` set on every turn."""
    steps = tuple(
        dataclasses.replace(
            step,
            turns={
                seat: dataclasses.replace(turn, kept=not is_degenerate(turn, ends, settings))
                for seat, turn in step.turns.items()
            },
        )
        for step in episode.steps
    )
    return dataclasses.replace(episode, steps=steps)
