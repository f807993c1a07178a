"""Low-rank adapters (LoRA, arXiv 2106.09685): what makes a large model trainable on a small machine.

A projection with an adapter computes x W + (alpha / rank) x A B. W is frozen; A and B are trained, and with them the
critic's head. B starts at zero, so that the adapted model starts as the given one.

The life of an adapted policy: `add` puts adapters into the tree of a loaded model; `split` parts it into what is
trained and what is frozen; jitted calls put both together again with `combine`, which copies nothing; `fold` adds
A B to W when the model is exported.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import traverse_util

from omar_jax.types import Params

PROJECTIONS = ("query", "key", "value", "out", "gate", "up", "down")
LORA_A, LORA_B = "lora_a", "lora_b"  # [in, rank], [rank, out]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which projections have adapters, and of what size.

    Attributes:
      rank: of A B.
      alpha: A B counts alpha / rank times.
      projections: of `PROJECTIONS`, in every block.
    """

    rank: int
    alpha: float
    projections: tuple[str, ...] = PROJECTIONS

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank


def add(params: Params, lora: LoRA, seed: int) -> Params:
    """The tree with new adapters, in float32, next to the kernels of its adapted projections."""
    flat = traverse_util.flatten_dict(params)
    adapted = [path for path in flat if path[-1] == "kernel" and path[-2] in lora.projections]
    for number, path in enumerate(sorted(adapted)):
        rows, columns = flat[path].shape
        key = jax.random.fold_in(jax.random.key(seed), number)
        flat[*path[:-1], LORA_A] = jax.random.normal(key, (rows, lora.rank)) * rows**-0.5
        flat[*path[:-1], LORA_B] = jnp.zeros((lora.rank, columns))
    return traverse_util.unflatten_dict(flat)


def split(params: Params, lora: LoRA | None) -> tuple[Params, Params | None]:
    """(trained, frozen) parts of the tree; without adapters everything is trained and frozen is None."""
    if lora is None:
        return params, None
    flat = traverse_util.flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path[-1] in (LORA_A, LORA_B) or "value_head" in path}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(frozen)


def combine(trained: Params, frozen: Params | None) -> Params:
    """The tree that `split` parted."""
    if frozen is None:
        return trained
    flat = traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
    return traverse_util.unflatten_dict(flat)


def fold(params: Params, lora: LoRA | None) -> Params:
    """The tree of a model without adapters that computes the same; each kernel keeps its dtype."""
    if lora is None:
        return params
    flat = traverse_util.flatten_dict(params)
    folded = {path: leaf for path, leaf in flat.items() if path[-1] not in (LORA_A, LORA_B)}
    for path in folded:
        if (*path[:-1], LORA_A) in flat and path[-1] == "kernel":
            folded[path] = _fold(lora.scale, flat[path], flat[*path[:-1], LORA_A], flat[*path[:-1], LORA_B])
    return traverse_util.unflatten_dict(folded)


@functools.partial(jax.jit, static_argnums=0)
def _fold(scale, kernel, a, b):
    product = jnp.matmul(a, b, precision="highest")
    return (kernel.astype(jnp.float32) + scale * product).astype(kernel.dtype)
