"""The games by name: each is built from its configuration, played by its scripts, and compared by what it counts."""

import jax
import numpy as np
import pytest

from configs import sotopia, werewolf
from omar_jax import catalogue, contest, experiment
from omar_jax.console import Console
from omar_jax.envs.base import sides
from omar_jax.matches import Contestant, Games
from omar_jax.model import hf
from omar_jax.settings import SettingError


@pytest.mark.parametrize("configs", [werewolf, sotopia], ids=["werewolf", "sotopia"])
def test_every_game_has_scripts_and_a_model(configs):
    config = configs.get_config()
    env = catalogue.environment(config)
    assert env.num_seats == len(env.roles(env.reset(0))) == len(env.names(env.reset(0)))
    assert config.opponents.side in sides(env)
    assert catalogue.player(config, config.cold_start.player) is not None
    assert catalogue.player(config, "") is None
    folder = experiment.model_folder(config, print)
    chat = experiment.read_chat(folder, config)
    assert hf.read_config(folder).vocabulary == len(chat.tokenizer)


def test_scenarios_that_cannot_be_read_are_one_line():
    config = sotopia.get_config()
    config.environment.pack = "/nowhere"
    with pytest.raises(SettingError, match=r"config.environment.pack='/nowhere': /nowhere: there is no such file"):
        catalogue.environment(config)


@pytest.mark.parametrize("scenarios", ["hard", "nothing"])
def test_scenarios_that_the_pack_lacks_are_one_line(scenarios):
    config = sotopia.get_config()
    config.environment.scenarios = scenarios
    with pytest.raises(
        SettingError, match=rf"none of config.environment.scenarios='{scenarios}', which must be all, bar"
    ):
        catalogue.environment(config)


def test_where_seats_can_do_well_together_points_are_compared():
    """Scripted against scripted, who play the same games: no difference, and the points are the games' own."""
    config = sotopia.get_config("smoke")
    config.arena.games = 40
    run = experiment.build(config, lambda line: None, jax.devices()[:1])
    script = catalogue.player(config, "scripted")
    a, b = Contestant("a", script), Contestant("b", script)
    games = Games(None, {})
    stop = type("Never", (), {"check": staticmethod(lambda: None)})
    found = contest.play(run.rollout, a, b, config, games, Console(quiet=True), stop)
    assert found.counts == "points" and set(found.sides) == {"first", "second"}
    alone = games.of(("b", "b"), 40)
    for side in found.sides:
        mean = np.mean([record["events"][f"points_{side}"] for record in alone])
        assert found.sides[side].a == found.sides[side].b == pytest.approx(mean)
    assert found.joint.difference == 0
    assert found.joint.a == pytest.approx(np.mean([record["events"]["joint_share"] for record in alone]))
    assert 0.3 < found.joint.a < 0.9
    content = contest.comparison_json(found)
    assert content["games"] == 160 and content["joint"]["a"] == found.joint.a and content["counts"] == "points"
    assert "a_interval" not in content["sides"]["first"]
