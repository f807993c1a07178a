"""Products with float32 sums: what they and their gradients are, and in which instructions a CPU takes them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax.model.matmul import FEW_ROWS, LARGE_MATRIX, multiply, product

RNG = np.random.default_rng(0)
X, W, G = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 96), (96, 7), (5, 7)))


def kept(x, dtype):
    """x as numbers of this dtype, in float64."""
    return np.asarray(jnp.asarray(x, dtype), np.float64)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("of_w", ["float32", "bfloat16"])
@pytest.mark.parametrize("of_x", ["float32", "bfloat16"])
def test_product_and_gradients_are_rounded_once(of_x, of_w, axis):
    """Against float64: sums of 96 products in float32 are exact to 1e-6 of their terms, gradients to their dtype."""
    x, w = jnp.asarray(X, of_x), jnp.asarray(W.T if axis else W, of_w)
    y, backward = jax.vjp(lambda x, w: multiply(x, w, axis), x, w)
    gradients = backward(jnp.asarray(G))
    rounded_w, rounded_g = kept(kept(W, of_w), of_x), kept(G, of_x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, kept(x, of_x) @ rounded_w, atol=1e-5)
    wanted = rounded_g @ rounded_w.T, kept(x, of_x).T @ rounded_g
    for found, like, exact in zip(gradients, (x, w), (wanted[0], wanted[1].T if axis else wanted[1]), strict=True):
        assert found.dtype == like.dtype
        rounding = 0 if like.dtype == np.float32 else 2**-8
        np.testing.assert_allclose(kept(found, "float32"), exact, rtol=rounding, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU's instructions")
@pytest.mark.parametrize("axis", [0, 1])
def test_products_of_bfloat16_stay_products_of_bfloat16(axis):
    """The compiler takes y and the gradient of x as they are; only that of w is widened to float32 first."""
    x, w = jnp.zeros((32, 96), jnp.bfloat16), jnp.zeros((128, 96) if axis else (96, 128), jnp.bfloat16)
    gradients = jax.grad(lambda x, w: jnp.square(multiply(x, w, axis)).sum(), argnums=(0, 1))
    text = jax.jit(gradients).lower(x, w).compile().as_text()
    products = [computation for computation in text.split("\n\n") if " dot(" in computation]
    factors = [set(re.findall(r"= (\w+)\[\S+ parameter\(", computation)) for computation in products]
    assert sorted(map(sorted, factors)) == [["bf16"], ["bf16"], ["f32"]]


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 28, FEW_ROWS, FEW_ROWS + 1])
def test_few_rows_times_a_large_matrix(rows):
    """Another way to the same sums: of 256 products, exact to 1e-4 of standard deviation 16, and so are gradients."""
    x, w, g = (
        RNG.normal(size=size).astype(np.float32) for size in ((rows, 256), (LARGE_MATRIX // 256, 256), (rows, 1))
    )
    y, backward = jax.vjp(lambda x, w: multiply(x, w, 1), x, w)
    of_x, of_w = backward(jnp.broadcast_to(g, y.shape))
    assert y.shape == (rows, len(w))
    np.testing.assert_allclose(y, kept(x, "float32") @ kept(w, "float32").T, atol=1e-4)
    np.testing.assert_allclose(of_x, kept(g, "float32") * kept(w, "float32").sum(axis=0), atol=1e-3)
    np.testing.assert_allclose(of_w[7], (kept(g, "float32") * kept(x, "float32")).sum(axis=0), atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU's library")
def test_few_rows_are_multiplied_by_the_library():
    """As a loop of the compiler's own, the sums of `_row_by_row` would take ten to thirty times as long."""
    x, w = jnp.zeros((28, 256)), jnp.zeros((LARGE_MATRIX // 256, 256))
    text = jax.jit(lambda x, w: multiply(x, w, 1)).lower(x, w).compile().as_text()
    computations = [computation for computation in text.split("\n\n") if " multiply(" in computation]
    assert len(computations) == 1 and " reduce(" in computations[0]
    name = re.match(r"%?(\S+) ", computations[0])[1]
    assert re.search(rf"ynn_fusion\S* = .*calls=%?{re.escape(name)}\b", text), text


def test_batches_of_matrices():
    a, b = RNG.normal(size=(3, 4, 16)), RNG.normal(size=(3, 16, 5))
    found = product(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, kept(a, "bfloat16") @ kept(b, "bfloat16"), atol=1e-5)
