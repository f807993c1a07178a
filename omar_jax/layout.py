"""The shared-transcript layout: a game is one shared stream and one short private stream a seat.

The life of a game's tokens: every step's public tokens go to the shared stream; its private tokens and its turns
(cue + action) to the stream of the seat they concern. Streams carry what visibility and position need:

    clock     step t's public tokens have 2t, its private and turn tokens 2t + 1; a seat's token sees the shared
              tokens of an earlier clock.
    branch    0 for what stays with a seat, 1, 2, ... for its turns; a turn is seen by itself alone.
    position  public tokens advance the game's counter by their number; a step's private tokens all start at the
              counter, which then advances by the longest; its turns all start at the counter and do not advance
              it, for what others heard comes back as the next step's public tokens.

So what a token sees has strictly rising positions and reads as one ordinary prompt: rules, role card, events, cue,
action. All seats' streams are packed into one row of R tokens a game, seat after seat: seats differ so much in
length that a row a seat would mostly be padding. Seats that somebody else played (`Episode.learns`) are left out: their
turns train nothing, and what they said to all is in the shared stream.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from omar_jax.types import PADDING, Episode, GameBatch, RolloutStep

# Later than every clock: padding of the shared stream is seen by nobody.
NEVER = 2**30
PADDING_OF = {
    "shared_clock": NEVER,
    "seat_owner": PADDING,
    "action_turn": PADDING,
    "legal_tokens": PADDING,
    "turn_seat": PADDING,
}  # every other field is padded with 0


class Sizes(NamedTuple):
    """The array sizes of one game or of a batch: see the axes in `types`."""

    shared: int  # T
    seat: int  # R
    actions: int  # X
    turns: int  # U

    def fits(self, room: "Sizes") -> bool:
        """Whether every size is at most `room`'s."""
        return all(mine <= theirs for mine, theirs in zip(self, room, strict=True))


class Place(NamedTuple):
    """Where a step's pieces start, and where the next step does."""

    public: int
    private: int
    turns: int

    @property
    def next(self) -> int:
        """The counter after the step; turns do not advance it."""
        return self.turns


def place(position: int, public: Sequence[int], private: dict[int, Sequence[int]]) -> Place:
    """Positions of a step whose counter stands at `position`."""
    after_public = position + len(public)
    return Place(position, after_public, after_public + max(map(len, private.values()), default=0))


def sizes(episode: Episode) -> Sizes:
    """The sizes of one game."""
    learner = episode.is_learner
    turns = [turn for step in episode.steps for seat, turn in step.turns.items() if learner(seat)]
    private = sum(len(tokens) for step in episode.steps for seat, tokens in step.private.items() if learner(seat))
    actions = sum(len(turn.action) for turn in turns)
    return Sizes(
        shared=sum(len(step.public) for step in episode.steps),
        seat=private + sum(len(turn.cue) for turn in turns) + actions,
        actions=actions,
        turns=len(turns),
    )


def _fill(row: np.ndarray, values: Sequence) -> None:
    row[: len(values)] = values


class _SeatStream:
    """One seat's tokens, action tokens and turns in the order they came."""

    def __init__(self, seat: int):
        self.seat = seat
        self.token, self.position, self.clock, self.branch = [], [], [], []
        self.action_index, self.actions, self.turns = [], [], []

    def add(self, tokens: Sequence[int], position: int, clock: int, branch: int) -> None:
        """Appends tokens that lie at consecutive positions."""
        self.token += tokens
        self.position += range(position, position + len(tokens))
        self.clock += [clock] * len(tokens)
        self.branch += [branch] * len(tokens)

    def speak(self, turn, position: int, clock: int) -> None:
        """Appends a turn: its cue and its action are a branch of their own."""
        self.turns.append(turn)
        self.add(turn.cue, position, clock, len(self.turns))
        # The logits of action token j are read one token before it.
        first = len(self.token) - 1
        self.action_index += range(first, first + len(turn.action))
        self.add(turn.action, position + len(turn.cue), clock, len(self.turns))


def streams(steps: Sequence[RolloutStep], num_seats: int) -> tuple[list, list, list, list[_SeatStream]]:
    """-> shared tokens, positions and clock, and the seats' streams."""
    tokens, positions, clock = [], [], []
    seats = [_SeatStream(seat) for seat in range(num_seats)]
    position = 0
    for t, step in enumerate(steps):
        where = place(position, step.public, step.private)
        tokens += step.public
        positions += range(where.public, where.public + len(step.public))
        clock += [2 * t] * len(step.public)
        for seat, private in step.private.items():
            seats[seat].add(private, where.private, 2 * t + 1, 0)
        for seat, turn in step.turns.items():
            seats[seat].speak(turn, where.turns, 2 * t + 1)
        position = where.next
    return tokens, positions, clock, seats


# Which size of `Sizes` bounds the second axis of a field; fields of `update.Targets` go with the action tokens.
def _columns(name: str, room: Sizes) -> int:
    kind = name.split("_")[0]
    return {"shared": room.shared, "seat": room.seat, "turn": room.turns}.get(kind, room.actions)


def empty(num_games: int, room: Sizes, legal_width: int) -> GameBatch:
    """A batch of padding games (numpy)."""
    floats = ("action_log_probs", "action_values", "turn_reward")
    bools = ("action_mask", "turn_kept")

    def field(name):
        shape = (num_games, _columns(name, room), *([legal_width] if name == "legal_tokens" else []))
        dtype = np.float32 if name in floats else bool if name in bools else np.int32
        return np.full(shape, PADDING_OF.get(name, 0), dtype)

    return GameBatch(*map(field, GameBatch._fields))


def _write_game(batch: GameBatch, n: int, episode: Episode, groups: Sequence[int]) -> None:
    tokens, positions, clock, seats = streams(episode.steps, len(episode.roles))
    _fill(batch.shared_tokens[n], tokens)
    _fill(batch.shared_positions[n], positions)
    _fill(batch.shared_clock[n], clock)
    at = action = row = 0
    for stream in (stream for stream in seats if episode.is_learner(stream.seat)):
        end = at + len(stream.token)
        batch.seat_tokens[n, at:end] = stream.token
        batch.seat_positions[n, at:end] = stream.position
        batch.seat_clock[n, at:end] = stream.clock
        batch.seat_branch[n, at:end] = stream.branch
        batch.seat_owner[n, at:end] = stream.seat
        batch.action_index[n, action : action + len(stream.action_index)] = np.add(stream.action_index, at)
        for turn in stream.turns:
            said = slice(action, action + len(turn.action))
            batch.action_tokens[n, said] = turn.action
            batch.action_mask[n, said] = True
            batch.action_turn[n, said] = row
            batch.action_log_probs[n, said] = turn.log_probs
            batch.action_values[n, said] = turn.values
            for j, legal in enumerate(turn.legal or ()):
                _fill(batch.legal_tokens[n, action + j], legal)
            batch.turn_seat[n, row] = stream.seat
            batch.turn_group[n, row] = groups[stream.seat]
            batch.turn_kept[n, row] = turn.kept and episode.rewards is not None
            action, row = said.stop, row + 1
        if stream.turns and episode.rewards is not None:
            # A reward that arrives after the seat's last turn is that turn's.
            batch.turn_reward[n, row - 1] = episode.rewards[stream.seat]
        at = end


def pack(episodes: Sequence[Episode], role_names: Sequence[str], room: Sizes, legal_width: int) -> GameBatch:
    """Lays games out as arrays (numpy), in their order.

    Args:
      episodes: N games.
      role_names: numbers the roles: `turn_group` is the index of a seat's role.
      room: array sizes; every game must fit.
      legal_width: O, the most ids a legally decoded token was sampled among.

    Raises:
      ValueError: a game does not fit.
    """
    batch = empty(len(episodes), room, legal_width)
    for n, episode in enumerate(episodes):
        if not sizes(episode).fits(room):
            raise ValueError(f"game {episode.game} needs {sizes(episode)}, more than layout.buckets' {room}")
        _write_game(batch, n, episode, [role_names.index(role) for role in episode.roles])
    return batch


def crop(arrays: Any, games: Sequence[int], num_games: int, room: Sizes) -> Any:
    """A microbatch: the given games of a batch, filled up to `num_games` with padding games, cut to `room`.

    Args:
      arrays: a GameBatch, or a NamedTuple of arrays over action tokens [N, X].
      games: row numbers, at most `num_games`.
      num_games: rows of the result.
      room: its sizes; none larger than the batch's.
    """
    games = np.asarray(games, int)

    def take(name, source):
        fill = PADDING_OF.get(name, 0)
        target = np.full((num_games, _columns(name, room), *source.shape[2:]), fill, source.dtype)
        target[: len(games)] = source[games, : target.shape[1]]
        return target

    return type(arrays)(*(take(name, source) for name, source in zip(arrays._fields, arrays, strict=True)))


def microbatches(
    game_sizes: Sequence[Sizes], buckets: Sequence[Sizes], num_games: int, generator: np.random.Generator
) -> list[tuple[Sizes, list[int]]]:
    """Sorts games into the smallest bucket that fits and cuts each bucket into microbatches, in random order.

    At most one microbatch a bucket is not full.

    Args:
      game_sizes: sizes of games 0, 1, ...
      buckets: room of the buckets, ascending; the last holds every game.
      num_games: games a microbatch.
      generator: draws who shares a microbatch and the order of the microbatches.

    Returns:
      (room, game numbers) of each microbatch.

    Raises:
      ValueError: a game fits no bucket.
    """
    members = {bucket: [] for bucket in buckets}
    for game, size in enumerate(game_sizes):
        bucket = next((bucket for bucket in buckets if size.fits(bucket)), None)
        if bucket is None:
            raise ValueError(f"game {game} needs {size}, more than layout.buckets' {buckets[-1]}")
        members[bucket].append(game)
    batches = []
    for bucket, games in members.items():
        games = generator.permutation(games).astype(int).tolist()
        batches += [(bucket, games[i : i + num_games]) for i in range(0, len(games), num_games)]
    return [batches[i] for i in generator.permutation(len(batches))]
