"""The terms of the PPO loss, token by token: probabilities, policy, critic, distance to the reference.

The life of a loss: the update reads logits and values where the action tokens' were sampled,
`token_log_probs` turns the logits into log-probabilities under the sampling distribution, the other functions
turn those into one number a token. Nothing here averages or masks: the update knows which tokens train and
what each weighs. All functions are elementwise over the leading axes `[...]` (usually [N, X]); V vocabulary,
O legal options.
"""

import jax
import jax.numpy as jnp

from omar_jax.types import PADDING

# Stands for "impossible" in place of -inf, whose gradients are not finite.
IMPOSSIBLE = -1e30
# exp(20) is far beyond any clip range, and a float32 exponential stays finite.
LOG_RATIO_BOUND = 20.0
VARIANCE_EPSILON = 1e-8


def token_log_probs(
    logits: jax.Array, tokens: jax.Array, legal: jax.Array, temperature: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of sampled tokens under the distribution they were sampled from, and its entropy.

    The distribution is the softmax of logits / temperature, over the legal ids alone where there are any.

    Args:
      logits: [..., V], finite (rule tokens out with a large negative number, not with -inf).
      tokens: [...] int32, the sampled ids.
      legal: [..., O] int32, the distinct ids each was sampled among (itself included), PADDING-filled; a row
        of nothing but PADDING allows every id. O may be 0.
      temperature: scalar above 0; may be traced.

    Returns:
      Log-probabilities [...] float32 and entropies [...] float32, in nats.

    Raises:
      ValueError: the leading axes differ.
    """
    if not logits.shape[:-1] == tokens.shape == legal.shape[:-1]:
        shapes = f"{logits.shape}, {tokens.shape} and {legal.shape}"
        raise ValueError(f"logits, tokens and legal must share their leading axes, got {shapes}")
    logits = logits.astype(jnp.float32) / temperature
    token_logits = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    normalizer, entropy = _normalizer_and_entropy(logits)
    if legal.shape[-1] > 0:
        allowed = legal != PADDING
        options = jnp.take_along_axis(logits, jnp.where(allowed, legal, 0), axis=-1)
        legal_normalizer, legal_entropy = _normalizer_and_entropy(jnp.where(allowed, options, IMPOSSIBLE))
        restricted = allowed.any(-1)
        normalizer = jnp.where(restricted, legal_normalizer, normalizer)
        entropy = jnp.where(restricted, legal_entropy, entropy)
    return token_logits - normalizer, entropy


def clipped_policy_loss(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, jax.Array]:
    """PPO's clipped surrogate, arXiv 1707.06347, equation 7, negated to be minimized.

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r the ratio of the new probability to the old one.
    Its logarithm is bounded to +-LOG_RATIO_BOUND, so that no token, masked ones included, makes a NaN.

    Args:
      log_probs: [...] under the policy that learns.
      old_log_probs: [...] under the policy that sampled.
      advantages: [...].
      clip_low: how far the ratio may fall below 1 with gain.
      clip_high: how far it may rise above 1 with gain.

    Returns:
      The loss [...] float32, and [...] bool: True where clipping stopped the token's gradient.
    """
    log_ratio = jnp.clip(log_probs - old_log_probs, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    ratio = jnp.exp(log_ratio)
    clipped_ratio = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = -jnp.minimum(ratio * advantages, clipped_ratio * advantages)
    too_high = (ratio > 1 + clip_high) & (advantages > 0)
    too_low = (ratio < 1 - clip_low) & (advantages < 0)
    return loss, too_high | too_low


def clipped_value_loss(values: jax.Array, old_values: jax.Array, targets: jax.Array, clip: float | None) -> jax.Array:
    """The critic's half squared error, pessimistic about moves of more than `clip` from the old value.

    0.5 max((v - R)^2, (v_old + clip(v - v_old, -c, c) - R)^2), the value function's counterpart of PPO's
    clipping (GAE, arXiv 1506.02438, section 5, has the squared error in a trust region; the clipped form is
    OpenAI's).

    Args:
      values: [...] of the critic that learns.
      old_values: [...] of the critic when the tokens were sampled.
      targets: [...].
      clip: how far a value may move with gain; None for the plain squared error.

    Returns:
      [...] float32.
    """
    error = jnp.square(values - targets)
    if clip is not None:
        near_values = old_values + jnp.clip(values - old_values, -clip, clip)
        error = jnp.maximum(error, jnp.square(near_values - targets))
    return 0.5 * error


def kl_estimate(log_probs: jax.Array, reference_log_probs: jax.Array, bound: float = 10.0) -> jax.Array:
    """Estimates KL(policy || reference) at sampled tokens: k3 = exp(d) - d - 1, d = log(reference / policy).

    k3 (Schulman, "Approximating KL Divergence", 2020) is never negative and unbiased, but one token that
    either side finds impossible outweighs all others: exp(d) where the policy has dropped it, -d where the
    reference never knew it. So d is read within [-bound, log(1 + bound)]: no token's estimate, nor its
    derivative by its log-probability, exceeds `bound` (the derivative is 1 - exp(d), 1 at most on the
    reference's side). A clamp alone would also end the pull back exactly where the policy has strayed
    furthest; here the derivative outside is that at the edge. Inside, value and gradient are k3's own. No
    gradient reaches the reference.

    Args:
      log_probs: [...] under the policy that learns, finite.
      reference_log_probs: [...]; -inf is allowed.
      bound: above 0; the largest estimate and the largest derivative of a token.

    Returns:
      [...] float32.
    """
    fixed_log_probs = jax.lax.stop_gradient(log_probs)
    log_ratio = jax.lax.stop_gradient(reference_log_probs) - fixed_log_probs
    log_ratio = jnp.clip(log_ratio, -bound, jnp.log1p(bound))
    slope = -jnp.expm1(log_ratio)
    # expm1(d) - d: exp(d) - d - 1 would lose the small estimates, which are nearly all, to rounding.
    return jnp.expm1(log_ratio) - log_ratio + slope * (log_probs - fixed_log_probs)


def explained_variance(values: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of the targets' variance that the critic explains: 1 - Var(targets - values) / Var(targets).

    Args:
      values: [...].
      targets: [...].
      mask: [...] bool, the tokens that count.

    Returns:
      Scalar float32: 1 for a perfect critic, 0 for a constant one, negative for a worse one; 0 where the
      targets do not vary (or nothing is masked in), as there is nothing to explain.
    """
    count = jnp.maximum(mask.sum(), 1)

    def variance(x):
        x = jnp.where(mask, x, 0.0)
        centred = jnp.where(mask, x - x.sum() / count, 0.0)
        return jnp.square(centred).sum() / count

    total = variance(targets)
    share = 1 - variance(targets - values) / jnp.maximum(total, VARIANCE_EPSILON)
    return jnp.where(total > VARIANCE_EPSILON, share, 0.0)


def _normalizer_and_entropy(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-sum-exp and entropy of the softmax over the last axis."""
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    log_probs = logits - normalizer[..., None]
    return normalizer, -(jnp.exp(log_probs) * log_probs).sum(-1)
