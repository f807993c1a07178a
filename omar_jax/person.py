"""A person at the table: shown what the seat hears, asked at the terminal, helped with what may be answered.

The life of a question: what the seat has heard since its last answer is shown; the question follows, with the choices
by number where there are any; what is typed is read until it is an answer. The person may ask for help or leave.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from omar_jax.envs.base import Ask, Environment, Player

LEAVE, HELP = ("/quit", "/leave"), ("/help", "?")


class Left(Exception):
    """Raised where the person leaves the game."""


def shown(text: str) -> str:
    """Text as a terminal may get it: what is not printable, such as an escape sequence's start, becomes a blank."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


class Person(Player):
    """Answers for one seat.

    Args:
      show: prints lines.
      read: asks for a line with a prompt; raises EOFError where there is no more.
      tokens: how many tokens of the model a text has.
    """

    def __init__(self, show: Callable[[str], None], read: Callable[[str], str], tokens: Callable[[str], int]):
        self._show, self._read, self._tokens, self._known = show, read, tokens, 0

    def tell(self, heard: Sequence[str]) -> None:
        """Shows what the seat has heard and was not shown yet."""
        for piece in heard[self._known :]:
            self._show(shown(piece))
        self._known = len(heard)

    def act(
        self, env: Environment, state: Any, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """See base.Player.

        Raises:
          Left: the person wants to leave, or there is nobody to type.
        """
        self.tell(heard)
        prompt = ask.cue
        if ask.options:
            numbered = "  ".join(f"{number} {option}" for number, option in enumerate(ask.options, 1))
            self._show(f"[{numbered}]")
        while True:
            try:
                typed = self._read(f"{prompt} ").strip()
            except (EOFError, KeyboardInterrupt) as error:
                raise Left from error
            if typed.lower() in LEAVE:
                raise Left
            if typed.lower() in HELP:
                self._show(self._help(ask))
                continue
            answer, objection = self._understood(typed, ask)
            if answer is not None:
                return answer
            self._show(objection)

    def _understood(self, typed: str, ask: Ask) -> tuple[str | None, str]:
        """(answer, "") or (None, what is wrong with it)."""
        if not ask.options:
            length = self._tokens(typed)
            if length > ask.max_tokens:
                return None, f"That is {length} tokens of the model, and {ask.max_tokens} are allowed: say less."
            return typed, ""
        if typed.isdecimal() and 1 <= int(typed) <= len(ask.options):
            return ask.options[int(typed) - 1], ""
        fitting = [option for option in ask.options if option.lower().startswith(typed.lower())]
        exact = [option for option in fitting if option.lower() == typed.lower()]
        if typed and len(exact or fitting) == 1:
            return (exact or fitting)[0], ""
        if typed and fitting:
            return None, f"{typed!r} may be {' or '.join(fitting)}: type more of it."
        return None, f"{typed!r} is no choice. Type one of them, or its number: {', '.join(ask.options)}."

    @staticmethod
    def _help(ask: Ask) -> str:
        if ask.options:
            what = f"Type one of {', '.join(ask.options)}; its first letters or its number do."
        else:
            what = f"Say what you like, up to about {ask.max_tokens} words; an empty line says nothing."
        return f"{what} /quit leaves the game; nothing of it is kept."
