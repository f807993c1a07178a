"""The loss terms by hand, by float64 loops and by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax import losses
from omar_jax.types import PADDING


def softmax_by_hand(logits, token, legal, temperature):
    """Log-probability and entropy of one token in float64."""
    ids = [i for i in legal if i != PADDING] or list(range(len(logits)))
    scores = {i: float(logits[i]) / temperature for i in ids}
    highest = max(scores.values())
    total = sum(np.exp(score - highest) for score in scores.values())
    logs = {i: score - highest - np.log(total) for i, score in scores.items()}
    return logs[token], -sum(np.exp(log) * log for log in logs.values())


def random_rows():
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, size=(2, 3, 11)).astype(np.float32)
    legal = np.full((2, 3, 4), PADDING, np.int32)
    legal[0, 0, :3] = [4, 0, 10]
    legal[0, 1, :4] = [1, 2, 3, 9]
    legal[1, 2, 0] = 7
    tokens = np.array([[10, 2, 5], [0, 6, 7]], np.int32)
    return logits, tokens, legal


def gradient_is_numerical(function, at, step=1e-3, tolerance=2e-3):
    """Compares the gradient of sum(function) with central differences; `at` [L] float32."""
    total = jax.jit(lambda x: function(x).sum())
    gradient = jax.jit(jax.grad(total))(at)
    for index in range(at.size):
        move = step * np.eye(at.size, dtype=np.float32)[index]
        slope = (total(at + move) - total(at - move)) / (2 * step)
        np.testing.assert_allclose(gradient[index], slope, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("function", [losses.token_log_probs, jax.jit(losses.token_log_probs)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_token_log_probs_equal_plain_loops(function, temperature):
    logits, tokens, legal = random_rows()
    log_probs, entropy = function(logits, tokens, legal, temperature)
    for row in np.ndindex(tokens.shape):
        expected = softmax_by_hand(logits[row], tokens[row], legal[row].tolist(), temperature)
        np.testing.assert_allclose((log_probs[row], entropy[row]), expected, rtol=1e-5, atol=1e-5)


def test_a_single_legal_token_is_certain():
    logits, tokens, legal = random_rows()
    log_probs, entropy = losses.token_log_probs(logits, tokens, legal, 0.7)
    assert log_probs[1, 2] == 0 and entropy[1, 2] == 0


def test_no_room_for_legal_tokens_allows_all():
    logits, tokens, legal = random_rows()
    free = np.full_like(legal, PADDING)
    for given, expected in zip(
        losses.token_log_probs(logits, tokens, legal[..., :0], 1.0),
        losses.token_log_probs(logits, tokens, free, 1.0),
        strict=True,
    ):
        np.testing.assert_array_equal(given, expected)


def test_token_log_prob_gradients():
    logits, tokens, legal = random_rows()

    def both(flat):
        return sum(losses.token_log_probs(flat.reshape(logits.shape), tokens, legal, 1.5))

    gradient_is_numerical(both, jnp.asarray(logits.ravel()), step=1e-2)
    gradient = jax.jit(jax.grad(lambda x: both(x).sum()))(logits.ravel()).reshape(logits.shape)
    assert not np.any(gradient[1, 2]), "a certain token teaches nothing"
    assert not np.any(np.delete(gradient[0, 0], [4, 0, 10])), "illegal tokens have no part"


def test_gradients_stay_finite_at_extreme_logits():
    logits = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, losses.IMPOSSIBLE]])
    legal = jnp.array([[0, 1, PADDING], [PADDING] * 3])

    def total(x):
        log_probs, entropy = losses.token_log_probs(x, jnp.array([1, 1]), legal, 1.0)
        return (log_probs + entropy).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_temperature_does_not_recompile():
    logits, tokens, legal = random_rows()
    traces = []
    jitted = jax.jit(lambda temperature: traces.append(1) or losses.token_log_probs(logits, tokens, legal, temperature))
    jitted(1.0), jitted(0.5)
    assert len(traces) == 1


def test_token_log_probs_reject_other_axes():
    logits, tokens, legal = random_rows()
    with pytest.raises(ValueError, match="leading axes"):
        losses.token_log_probs(logits, tokens[:, 1:], legal, 1.0)


# ---------------------------------------------------------------- policy


RATIOS = np.array([1.0, 1.1, 1.5, 1.5, 0.5, 0.5, 1.5], np.float32)
GAINS = np.array([2.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0], np.float32)


@pytest.mark.parametrize("function", [losses.clipped_policy_loss, jax.jit(losses.clipped_policy_loss)])
def test_policy_loss_by_hand(function):
    old = np.full(7, -1.5, np.float32)
    loss, clipped = function(old + np.log(RATIOS), old, GAINS, 0.2, 0.3)
    # Clipped where there is nothing more to gain: up with a gain (1.3), down with a loss (0.8).
    np.testing.assert_allclose(loss, [-2.0, 1.1, -1.3, 1.5, -0.5, 0.8, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(clipped, [False, False, True, False, False, True, False])


def test_policy_loss_gradients():
    old = jnp.zeros(7)
    at = jnp.log(RATIOS)
    gradient_is_numerical(lambda x: losses.clipped_policy_loss(x, old, GAINS, 0.2, 0.3)[0], at)
    gradient = jax.jit(jax.grad(lambda x: losses.clipped_policy_loss(x, old, GAINS, 0.2, 0.3)[0].sum()))(at)
    # Not clipped: -ratio * advantage, the policy gradient at ratio 1.
    np.testing.assert_allclose(gradient, [-2.0, 1.1, 0.0, 1.5, -0.5, 0.0, 0.0], rtol=1e-5)


def test_policy_loss_is_finite_for_absurd_ratios():
    log_ratio = jnp.array([-1e4, -1e4, -1e4, 1e4, 1e4, 1e4])
    gain = jnp.array([-1.0, 0.0, 1.0] * 2)

    def total(x):
        return losses.clipped_policy_loss(x, jnp.zeros(6), gain, 0.2, 0.2)[0].sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(log_ratio)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


# ---------------------------------------------------------------- critic


@pytest.mark.parametrize("function", [losses.clipped_value_loss, jax.jit(losses.clipped_value_loss, static_argnums=3)])
def test_value_loss_by_hand(function):
    # Old value 0, target 1: near; past the clip towards the target (pessimistic: as if at .2); away from it.
    values, old, targets = (
        np.array([0.1, 0.6, -0.5], np.float32),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    )
    np.testing.assert_allclose(function(values, old, targets, 0.2), [0.405, 0.32, 1.125], rtol=1e-6)
    np.testing.assert_allclose(function(values, old, targets, None), [0.405, 0.08, 1.125], rtol=1e-6)


def test_value_loss_gradients():
    values, old, targets = jnp.array([0.1, 0.6, -0.5]), jnp.zeros(3), jnp.ones(3)
    gradient_is_numerical(lambda x: losses.clipped_value_loss(x, old, targets, 0.2), values)
    gradient = jax.jit(jax.grad(lambda x: losses.clipped_value_loss(x, old, targets, 0.2).sum()))(values)
    np.testing.assert_allclose(gradient, [-0.9, 0.0, -1.5], rtol=1e-6)


def test_explained_variance():
    targets = jnp.array([1.0, 2.0, 3.0, 99.0])
    mask = jnp.array([True, True, True, False])
    share = jax.jit(losses.explained_variance)
    assert share(targets.at[3].set(jnp.nan), targets, mask) == 1
    np.testing.assert_allclose(share(targets + 5, targets, mask), 1.0, rtol=1e-6)  # an offset has no variance
    np.testing.assert_allclose(share(jnp.zeros(4), targets, mask), 0.0, atol=1e-6)
    np.testing.assert_allclose(share(-targets, targets, mask), -3.0, rtol=1e-6)
    assert share(targets, jnp.full(4, 0.1), mask) == 0
    assert share(targets, targets, mask & False) == 0


# ---------------------------------------------------------------- distance to the reference


@pytest.mark.parametrize("function", [losses.kl_estimate, jax.jit(losses.kl_estimate)])
def test_kl_estimate_is_k3_inside_its_bounds(function):
    log_ratio = np.array([0.0, 1e-3, 0.5, -0.5, 2.0, -9.0], np.float32)
    policy = np.full(6, -2.0, np.float32)
    exact = np.expm1(log_ratio.astype(np.float64)) - log_ratio
    np.testing.assert_allclose(function(policy, policy + log_ratio), exact, rtol=2e-3, atol=1e-9)


def test_kl_estimate_averages_to_the_divergence():
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    estimates = losses.kl_estimate(jnp.log(policy), jnp.log(reference))
    np.testing.assert_allclose((policy * estimates).sum(), (policy * np.log(policy / reference)).sum(), rtol=1e-5)


def test_kl_estimate_gradients():
    reference = jnp.array([-1.0, -2.0, -0.3])
    at = jnp.array([-1.5, -0.5, -2.0])
    gradient_is_numerical(lambda x: losses.kl_estimate(x, reference), at)
    assert not np.any(jax.grad(lambda x: losses.kl_estimate(at, x).sum())(reference))


@pytest.mark.parametrize("bound", [3.0, 10.0])
def test_kl_estimate_of_impossible_tokens_is_bounded_and_still_pulls(bound):
    unknown_to_reference = [(-0.1, -50.0), (-0.1, -1e30), (-0.1, -jnp.inf)]
    for policy, reference in unknown_to_reference:
        value, slope = jax.value_and_grad(losses.kl_estimate)(policy, reference, bound)
        assert 0 < value <= bound
        np.testing.assert_allclose(slope, 1.0, atol=0.06)  # say it less
    for policy, reference in [(-7.5, -0.1), (-1e30, -0.1)]:
        value, slope = jax.value_and_grad(losses.kl_estimate)(policy, reference, bound)
        assert 0 < value <= bound
        np.testing.assert_allclose(slope, -bound, rtol=1e-5)  # say it again
