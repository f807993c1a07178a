"""The shape of a decoder: one frozen dataclass that covers the Qwen2.5, Qwen3, Gemma 3 and Llama 3 families."""

import dataclasses


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
      norm_epsilon: added to the mean square in RMSNorm.
      tied_embeddings: logits read the embedding table.
      qk_norm: RMSNorm on each query and key head (Qwen3, Gemma 3).
      qkv_bias: biases on the query, key and value projections (Qwen2.5).
      activation: "silu" (SwiGLU) or "gelu_tanh" (GeGLU, Gemma 3).
      embedding_scale: multiply embeddings by sqrt(width) (Gemma 3).
      unit_offset_norm: RMSNorm multiplies by 1 + weight (Gemma 3).
      sandwich_norm: RMSNorm also on each block's output (Gemma 3).
      query_scale: what queries are multiplied by; None for head_dim ** -0.5.
      sliding_window: how many positions back a windowed layer sees, itself included; None for no windows.
      global_every: with a window, every n-th layer sees everything (Gemma 3: 6); 0: every layer is windowed.
      window_rope_theta: rotary base of windowed layers; None for `rope_theta`.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float = 1_000_000.0
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True
    qkv_bias: bool = False
    activation: str = "silu"
    embedding_scale: bool = False
    unit_offset_norm: bool = False
    sandwich_norm: bool = False
    query_scale: float | None = None
    sliding_window: int | None = None
    global_every: int = 0
    window_rope_theta: float | None = None

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim} must be even (rotary pairs)")
        if self.activation not in ("silu", "gelu_tanh"):
            raise ValueError(f"model.activation={self.activation!r} must be 'silu' or 'gelu_tanh'")

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, None where it sees everything."""
        is_global = self.global_every > 0 and (layer + 1) % self.global_every == 0
        return None if is_global else self.sliding_window

    def theta(self, layer: int) -> float:
        """The rotary base of a layer."""
        windowed = self.window(layer) is not None and self.window_rope_theta is not None
        return self.window_rope_theta if windowed else self.rope_theta
