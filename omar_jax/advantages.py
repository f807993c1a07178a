"""From rewards to one advantage and one critic target for every action token.

The life of a reward: it arrives with a seat's turn; the turn recursion carries it back over the seat's
earlier turns; the token recursion carries each turn's return back over that turn's tokens; whitening brings
all tokens of the batch to one scale. The default is the turn/token estimator of OMAR (arXiv 2602.03109), two
levels of generalized advantage estimation (GAE, arXiv 1506.02438, equation 16):

    turns    A_k = r_k + gamma_turn V_{k+1} - V_k + gamma_turn lambda_turn A_{k+1}
    tokens   a_j = gamma_token v_{j+1} - v_j + gamma_token lambda_token a_{j+1},   a_last = A_k + V_k - v_last

The turn enters the tokens as its *return* A_k + V_k, so that the value is subtracted once, not twice: with a
perfect critic every advantage is zero.

Axes: N games, U turns of a game, X action tokens of a game, G role groups. Turns and tokens of a game stand
seat after seat with padding behind them, so one scan over an axis serves all seats; it restarts where a seat
ends.
"""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from omar_jax.types import PADDING, GameBatch

Mode = Literal["hierarchical", "token", "turn", "return"]
TurnValue = Literal["last", "first"]
Whiten = Literal["global", "role", "none"]

VARIANCE_EPSILON = 1e-8


class AdvantageSettings(NamedTuple):
    """How advantages are made. Hashable, to be a static argument of `jax.jit`.

    Attributes:
      mode: "hierarchical" (turns, then tokens), "token" (one flat GAE over all of a seat's tokens), "turn"
        (the turn's advantage on each of its tokens) or "return" (return-to-go minus a role's baseline, no
        critic).
      gamma_turn: discount from one turn of a seat to its next.
      lambda_turn: GAE's lambda over turns.
      gamma_token: discount from one action token to the next.
      lambda_token: GAE's lambda over tokens.
      turn_value: which token's value stands for the turn: "last" (the paper's) or "first" (before it is
        spoken).
      whiten: the `how` that belongs to `whiten`; `compute` itself does not whiten.
      balance_roles: whether `balance` follows.
    """

    mode: Mode = "hierarchical"
    gamma_turn: float = 1.0
    lambda_turn: float = 0.95
    gamma_token: float = 1.0
    lambda_token: float = 1.0
    turn_value: TurnValue = "last"
    whiten: Whiten = "global"
    balance_roles: bool = False


class Advantages(NamedTuple):
    """What the update trains on.

    Attributes:
      advantages: [N, X] float32, not whitened; 0 where `mask` is False.
      targets: [N, X] float32, what the critic should have said; 0 for padding.
      mask: [N, X] bool, action tokens that train: real ones of turns that were kept.
      turn_advantages: [N, U] float32, for reports: the turn recursion's A_k (in mode "token" too, which does
        not train on it), in mode "return" the return minus the baseline. Filtered turns have theirs; padding
        has 0.
    """

    advantages: jax.Array
    targets: jax.Array
    mask: jax.Array
    turn_advantages: jax.Array


class _Trace(NamedTuple):
    """A batch's turns and tokens with whatever stood in the padding replaced by zeros."""

    rewards: jax.Array  # [N, U] float32
    real_turn: jax.Array  # [N, U] bool
    ends_seat: jax.Array  # [N, U] bool: the seat's last turn
    values: jax.Array  # [N, X] float32
    real_token: jax.Array  # [N, X] bool
    turn_of_token: jax.Array  # [N, X] int32; 0 for padding
    starts_turn: jax.Array  # [N, X] bool: the turn's first token
    ends_turn: jax.Array  # [N, X] bool: the turn's last token


def reverse_scan(delta: jax.Array, decay: jax.Array) -> jax.Array:
    """Solves A_i = delta_i + decay_i A_{i+1} along the last axis, with A = 0 beyond the end.

    The recursion of GAE (arXiv 1506.02438, equation 16) for many sequences that stand one after the other: a
    decay of 0 at a sequence's last element keeps the next sequence out. One element after the other: on a CPU a
    parallel scan is slower, and takes longer to compile.

    Args:
      delta: [..., L] float32.
      decay: [..., L] float32.

    Returns:
      [..., L] float32.

    Raises:
      ValueError: the shapes differ.
    """
    if delta.shape != decay.shape:
        raise ValueError(f"delta and decay must have one shape, got {delta.shape} and {decay.shape}")

    def step(following, here):
        delta, decay = here
        advantage = delta + decay * following
        return advantage, advantage

    elements = (jnp.moveaxis(delta, -1, 0), jnp.moveaxis(decay, -1, 0))
    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[..., 0]), elements, reverse=True)
    return jnp.moveaxis(advantages, 0, -1)


def to_tokens(of_turns: jax.Array, action_turn: jax.Array) -> jax.Array:
    """Gives every action token its turn's entry, for instance its role group.

    Args:
      of_turns: [N, U], any type.
      action_turn: [N, X] int32, `GameBatch.action_turn`.

    Returns:
      [N, X]; padding tokens get the entry of turn 0, so mask them.
    """
    return jnp.take_along_axis(jnp.asarray(of_turns), jnp.maximum(action_turn, 0), axis=1)


def compute(batch: GameBatch, settings: AdvantageSettings, baselines: jax.Array | None = None) -> Advantages:
    """Advantages and critic targets of all action tokens, by `settings.mode`.

    A filtered turn (`turn_kept` False) keeps its place in the recursions; its tokens get advantage 0 and mask
    False. Nothing that stands in the padding reaches the result.

    Args:
      batch: the games.
      settings: mode, discounts and lambdas.
      baselines: [G] float32, expected return by `turn_group`; needed in mode "return", otherwise not looked
        at.

    Returns:
      `Advantages`, not whitened.

    Raises:
      ValueError: an unknown mode or turn_value, no baselines in mode "return", arrays of the wrong rank.
    """
    _require("mode", settings.mode, Mode)
    _require("turn_value", settings.turn_value, TurnValue)
    trace = _trace(batch)
    if settings.mode == "return":
        if baselines is None:
            raise ValueError('mode "return" needs baselines, one expected return for every role group; got None')
        turn_returns = _returns_to_go(trace, settings.gamma_turn)
        expected = jnp.where(trace.real_turn, jnp.asarray(baselines, jnp.float32)[batch.turn_group], 0.0)
        turn_advantages = turn_returns - expected
    else:
        turn_values = _turn_values(trace, settings.turn_value)
        turn_advantages = _turn_advantages(trace, turn_values, settings)
        turn_returns = turn_advantages + turn_values

    if settings.mode == "hierarchical":
        advantages = _advantages_within_turns(trace, turn_returns, settings)
        targets = advantages + trace.values
    elif settings.mode == "token":
        advantages = _advantages_over_seat(trace, settings)
        targets = advantages + trace.values
    else:
        advantages = to_tokens(turn_advantages, trace.turn_of_token)
        targets = to_tokens(turn_returns, trace.turn_of_token)

    mask = trace.real_token & to_tokens(batch.turn_kept, trace.turn_of_token)
    return Advantages(
        advantages=jnp.where(mask, advantages, 0.0),
        targets=jnp.where(trace.real_token, targets, 0.0),
        mask=mask,
        turn_advantages=turn_advantages,
    )


def whiten(advantages: jax.Array, mask: jax.Array, group: jax.Array, num_groups: int, how: Whiten) -> jax.Array:
    """Brings advantages to zero mean and unit standard deviation.

    Over all masked tokens of the arrays given, or over those of each group on its own; give the whole global
    batch, as a minibatch's own mean would be another one. Groups with one token, or with equal ones, become
    0.

    Args:
      advantages: [N, X] float32.
      mask: [N, X] bool, the tokens that count.
      group: [N, X] int32, role group of every token (`to_tokens(batch.turn_group, batch.action_turn)`).
      num_groups: G, static.
      how: "global", "role" or "none".

    Returns:
      [N, X] float32; 0 where `mask` is False, also for "none".

    Raises:
      ValueError: an unknown `how`, or arrays of different shapes.
    """
    _require("whiten", how, Whiten)
    if not advantages.shape == mask.shape == group.shape:
        shapes = f"{advantages.shape}, {mask.shape} and {group.shape}"
        raise ValueError(f"advantages, mask and group must have one shape, got {shapes}")
    if how == "none":
        return jnp.where(mask, advantages, 0.0)
    if how == "global":
        group, num_groups = jnp.zeros_like(group), 1

    member = _members(group, mask, num_groups)
    count = jnp.maximum(member.sum((0, 1)), 1)

    def group_mean(x):
        return jnp.where(member, x[..., None], 0.0).sum((0, 1)) / count

    # Measured from the group's smallest, a group of equal advantages gives zeros exactly, not rounding errors
    # divided by a tiny deviation.
    smallest = jnp.where(member, advantages[..., None], jnp.inf).min((0, 1))
    shifted = jnp.where(mask, advantages - smallest[group], 0.0)
    centred = shifted - group_mean(shifted)[group]
    deviation = jnp.sqrt(group_mean(centred**2) + VARIANCE_EPSILON)
    return jnp.where(mask, centred / deviation[group], 0.0)


def balance(advantages: jax.Array, mask: jax.Array, group: jax.Array, num_groups: int) -> jax.Array:
    """Scales advantages so that all groups weigh the same in a mean over tokens, however many play in them.

    One werewolf among five is a fifth of the tokens: the village would learn several times as fast, and no longer
    believe a lie before the werewolves have found out that lies are believed.

    Args:
      advantages, mask, group, num_groups: as of `whiten`.

    Returns:
      [N, X] float32; the weights' mean over masked tokens is 1.
    """
    count = _members(group, mask, num_groups).sum((0, 1))
    weight = mask.sum() / jnp.maximum(count * (count > 0).sum(), 1)
    return jnp.where(mask, advantages * weight[group], 0.0)


def role_returns(batch: GameBatch, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """Adds up the seats' whole rewards by role, for `update_baselines`.

    A seat none of whose turns is kept (another policy played it, for instance) does not count: the baseline
    is to say what the learning policy gets. Filtered turns of the other seats count.

    Args:
      batch: the games.
      num_groups: G, static.

    Returns:
      Sums [G] float32 of rewards, and counts [G] float32 of seats.

    Raises:
      ValueError: arrays of the wrong rank.
    """
    trace = _trace(batch)
    stay = jnp.where(trace.ends_seat, 0.0, 1.0)
    kept = jnp.where(trace.real_turn & batch.turn_kept, 1.0, 0.0)
    starts_seat = trace.real_turn & (_previous(batch.turn_seat) != batch.turn_seat)
    counted = starts_seat & (reverse_scan(kept, stay) > 0)
    member = _members(jnp.asarray(batch.turn_group), counted, num_groups)
    seat_rewards = reverse_scan(trace.rewards, stay)
    sums = jnp.where(member, seat_rewards[..., None], 0.0).sum((0, 1))
    return sums, member.sum((0, 1)).astype(jnp.float32)


def update_baselines(baselines: jax.Array, sums: jax.Array, counts: jax.Array, decay: float | jax.Array) -> jax.Array:
    """Moves each role's baseline towards its mean return in this batch; a role that did not occur stays.

    Args:
      baselines: [G] float32.
      sums: [G] float32, from `role_returns` (added up over all hosts).
      counts: [G] float32, likewise.
      decay: how much of the old baseline stays, in [0, 1].

    Returns:
      [G] float32.
    """
    mean = sums / jnp.maximum(counts, 1)
    return jnp.where(counts > 0, decay * baselines + (1 - decay) * mean, baselines)


@functools.partial(jax.jit, static_argnames=("settings", "num_groups"))
def compute_whitened(
    batch: GameBatch, settings: AdvantageSettings, num_groups: int, baselines: jax.Array
) -> Advantages:
    """`compute`, `whiten` and `balance` in one jitted call, for a whole iteration's games; baselines [G]."""
    computed = compute(batch, settings, baselines if settings.mode == "return" else None)
    group = to_tokens(batch.turn_group, batch.action_turn)
    scaled = whiten(computed.advantages, computed.mask, group, num_groups, settings.whiten)
    if settings.balance_roles:
        scaled = balance(scaled, computed.mask, group, num_groups)
    return computed._replace(advantages=scaled)


@functools.partial(jax.jit, static_argnames="num_groups")
def next_baselines(batch: GameBatch, baselines: jax.Array, num_groups: int, decay: float) -> jax.Array:
    """`role_returns` and `update_baselines` in one jitted call."""
    return update_baselines(baselines, *role_returns(batch, num_groups), decay)


def _trace(batch: GameBatch) -> _Trace:
    for name in ("action_turn", "action_mask", "action_values", "turn_seat", "turn_reward", "turn_kept"):
        if jnp.ndim(getattr(batch, name)) != 2:
            raise ValueError(f"{name} must have two axes, got shape {jnp.shape(getattr(batch, name))}")
    seat = jnp.asarray(batch.turn_seat)
    real_turn = seat != PADDING
    real_token = jnp.asarray(batch.action_mask)
    turn = jnp.where(real_token, batch.action_turn, PADDING)
    return _Trace(
        rewards=jnp.where(real_turn, batch.turn_reward, 0.0).astype(jnp.float32),
        real_turn=real_turn,
        ends_seat=real_turn & (_next(seat, PADDING) != seat),
        values=jnp.where(real_token, batch.action_values, 0.0).astype(jnp.float32),
        real_token=real_token,
        turn_of_token=jnp.maximum(turn, 0),
        starts_turn=real_token & (_previous(turn) != turn),
        ends_turn=real_token & (_next(turn, PADDING) != turn),
    )


def _turn_values(trace: _Trace, turn_value: TurnValue) -> jax.Array:
    """The values [N, U] that stand for the turns."""
    chosen = trace.ends_turn if turn_value == "last" else trace.starts_turn
    game = jnp.arange(chosen.shape[0])[:, None]
    # Every turn has one chosen token, so this sum has one term (and zeros): no order of adding matters.
    chosen_values = jnp.where(chosen, trace.values, 0.0)
    return jnp.zeros_like(trace.rewards).at[game, trace.turn_of_token].add(chosen_values)


def _turn_advantages(trace: _Trace, turn_values: jax.Array, settings: AdvantageSettings) -> jax.Array:
    """GAE over the turns of every seat, [N, U]."""
    next_value = jnp.where(trace.ends_seat, 0.0, _next(turn_values, 0.0))
    delta = trace.rewards + settings.gamma_turn * next_value - turn_values
    decay = jnp.where(trace.ends_seat, 0.0, settings.gamma_turn * settings.lambda_turn)
    return reverse_scan(delta, decay)


def _returns_to_go(trace: _Trace, gamma_turn: float) -> jax.Array:
    """Discounted rewards of the seat from each of its turns on, [N, U]."""
    return reverse_scan(trace.rewards, jnp.where(trace.ends_seat, 0.0, gamma_turn))


def _advantages_within_turns(trace: _Trace, turn_returns: jax.Array, settings: AdvantageSettings) -> jax.Array:
    """GAE over the tokens of every turn, from the turn's return at its last token, [N, X]."""
    turn_return = to_tokens(turn_returns, trace.turn_of_token)
    ahead = jnp.where(trace.ends_turn, turn_return, settings.gamma_token * _next(trace.values, 0.0))
    decay = jnp.where(trace.ends_turn, 0.0, settings.gamma_token * settings.lambda_token)
    return reverse_scan(jnp.where(trace.real_token, ahead - trace.values, 0.0), decay)


def _advantages_over_seat(trace: _Trace, settings: AdvantageSettings) -> jax.Array:
    """One GAE over all tokens of every seat, each turn's reward on its last token, [N, X]."""
    ends_seat = trace.ends_turn & to_tokens(trace.ends_seat, trace.turn_of_token)
    reward = jnp.where(trace.ends_turn, to_tokens(trace.rewards, trace.turn_of_token), 0.0)
    next_value = jnp.where(ends_seat, 0.0, _next(trace.values, 0.0))
    decay = jnp.where(ends_seat, 0.0, settings.gamma_token * settings.lambda_token)
    return reverse_scan(reward + settings.gamma_token * next_value - trace.values, decay)


def _members(group: jax.Array, mask: jax.Array, num_groups: int) -> jax.Array:
    """Who counts in which group, [N, L, G] bool: sums over it are reproducible, a scatter's are not."""
    return (group[..., None] == jnp.arange(num_groups)) & mask[..., None]


def _next(x: jax.Array, end: float | int) -> jax.Array:
    """Every element's right neighbour; `end` for the last one."""
    return jnp.concatenate([x[:, 1:], jnp.full_like(x[:, :1], end)], axis=1)


def _previous(x: jax.Array) -> jax.Array:
    """Every element's left neighbour; PADDING for the first one."""
    x = jnp.asarray(x)
    return jnp.concatenate([jnp.full_like(x[:, :1], PADDING), x[:, :-1]], axis=1)


def _require(setting: str, value: str, allowed: object) -> None:
    if value not in get_args(allowed):
        choices = ", ".join(f'"{choice}"' for choice in get_args(allowed))
        raise ValueError(f'{setting} must be one of {choices}; got "{value}"')
