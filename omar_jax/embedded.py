"""Makes the embedded model of a game: its tokenizer from scripted games, and its cold-start weights.

    python -m omar_jax.embedded --make=tokenizer                   assets/embedded/tokenizer.json and its chat template
    python -m omar_jax.embedded --make=cold_start                  assets/embedded/model.safetensors

With --config=configs/sotopia.py the same for assets/embedded_sotopia. Both are deterministic by seed; what they made
ships with the project.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from omar_jax import catalogue, experiment, rollout, runtime, tables
from omar_jax.command_line import define_config, parse_flags
from omar_jax.console import Console
from omar_jax.envs.base import Environment, Player
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.metrics import game_metrics
from omar_jax.model import families, hf
from omar_jax.model.config import DecoderConfig

MAKE = flags.DEFINE_enum("make", None, ["tokenizer", "cold_start"], "What to make.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder to write into. Default: where the project has it.")
CONFIG = define_config()

TOKENIZER_GAMES = {"werewolf": 400, "sotopia": 4000}  # of every rule set
VOCABULARY = {"werewolf": 512, "sotopia": 576}


def shape(vocabulary: int) -> DecoderConfig:
    """The embedded model's."""
    sizes = {"width": 96, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 24, "mlp_width": 256}
    return DecoderConfig(vocabulary=vocabulary, rope_theta=10_000.0, **sizes)


TOKENIZER_RULES = ("omar", "five", "sotopia", "arena", "mafia")  # of Werewolf
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


def make_tokenizer(folder: Path, config: ConfigDict) -> None:
    """Trains the byte-level BPE on scripted games; Werewolf's of every rule set."""
    name, player = config.environment.name, catalogue.player(config, "scripted")
    of_werewolf = [Werewolf(RULE_SETS[rules]) for rules in TOKENIZER_RULES]
    environments = of_werewolf if name == "werewolf" else [catalogue.environment(config)]
    texts = [
        text for env in environments for seed in range(TOKENIZER_GAMES[name]) for text in game_texts(env, player, seed)
    ]
    tokenizer = Tokenizer(models.BPE())
    # A space before a line's first word too (`Chat` encodes line by line), so that a name is one token anywhere.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY[name],
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
    hf.write_config(folder, families.qwen3_config_json(shape(len(fast))))
    tokens = sum(len(ids) for ids in fast(texts, add_special_tokens=False)["input_ids"])
    print(f"{len(fast)} tokens; {tokens / sum(len(text.split()) for text in texts):.2f} tokens a word")


def make_cold_start(folder: Path, config: ConfigDict) -> None:
    """Fine-tunes a fresh model on scripted games, then plays without legal decoding to see how fluent it is."""
    config.model.weights = "random"
    run = experiment.build(config)
    params = run.train_cold_start(*run.weights(), Console())
    hf.save(folder, families.qwen3_config_json(run.decoder_config), run.decoder_config, params)
    print_fluency(run, params)


def print_fluency(run: experiment.Experiment, params) -> None:
    """How often actions are invalid without legal decoding, and how the games go."""
    config = run.config.copy_and_resolve_references()
    if config.environment.name == "werewolf":
        config.environment.legal_choices = False
    env = catalogue.environment(config)
    free = rollout.Rollout(env, run.chat, run.rollout.sampler, run.config.environment.role_card)
    games = [
        tables.Game(number, tables.environment_seed(run.config.seed + 1, number), lambda roles: [0] * len(roles))
        for number in range(2 * run.config.play.games)
    ]
    episodes, _ = free.play(games, [params], jax.random.key(run.config.seed))
    for name, value in game_metrics(episodes, env.team).items():
        print(f"{name:32s} {value:.4f}")


def main(argv):
    """Makes what was asked for."""
    del argv
    folder = Path(OUT.value or catalogue.EMBEDDED[CONFIG.value.environment.name])
    make = make_tokenizer if MAKE.value == "tokenizer" else make_cold_start
    make(folder, CONFIG.value)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    runtime.keep_freed_memory()
    app.run(main, flags_parser=parse_flags)
