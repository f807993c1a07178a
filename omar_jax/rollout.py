"""Games between environments on the host and the sampler on the device.

The life of a game: its environment opens it; then, round after round, all games that still run hand their new text
to the caches (`extend`), all their asked seats speak in one call (`decode`), and each environment takes its seats'
words and goes on. A finished game leaves the batch as soon as the rest fits the next smaller batch size, so that
slots idle little; caches grow from the smallest size as transcripts do. Some batches are played at the same time, each
in a lane of its own (`lanes`): while the environments of one go on, the model speaks in another.

A seat is played by a policy of a model (a number: which of `policies`) or by a `Player` (a script, a person, a model
behind an endpoint). Every policy keeps caches of its own; one of another model (`Guest`) hears the game in its own
tokens.
"""

import concurrent.futures
import dataclasses
import functools
import operator
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.envs.base import Ask as EnvironmentAsk
from omar_jax.envs.base import Environment
from omar_jax.lanes import in_lanes
from omar_jax.model import cache as kv
from omar_jax.sampler import Ask, LegalTable, Sampler, nobody_asked, nothing_said
from omar_jax.tables import Ear, Game, Table
from omar_jax.text.chat import Chat
from omar_jax.types import PADDING, Episode, Params, Turn


@dataclasses.dataclass
class PlayStatistics:
    """What play cost, for the metrics: rows are decode rows, of which some belong to games already over."""

    seconds: float = 0.0
    host_seconds: float = 0.0
    decode_calls: int = 0
    game_slots: int = 0
    idle_game_slots: int = 0
    action_tokens: int = 0
    cut_games: int = 0

    def __add__(self, other: "PlayStatistics") -> "PlayStatistics":
        """What play cost that went on at the same time: in two lanes, or in two processes."""
        added = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return PlayStatistics(**added | {"seconds": max(self.seconds, other.seconds)})


class Guest(NamedTuple):
    """A policy of another model, or one that is told its role otherwise: it hears and speaks by its own rollout."""

    rollout: "Rollout"
    params: Params


class Rollout:
    """Plays batches of games with one sampler.

    Args:
      env: the environment.
      chat: its text as tokens.
      sampler: the model's.
      role_card: "private": what a seat alone knows stands in its private stream, encoded once; "cue": in every
        cue of the seat, so that a seat's view equals an ordinary prompt exactly.
      lanes: batches played at the same time.
    """

    def __init__(self, env: Environment, chat: Chat, sampler: Sampler, role_card: str = "private", lanes: int = 1):
        self.env, self.chat, self.sampler, self.role_card, self.lanes = env, chat, sampler, role_card, lanes
        self._tables: dict[tuple[str, ...], LegalTable] = {}

    def in_batches(self, games: tuple[int, ...]) -> "Rollout":
        """The same in batches of these sizes, the largest first."""
        shapes = dataclasses.replace(self.sampler.shapes, games=games)
        return self.spoken_by(dataclasses.replace(self.sampler, shapes=shapes))

    def spoken_by(self, sampler: Sampler, lanes: int | None = None) -> "Rollout":
        """The same with another sampler, and in as many lanes unless it is said in how many."""
        return Rollout(self.env, self.chat, sampler, self.role_card, lanes or self.lanes)

    @property
    def at_once(self) -> int:
        """The most games that are played at the same time."""
        return self.lanes * self.sampler.shapes.games[0]

    def _batches(self, games: Sequence[Game]) -> list[Sequence[Game]]:
        """Cut up for the lanes, but into no smaller batches than the sampler has."""
        sizes = self.sampler.shapes.games
        size = min(sizes[0], max(sizes[-1], -(-len(games) // self.lanes)))
        return [games[first : first + size] for first in range(0, len(games), size)]

    def play(
        self,
        games: Sequence[Game],
        policies: Sequence[Params | Guest],
        key: jax.Array,
        temperature: float = 1.0,
        progress: Callable[[int, int], None] = lambda finished, tokens: None,
    ) -> tuple[list[Episode], PlayStatistics]:
        """Plays games, as many at once as the lanes' largest batches hold, to their ends.

        Args:
          games: who plays what.
          policies: by policy number. Batches of all guests have the same sizes as this rollout's.
          key: of this play.
          temperature: of the sampler.
          progress: told now and then how many games are over and how many action tokens were sampled.

        Returns:
          The episodes in the order of `games`, and what it cost. Their tokens are those of the first policy's model;
          turns that it did not sample have no log-probabilities.
        """
        guests = [policy if isinstance(policy, Guest) else Guest(self, policy) for policy in policies]
        if any(guest.rollout.sampler.shapes.games != self.sampler.shapes.games for guest in guests):
            raise ValueError("all policies must play batches of the same sizes")
        batches = self._batches(games)
        costs, finished = [PlayStatistics() for _ in batches], [0] * len(batches)
        telling, started = threading.Lock(), time.perf_counter()

        def play(number, check):
            def report(over):
                check()
                with telling:
                    finished[number] = over
                    progress(sum(finished), sum(cost.action_tokens for cost in costs))

            return self._play_batch(batches[number], guests, key, jnp.float32(temperature), costs[number], report)

        episodes = [episode for batch in in_lanes(play, range(len(batches)), self.lanes) for episode in batch]
        cost = functools.reduce(operator.add, costs, PlayStatistics())
        return episodes, dataclasses.replace(cost, seconds=time.perf_counter() - started)

    def _play_batch(self, games, guests, key, temperature, statistics, report) -> list[Episode]:
        voices = [guest.rollout for guest in guests] or [self]  # where only players play, the episode is in our tokens

        def ears():
            return [Ear(voice.chat, voice.role_card == "cue") for voice in voices]

        tables = [Table(spec, self.env, ears()) for spec in games]
        slots = [*tables, *[None] * (self._batch_size(len(tables)) - len(tables))]
        caches = [guest.rollout.sampler.empty(len(slots)) for guest in guests]
        turn_number = 0
        while True:
            self._cut_overlong(slots, [guest.rollout for guest in guests])
            running = [n for n, table in enumerate(slots) if table is not None and not table.over]
            report(sum(table.over for table in tables))
            if not running:
                break
            if self._batch_size(len(running)) < len(slots):
                rows = running + [running[0]] * (self._batch_size(len(running)) - len(running))
                caches = [
                    voice.sampler.take(cache, np.asarray(rows)) for voice, cache in zip(voices, caches, strict=False)
                ]
                slots = [slots[n] for n in running] + [None] * (len(rows) - len(running))
                running = list(range(len(running)))
            heard = [
                {n: slots[n].ears[policy] for n in running} for policy in range(len(guests))
            ]  # by policy, and by slot of a running game
            caches = [
                guest.rollout.extend(guest.params, cache, of_policy, len(slots))
                for guest, cache, of_policy in zip(guests, caches, heard, strict=True)
            ]
            self._speak(slots, running, guests, caches, key, temperature, turn_number, statistics)
            turn_number += 1
        statistics.cut_games += sum(table.cut for table in tables)
        return [table.episode() for table in tables]

    def _batch_size(self, num_games: int) -> int:
        return min(size for size in self.sampler.shapes.games if size >= num_games)

    @staticmethod
    def _cut_overlong(slots, voices) -> None:
        """Ends games that no cache, or whose questions no cue, can hold; they bring no reward and train nothing."""
        for table in slots:
            if table is not None and not table.over:
                table.cut = any(
                    voice.is_overlong(ear, table.now.asks) for voice, ear in zip(voices, table.ears, strict=False)
                )

    def is_overlong(self, ear: Ear, asks: Mapping[int, EnvironmentAsk]) -> bool:
        """Whether the sampler's arrays cannot hold what a policy of this rollout hears and is asked."""
        shapes = self.sampler.shapes
        longest_cue = max(len(ear.cue(seat, ask)) for seat, ask in asks.items())
        return ear.length > shapes.transcript[-1] - shapes.piece or longest_cue > shapes.cue

    def extend(self, params: Params, cache: kv.Cache, ears: Mapping[int, Ear], slots: int) -> kv.Cache:
        """Writes everything said since the last turn into a policy's cache; `ears` by slot."""
        shapes = self.sampler.shapes
        needed = max(ear.length for ear in ears.values()) + shapes.piece
        room = min(size for size in shapes.transcript if size >= needed)
        if room > cache.room:
            cache = self.sampler.grow(cache, room)
        while any(ear.pending for ear in ears.values()):
            piece = nothing_said(slots, shapes)
            for n, ear in ears.items():
                now, ear.pending = ear.pending[: shapes.piece], ear.pending[shapes.piece :]
                piece.count[n] = len(now)
                if now:
                    piece.tokens[n, : len(now)], piece.owner[n, : len(now)], piece.positions[n, : len(now)] = zip(
                        *now, strict=True
                    )
            cache = self.sampler.extend(params, cache, piece)
        return cache

    def _speak(self, slots, running, guests, caches, key, temperature, turn_number, statistics) -> None:
        """Lets all asked seats of all games act at once, and their environments go on."""
        turns = self._answers(slots, running, turn_number)
        for policy, (guest, cache) in enumerate(zip(guests, caches, strict=True)):
            asked = {n: [s for s in slots[n].now.asks if slots[n].players[s] == policy] for n in running}
            if not any(asked.values()):
                continue
            voice = guest.rollout
            ask, cues = voice._ask(slots, policy, asked, turn_number)
            spoken = jax.device_get(voice.sampler.decode(guest.params, cache, ask, key, temperature))
            for n, seats in asked.items():
                for row, seat in enumerate(seats):
                    turn = voice._turn(ask, spoken, n, row, cues[n, row])
                    if voice.chat is not guests[0].rollout.chat:
                        turn = slots[n].ears[0].given(seat, slots[n].now.asks[seat], turn.text)
                    turns[n][seat] = turn
            statistics.decode_calls += 1
            statistics.game_slots += len(slots)
            statistics.idle_game_slots += len(slots) - len(running)
            statistics.action_tokens += int(spoken.count.sum())
        begun = time.perf_counter()
        for n in running:
            slots[n].act({seat: turns[n][seat] for seat in slots[n].now.asks})
        statistics.host_seconds += time.perf_counter() - begun

    @staticmethod
    def _answers(slots, running, turn_number) -> dict[int, dict[int, Turn]]:
        """By slot and seat, the turns of the asked seats that no policy plays."""
        asked = [(n, s) for n in running for s in slots[n].now.asks if not isinstance(slots[n].players[s], int)]

        def answer(at):
            return slots[at[0]].answer(at[1], turn_number)

        turns = {n: {} for n in running}
        at_once = max((slots[n].players[seat].at_once for n, seat in asked), default=1)
        if at_once > 1:  # they wait for somebody else
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                texts = list(pool.map(answer, asked))
        else:
            texts = map(answer, asked)
        for (n, seat), text in zip(asked, texts, strict=True):
            turns[n][seat] = slots[n].ears[0].given(seat, slots[n].now.asks[seat], text)
        return turns

    def _ask(self, slots, policy, asked, turn_number) -> tuple[Ask, dict[tuple[int, int], tuple[int, ...]]]:
        """The sampler's arrays for a policy's asked seats {slot: seats}, and the cue of each (slot, row)."""
        shapes, num_seats = self.sampler.shapes, self.env.num_seats
        most = max(map(len, asked.values()))
        ask = nobody_asked(len(slots), min(size for size in shapes.asked if size >= most), shapes)
        ask.game[:] = [0 if table is None else table.spec.game for table in slots]
        cues = {}
        for n, seats in asked.items():
            table, ear = slots[n], slots[n].ears[policy]
            for row, seat in enumerate(seats):
                question, at = table.now.asks[seat], (n, row)
                cues[at] = cue = ear.cue(seat, question)
                ask.cue[at][shapes.cue - len(cue) :] = cue
                ask.cue_count[at] = len(cue)
                ask.seat[at] = seat
                ask.position[at] = ear.position
                ask.limit[at] = min(question.max_tokens, shapes.action)
                ask.turn[at] = turn_number * num_seats + seat
                if question.options is not None:
                    legal = self._legal_table(question.options)
                    ask.legal[at] = True
                    ask.legal_tokens[at], ask.legal_next[at] = legal
        return ask, cues

    def _legal_table(self, options: tuple[str, ...]) -> LegalTable:
        if options not in self._tables:
            tokens = tuple(self.chat.action(option) for option in options)
            shapes = self.sampler.shapes
            self._tables[options] = LegalTable.build(tokens, shapes.legal_nodes, shapes.legal_width)
        return self._tables[options]

    def _turn(self, ask: Ask, spoken, n: int, row: int, cue: tuple[int, ...]) -> Turn:
        count = int(spoken.count[n, row])
        action = tuple(spoken.tokens[n, row, :count].tolist())
        legal = None
        if ask.legal[n, row]:
            legal, node = [], 0
            for token in action:
                choices = ask.legal_tokens[n, row, node]
                legal.append(tuple(choices[choices != PADDING].tolist()))
                node = int(ask.legal_next[n, row, node, list(choices).index(token)])
            legal = tuple(legal)
        return Turn(
            cue=cue,
            action=action,
            log_probs=spoken.log_probs[n, row, :count],
            values=spoken.values[n, row, :count],
            legal=legal,
            text=self.chat.say(action),
        )
