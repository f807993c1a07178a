import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from omar_jax.train_state import OptimizerSettings, create, learning_rate, make_optimizer

CONSTANT = OptimizerSettings(learning_rate=0.5, warmup_steps=0, max_gradient_norm=1e9, weight_decay=0.0)


def rates(settings, steps):
    schedule = learning_rate(settings)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("jitted", [False, True], ids=["plain", "jitted"])
def test_warmup_is_linear_then_the_rate_is_constant(jitted):
    schedule = learning_rate(CONSTANT._replace(learning_rate=2.0, warmup_steps=4))
    schedule = jax.jit(schedule) if jitted else schedule
    assert [float(schedule(step)) for step in (0, 1, 2, 3, 4, 5, 1000)] == [0, 0.5, 1, 1.5, 2, 2, 2]


def test_without_warmup_the_first_step_has_the_full_rate():
    assert rates(CONSTANT, (0, 1, 7)) == [0.5, 0.5, 0.5]


def test_with_a_total_the_rate_falls_by_a_cosine_to_its_final_fraction():
    settings = CONSTANT._replace(learning_rate=2.0, warmup_steps=4, total_steps=12, final_fraction=0.1)
    # Half way between steps 4 and 12 it is the mean of 2 and 0.2; a quarter of the way cos(pi / 4) tells.
    quarter = 0.2 + 1.8 * (1 + np.cos(np.pi / 4)) / 2
    found = rates(settings, (2, 4, 6, 8, 12, 50))
    np.testing.assert_allclose(found, [1, 2, quarter, 1.1, 0.2, 0.2], rtol=1e-6)


def params():
    return {
        "params": {
            "embedding": jnp.full((3, 2), 4.0),
            "block_0": {
                "query": {"kernel": jnp.full((2, 2), 4.0)},
                "query_norm": {"weight": jnp.full(2, 4.0)},
            },
            "value_head": {"kernel": jnp.full((2, 1), 4.0), "bias": jnp.full(1, 4.0)},
        }
    }


def step(settings, gradients):
    """Parameters and optimizer state after one update."""
    optimizer = make_optimizer(settings)

    @jax.jit  # one compilation instead of one an operation
    def update(state):
        updates, new = optimizer.update(gradients, state.optimizer, state.params)
        return optax.apply_updates(state.params, updates)["params"], new

    return update(create(params(), optimizer))


def test_matrices_are_decayed_but_neither_norms_nor_the_value_head():
    moved, _ = step(CONSTANT._replace(weight_decay=0.1), jax.tree.map(jnp.zeros_like, params()))
    # With no gradient: weight - rate * decay * weight = 4 - 0.5 * 0.1 * 4.
    np.testing.assert_allclose(moved["embedding"], 3.8, rtol=1e-6)
    np.testing.assert_allclose(moved["block_0"]["query"]["kernel"], 3.8, rtol=1e-6)
    np.testing.assert_array_equal(moved["block_0"]["query_norm"]["weight"], 4.0)
    np.testing.assert_array_equal(moved["value_head"]["kernel"], 4.0)
    np.testing.assert_array_equal(moved["value_head"]["bias"], 4.0)


def test_adams_first_step_is_the_rate_against_the_gradients_sign():
    moved, _ = step(CONSTANT, jax.tree.map(lambda leaf: -3 * jnp.ones_like(leaf), params()))
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_allclose(leaf, 4.5, rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    gradients = jax.tree.map(jnp.zeros_like, params())
    gradients["params"]["block_0"]["query_norm"]["weight"] = jnp.array([30.0, 40.0])
    _, new = step(CONSTANT._replace(max_gradient_norm=5.0), gradients)
    mean = optax.tree_utils.tree_get(new, "mu")["params"]["block_0"]["query_norm"]["weight"]
    np.testing.assert_allclose(mean, [0.3, 0.4], rtol=1e-5)  # (1 - beta1) * (3, 4)


def test_a_new_state_has_made_no_step():
    state = create(params(), make_optimizer(CONSTANT))
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert state.params["params"]["embedding"].shape == (3, 2)
