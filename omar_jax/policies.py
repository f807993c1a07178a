"""Who can take a seat, by name: runs and their checkpoints, cold starts, folders of weights, scripts, endpoints.

The life of a name: `find` tells what kind it is; a run's policy is read with the run's own model and text, and may
play where the game's rules are those it learned under.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from omar_jax import catalogue, experiment, workdirs
from omar_jax.checkpoint import CheckpointError, Checkpoints, digest
from omar_jax.endpoint import Endpoint, EndpointPlayer
from omar_jax.experiment import Experiment
from omar_jax.matches import Contestant
from omar_jax.model import lora
from omar_jax.rollout import Guest
from omar_jax.settings import SettingError
from omar_jax.types import Params

KINDS = (
    "a run's folder (runs/x, or runs/x@5 for its checkpoint after 5 iterations, or runs/x@cold_start), cold_start, "
    "scripted, random, a Hugging Face folder, or openai:MODEL@URL"
)
ENDPOINT = re.compile(r"openai:(?P<model>.+)@(?P<url>https?://.+)")


class Waiting(NamedTuple):
    """How to ask endpoints: see `endpoint.Endpoint`."""

    at_once: int = 8
    timeout: float = 60.0
    retries: int = 5
    kept: Path | None = None
    check: Callable[[], None] = lambda: None


def workdir_of(name: str) -> Path | None:
    """The folder of the run that a policy's name speaks of; None if it speaks of none."""
    folder = _parts(name)[0]
    return folder if _is_run(folder) else None


def _parts(name: str) -> tuple[Path, str | None]:
    """(folder, what stands after the last @, or None) of a run's policy."""
    folder, at, which = name.rpartition("@")
    return (Path(folder), which) if at and not _is_run(Path(name)) else (Path(name), None)


def _is_run(folder: Path) -> bool:
    try:
        return "environment" in json.loads((folder / "config.json").read_text())  # models have a config.json too
    except (OSError, ValueError):
        return False


def config_for(names: Iterable[str], config: ConfigDict, is_given: bool, changes: Mapping[str, Any]) -> ConfigDict:
    """The configuration of the game that policies of these names are to play.

    Args:
      names: of the policies.
      config: the command line's.
      is_given: whether it names a configuration; else that of the first run among the policies is taken.
      changes: what the command line changes in either, as in {"play.games": 8}.
    """
    workdir = next(filter(None, map(workdir_of, names)), None)
    if is_given or workdir is None:
        return config
    stored = workdirs.stored_config(workdir)
    stored.update_from_flattened_dict(changes)
    return stored


def find(flag: str, name: str, run: Experiment, waiting: Waiting, report: Callable[[str], None] = print) -> Contestant:
    """The policy of this name.

    Args:
      flag: that gave it, for errors.
      name: see `KINDS`.
      run: of the game that is to be played.
      waiting: for endpoints.
      report: is told of what takes long.

    Raises:
      SettingError, ModelError, CheckpointError, EndpointError: there is no such policy, or it cannot play this game.
    """
    if name in catalogue.PLAYERS[run.config.environment.name]:
        return Contestant(name, catalogue.player(run.config, name))
    if name.startswith("openai:"):
        if not (given := ENDPOINT.fullmatch(name)):
            raise SettingError(f"{flag}={name}: give openai:MODEL@URL, as in openai:qwen3@http://localhost:8000/v1")
        asked = Endpoint(given["model"], given["url"], *waiting)
        return Contestant(name, EndpointPlayer(asked, run.config.play.temperature))
    if name == "cold_start":
        if run.config.cold_start.train:
            raise SettingError(f"{flag}={name}: runs of these settings make their own: give RUN@cold_start, a run's")
        return _learned(name, run, run, *run.weights())
    if workdir := workdir_of(name):
        return _of_run(flag, name, workdir, run, report)
    if (Path(name) / "tokenizer.json").is_file():
        with_weights = run.config.copy_and_resolve_references()
        with_weights.model.source, with_weights.model.weights, with_weights.lora.rank = name, "stored", 0
        other = experiment.build(with_weights, report)
        return _learned(name, other, run, *other.weights())
    raise SettingError(f"{flag}={name}: no such policy; right are {KINDS}")


def _of_run(flag: str, name: str, workdir: Path, run: Experiment, report: Callable[[str], None]) -> Contestant:
    config, which = workdirs.stored_config(workdir), _parts(name)[1]
    _check_same_game(flag, name, config, run.config)
    other = experiment.build(config, report)
    try:
        if which == "cold_start":
            return _learned(f"{workdir}@{which}", other, run, *other.cold_start_weights(workdir / "cold_start"))
        there_are = Checkpoints(workdir / "checkpoints", keep=None).iterations()
        if which is not None and which not in map(str, there_are):
            raise CheckpointError(f"no such checkpoint; there are {', '.join(map(str, there_are))}, and cold_start")
        iteration, params = other.result(workdir, int(which) if which else None)
    except CheckpointError as error:
        raise CheckpointError(f"{flag}={name}: {error}") from error
    return _learned(f"{workdir}@{iteration}", other, run, params, None)


def _learned(name: str, of: Experiment, run: Experiment, trained: Params, frozen: Params | None) -> Contestant:
    """A policy with weights of an experiment, in batches of the sizes of the one that is played."""
    origin, params = digest(lora.combine(trained, frozen)), of.policy(trained, frozen)
    if of is run:
        return Contestant(name, params, origin)
    return Contestant(name, Guest(of.rollout.in_batches(run.rollout.sampler.shapes.games), params), origin)


def _check_same_game(flag: str, name: str, theirs: ConfigDict, ours: ConfigDict) -> None:
    for setting, value in ours.environment.items():
        learned = theirs.environment.get(setting)
        if learned != value and setting != "role_card":
            raise SettingError(
                f"{flag}={name} learned with config.environment.{setting}={learned!r}, and this game is played with "
                f"{value!r}: give a policy of the same, or for another game --config.environment.{setting}={learned}"
            )
