"""Werewolf self-play: one small language model plays every seat and learns from who wins.

    python -m omar_jax.main --config=configs/werewolf.py            the default, rule set `five`
    python -m omar_jax.main --config=configs/werewolf.py:seven      rule set `omar`: 7 seats, 2 werewolves, doctor
    python -m omar_jax.main --config=configs/werewolf.py:smoke      a minute's check that everything runs

Pretrained models: qwen3_0_6b, qwen3_4b, qwen2_5_7b, llama3_2_1b (from the Hugging Face hub; chat models, which play
from the rules alone), and gemma3_270m (from a pip package; a base model, which learns to play from scripted games).

Any setting can be given on the command line, e.g. --config.ppo.learning_rate=1e-4.
"""

from ml_collections import ConfigDict

from configs.common import base, pretrained, small_base_model

# Presets of pretrained models: where they come from, and the rank of their adapters (0: all weights are trained).
MODELS = {
    "qwen3_0_6b": ("Qwen/Qwen3-0.6B", 0),
    "qwen3_4b": ("Qwen/Qwen3-4B", 32),
    "qwen2_5_7b": ("Qwen/Qwen2.5-7B-Instruct", 32),
    "llama3_2_1b": ("meta-llama/Llama-3.2-1B-Instruct", 0),
}
PRESETS = ("", "seven", "smoke", "vs_random", "gemma3_270m", *MODELS)


def get_config(preset: str = "") -> ConfigDict:
    """The whole configuration of a run. Raises ValueError for an unknown preset."""
    config = base(preset, PRESETS, "configs/werewolf.py")
    config.environment = ConfigDict()
    config.environment.name = "werewolf"
    config.environment.rules = "five"  # a key of envs.werewolf_rules.RULE_SETS
    config.environment.legal_choices = True  # votes and night targets are sampled among the living names
    config.environment.speech_tokens = 24  # most of a speech
    config.environment.role_card = "private"  # or "cue": repeated in every question to the seat

    if preset in ("", "smoke"):
        config.play.batch_eighths = (8, 6)  # about two thirds of the games have a second day, and none a third
    if preset == "seven":
        config.cold_start.train = True  # the embedded cold start knows `five` alone
        config.model.weights = "random"
        config.environment.rules = "omar"
        config.play.transcript_tokens = (512, 768)
        config.layout.buckets = ((336, 528, 160, 36), (416, 672, 192, 44), (640, 1152, 448, 64))
    if preset == "vs_random":
        _against_random_village(config)
    if preset == "smoke":
        config.play.games = 16
        config.play.transcript_tokens = (512,)
        config.layout.buckets = ((448, 512, 256, 24),)
        config.ppo.iterations = 3
        config.ppo.minibatch_games = 8
        config.ppo.microbatch_games = 8
        config.checkpoint.every = 1
        config.arena.games = 32
        config.log.episodes_every = 1
    if preset in MODELS:
        pretrained(config, *MODELS[preset])
        config.environment.rules = "omar"
        config.environment.speech_tokens = 64
    if preset == "gemma3_270m":
        _on_a_cpu(config)
    return config


def _against_random_village(config: ConfigDict) -> None:
    """Two werewolves against four villagers who vote at random: how close to the best possible does learning get?

    Nobody talks and nobody has powers. The werewolves' best is to vote together, and their chance then is known.
    """
    config.environment.rules = "mafia_6"
    config.opponents.player = "random"
    config.opponents.side = "village"
    config.model.weights = "random"
    config.cold_start.train = True
    config.cold_start.games = 4096
    config.play.transcript_tokens = (320,)
    config.layout.buckets = ((128, 64, 8, 4), (168, 88, 12, 6))  # games of one vote and of two
    config.play.games = 1024  # votes are worth little beside luck
    config.ppo.iterations = 30
    config.ppo.epochs = 1
    config.ppo.minibatch_games = 256
    config.ppo.microbatch_games = 32
    config.ppo.kl_coefficient = 0.0
    config.ppo.learning_rate = 2e-3


def _on_a_cpu(config: ConfigDict) -> None:
    """Rule set `five` for a small base model."""
    small_base_model(config)
    config.environment.speech_tokens = 32
    config.play.games = 16
    config.play.transcript_tokens = (384,)
    config.play.action_tokens = 32
    config.play.cue_tokens = 24
    config.play.piece_tokens = 64
    config.layout.buckets = ((176, 208, 72, 12), (264, 288, 104, 20), (384, 448, 224, 28))
    config.cold_start.games = 128
    config.cold_start.games_at_once = 64
    config.ppo.iterations = 3
    config.arena.games = 16
