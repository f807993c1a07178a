"""Who can take a seat, by name: what every kind is, and what is said of names that are none."""

import json
import re
import shutil

import arenas
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import werewolf
from omar_jax import catalogue, experiment, policies, workdirs
from omar_jax.checkpoint import CheckpointError
from omar_jax.endpoint import EndpointPlayer
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.rollout import Guest
from omar_jax.settings import SettingError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder as `omar_jax.export` leaves it."""
    return shutil.copytree(catalogue.EMBEDDED["werewolf"], tmp_path_factory.mktemp("models") / "exported")


@pytest.fixture
def workdir(tmp_path):
    """The folder of a run that has only begun."""
    return begun(tmp_path / "some@where" / "run")


def begun(folder, **environment):
    config = werewolf.get_config("smoke")
    config.environment.update(environment)
    return workdirs.prepare(config, str(folder), "configs/werewolf.py")


def find(name, run=None, waiting=None):
    return policies.find("--a", str(name), run or arenas.run_of(), waiting or policies.Waiting(), lambda line: None)


def assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_scripts_are_players():
    scripted, random = find("scripted"), find("random")
    assert scripted.name == "scripted" and isinstance(scripted.mind, ScriptedPlayer)
    assert random.name == "random" and isinstance(random.mind, RandomPlayer)


def test_an_endpoint_is_a_player_that_waits():
    found = find("openai:org/model@v2@http://localhost:8000/v1", waiting=policies.Waiting(3, 1.0, 0))
    assert found.name == "openai:org/model@v2@http://localhost:8000/v1" and isinstance(found.mind, EndpointPlayer)
    endpoint = found.mind.endpoint
    assert (endpoint.model, endpoint.url, found.mind.at_once) == ("org/model@v2", "http://localhost:8000/v1", 3)
    assert found.mind.temperature == arenas.run_of().config.play.temperature
    endpoint.close()


def test_the_cold_start_is_the_model_as_it_is_given():
    run = arenas.run_of()
    found = find("cold_start")
    assert found.name == "cold_start"
    assert_equal(found.mind, run.policy(*run.weights()))


def test_a_folder_of_weights_is_a_guest(model, tmp_path):
    found, run = find(model), arenas.run_of()
    assert found.name == str(model) and isinstance(found.mind, Guest)
    assert_equal(found.mind.params, run.policy(*run.weights()))
    assert found.mind.rollout.sampler.shapes.games == run.rollout.sampler.shapes.games
    assert found.origin == find("cold_start").origin  # of the same weights
    changed = shutil.copytree(model, tmp_path / "changed")
    file = next(changed.glob("*.safetensors"))
    tensors = load_file(file)
    tensors[min(tensors)][0] += 1
    save_file(tensors, file)
    assert find(changed).origin != found.origin


def test_a_run_may_be_given_as_it_began(workdir):
    found = find(f"{workdir}/@cold_start")
    assert found.name == f"{workdir}@cold_start" and isinstance(found.mind, Guest)
    assert found.origin == find("cold_start").origin


def test_a_name_speaks_of_a_run_or_of_none(workdir, model):
    for name in (workdir, f"{workdir}/", f"{workdir}@5", f"{workdir}@cold_start", f"{workdir}@x"):
        assert policies.workdir_of(str(name)) == workdir
    for name in ("cold_start", "scripted", model, workdir.parent, f"{workdir.parent}@5", "openai:m@http://x/v1"):
        assert policies.workdir_of(str(name)) is None


def test_a_run_with_an_at_in_its_name_is_itself(tmp_path):
    workdir = begun(tmp_path / "run@5")
    assert policies.workdir_of(str(workdir)) == policies.workdir_of(f"{workdir}@3") == workdir
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        find(workdir)


def test_a_run_stored_with_older_settings_has_todays(workdir):
    stored = json.loads((workdir / "config.json").read_text())
    del stored["filter"], stored["play"]["lanes"], stored["cold_start"]["dialogues"]
    stored["play"]["forgotten"] = 1
    (workdir / "config.json").write_text(json.dumps(stored))
    assert find(f"{workdir}@cold_start").origin == find("cold_start").origin


def test_the_game_is_the_first_runs_unless_it_is_given(tmp_path):
    omar, five = begun(tmp_path / "omar", rules="omar"), begun(tmp_path / "five")
    ours = werewolf.get_config("smoke")

    def config_for(*names, is_given=False, **changes):
        return policies.config_for(
            map(str, names), ours, is_given, {k.replace("__", "."): v for k, v in changes.items()}
        )

    assert config_for("scripted", omar, five).environment.rules == "omar"
    assert config_for(five, omar).environment.rules == "five"
    assert config_for(omar, is_given=True) is ours
    assert config_for("scripted", "random") is ours
    changed = config_for(omar, play__games=8, play__transcript_tokens=(64, 128))
    assert changed.play.games == 8 and list(changed.play.transcript_tokens) == [64, 128]
    assert changed.environment.rules == "omar"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs/nowhere", "no such policy; right are a run's folder (runs/x, "),
        ("Scripted", "no such policy; right are "),
        (".", "no such policy; right are "),
        ("openai:llama", "give openai:MODEL@URL, as in openai:qwen3@http://localhost:8000/v1"),
        ("openai:@http://localhost", "give openai:MODEL@URL"),
        ("openai:llama@localhost:8000", "give openai:MODEL@URL"),
    ],
)
def test_a_name_that_is_none_is_one_line(name, said):
    with pytest.raises(SettingError, match=rf"^--a={re.escape(name)}: {re.escape(said)}") as error:
        find(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("at", "said"), [("", "holds no checkpoint yet"), ("@7", "no such checkpoint"), ("@x", "no such checkpoint")]
)
def test_a_checkpoint_that_is_not_there_is_one_line(workdir, at, said):
    with pytest.raises(CheckpointError, match=f"^--a={re.escape(str(workdir))}{at}: .*{said}") as error:
        find(f"{workdir}{at}")
    assert "\n" not in str(error.value)


def test_policies_of_other_rules_cannot_play(workdir):
    with pytest.raises(SettingError, match=r"^--a=.* learned with config.environment.rules='five', and this game") as e:
        find(workdir, arenas.run_of("omar"))
    assert str(e.value).endswith(
        "'omar': give a policy of the same, or for another game --config.environment.rules=five"
    )


def test_where_role_cards_stand_is_each_policys_own(tmp_path):
    workdir = tmp_path / "run"
    config = werewolf.get_config("smoke")
    config.environment.role_card, config.play.cue_tokens = "cue", 96
    workdirs.prepare(config, str(workdir), "configs/werewolf.py")
    found = find(f"{workdir}@cold_start")
    assert found.mind.rollout.role_card == "cue" and found.mind.rollout.sampler.shapes.cue == 96


def test_where_runs_make_their_own_cold_start_that_of_a_run_is_to_be_given():
    config = arenas.run_of().config.copy_and_resolve_references()
    config.cold_start.train = True
    with pytest.raises(
        SettingError, match=r"^--a=cold_start: runs of these settings make their own: give RUN@cold_start"
    ):
        find("cold_start", experiment.build(config))
