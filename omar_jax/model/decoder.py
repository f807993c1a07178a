"""A decoder-only transformer whose attention is given by the caller.

The life of a token: embedding, then per layer normalise -> project to query, key, value -> rotate by position ->
`attend` -> project back, and a gated MLP, each added to the residual stream; a last norm. What a token may see
is not known here: `attend(layer, query, key, value)` says it, and returns next to its output what its caller wants
kept of the layer (an updated cache, or nothing). So training on two streams (`model.attention`), extending a cache
and speaking a turn (`model.cache`) are functions around the same weights.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from omar_jax.model.config import DecoderConfig, RopeScaling
from omar_jax.model.lora import LORA_A, LORA_B, LoRA
from omar_jax.model.matmul import multiply
from omar_jax.sharding import GAMES, gather_rows, split
from omar_jax.types import Params

# (layer, query [..., L, K, G, h], key [..., L, K, h], value like key) -> (output like query, what to keep)
Attend = Callable[[int, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def rotary_table(
    positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary angles, [..., L, head_dim / 2] each, for positions [..., L] (arXiv 2104.09864)."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequency = frequency * _slowed(frequency, scaling)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def _slowed(frequency: jax.Array, scaling: RopeScaling) -> jax.Array:
    """What rotary frequencies [head_dim / 2] are multiplied by; see `RopeScaling`."""
    if scaling.kind == "linear":
        return jnp.full_like(frequency, 1 / scaling.factor)
    turns = scaling.original_positions * frequency / (2 * jnp.pi)  # in a text of the original length
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return kept + (1 - kept) / scaling.factor


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates heads x [..., L, (heads...), head_dim], first half paired with second, as Hugging Face does."""
    heads = (1,) * (x.ndim - table[0].ndim)
    cos, sin = (t.reshape(*t.shape[:-1], *heads, t.shape[-1]) for t in table)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 (arXiv 1910.07467)."""

    epsilon: float
    unit_offset: bool = False

    @nn.compact
    def __call__(self, x):
        """Norms x [..., D]."""
        init = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
        weight = self.param("weight", init, (x.shape[-1],)) + (1.0 if self.unit_offset else 0.0)
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (normed * weight).astype(x.dtype)


class Projection(nn.Module):
    """x [M, in] W (+ bias), in x's dtype, and with an adapter + scale x A B (see `model.lora`)."""

    size: int
    use_bias: bool = False
    lora: LoRA | None = None

    @nn.compact
    def __call__(self, x):
        """Projects x to [M, size]."""
        rows, normal = x.shape[-1], nn.initializers.normal(x.shape[-1] ** -0.5)
        y = multiply(x, self.param("kernel", normal, (rows, self.size)))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.size,)).astype(x.dtype)
        if self.lora:
            a = self.param(LORA_A, normal, (rows, self.lora.rank))
            b = self.param(LORA_B, nn.initializers.zeros, (self.lora.rank, self.size))
            y = y + multiply(multiply(x, a).astype(x.dtype), b) * self.lora.scale
        return y.astype(x.dtype)


class Block(nn.Module):
    """One layer: attention and gated MLP over M tokens x [M, D], which `attend` sees as [..., L] = `lead`.

    Returns the new residual stream and what `attend` keeps.
    """

    config: DecoderConfig
    layer: int
    lora: LoRA | None = None

    @nn.compact
    def __call__(self, x, rotary, lead: tuple[int, ...], attend: Attend):
        """See the class."""
        c = self.config

        def norm(name):
            return RMSNorm(c.norm_epsilon, c.unit_offset_norm, name=name)

        def project(size, name, bias=False):
            adapter = self.lora if self.lora and name in self.lora.projections else None
            return Projection(size, bias, adapter, name=name)

        def after(name):
            return norm(name) if c.sandwich_norm else lambda y: y

        y = norm("attention_norm")(x)
        query = project(c.heads * c.head_dim, "query", c.qkv_bias)(y)
        key = project(c.kv_heads * c.head_dim, "key", c.qkv_bias)(y)
        value = project(c.kv_heads * c.head_dim, "value", c.qkv_bias)(y)
        query = query.reshape(-1, c.kv_heads, c.heads // c.kv_heads, c.head_dim)
        key = key.reshape(-1, c.kv_heads, c.head_dim)
        value = value.reshape(key.shape)
        if c.qk_norm:
            query, key = norm("query_norm")(query), norm("key_norm")(key)
        query, key = rotate(query, rotary), rotate(key, rotary)
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        query, key, value = (y.reshape(*lead, *y.shape[1:]) for y in (query * scale, key, value))
        heard, kept = attend(self.layer, query, key, value)
        heard = heard.reshape(-1, c.heads * c.head_dim)
        x = x + after("attention_out_norm")(project(c.width, "out", c.out_bias)(heard))

        y = norm("mlp_norm")(x)
        activate = nn.silu if c.activation == "silu" else lambda z: nn.gelu(z, approximate=True)
        hidden = activate(project(c.mlp_width, "gate")(y)) * project(c.mlp_width, "up")(y)
        return x + after("mlp_out_norm")(project(c.width, "down")(hidden)), kept


class Decoder(nn.Module):
    """The transformer with its vocabulary and value heads.

    `__call__` gives hidden states; `logits` and `value` read them at the few places where they are needed.

    Attributes:
      config: its shape.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: of activations, keys and values; weights are converted where they are used. Norms, rotary angles,
        softmax, logits and values are computed in float32.
      lora: its adapters, if it has any.
      longest_dense: most tokens of a game that is trained on with whole masks, see `attention.two_stream`.
      mesh: of the devices it computes on, if there are several; the first axis of tokens is then split.
    """

    config: DecoderConfig
    remat: bool = False
    dtype: Any = jnp.float32
    lora: LoRA | None = None
    longest_dense: int | None = None
    mesh: Mesh | None = None

    def setup(self):
        """Names the parts."""
        c = self.config
        init = nn.initializers.normal(c.width**-0.5)
        self.embedding = self.param("embedding", init, (c.vocabulary, c.width))
        block = nn.remat(Block, static_argnums=(3, 4)) if self.remat else Block
        self.blocks = [block(c, layer, self.lora, name=f"block_{layer}") for layer in range(c.layers)]
        self.final_norm = RMSNorm(c.norm_epsilon, c.unit_offset_norm)
        if not c.tied_embeddings:
            self.unembedding = self.param("unembedding", init, (c.vocabulary, c.width))
        # Zeros, so that an untrained critic says 0 and not noise.
        self.value_head = nn.Dense(1, kernel_init=nn.initializers.zeros, name="value_head")

    def __call__(self, tokens: jax.Array, positions: jax.Array, attend: Attend):
        """Tokens and positions [..., L] -> (hidden [..., L, D], what `attend` kept of each layer)."""
        c = self.config
        # One row a token: XLA multiplies [M, D] by a matrix much faster on the CPU than [N, L, D].
        lead, positions = tokens.shape, positions.reshape(-1)
        x = gather_rows(self.embedding, self.mesh)[tokens.reshape(-1)].astype(self.dtype)
        if c.embedding_scale:
            x = x * jnp.asarray(c.width**0.5, x.dtype)
        x = split(x, self.mesh, GAMES)
        tables = {rope: rotary_table(positions, c.head_dim, *rope) for rope in map(c.rope, range(c.layers))}
        kept = []
        for layer, block in enumerate(self.blocks):
            x, kept_here = block(x, tables[c.rope(layer)], lead, attend)
            x = split(x, self.mesh, GAMES)  # so that weights are gathered, and not activations
            kept.append(kept_here)
        return self.final_norm(x).reshape(*lead, c.width), kept

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Hidden [..., D] -> float32 vocabulary logits [..., V]."""
        table = self.embedding if self.config.tied_embeddings else self.unembedding
        table = gather_rows(table.astype(self.dtype), self.mesh)
        return multiply(hidden.reshape(-1, hidden.shape[-1]), table, axis=1).reshape(*hidden.shape[:-1], -1)

    def value(self, hidden: jax.Array) -> jax.Array:
        """Hidden [..., D] -> float32 values [...]: the critic."""
        return self.value_head(hidden.astype(jnp.float32))[..., 0]

    def init_all(self, tokens, positions, attend):
        """Touches every parameter; for `init` only."""
        hidden, _ = self(tokens, positions, attend)
        return self.logits(hidden), self.value(hidden)


def counts_in_float32(name: str) -> bool:
    """Whether a parameter ("block_0/query_norm/weight") is never stored in less: norms and the critic's head."""
    return "norm" in name or "value_head" in name


def convert(params: Params, dtype: Any) -> Params:
    """The weights in another dtype, but for those that count in float32.

    A model that computes in `dtype` gives bitwise the same with weights converted once as with float32 ones.
    """

    def leaf(path, x):
        return x if counts_in_float32(jax.tree_util.keystr(path)) else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)
