"""Play against other libraries: google-tunix's sampler, and transformers' generate with Gemma 3 270M.

    python -m benchmarks.play_peers

Both are sent every turn's whole prompt again, as their interfaces have it; each runs in a process and a virtual
environment of its own, which take turns with ours. Tunix: 32 dialogues of 6 turns of 32 tokens, a Qwen3 of 3.7M
parameters; it draws from the whole distribution, as training does, and, in a row of its own, takes the likeliest
token, which is quicker. transformers: Werewolf's days (`conversation.werewolf`) with 7 seats.
"""

import functools
import sys

import jax
import numpy as np
from absl import app

from benchmarks.conversation import Plan, dialogue, werewolf
from benchmarks.measuring import QUICK, TORCH, Table, against, alternate, peer
from benchmarks.play import Player, at_once, shared
from configs import werewolf as config_file
from omar_jax import experiment, runtime
from omar_jax.model.config import DecoderConfig, ModelError
from omar_jax.model.decoder import Decoder

TUNIX = ("google-tunix==0.1.7",)

DIALOGUES, LANES = 32, 2  # with Tunix
GEMMA_GAMES, GEMMA_TOKENS = 4, 448  # with transformers
QWEN = DecoderConfig(vocabulary=2048, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, mlp_width=768)


def against_tunix(table: Table) -> None:
    """Two rows."""
    plan, model = dialogue(turns=6, action=32), Decoder(QWEN)
    params, piece = experiment.initial_params(model, 0), plan.rounds[0].told
    player = Player.of(model, params, plan, DIALOGUES // LANES, (1,), piece)
    sizes = {
        "num_layers": QWEN.layers, "vocab_size": QWEN.vocabulary, "embed_dim": QWEN.width, "hidden_dim": QWEN.mlp_width,
        "num_heads": QWEN.heads, "head_dim": QWEN.head_dim, "num_kv_heads": QWEN.kv_heads, "rope_theta": 1_000_000,
        "norm_eps": 1e-6, "use_tied_embedding": True,
    }  # fmt: skip
    prompts = [plan.seen(turn) + plan.cue for turn in range(len(plan.rounds))]
    for name, greedy in (("Tunix", False), ("Tunix, greedy", True)):
        task = {"model": sizes, "games": DIALOGUES, "prompts": prompts, "action": 32, "greedy": greedy}
        with peer(name, "tunix_sampler", TUNIX, task) as others:
            add(table, "Qwen3, 3.7M", player, plan, LANES, others)


def against_transformers(table: Table) -> None:
    """One row."""
    run = experiment.build(config_file.get_config("gemma3_270m"))
    plan = werewolf(7, GEMMA_TOKENS)
    params, lanes = run.policy(*run.weights()), run.rollout.lanes
    player = Player.of(run.model, params, plan, GEMMA_GAMES // lanes, plan.asked, piece=64)
    rounds = [(len(r.asked), plan.seen(i) + plan.cue, r.action) for i, r in enumerate(plan.rounds)]
    task = {"model": str(run.folder), "games": GEMMA_GAMES, "rounds": rounds}
    with peer("transformers", "transformers_generate", TORCH, task) as others:
        add(table, "Gemma 3 270M", player, plan, lanes, others)


def add(table: Table, model: str, player: Player, plan: Plan, lanes: int, others: dict) -> None:
    """Measures a row."""
    seconds = alternate({"ours": functools.partial(at_once, shared, player, plan, lanes)} | others)
    spoken = lanes * player.sampler.shapes.games[0] * plan.spoken
    for name in others:
        table.add(**{
            "peer": name,
            "model": model,
            "seats": plan.seats,
            "tokens of a game": plan.shared,
            "tokens/s": spoken / float(np.median(seconds["ours"])),
            "the peer's": spoken / float(np.median(seconds[name])),
            "ratio": against(name, seconds, "ours"),
        })  # fmt: skip


def main(argv):
    """All rows."""
    del argv
    table = Table(
        "play against peers", ("peer", "model", "seats", "tokens of a game", "tokens/s", "the peer's", "ratio")
    )
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
