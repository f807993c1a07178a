"""Social scenarios: characters with goals of their own talk, and one language model plays all of them.

    python -m omar_jax.main --config=configs/sotopia.py            the default: bargains with points that can be checked
    python -m omar_jax.main --config=configs/sotopia.py:smoke      a minute's check that everything runs

Pretrained models talk about all scenarios and are paid by a judge: qwen2_5_7b (a chat model from the Hugging Face hub),
gemma3_270m (a small base model from a pip package, to see on a CPU that it runs). With the published records and a
judge that is worth something:

    --config.environment.pack=hub --config.judge.backend=openai --config.judge.model=... --config.judge.url=...

Any setting can be given on the command line, e.g. --config.ppo.learning_rate=1e-4.
"""

from ml_collections import ConfigDict

from configs.common import base, pretrained, small_base_model

PRESETS = ("", "smoke", "gemma3_270m", "qwen2_5_7b")


def get_config(preset: str = "") -> ConfigDict:
    """The whole configuration of a run. Raises ValueError for an unknown preset."""
    config = base(preset, PRESETS, "configs/sotopia.py")
    config.environment = ConfigDict()
    config.environment.name = "sotopia"
    config.environment.pack = ""  # our own scenarios; or a path to published records, or "hub": cmu-lti/sotopia
    config.environment.scenarios = "bargain"  # of this source alone; "hard": SOTOPIA-hard; "all": every one
    config.environment.seats = 2
    config.environment.order = "round-robin"  # or "simultaneous"
    config.environment.actions = "plain"  # or "json": SOTOPIA's form
    config.environment.opening = "brief"  # or "shared", "published": what is told in full
    config.environment.max_turns = 8
    config.environment.joint_weight = 0.9  # of all seats' points together in a seat's reward; the rest is its own
    config.environment.speech_tokens = 24
    config.environment.role_card = "private"

    config.opponents.side = "second"
    config.play.transcript_tokens = (320,)
    config.layout.buckets = ((96, 128, 40, 6), (136, 176, 80, 8), (192, 232, 144, 8))
    config.ppo.iterations = 20
    config.ppo.learning_rate = 3e-4
    config.ppo.kl_coefficient = 0.04
    config.cold_start.games = 16384  # of the embedded model, and of any that makes its own
    if preset == "smoke":
        config.play.games = 16
        config.layout.buckets = ((192, 232, 144, 8),)
        config.ppo.iterations = 3
        config.ppo.minibatch_games = 8
        config.ppo.microbatch_games = 8
        config.checkpoint.every = 1
        config.arena.games = 32
        config.log.episodes_every = 1
    if preset in ("gemma3_270m", "qwen2_5_7b"):
        _judged(config)
    if preset == "qwen2_5_7b":
        pretrained(config, "Qwen/Qwen2.5-7B-Instruct", rank=32)
        config.play.transcript_tokens = (2816,)
        config.layout.buckets = ((1664, 1664, 1280, 20), (2304, 2304, 1280, 20))
    if preset == "gemma3_270m":
        _on_a_cpu(config)
    return config


def _judged(config: ConfigDict) -> None:
    """All scenarios, told in full, for a model that judges its own conversations."""
    config.environment.scenarios = "all"
    config.environment.opening = "shared"
    config.environment.max_turns = 20
    config.environment.speech_tokens = 64
    config.judge.backend = "local"


def _on_a_cpu(config: ConfigDict) -> None:
    """Two iterations of a base model on a CPU, after a cold start on stock phrases that teaches it the form alone."""
    small_base_model(config)
    config.environment.max_turns = 8
    config.environment.speech_tokens = 24
    config.play.games = 8
    config.play.transcript_tokens = (1088,)
    config.play.piece_tokens = 256
    config.layout.buckets = ((640, 640, 192, 8),)
    config.judge.transcript_tokens = (2048,)
    config.cold_start.games = 32
    config.cold_start.games_at_once = 8  # so that it tells every few minutes how far it is
    config.ppo.iterations = 2
    config.arena.games = 4
