"""Finished conversations as judges read them: who the people are, what they want and hide, what they said and did.

The life of a case: a game is played again from its seed and its texts, which tells what each text was to the
environment; scenario, goals and secrets come from the dealt state. A judge knows more than any seat: everybody's goal
and secret, and what is reserved for the environment.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omar_jax.envs import sotopia, sotopia_points, sotopia_records
from omar_jax.envs import sotopia_text as text
from omar_jax.envs.sotopia import Sotopia, State
from omar_jax.types import Episode

FRIEND = sotopia_records.LEVELS.index("friend")  # knows everything but the secret


@dataclass(frozen=True)
class Said:
    """One turn.

    Attributes:
      step: of the game; with `seat` it names the turn.
      seat: whose it is.
      words: what was said, shown or done, without name; "" for silence.
      told: the turn as a line, with the name.
      valid: False if the environment could not read it.
    """

    step: int
    seat: int
    words: str
    told: str
    valid: bool = True


@dataclass(frozen=True)
class Case:
    """A finished conversation.

    Attributes:
      names: [P] what people call one another.
      scenario: what it is about.
      people: [P] who they are, secrets left out.
      goals: [P] what each wants.
      secrets: [P] what each hides; "" for nothing.
      said: all turns, in order.
      shares: [P] points won where the scenario counts them, from the seat's worst outcome, 0, to its best, 1;
        otherwise None.
    """

    names: tuple[str, ...]
    scenario: str
    people: tuple[str, ...]
    goals: tuple[str, ...]
    secrets: tuple[str, ...]
    said: tuple[Said, ...]
    shares: tuple[float, ...] | None = None


def of_episode(env: Sotopia, episode: Episode) -> Case:
    """The case of a finished game. Raises ValueError if it does not replay under the environment's settings."""
    turns = ((step, seat, turn.text) for step, said in enumerate(episode.steps) for seat, turn in said.turns.items())
    return _replayed(env, episode.seed, turns)


def of_record(env: Sotopia, record: Mapping[str, Any]) -> Case:
    """The case of a recorded game (`metrics.episode_record`, `matches.record`); likewise."""
    return _replayed(env, record["seed"], ((turn["step"], turn["seat"], turn["text"]) for turn in record["turns"]))


def _replayed(env: Sotopia, seed: int, turns: Iterable[tuple[int, int, str]]) -> Case:
    """Plays a game again from its turns: step, seat, text."""
    actions: dict[int, dict[int, str]] = {}
    for step, seat, words in turns:
        actions.setdefault(step, {})[seat] = words
    state = env.step(env.reset(seed), {}).state
    for _, of_step in sorted(actions.items()):
        state = env.step(state, of_step).state
    read = text.read_plain if env.settings.actions == "plain" else text.read_json
    unread = {(step, seat) for step, said in actions.items() for seat, words in said.items() if read(words) is None}
    return of_state(state, env.names(state), unread)


def of_state(state: State, names: tuple[str, ...], unread: Iterable[tuple[int, int]] = ()) -> Case:
    """The case of a conversation's last state.

    Args:
      state: of it.
      names: [P] what people call one another.
      unread: (step, seat) of turns that the environment could not read.
    """
    scenario, bargain, unread, short = state.scenario, state.bargain, set(unread), sotopia.short_names(state)
    said = [
        Said(step, seat, action.argument, f"{names[seat]} {text.in_words(action)}", (step, seat) not in unread)
        for step, turn in enumerate(state.turns)
        for seat, action in turn.items()
    ]
    return Case(
        names=names,
        scenario=_on_one_line(text.told_scenario(scenario, bargain, short, "environment")),
        people=tuple(_on_one_line(text.known(character, FRIEND)) for character in state.characters),
        goals=tuple(_on_one_line(text.told_goal(scenario, bargain, short, seat)) for seat in range(len(names))),
        secrets=tuple(_on_one_line(character.secret) for character in state.characters),
        said=tuple(said),
        shares=_shares(state),
    )


def _shares(state: State) -> tuple[float, ...] | None:
    if state.bargain is None:
        return None
    points = state.bargain.outside if state.agreed is None else state.bargain.points(state.agreed)
    possible = sotopia_points.bounds(state.bargain)
    return tuple(possible.own_share(seat, own) for seat, own in enumerate(points))


def _on_one_line(words: str) -> str:
    return " ".join(words.split())


@dataclass(frozen=True)
class Failure:
    """In place of what a judge should have said of a case: why it did not."""

    reason: str
