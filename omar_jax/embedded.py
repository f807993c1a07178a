"""Makes the embedded model: its tokenizer from scripted games, and its cold-start weights.

    python -m omar_jax.embedded --make=tokenizer                   assets/embedded/tokenizer.json and its chat template
    python -m omar_jax.embedded --make=cold_start                  assets/embedded/model.safetensors

Both are deterministic by seed; what they made ships with the project.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from omar_jax import experiment, rollout, runtime
from omar_jax.command_line import define_config, parse_flags
from omar_jax.console import Console
from omar_jax.envs.base import Environment, Player
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.metrics import game_metrics
from omar_jax.model import families, hf
from omar_jax.model.config import DecoderConfig

MAKE = flags.DEFINE_enum("make", None, ["tokenizer", "cold_start"], "What to make.", required=True)
OUT = flags.DEFINE_string("out", str(experiment.EMBEDDED), "Folder to write into.")
CONFIG = define_config()

TOKENIZER_GAMES = 400  # of every rule set
VOCABULARY = 512
MODEL = DecoderConfig(
    vocabulary=VOCABULARY, width=96, layers=3, heads=4, kv_heads=2, head_dim=24, mlp_width=256, rope_theta=10_000.0
)
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def game_texts(env: Environment, player: Player, seed: int) -> Iterator[str]:
    """Everything that is said in one game."""
    step, turn = env.step(env.reset(seed), {}), 0
    while True:
        yield from filter(None, [step.public, *step.private.values()])
        if step.rewards is not None:
            return
        actions = {}
        for seat, ask in step.asks.items():
            rng = np.random.default_rng((seed, turn, seat))
            actions[seat] = player.act(env, step.state, seat, ask, (), rng)
            yield ask.cue
            yield actions[seat]
        step, turn = env.step(step.state, actions), turn + 1


def make_tokenizer(folder: Path) -> None:
    """Trains the byte-level BPE on scripted games of every rule set."""
    texts = [
        text
        for rules in RULE_SETS.values()
        for seed in range(TOKENIZER_GAMES)
        for text in game_texts(Werewolf(rules), ScriptedPlayer(), seed)
    ]
    tokenizer = Tokenizer(models.BPE())
    # A space before a line's first word too (`Chat` encodes line by line), so that a name is one token anywhere.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
    )
    fast.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    hf.write_config(folder, families.qwen3_config_json(MODEL))
    tokens = sum(len(ids) for ids in fast(texts, add_special_tokens=False)["input_ids"])
    print(f"{len(fast)} tokens; {tokens / sum(len(text.split()) for text in texts):.2f} tokens a word")


def make_cold_start(folder: Path, config) -> None:
    """Fine-tunes a fresh model on scripted games, then plays without legal decoding to see how fluent it is."""
    config.model.weights = "random"
    run = experiment.build(config)
    params = run.train_cold_start(*run.weights(), Console())
    hf.save(folder, families.qwen3_config_json(run.decoder_config), run.decoder_config, params)
    print_fluency(run, params)


def print_fluency(run: experiment.Experiment, params) -> None:
    """How often actions are invalid without legal decoding, and how the games go."""
    env = Werewolf(RULE_SETS[run.config.environment.rules], legal_choices=False)
    free = rollout.Rollout(env, run.chat, run.rollout.sampler, run.config.environment.role_card)
    games = [
        rollout.Game(number, rollout.environment_seed(run.config.seed + 1, number), lambda roles: [0] * len(roles))
        for number in range(2 * run.config.play.games)
    ]
    episodes, _ = free.play(games, [params], jax.random.key(run.config.seed))
    for name, value in game_metrics(episodes, env.team).items():
        print(f"{name:32s} {value:.4f}")


def main(argv):
    """Makes what was asked for."""
    del argv
    folder = Path(OUT.value)
    if MAKE.value == "tokenizer":
        make_tokenizer(folder)
    else:
        make_cold_start(folder, CONFIG.value)


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main, flags_parser=parse_flags)
