"""Games between environments on the host and the sampler on the device.

The life of a game: its environment opens it; then, round after round, all games that still run hand their new text
to the caches (`extend`), all their asked seats speak in one call (`decode`), and each environment takes its seats'
words and goes on. A finished game leaves the batch as soon as the rest fits the next smaller batch size, so that
slots idle little; caches grow from the smallest size as transcripts do.

A seat is played by a policy of a model (a number: which of `policies`) or by a `Player` (a script, a person, a model
behind an endpoint). Every policy keeps caches of its own; one of another model (`Guest`) hears the game in its own
tokens.
"""

import concurrent.futures
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax import layout
from omar_jax.envs.base import Ask as EnvironmentAsk
from omar_jax.envs.base import Environment, Player, Step
from omar_jax.model import cache as kv
from omar_jax.sampler import Ask, LegalTable, Sampler, nobody_asked, nothing_said
from omar_jax.text.chat import Chat
from omar_jax.types import PADDING, Episode, Params, RolloutStep, Turn


@dataclasses.dataclass(frozen=True)
class Game:
    """A game to be played: its number, its environment's seed, and who sits where.

    Attributes:
      game: names the game's random numbers.
      seed: the environment's seed.
      players: [P] a policy's number or a scripted player; a function of the dealt roles where seats are
        given by role.
      learns: [P] whether a seat's turns train, likewise; empty for all.
    """

    game: int
    seed: int
    players: Callable[[tuple[str, ...]], Sequence[int | Player]]
    learns: Callable[[tuple[str, ...]], tuple[bool, ...]] = lambda roles: ()


def environment_seed(seed: int, game: int) -> int:
    """The environment's seed of a numbered game of a run."""
    return int(np.random.SeedSequence((seed, game)).generate_state(1)[0])


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
        """What two processes' play cost that went on at the same time."""
        added = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return PlayStatistics(**added | {"seconds": max(self.seconds, other.seconds)})


class _Ear:
    """What a policy has heard of a game so far, as tokens of its model."""

    def __init__(self, chat: Chat, card_in_cue: bool):
        self.chat, self.card_in_cue = chat, card_in_cue
        self.steps: list[RolloutStep] = []
        self.told: dict[int, tuple[int, ...]] = {}  # a seat's private tokens, where they stand in cues
        self.position = 0  # where the next step's public tokens go
        self.length = 0  # tokens in the cache once all pending ones are written
        self.pending: list[tuple[int, int, int]] = []  # (token, owner, position) not yet in the cache

    def hear(self, now: Step) -> None:
        """Takes in what the environment says after a step."""
        public = self.chat.event(now.public)
        if not self.steps:
            public = self.chat.opening + public
        private = {seat: self.chat.event(text) for seat, text in now.private.items() if text}
        if self.card_in_cue:
            for seat, tokens in private.items():
                self.told[seat] = self.told.get(seat, ()) + tokens
            private = {}
        self.steps.append(RolloutStep(public=public, private=private))
        where = layout.place(self.position, public, private)
        self.pending += zip(public, [kv.SHARED] * len(public), range(where.public, where.private), strict=False)
        for seat, tokens in private.items():
            self.pending += [(token, seat, where.private + i) for i, token in enumerate(tokens)]
        self.length += len(public) + sum(map(len, private.values()))
        self.position = where.next

    def cue(self, seat: int, ask: EnvironmentAsk) -> tuple[int, ...]:
        return self.told.get(seat, ()) + self.chat.cue(ask.cue)

    def given(self, seat: int, ask: EnvironmentAsk, text: str) -> Turn:
        """A turn that this policy did not sample."""
        action = self.chat.action(text)
        nothing = np.zeros(len(action), np.float32)
        return Turn(self.cue(seat, ask), action, nothing, nothing, text=text)


class _Table:
    """A game in progress: its environment's state, everything said so far, and the ears of all policies.

    The first ear's tokens are those of the episode.
    """

    def __init__(self, spec: Game, env: Environment, ears: list[_Ear]):
        self.spec, self.env, self.ears = spec, env, ears
        state = env.reset(spec.seed)
        self.roles, self.names = tuple(env.roles(state)), tuple(env.names(state))
        self.players = tuple(spec.players(self.roles))
        self.transcript: list[tuple[str, str]] = []
        self.events: Counter = Counter()
        self.cut = False
        self.hear(env.step(state, {}))

    @property
    def over(self) -> bool:
        return self.now.rewards is not None or self.cut

    def hear(self, now: Step) -> None:
        """Takes in what the environment says after a step."""
        self.now = now
        self.events.update(now.events)
        self.transcript += [("public", now.public)] if now.public else []
        self.transcript += [(self.names[seat], text) for seat, text in now.private.items() if text]
        for ear in self.ears:
            ear.hear(now)

    def act(self, turns: dict[int, Turn]) -> None:
        """All asked seats have spoken: the environment goes on."""
        steps = self.ears[0].steps
        steps[-1] = dataclasses.replace(steps[-1], turns=turns)
        self.transcript += [(f"{self.names[seat]}'s turn", turn.text) for seat, turn in turns.items()]
        self.hear(self.env.step(self.now.state, {seat: turn.text for seat, turn in turns.items()}))

    def answer(self, seat: int, turn_number: int) -> str:
        """What the player of a seat says that no policy plays."""
        rng = np.random.default_rng((self.spec.seed, self.spec.game, turn_number, seat))
        heard = [text for who, text in self.transcript if who in ("public", self.names[seat])]
        return self.players[seat].act(self.env, self.now.state, seat, self.now.asks[seat], heard, rng)

    def episode(self) -> Episode:
        rewards = self.now.rewards
        return Episode(
            game=self.spec.game,
            seed=self.spec.seed,
            steps=tuple(self.ears[0].steps),
            transcript=tuple(self.transcript),
            rewards=None if rewards is None else tuple(rewards[seat] for seat in range(self.env.num_seats)),
            roles=self.roles,
            events=dict(self.events),
            learns=self.spec.learns(self.roles),
            names=self.names,
        )


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
    """

    def __init__(self, env: Environment, chat: Chat, sampler: Sampler, role_card: str = "private"):
        self.env, self.chat, self.sampler, self.role_card = env, chat, sampler, role_card
        self._tables: dict[tuple[str, ...], LegalTable] = {}

    def in_batches(self, games: tuple[int, ...]) -> "Rollout":
        """The same in batches of these sizes, the largest first."""
        shapes = dataclasses.replace(self.sampler.shapes, games=games)
        return Rollout(self.env, self.chat, dataclasses.replace(self.sampler, shapes=shapes), self.role_card)

    def play(
        self,
        games: Sequence[Game],
        policies: Sequence[Params | Guest],
        key: jax.Array,
        temperature: float = 1.0,
        progress: Callable[[int, int], None] = lambda finished, tokens: None,
    ) -> tuple[list[Episode], PlayStatistics]:
        """Plays games, as many at once as the sampler's largest batch, to their ends.

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
        statistics = PlayStatistics()
        started = time.perf_counter()
        most = self.sampler.shapes.games[0]
        episodes = []
        for i in range(0, len(games), most):
            done = len(episodes)

            def report(finished, done=done):
                progress(done + finished, statistics.action_tokens)

            episodes += self._play_batch(games[i : i + most], guests, key, jnp.float32(temperature), statistics, report)
        statistics.seconds = time.perf_counter() - started
        return episodes, statistics

    def _play_batch(self, games, guests, key, temperature, statistics, report) -> list[Episode]:
        voices = [guest.rollout for guest in guests] or [self]  # where only players play, the episode is in our tokens

        def ears():
            return [_Ear(voice.chat, voice.role_card == "cue") for voice in voices]

        tables = [_Table(spec, self.env, ears()) for spec in games]
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

    def is_overlong(self, ear: _Ear, asks: Mapping[int, EnvironmentAsk]) -> bool:
        """Whether the sampler's arrays cannot hold what a policy of this rollout hears and is asked."""
        shapes = self.sampler.shapes
        longest_cue = max(len(ear.cue(seat, ask)) for seat, ask in asks.items())
        return ear.length > shapes.transcript[-1] - shapes.piece or longest_cue > shapes.cue

    def extend(self, params: Params, cache: kv.Cache, ears: Mapping[int, _Ear], slots: int) -> kv.Cache:
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
