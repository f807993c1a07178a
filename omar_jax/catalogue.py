"""The games by name: what `config.environment` means, who plays them by script, and the model that ships with each."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from omar_jax.envs.base import Environment, Player
from omar_jax.envs.sotopia import Ending, Settings, Sotopia
from omar_jax.envs.sotopia_bots import ScriptedNegotiator
from omar_jax.envs.sotopia_sources import chosen
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.settings import SettingError

_ASSETS = Path(__file__).parent / "assets"
# By game, the folder that `model.source`="embedded" stands for.
EMBEDDED: Mapping[str, Path] = {"werewolf": _ASSETS / "embedded", "sotopia": _ASSETS / "embedded_sotopia"}
# By game, its scripted players.
PLAYERS: Mapping[str, Mapping[str, Player]] = {
    "werewolf": {"scripted": ScriptedPlayer(), "random": RandomPlayer()},
    "sotopia": {"scripted": ScriptedNegotiator()},
}


def environment(config: ConfigDict) -> Environment:
    """The game that a run plays.

    Raises:
      SettingError: its scenarios cannot be read.
    """
    of = config.environment
    if of.name == "werewolf":
        rules = dataclasses.replace(RULE_SETS[of.rules], max_speech_tokens=of.speech_tokens)
        return Werewolf(rules, of.legal_choices)
    settings = Settings(
        seats=of.seats,
        order=of.order,
        actions=of.actions,
        opening=of.opening,
        ending=Ending(max_turns=of.max_turns),
        max_tokens=of.speech_tokens,
        joint_weight=of.joint_weight,
    )
    from omar_jax.datasets import sotopia as sotopia_data  # TFDS takes a second to be imported

    try:
        pack = sotopia_data.load(of.pack, lambda line: None)
        wanted = pack.only(lambda scenario: chosen(scenario, of.scenarios))
        if not wanted.scenarios:
            sources = sorted({scenario.source for scenario in pack.scenarios.values()})
            raise ValueError(
                f"it has none of config.environment.scenarios={of.scenarios!r}, which must be all, {', '.join(sources)}"
            )
        return Sotopia(wanted, settings)
    except ValueError as error:
        raise SettingError(f"config.environment.pack={of.pack!r}: {error}") from error


def player(config: ConfigDict, name: str) -> Player | None:
    """The scripted player of this name; of the empty name there is none."""
    return PLAYERS[config.environment.name][name] if name else None
