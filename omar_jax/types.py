"""What passes between the parts: turns and episodes on the host, a batch of games on the device.

The life of a turn: an environment asks a seat to act (`envs.base.Ask`); the sampler answers with token ids
(`Turn`); the game's steps are kept in order (`Episode`); `layout.pack` lays many episodes out as arrays
(`GameBatch`); advantages, losses and update read only those arrays.

Axes, here and everywhere: N games, P seats, T shared tokens, R seat tokens of a whole game (all seats in one
row), X action tokens of a game, U turns of a game, O options of a legally decoded token, A asked seats,
D model width, H query heads, K key/value heads, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

PADDING = -1  # of seats, turns and legal tokens; token ids are padded with 0


@dataclasses.dataclass(frozen=True)
class Turn:
    """One seat speaking once: what it was asked and what it sampled.

    Attributes:
      cue: token ids of the question; seen by this turn alone.
      action: sampled token ids, the end-of-turn id included if it was sampled. J of them.
      log_probs: [J] log-probability of each action token under the sampling distribution.
      values: [J] critic's value read where the token's logits were read (one position before it).
      legal: for every action token the ids it was sampled among, or None where any token was allowed.
      text: the decoded action, as the environment received it.
      kept: False once a filter found the turn degenerate; its tokens then train nothing.
    """

    cue: tuple[int, ...]
    action: tuple[int, ...]
    log_probs: np.ndarray
    values: np.ndarray
    legal: tuple[tuple[int, ...], ...] | None = None
    text: str = ""
    kept: bool = True


@dataclasses.dataclass(frozen=True)
class RolloutStep:
    """One step of a game as token ids: public text, then private text, then all asked seats' turns at once."""

    public: tuple[int, ...] = ()
    private: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    turns: Mapping[int, Turn] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Episode:
    """A finished game.

    Attributes:
      game: the game's number in its run; with `seed` it names the game for replays.
      seed: the environment's seed.
      steps: everything said, as tokens.
      transcript: the same as text: one (visible_to, text) pair a piece, visible_to "public" or a seat's name.
      rewards: [P] each seat's reward, or None for a game cut short, which trains nothing.
      roles: [P] role names.
      events: the environment's counts (invalid actions, claims, ...) summed over the game.
      learns: [P] False for seats that somebody else played; their turns train nothing.
      names: [P] what the players call one another.
    """

    game: int
    seed: int
    steps: tuple[RolloutStep, ...]
    transcript: tuple[tuple[str, str], ...]
    rewards: tuple[float, ...] | None
    roles: tuple[str, ...]
    events: Mapping[str, float]
    learns: tuple[bool, ...] = ()
    names: tuple[str, ...] = ()

    def is_learner(self, seat: int) -> bool:
        """Whether what a seat says trains."""
        return not self.learns or self.learns[seat]


class GameBatch(NamedTuple):
    """N games as arrays: one shared stream and one packed row of seat streams a game (see `layout`).

    Action tokens stand seat after seat, each seat's in the order they were said; turns likewise.
    """

    shared_tokens: Any  # [N, T] int32
    shared_positions: Any  # [N, T] int32
    shared_clock: Any  # [N, T] int32; padding is later than every seat token, so nobody sees it
    seat_tokens: Any  # [N, R] int32
    seat_positions: Any  # [N, R] int32
    seat_clock: Any  # [N, R] int32
    seat_owner: Any  # [N, R] int32: seat, PADDING beyond the end
    seat_branch: Any  # [N, R] int32: 0 persistent, 1, 2, ... the seat's turns
    action_index: Any  # [N, X] int32: where in R the token's logits and value are read (one before the token)
    action_tokens: Any  # [N, X] int32
    action_mask: Any  # [N, X] bool: False for padding
    action_turn: Any  # [N, X] int32: row of the turn arrays; PADDING for padding
    action_log_probs: Any  # [N, X] float32: the sampler's own
    action_values: Any  # [N, X] float32: the sampler's own
    legal_tokens: Any  # [N, X, O] int32: ids it was sampled among, PADDING-filled; all PADDING: any token
    turn_seat: Any  # [N, U] int32: PADDING for padding
    turn_group: Any  # [N, U] int32: role number, for whitening and baselines by role; 0 for padding
    turn_reward: Any  # [N, U] float32: what arrived with this turn (a late reward counts to the last turn)
    turn_kept: Any  # [N, U] bool: False for filtered turns and for padding

    @property
    def num_games(self) -> int:
        """N, padding games included."""
        return self.shared_tokens.shape[0]


Params = Mapping[str, Any]
