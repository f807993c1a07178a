"""Play against other libraries: google-tunix's sampler, and transformers' generate with Gemma 3 270M.

    python -m benchmarks.play_peers

Both are sent every turn's whole prompt again, as their interfaces have it; each runs in a process and a virtual
environment of its own, which take turns with ours. Tunix: 32 dialogues of 6 turns of 32 tokens, a Qwen3 of 3.7M
parameters; it draws from the whole distribution, as training does, and, in a row of its own, takes the likeliest
token, which is quicker. transformers: Werewolf's days (`conversation.werewolf`) with 7 seats.

All compute in float32 and in bfloat16, and a last row compares each side's faster one: which that is depends on the
processor and on the library.
"""

import contextlib
import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.conversation import Plan, dialogue, werewolf
from benchmarks.measuring import QUICK, TORCH, Table, against, alternate, peer
from benchmarks.play import Player, at_once, shared
from configs import werewolf as config_file
from omar_jax import experiment, runtime
from omar_jax.model.config import DecoderConfig, ModelError
from omar_jax.model.decoder import Decoder, convert
from omar_jax.settings import DTYPES

TUNIX = ("google-tunix==0.1.7",)

DIALOGUES, LANES = 32, 2  # with Tunix
GEMMA_GAMES, GEMMA_TOKENS = 4, 448  # with transformers
QWEN = DecoderConfig(vocabulary=2048, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, mlp_width=768)


def against_tunix(table: Table) -> None:
    """Drawing, and greedy."""
    plan = dialogue(turns=6, action=32)
    params, piece = experiment.initial_params(Decoder(QWEN), 0), plan.rounds[0].told
    players = {}
    for dtype in DTYPES:
        model = Decoder(QWEN, dtype=jnp.dtype(dtype))
        weights = convert(params, model.dtype)
        players[dtype] = Player.of(model, weights, plan, DIALOGUES // LANES, (1,), piece, smallest=64)
    sizes = {
        "num_layers": QWEN.layers, "vocab_size": QWEN.vocabulary, "embed_dim": QWEN.width, "hidden_dim": QWEN.mlp_width,
        "num_heads": QWEN.heads, "head_dim": QWEN.head_dim, "num_kv_heads": QWEN.kv_heads, "rope_theta": 1_000_000,
        "norm_eps": 1e-6, "use_tied_embedding": True,
    }  # fmt: skip
    prompts = [plan.seen(turn) + plan.cue for turn in range(len(plan.rounds))]
    for name, greedy in (("Tunix", False), ("Tunix, greedy", True)):
        task = {"model": sizes, "games": DIALOGUES, "prompts": prompts, "action": 32, "greedy": greedy}
        add(table, name, "Qwen3, 3.7M", players, plan, LANES, "tunix_sampler", TUNIX, task)


def against_transformers(table: Table) -> None:
    """With Gemma 3 270M by itself, without adapters."""
    plan, players = werewolf(7, GEMMA_TOKENS), {}
    for dtype in DTYPES:
        config = config_file.get_config("gemma3_270m")
        config.lora.rank, config.precision.compute = 0, dtype
        run = experiment.build(config)
        params, lanes = run.policy(*run.weights()), run.rollout.lanes
        players[dtype] = Player.of(run.model, params, plan, GEMMA_GAMES // lanes, plan.asked, plan.rounds[0].told)
    rounds = [(len(r.asked), plan.seen(i) + plan.cue, r.action) for i, r in enumerate(plan.rounds)]
    task = {"model": str(run.folder), "games": GEMMA_GAMES, "rounds": rounds}
    add(table, "transformers", "Gemma 3 270M", players, plan, lanes, "transformers_generate", TORCH, task)


def add(
    table: Table,
    name: str,
    model: str,
    players: Mapping[str, Player],
    plan: Plan,
    lanes: int,
    script: str,
    requirements: tuple[str, ...],
    task: Mapping[str, Any],
) -> None:
    """Measures a peer: all sides in turn, a row for each dtype, and one for the faster of each."""
    sides = {f"ours {n}": functools.partial(at_once, shared, player, plan, lanes) for n, player in players.items()}
    with contextlib.ExitStack() as stack:
        for dtype in players:
            side = peer(f"peer {dtype}", script, requirements, {**task, "dtype": dtype})
            sides |= stack.enter_context(side)
        seconds = alternate(sides)
    if not any(side.startswith("peer") for side in seconds):  # --nopeers
        return

    def faster(of):
        return min(players, key=lambda dtype: np.median(seconds[f"{of} {dtype}"]))

    games = lanes * next(iter(players.values())).sampler.shapes.games[0]
    rows = [(dtype, dtype, dtype) for dtype in players]
    for label, ours, theirs in [*rows, ("the faster of each", faster("ours"), faster("peer"))]:
        table.add(**{
            "peer": name,
            "model": model,
            "seats": plan.seats,
            "tokens of a game": plan.shared,
            "dtype": label,
            "tokens/s": games * plan.spoken / float(np.median(seconds[f"ours {ours}"])),
            "the peer's": games * plan.spoken / float(np.median(seconds[f"peer {theirs}"])),
            "ratio": against(f"peer {theirs}", seconds, f"ours {ours}"),
        })  # fmt: skip


def main(argv):
    """All rows."""
    del argv
    columns = ("peer", "model", "seats", "tokens of a game", "dtype", "tokens/s", "the peer's", "ratio")
    table = Table("play against peers", columns)
    against_tunix(table)
    if not QUICK.value:
        jax.clear_caches()
        try:
            against_transformers(table)
        except ModelError as error:
            sys.exit(f"benchmarks: not compared with transformers: {error}")


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
