"""Dialogues of a file as games to learn from: games said again from what was said, chats as a talk of one seat.

The life of a dialogue: `datasets.dialogues` reads its line and tells what it is. A game of ours (a line of a run's
`episodes`) is played again from its seed and its turns; a published game of Werewolf as `envs.werewolf_published` finds
it; a published conversation of SOTOPIA from a seed that deals its scenario to its characters. A chat needs no game: its
only seat is the assistant, who hears the user. What does not go as it went is left out.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omar_jax.envs import sotopia_text, werewolf_published
from omar_jax.envs.base import Ask, Environment, Player
from omar_jax.envs.sotopia import Sotopia
from omar_jax.envs.werewolf import Werewolf
from omar_jax.rollout import Rollout
from omar_jax.tables import Game
from omar_jax.text.chat import Chat
from omar_jax.types import Episode, RolloutStep, Turn

# Tried for a deal that a published conversation began with; one of 450 comes up in so many all but surely.
SEEDS = range(5000)
USER, ASSISTANT = "User", "Assistant"


class SaidAgain(Player):
    """A seat that says what was said in it, turn after turn."""

    def __init__(self, texts: Iterable[str]):
        self._texts = iter(texts)

    def act(
        self, env: Environment, state: Any, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """See base.Player. Raises StopIteration where no more was said."""
        return next(self._texts)


Said = Mapping[int, Iterable[str]]  # by seat, its turns


def load(path: Path, rollout: Rollout) -> list[Episode]:
    """The dialogues of a file that can be learned from, in its order.

    Raises:
      ValueError: naming file and line, for what is no dialogue; or naming the file, if nothing in it can be used.
    """
    from omar_jax.datasets import dialogues  # TFDS takes a second to be imported

    found = dialogues.load(path)
    if any(dialogue.kind == "werewolf" for dialogue in found):
        if not isinstance(rollout.env, Werewolf):
            raise ValueError(f"{path} holds games of Werewolf, and this is another game")
        games = werewolf_published.load(path, rollout.env)
        episodes = _played(rollout, [Game(of.line, of.seed, lambda roles, of=of: [of] * len(roles)) for of in games])
    else:
        deals = _seeds_by_deal(rollout.env) if any(dialogue.kind == "sotopia" for dialogue in found) else {}
        readers = {"game": _game, "sotopia": functools.partial(_conversation, deals), "chat": _chat}
        episodes = []
        for number, (kind, record) in enumerate(found):
            try:
                episodes += readers[kind](rollout, number, record)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(
                    f"{path}, dialogue {number + 1}: is no {kind} ({type(error).__name__}: {error})"
                ) from error
    if not episodes:
        raise ValueError(f"{path} holds no game that can be replayed under these settings, and no chat")
    return episodes


def _played(rollout: Rollout, games: Sequence[Game]) -> list[Episode]:
    return rollout.play(games, policies=[], key=jax.random.key(0))[0]


# ---------------------------------------------------------------- games
def _again(rollout: Rollout, number: int, seed: int, said: Said) -> Iterator[Episode]:
    """The game, if all that it asks for was said."""
    env = rollout.env
    texts = {seat: iter(said.get(seat, ())) for seat in range(env.num_seats)}
    taken: dict[int, list[str]] = {seat: [] for seat in texts}
    step = env.step(env.reset(seed), {})
    while step.rewards is None:
        turns = {seat: next(texts[seat], None) for seat in step.asks}
        if None in turns.values():
            return
        for seat, words in turns.items():
            taken[seat].append(words)
        step = env.step(step.state, turns)
    players = [SaidAgain(taken[seat]) for seat in range(env.num_seats)]
    yield from _played(rollout, [Game(number, seed, lambda roles: players)])


def _game(rollout: Rollout, number: int, record: Mapping[str, Any]) -> Iterator[Episode]:
    """A game of ours; it keeps its rewards, which a judge may have given."""
    if list(record["roles"]) != list(rollout.env.roles(rollout.env.reset(record["seed"]))):
        return  # of other rules
    said: dict[int, list[str]] = {}
    for turn in record["turns"]:
        said.setdefault(turn["seat"], []).append(turn["text"])
    for episode in _again(rollout, number, record["seed"], said):
        rewards = record.get("rewards")
        yield dataclasses.replace(episode, rewards=None if rewards is None else tuple(rewards))


Deal = tuple[str, ...]  # a scenario and who plays it


def _seeds_by_deal(env: Environment) -> dict[Deal, int]:
    if not isinstance(env, Sotopia):
        return {}
    states = ((seed, env.reset(seed)) for seed in reversed(SEEDS))
    return {(of.scenario.id, *(person.id for person in of.characters)): seed for seed, of in states}


def _conversation(
    deals: Mapping[Deal, int], rollout: Rollout, number: int, record: Mapping[str, Any]
) -> Iterator[Episode]:
    """A published conversation of SOTOPIA; it ends where our rules end it, after silence where it was over before."""
    seed = deals.get((record["environment_id"], *record["agent_ids"]))
    if seed is None:
        return
    write = sotopia_text.write_plain if rollout.env.settings.actions == "plain" else sotopia_text.write_json
    names, said = list(record["agents_background"]), {}
    for turn, heard in enumerate(record["raw_messages"]):
        for who, _, words in heard:
            if who in names and turn % len(names) == names.index(who):  # the others wait
                said.setdefault(names.index(who), []).append(write(sotopia_text.from_words(words)))
    silence = itertools.repeat(write(sotopia_text.DID_NOTHING))
    endless = {seat: itertools.chain(said.get(seat, ()), silence) for seat in range(len(names))}
    yield from _again(rollout, number, seed, endless)


# ---------------------------------------------------------------- chats
def _chat(rollout: Rollout, number: int, record: Mapping[str, Any]) -> Iterator[Episode]:
    """A chat: what anybody but the assistant says is heard, and so are the assistant's own words afterwards."""
    chat, steps, heard = rollout.chat, [], []
    for message in record["messages"]:
        words = " ".join(message["content"].split())
        if message["role"] != "assistant":
            heard.append(words if message["role"] == "system" else f"{USER}: {words}")
            continue
        steps.append(RolloutStep(public=_public(chat, heard, steps), turns={0: _turn(chat, words)}))
        heard = [f"{ASSISTANT}: {words}"]
    if steps:
        role = rollout.env.role_names[0]
        yield Episode(number, 0, tuple(steps), (), (0.0,), (role,), {}, names=(ASSISTANT,))


def _public(chat: Chat, heard: Sequence[str], steps: Sequence[RolloutStep]) -> tuple[int, ...]:
    return (() if steps else chat.opening) + chat.event("\n".join(heard))


def _turn(chat: Chat, words: str) -> Turn:
    action = chat.action(words)
    nothing = np.zeros(len(action), np.float32)
    return Turn(chat.cue(f"{ASSISTANT}:"), action, nothing, nothing, text=words)
