"""Games between environments on the host and the sampler on the device.

The life of a game: its environment opens it; then, round after round, all games that still run hand their new text
to the caches (`extend`), all their asked seats speak in one call (`decode`), and each environment takes its seats'
words and goes on. A finished game leaves the batch as soon as the rest fits the next smaller batch size, so that
slots idle little; caches grow from the smallest size as transcripts do.

A seat is played by a policy of the model (a number: which of `policies`) or by a `Player` (a script). Every policy
keeps caches of its own.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax import layout
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


class _Table:
    """A game in progress: its environment's state and everything said so far as tokens."""

    def __init__(self, spec: Game, env: Environment, chat: Chat, role_card: str):
        self.spec, self.env, self.chat = spec, env, chat
        self.card_in_cue = role_card == "cue"
        state = env.reset(spec.seed)
        self.roles = tuple(env.roles(state))
        self.players = tuple(spec.players(self.roles))
        self.steps: list[RolloutStep] = []
        self.transcript: list[tuple[str, str]] = []
        self.events: Counter = Counter()
        self.told: dict[int, tuple[int, ...]] = {}  # a seat's private tokens, where they stand in cues
        self.position = 0  # where the next step's public tokens go
        self.length = 0  # tokens in the cache once all pending ones are written
        self.pending: list[tuple[int, int, int]] = []  # (token, owner, position) not yet in the cache
        self.cut = False
        self.hear(env.step(state, {}))

    @property
    def over(self) -> bool:
        return self.now.rewards is not None or self.cut

    def hear(self, now: Step) -> None:
        """Takes in what the environment says after a step."""
        self.now = now
        self.events.update(now.events)
        public = self.chat.event(now.public)
        if not self.steps:
            public = self.chat.opening + public
        private = {seat: self.chat.event(text) for seat, text in now.private.items() if text}
        self.transcript += [("public", now.public)] if now.public else []
        self.transcript += [(self.env.seat_names[seat], text) for seat, text in now.private.items() if text]
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

    def cue(self, seat: int) -> tuple[int, ...]:
        return self.told.get(seat, ()) + self.chat.cue(self.now.asks[seat].cue)

    def act(self, turns: dict[int, Turn]) -> None:
        """All asked seats have spoken: the environment goes on."""
        self.steps[-1] = dataclasses.replace(self.steps[-1], turns=turns)
        self.transcript += [(f"{self.env.seat_names[seat]}'s turn", turn.text) for seat, turn in turns.items()]
        self.hear(self.env.step(self.now.state, {seat: turn.text for seat, turn in turns.items()}))

    def scripted(self, turn_number: int) -> dict[int, Turn]:
        """The turns of the asked seats that no policy plays."""
        turns = {}
        for seat, ask in self.now.asks.items():
            player = self.players[seat]
            if isinstance(player, int):
                continue
            rng = np.random.default_rng((self.spec.seed, self.spec.game, turn_number, seat))
            text = player.act(self.env, self.now.state, seat, ask, rng)
            action = self.chat.action(text)
            nothing = np.zeros(len(action), np.float32)
            turns[seat] = Turn(self.cue(seat), action, nothing, nothing, text=text)
        return turns

    def episode(self) -> Episode:
        rewards = self.now.rewards
        return Episode(
            game=self.spec.game,
            seed=self.spec.seed,
            steps=tuple(self.steps),
            transcript=tuple(self.transcript),
            rewards=None if rewards is None else tuple(rewards[seat] for seat in range(self.env.num_seats)),
            roles=self.roles,
            events=dict(self.events),
            learns=self.spec.learns(self.roles),
        )


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

    def play(
        self,
        games: Sequence[Game],
        policies: Sequence[Params],
        key: jax.Array,
        temperature: float = 1.0,
        progress: Callable[[int, int], None] = lambda finished, tokens: None,
    ) -> tuple[list[Episode], PlayStatistics]:
        """Plays games, as many at once as the sampler's largest batch, to their ends.

        Args:
          games: who plays what.
          policies: parameters by policy number.
          key: of this play.
          temperature: of the sampler.
          progress: told now and then how many games are over and how many action tokens were sampled.

        Returns:
          The episodes in the order of `games`, and what it cost.
        """
        statistics = PlayStatistics()
        started = time.perf_counter()
        most = self.sampler.shapes.games[0]
        episodes = []
        for i in range(0, len(games), most):
            done = len(episodes)

            def report(finished, done=done):
                progress(done + finished, statistics.action_tokens)

            episodes += self._play_batch(
                games[i : i + most], policies, key, jnp.float32(temperature), statistics, report
            )
        statistics.seconds = time.perf_counter() - started
        return episodes, statistics

    def _play_batch(self, games, policies, key, temperature, statistics, report) -> list[Episode]:
        tables = [_Table(spec, self.env, self.chat, self.role_card) for spec in games]
        slots = [*tables, *[None] * (self._batch_size(len(tables)) - len(tables))]
        caches = [self.sampler.empty(len(slots)) for _ in policies]
        turn_number = 0
        while True:
            self._cut_overlong(slots)
            running = [n for n, table in enumerate(slots) if table is not None and not table.over]
            report(sum(table.over for table in tables))
            if not running:
                break
            if self._batch_size(len(running)) < len(slots):
                rows = running + [running[0]] * (self._batch_size(len(running)) - len(running))
                caches = [self.sampler.take(cache, np.asarray(rows)) for cache in caches]
                slots = [slots[n] for n in running] + [None] * (len(rows) - len(running))
                running = list(range(len(running)))
            caches = self._extend(slots, policies, caches)
            self._speak(slots, running, policies, caches, key, temperature, turn_number, statistics)
            turn_number += 1
        statistics.cut_games += sum(table.cut for table in tables)
        return [table.episode() for table in tables]

    def _batch_size(self, num_games: int) -> int:
        return min(size for size in self.sampler.shapes.games if size >= num_games)

    def _cut_overlong(self, slots) -> None:
        """Ends games that no cache, or whose questions no cue, can hold; they bring no reward and train nothing."""
        shapes = self.sampler.shapes
        for table in slots:
            if table is not None and not table.over:
                longest_cue = max(len(table.cue(seat)) for seat in table.now.asks)
                table.cut = table.length > shapes.transcript[-1] - shapes.piece or longest_cue > shapes.cue

    def _extend(self, slots, policies, caches) -> list[kv.Cache]:
        """Writes everything said since the last turn into every policy's cache."""
        shapes = self.sampler.shapes
        live = [(n, table) for n, table in enumerate(slots) if table is not None and not table.over]
        if not caches:  # nobody but scripted players
            return caches
        needed = max(table.length for _, table in live) + shapes.piece
        room = min(size for size in shapes.transcript if size >= needed)
        if room > caches[0].room:
            caches = [self.sampler.grow(cache, room) for cache in caches]
        while any(table.pending for _, table in live):
            piece = nothing_said(len(slots), shapes)
            for n, table in live:
                now, table.pending = table.pending[: shapes.piece], table.pending[shapes.piece :]
                piece.count[n] = len(now)
                if now:
                    piece.tokens[n, : len(now)], piece.owner[n, : len(now)], piece.positions[n, : len(now)] = zip(
                        *now, strict=True
                    )
            caches = [self.sampler.extend(params, cache, piece) for params, cache in zip(policies, caches, strict=True)]
        return caches

    def _speak(self, slots, running, policies, caches, key, temperature, turn_number, statistics) -> None:
        """Lets all asked seats of all games act at once, and their environments go on."""
        turns = {n: slots[n].scripted(turn_number) for n in running}
        for policy, (params, cache) in enumerate(zip(policies, caches, strict=True)):
            asked = {n: self._asked(slots[n], policy) for n in running}
            if not any(asked.values()):
                continue
            ask, cues = self._ask(slots, asked, turn_number)
            spoken = jax.device_get(self.sampler.decode(params, cache, ask, key, temperature))
            for n, seats in asked.items():
                for row, seat in enumerate(seats):
                    turns[n][seat] = self._turn(ask, spoken, n, row, cues[n, row])
            statistics.decode_calls += 1
            statistics.game_slots += len(slots)
            statistics.idle_game_slots += len(slots) - len(running)
            statistics.action_tokens += int(spoken.count.sum())
        begun = time.perf_counter()
        for n in running:
            slots[n].act({seat: turns[n][seat] for seat in slots[n].now.asks})
        statistics.host_seconds += time.perf_counter() - begun

    @staticmethod
    def _asked(table: _Table, policy: int) -> list[int]:
        return [seat for seat in table.now.asks if table.players[seat] == policy]

    def _ask(self, slots, asked, turn_number) -> tuple[Ask, dict[tuple[int, int], tuple[int, ...]]]:
        """The sampler's arrays for the asked seats {slot: seats}, and the cue of each (slot, row)."""
        shapes, num_seats = self.sampler.shapes, self.env.num_seats
        most = max(map(len, asked.values()))
        ask = nobody_asked(len(slots), min(size for size in shapes.asked if size >= most), shapes)
        ask.game[:] = [0 if table is None else table.spec.game for table in slots]
        cues = {}
        for n, seats in asked.items():
            table = slots[n]
            for row, seat in enumerate(seats):
                question, at = table.now.asks[seat], (n, row)
                cues[at] = cue = table.cue(seat)
                ask.cue[at][shapes.cue - len(cue) :] = cue
                ask.cue_count[at] = len(cue)
                ask.seat[at] = seat
                ask.position[at] = table.position
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
