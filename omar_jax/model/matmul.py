"""Matrix products that add up in float32, whatever their factors are stored in, and are rounded once.

    y = multiply(x, w)         float32
    gradients of x and w       products of the same kind, in the dtype of x and of w

XLA's own product of two bfloat16 matrices is a bfloat16 one. TPUs and GPUs add it up in float32 all the same; a CPU
with AVX512-BF16 has instructions only for the float32 one, and takes three to five times as long for the other. Sums
over the rows of the left factor, as gradients of weights are, it knows in float32 alone, and slowly: see `turned`.
"""

import functools

import jax
import jax.numpy as jnp

# What `_row_by_row` is for: so few rows, and a matrix of so many numbers.
FEW_ROWS, LARGE_MATRIX = 64, 2**20

# [..., M, D] by [..., D, F], both of one dtype -> float32 [..., M, F]; not for differentiating.
product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)


def _written_out(x):
    return jax.lax.optimization_barrier(_transposed(x))


def turned(x: jax.Array) -> jax.Array:
    """x [..., M, D] -> [..., D, M] for a left factor; on a CPU written out, for XLA is slow where it multiplies x^T."""
    return jax.lax.platform_dependent(x, cpu=_written_out, default=_transposed)


def _contract(a, b, axis):
    """a [M, D] times b as it lies, summed over that axis of b; if b were transposed, XLA would take float32."""
    return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def _row_by_row(a, b):
    """a [M, D] b^T [D, F] -> [M, F], written as sums over the products of rows.

    XLA's CPU library makes of that a product with b as it lies; of a product it makes one that packs all of b first,
    which takes longer than multiplying few rows with it. It does so only where no second product uses a, and for b
    as the first factor; and it likes rows in eights.
    """
    padding = -len(a) % 8 if len(a) > 4 else 0
    return (b * jnp.pad(a, ((0, padding), (0, 0)))[:, None]).sum(axis=-1)[: len(a)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply(x: jax.Array, w: jax.Array, axis: int = 0) -> jax.Array:
    """x [M, D] times w, rounded to x's dtype and summed over `axis`: [D, F], or [F, D] for 1 -> float32 [M, F]."""
    w, product_of = w.astype(x.dtype), functools.partial(_contract, axis=axis)
    if axis == 1 and 1 < len(x) <= FEW_ROWS and w.size >= LARGE_MATRIX and x.dtype == jnp.float32:
        return jax.lax.platform_dependent(x, w, cpu=_row_by_row, default=product_of)
    return product_of(x, w)


def _forward(x, w, axis):
    return multiply(x, w, axis), (x, w)


def _backward(axis, saved, gradient):
    x, w = saved
    gradient = gradient.astype(x.dtype)
    of_x = _contract(gradient, w.astype(x.dtype), 1 - axis)
    of_w = _contract(turned(gradient), x, 0) if axis else _contract(turned(x), gradient, 0)
    return of_x.astype(x.dtype), of_w.astype(w.dtype)


multiply.defvjp(_forward, _backward)
