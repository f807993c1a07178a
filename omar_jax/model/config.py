"""The shape of a decoder: one frozen dataclass that covers the Qwen2.5, Qwen3, Llama 3 and Gemma 3 families."""

import dataclasses


class ModelError(ValueError):
    """A model that cannot be used as it is described or stored; the message says what is wrong."""


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are slowed down for texts longer than those first trained on.

    Attributes:
      kind: "linear" (all frequencies, arXiv 2306.15595) or "llama3" (only the slow ones, arXiv 2407.21783).
      factor: slow frequencies are divided by it.
      low_frequency_factor: with "llama3", wavelengths above original_positions / this are slowed down in full.
      high_frequency_factor: with "llama3", wavelengths below original_positions / this stay; between is between.
      original_positions: with "llama3", tokens of the texts first trained on.
    """

    kind: str
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise ModelError(f"model.rope_scaling.kind={self.kind!r} must be 'linear' or 'llama3'")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and choices of a decoder-only transformer; the defaults are Qwen3's choices.

    Attributes:
      vocabulary: V, the number of token ids.
      width: D, the residual stream's size.
      layers: number of blocks.
      heads: H, query heads.
      kv_heads: K, key/value heads; divides `heads`.
      head_dim: size of one head; even.
      mlp_width: hidden size of the gated MLP.
      rope_theta: base of the rotary embedding.
      rope_scaling: of the rotary embedding with that base; None for none.
      norm_epsilon: added to the mean square in RMSNorm.
      tied_embeddings: logits read the embedding table.
      qk_norm: RMSNorm on each query and key head (Qwen3, Gemma 3).
      qkv_bias: biases on the query, key and value projections (Qwen2.5).
      out_bias: a bias on the attention's output projection (with `attention_bias` in `config.json`).
      activation: "silu" (SwiGLU) or "gelu_tanh" (GeGLU, Gemma 3).
      embedding_scale: multiply embeddings by sqrt(width) (Gemma 3).
      unit_offset_norm: RMSNorm multiplies by 1 + weight (Gemma 3).
      sandwich_norm: RMSNorm also on each block's output (Gemma 3).
      query_scale: what queries are multiplied by; None for head_dim ** -0.5.
      sliding_window: how many positions back a windowed layer sees, itself included; None for no windows.
      windowed_layers: for each layer whether it has the sliding window; empty: none has.
      window_rope_theta: rotary base of windowed layers, without scaling; None for `rope_theta` with its scaling.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float = 1_000_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    activation: str = "silu"
    embedding_scale: bool = False
    unit_offset_norm: bool = False
    sandwich_norm: bool = False
    query_scale: float | None = None
    sliding_window: int | None = None
    windowed_layers: tuple[bool, ...] = ()
    window_rope_theta: float | None = None

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ModelError(f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ModelError(f"model.head_dim={self.head_dim} must be even (rotary pairs)")
        if self.activation not in ("silu", "gelu_tanh"):
            raise ModelError(f"model.activation={self.activation!r} must be 'silu' or 'gelu_tanh'")
        if self.windowed_layers and len(self.windowed_layers) != self.layers:
            raise ModelError(
                f"model.windowed_layers={self.windowed_layers} must have model.layers={self.layers} entries"
            )
        if any(self.windowed_layers) and not self.sliding_window:
            raise ModelError(f"model.sliding_window={self.sliding_window} must be positive: some layers have a window")

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, None where it sees everything."""
        return self.sliding_window if self.windowed_layers and self.windowed_layers[layer] else None

    def rope(self, layer: int) -> tuple[float, RopeScaling | None]:
        """The rotary base of a layer and its scaling."""
        if self.window(layer) is not None and self.window_rope_theta is not None:
            return self.window_rope_theta, None
        return self.rope_theta, self.rope_scaling
