"""The whole configuration checked once, before anything is built: a mistake is one line naming the setting.

A run starts from `get_config(preset)`, and the command line changes values of it; so unknown settings are
those the fresh configuration does not have (`check_known`), and `check` states what every value must be.
"""

import difflib
import importlib
import itertools
import runpy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from omar_jax.envs.sotopia import FORMS, OPENINGS, ORDERS, ROLES
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.model.lora import PROJECTIONS

DTYPES = ("float32", "bfloat16")


class SettingError(ValueError):
    """A setting that cannot be used; the message is one line: its name, its value, what would be right."""


def fresh(file_and_preset: str) -> ConfigDict:
    """The configuration that "file.py" or "file.py:preset" stands for, before the command line changes it.

    Raises:
      SettingError: there is no such file or preset.
    """
    file, *preset = file_and_preset.split(":", 1)
    if not Path(file).is_file():
        raise SettingError(f"--config={file_and_preset}: no such file; give file.py or file.py:preset")
    get_config = runpy.run_path(file)["get_config"]
    try:
        return get_config(*preset)
    except ValueError as error:
        raise SettingError(f"--config={file_and_preset}: {error}") from error


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the defaults of the settings that are newer than it, without those that are gone."""
    module = importlib.import_module(f"configs.{stored['environment']['name']}")
    preset = stored.get("preset", "")

    def filled(given, defaults):
        kept = {
            k: filled(given[k], v) if isinstance(v, Mapping) else given[k] for k, v in defaults.items() if k in given
        }
        return {**defaults, **kept}

    defaults = module.get_config(preset if preset in module.PRESETS else "").to_dict()
    return filled(stored, defaults)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("ppo.epochs", 2) and so on."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check_known(config: ConfigDict, setting: str) -> None:
    """Raises SettingError, saying which settings there are, unless `setting` ("ppo.epochs") is one."""
    known = [f"config.{name}" for name, _ in _flat(config.to_dict())]
    section = wanted = f"config.{setting}"
    if wanted in known:
        return
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.8)
    near += [name for name in known if name.endswith("." + setting.rpartition(".")[2])]
    if near:
        raise SettingError(f"{wanted} is unknown; did you mean {' or '.join(dict.fromkeys(near))}?")
    while not any(name.startswith(f"{section}.") for name in known):
        section = section.rpartition(".")[0]
    inside = [name.removeprefix(f"{section}.") for name in known if name.startswith(f"{section}.")]
    names = ", ".join(dict.fromkeys(name.partition(".")[0] for name in inside))
    raise SettingError(f"{wanted} is no setting; {section} has {names}")


def _wrong(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """(setting, what would be right) of everything that is wrong."""

    def get(name: str) -> Any:
        value = config
        for part in name.split("."):
            value = value[part]
        return value

    def one_of(name, choices):
        if get(name) not in choices:
            yield name, f"one of {', '.join(map(repr, choices))}"

    def at_least(least, *names):
        for name in names:
            if not get(name) >= least:
                yield name, f"at least {least}"

    def positive(*names):
        for name in names:
            if not get(name) > 0:
                yield name, "above 0"

    def fraction(*names):
        for name in names:
            if not 0 <= get(name) <= 1:
                yield name, "between 0 and 1"

    def divides(small, large):
        if get(large) % get(small):
            yield large, f"a multiple of {small}={get(small)}"

    yield from one_of("environment.name", ("werewolf", "sotopia"))
    if config.environment.name == "werewolf":
        players, sides = ("scripted", "random"), ("werewolves", "village")
        yield from one_of("environment.rules", tuple(RULE_SETS))
        yield from one_of("judge.backend", ("",))  # who wins needs no judge
    else:
        yield from one_of("judge.backend", ("", "rules", "local", "openai"))
        players, sides = ("scripted",), ROLES[: config.environment.seats]
        yield from one_of("environment.order", ORDERS)
        yield from one_of("environment.actions", FORMS)
        yield from one_of("environment.opening", OPENINGS)
        yield from one_of("environment.seats", range(2, len(ROLES) + 1))
        yield from at_least(1, "environment.max_turns")
        yield from fraction("environment.joint_weight")
    yield from one_of("environment.role_card", ("private", "cue"))
    yield from one_of("opponents.player", ("", *players))
    yield from one_of("cold_start.player", players)
    yield from one_of("opponents.side", sides)
    yield from positive("judge.timeout")
    yield from at_least(0, "judge.points_weight", "judge.judge_weight", "judge.retries")
    yield from at_least(1, "judge.games", "judge.at_once", "judge.attempts", "judge.answer_tokens")
    yield from fraction("judge.most_failed", "opponents.past", "stop.filtered_share", "stop.arena_drop")
    yield from at_least(0, "stop.entropy_growth", "stop.kl", "arena.every")
    yield from at_least(1, "stop.patience")
    yield from at_least(2, "arena.check_games")
    if config.stop.arena_drop and not config.arena.every:
        yield "arena.every", f"at least 1 with stop.arena_drop={config.stop.arena_drop}"
    yield from at_least(1, "opponents.every", "opponents.pool")
    yield from one_of("advantages.mode", ("hierarchical", "token", "turn", "return"))
    yield from one_of("advantages.turn_value", ("last", "first"))
    yield from one_of("advantages.whiten", ("global", "role", "none"))
    yield from one_of("model.weights", ("stored", "random"))
    for name in ("compute", "params", "frozen", "momentum"):
        yield from one_of(f"precision.{name}", (*(("auto",) if name in ("compute", "frozen") else ()), *DTYPES))
    yield from positive("lora.alpha", "play.temperature", "ppo.learning_rate", "ppo.max_gradient_norm")
    yield from positive("cold_start.learning_rate")
    yield from at_least(1, "play.games", "play.piece_tokens", "play.cue_tokens", "play.action_tokens")
    yield from at_least(1, "environment.speech_tokens")
    yield from at_least(1, "ppo.iterations", "ppo.epochs", "ppo.minibatch_games", "ppo.microbatch_games")
    yield from at_least(1, "cold_start.games", "cold_start.games_at_once", "cold_start.minibatch_games")
    yield from at_least(1, "checkpoint.every", "checkpoint.keep")
    yield from at_least(0, "ppo.warmup_steps", "ppo.weight_decay", "ppo.value_clip", "ppo.value_coefficient")
    yield from at_least(0, "ppo.kl_coefficient", "ppo.entropy_coefficient", "ppo.clip_low", "ppo.clip_high")
    yield from at_least(0, "cold_start.warmup_steps", "cold_start.weight_decay", "cold_start.value_coefficient")
    yield from at_least(0, "model.longest_dense", "play.batch_games", "play.lanes")
    yield from at_least(0, "lora.rank", "log.episodes_every", "filter.repeated_words", "arena.seed", "seed")
    yield from fraction("advantages.gamma_turn", "advantages.lambda_turn", "advantages.gamma_token")
    yield from fraction("advantages.lambda_token", "advantages.baseline_decay", "ppo.clip_low")
    yield from divides("ppo.microbatch_games", "ppo.minibatch_games")
    yield from divides("ppo.minibatch_games", "play.games")
    yield from divides("ppo.microbatch_games", "cold_start.minibatch_games")
    yield from divides("cold_start.minibatch_games", "cold_start.games_at_once")
    if not set(config.lora.projections) <= set(PROJECTIONS) or not config.lora.projections:
        yield "lora.projections", f"some of {', '.join(PROJECTIONS)}"
    if config.environment.speech_tokens > config.play.action_tokens:
        yield "environment.speech_tokens", f"at most play.action_tokens={config.play.action_tokens}"
    if config.environment.role_card == "cue" and config.play.cue_tokens < 96:
        yield "play.cue_tokens", "at least 96 with environment.role_card='cue', which repeats what a seat was told"
    if config.opponents.player and config.opponents.past:
        yield "opponents.past", f"0 with opponents.player={config.opponents.player!r}, which plays every game"
    if config.arena.games == 1 or config.arena.games < 0:
        yield "arena.games", "0 (no table) or at least 2"
    yield from _wrong_sizes(config)


def _wrong_sizes(config: ConfigDict) -> Iterator[tuple[str, str]]:
    def are_sizes(values: Any, count: int | None = None) -> bool:
        fits = isinstance(values, Iterable) and all(isinstance(value, int) and value > 0 for value in values)
        return fits and (len(values) == count if count else len(values) > 0)

    transcript, buckets, eighths = config.play.transcript_tokens, config.layout.buckets, config.play.batch_eighths
    if not are_sizes(eighths) or eighths[0] != 8 or list(eighths) != sorted(set(eighths), reverse=True):
        yield "play.batch_eighths", "descending from 8, as in (8, 6, 4)"
    if not are_sizes(transcript) or list(transcript) != sorted(transcript):
        yield "play.transcript_tokens", "ascending cache sizes, as in (256, 512)"
    elif transcript[0] < 2 * config.play.piece_tokens:
        yield "play.transcript_tokens", f"at least twice play.piece_tokens={config.play.piece_tokens}"
    if not buckets or not all(are_sizes(bucket, 4) for bucket in buckets):
        yield "layout.buckets", "(shared, seat, action, turn) sizes, as in ((256, 320, 128, 24),)"
    elif any(a > b for small, large in itertools.pairwise(buckets) for a, b in zip(small, large, strict=True)):
        yield "layout.buckets", "ascending in every size"


def check(config: ConfigDict) -> None:
    """Raises SettingError for the first value that cannot be used."""
    for setting, right in _wrong(config):
        value = config
        for part in setting.split("."):
            value = value[part]
        raise SettingError(f"config.{setting}={value!r} cannot be used: it must be {right}")


def changes(before: ConfigDict, after: ConfigDict) -> list[str]:
    """What of one configuration another has changed, each as "ppo.epochs=2"."""
    old, new = (dict(_flat(config.to_dict())) for config in (before, after))
    return [f"{name}={value}" for name, value in new.items() if old[name] != value]


# Settings that may differ between a run and its continuation.
MAY_CHANGE = (
    *("mesh.train", "mesh.play", "ppo.iterations", "checkpoint.every", "checkpoint.keep"),
    *("judge.at_once", "judge.timeout", "judge.retries", "judge.games"),
    *("arena.games", "log.episodes_every", "log.report"),
)


def check_same(stored: dict[str, Any], given: dict[str, Any], folder: Path) -> None:
    """Raises SettingError if a run is to be continued with settings that make it another run."""
    before, now = dict(_flat(stored)), dict(_flat(given))
    for setting in sorted({*before, *now} - set(MAY_CHANGE)):
        if before.get(setting) != now.get(setting):
            raise SettingError(
                f"{folder} holds a run with config.{setting}={before.get(setting)!r}, "
                f"not {now.get(setting)!r}: give the same value to continue it, or another --workdir"
            )
