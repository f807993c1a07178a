"""Small random models of every family, as folders that transformers reads, and what they are asked.

A case is a `config.json` drawn by its seed, in the spelling of transformers 4 or 5, weights drawn by the same seed,
a text for the plain causal pass, and games for the two-stream pass with every turn's flattened view. No case needs
torch; `make_logits` says what transformers answers.
"""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import streams
from safetensors.numpy import save_file

from omar_jax import layout
from omar_jax.model import attention, families, hf
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.types import Episode, GameBatch

VOCABULARY, TEXT_LENGTH, NUM_GAMES = 32, 24, 2
CASES = [(family, seed) for family in ("llama", "qwen2", "qwen3", "gemma3_text") for seed in range(3)]
SLOW = [("llama", 0), ("qwen2", 2), ("qwen3", 2), ("gemma3_text", 2)]  # the others hold every choice too
RARE_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # so that a short text holds slow, fast and middling frequencies
}


def config_json(family: str, seed: int) -> dict[str, Any]:
    """A random `config.json`; what must occur somewhere goes by the seed, the rest is drawn."""
    rng = np.random.default_rng([seed, *family.encode()])
    kv_heads = int(rng.integers(1, 3))
    heads = kv_heads * (1 + seed)
    stored = {
        "model_type": family,
        "architectures": [families.ARCHITECTURES[family]],
        "vocab_size": VOCABULARY,
        "hidden_size": heads * int(rng.choice([4, 6])),
        "num_hidden_layers": 2 + seed % 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": int(rng.choice([12, 20])),
        "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
        "tie_word_embeddings": seed % 2 == 0,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family != "qwen2" and seed > 0:
        stored |= {"head_dim": 8, "attention_bias": seed == 2}
    if family == "gemma3_text":
        stored |= {"head_dim": 8, "query_pre_attn_scalar": int(rng.integers(5, 12)), "sliding_window": 5}
        return stored | _gemma_layers(seed)
    if family.startswith("qwen") and seed > 0:
        stored |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    if family == "qwen3":
        stored["head_dim"] = int(rng.choice([4, 8]))
    scaling = ({}, RARE_SCALING, {"rope_type": "linear", "factor": 2.5})[seed]
    if seed == 2:
        return stored | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0} | scaling}
    return stored | {"rope_theta": 100.0, "rope_scaling": scaling or None}


def _gemma_layers(seed):
    """Window patterns and rotary settings: of transformers 4, of transformers 5, and what is left to defaults."""
    if seed == 0:
        return {
            "sliding_window_pattern": 2,
            "rope_theta": 300.0,
            "rope_local_base_freq": 30.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        }
    if seed == 1:
        return {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 200.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        }
    return {}


def draw_weights(config: DecoderConfig, seed: int) -> dict[str, np.ndarray]:
    """Name there -> float32 tensor. Nothing is 0 and no norm 1, so that every tensor counts."""
    rng = np.random.default_rng(seed)
    shapes = families.tensor_shapes(config)
    weights = {}
    for here, there, transposed in families.tensor_names(config):
        noise = rng.standard_normal(shapes[here], dtype=np.float32)
        if noise.ndim == 2:
            noise *= 1.5 * (shapes[here][0] if transposed else config.width) ** -0.5
        else:
            noise = noise / 3 + np.float32("norm" in here and not config.unit_offset_norm)
        weights[there] = np.ascontiguousarray(noise.T if transposed else noise)
    return weights


def write(folder: Path, stored: dict[str, Any], seed: int) -> Path:
    """The folder of a `config.json` with drawn weights."""
    folder.mkdir(exist_ok=True)
    hf.write_config(folder, stored)
    save_file(draw_weights(families.decoder_config(stored), seed), folder / hf.WEIGHTS, metadata={"format": "pt"})
    return folder


# ---------------------------------------------------------------- what is asked


def text(seed: int) -> np.ndarray:
    """[2, L] token ids."""
    return np.random.default_rng(seed).integers(1, VOCABULARY, (2, TEXT_LENGTH)).astype(np.int32)


@dataclasses.dataclass
class View:
    """One turn as a flattened prompt and answer of L tokens.

    Attributes:
      tokens, positions: [L]; positions jump where others were told something in between.
      visible: [L, L] which tokens see which, windows aside.
      reads: where the logits of its action tokens are read.
    """

    tokens: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    reads: range

    @property
    def is_causal(self) -> bool:
        """Whether the view is an ordinary prompt: nothing public follows what only its seat was told."""
        return bool((self.visible == np.tri(len(self.tokens), dtype=bool)).all())

    @property
    def has_gaps(self) -> bool:
        """Whether positions jump."""
        return bool((np.diff(self.positions) != 1).any())


def views(episode: Episode) -> list[View]:
    """A game's turns in the order of a batch's action tokens."""
    told = streams.tell(episode.steps, len(episode.roles))
    found = []
    for last in sorted(streams.last_tokens(told), key=lambda token: token.seat):
        view = streams.view(told, last)
        found.append(
            View(
                tokens=np.array([token.id for token in view]),
                positions=np.array([token.position for token in view]),
                visible=np.array([[streams.sees(query, key) for key in view] for query in view]),
                reads=range(len(view) - len(last.turn.action) - 1, len(view) - 1),
            )
        )
    return found


def games(seed: int) -> tuple[GameBatch, list[View]]:
    """Two games as one batch, and their views."""
    episodes = [streams.random_game(1000 + 10 * seed + i, 3, 3, VOCABULARY, 3) for i in range(NUM_GAMES)]
    room = layout.Sizes(*map(max, zip(*map(layout.sizes, episodes), strict=True)))
    batch = layout.pack(episodes, streams.ROLES, room, streams.LEGAL_WIDTH)
    return batch, [view for episode in episodes for view in views(episode)]


# ---------------------------------------------------------------- what we answer


def logits_of(config: DecoderConfig, params: Any, seed: int) -> dict[str, np.ndarray]:
    """What a model says about the case's text and games."""
    return answers(config, params, text(seed), games(seed)[0])


def answers(config: DecoderConfig, params: Any, tokens: np.ndarray, batch: GameBatch) -> dict[str, np.ndarray]:
    """ "text": [N, L, V] of the plain causal pass; "turns": [action tokens, V] of the two-stream pass."""
    model = Decoder(config)

    @jax.jit
    def forward(params, tokens, batch):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = model.apply(params, tokens, positions, attention.causal(config, positions))
        both = (
            jnp.concatenate([batch.shared_tokens, batch.seat_tokens], axis=1),
            jnp.concatenate([batch.shared_positions, batch.seat_positions], axis=1),
        )
        streamed, _ = model.apply(params, *both, attention.two_stream(config, batch))
        read_at = batch.shared_tokens.shape[1] + batch.action_index
        spoken = jnp.take_along_axis(streamed, read_at[..., None], axis=1)
        return tuple(model.apply(params, x, method="logits") for x in (hidden, spoken))

    plain, spoken = forward(params, tokens, GameBatch(*map(jnp.asarray, batch)))
    return {"text": np.asarray(plain), "turns": np.asarray(spoken)[batch.action_mask]}


@contextlib.contextmanager
def case_folder(family: str, seed: int) -> Iterator[Path]:
    """A case's folder, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        yield write(Path(folder), config_json(family, seed), seed)


@functools.cache
def our_logits(family: str, seed: int) -> dict[str, np.ndarray]:
    """A case's logits, its folder read as any other."""
    with case_folder(family, seed) as folder:
        config = hf.read_config(folder)
        return logits_of(config, hf.load(folder, config), seed)
