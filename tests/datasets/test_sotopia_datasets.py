"""Packs that went through their data sets are the packs that were read, wherever they come from."""

import json
import shutil

import pytest
from huggingface_hub import errors

from omar_jax.datasets import sotopia
from omar_jax.envs import sotopia_sources
from omar_jax.envs.sotopia_records import FILES


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """A copy of our own pack."""
    return shutil.copytree(sotopia_sources.OWN_PACK, tmp_path / "profiles")


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub: what it was asked, and what it answers (a folder, or an error to raise)."""
    asked = {"answer": None}

    def snapshot_download(name, **how):
        asked.update(name=name, **how)
        if isinstance(asked["answer"], Exception):
            raise asked["answer"]
        return str(asked["answer"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_our_own_pack_is_the_default(cache):
    assert sotopia.load(folder=cache) == sotopia_sources.load()
    assert sotopia.load(folder=cache) == sotopia_sources.load()


def test_records_have_the_published_schema(cache):
    scenario, character, relationship, combo = (
        builder(sotopia_sources.OWN_PACK, cache).source()[0] for builder in sotopia.BUILDERS
    )
    own = [json.loads((sotopia_sources.OWN_PACK / name).read_text().split("\n")[0]) for name in FILES.values()]
    for example, row in zip((scenario, character, relationship, combo), own, strict=True):
        assert set(row) <= set(example) and set(example) - set(row) <= {"points"}
    assert scenario["scenario"].decode() == own[0]["scenario"] and scenario["relationship"] == 0
    assert [goal.decode() for goal in scenario["agent_goals"]] == own[0]["agent_goals"]
    assert json.loads(scenario["points"]) == own[0]["points"]
    assert character["age"] == own[1]["age"] and character["secret"].decode() == own[1]["secret"]


def test_a_folder_is_read_anew_when_it_changes(folder, cache):
    assert sotopia.load(str(folder), folder=cache) == sotopia_sources.load()
    path = folder / FILES["scenarios"]
    path.write_text(path.read_text().replace('"find_slot"', '"seek_slot"'))
    codenames = {scenario.codename for scenario in sotopia.load(str(folder), folder=cache).scenarios.values()}
    assert "seek_slot" in codenames and "find_slot" not in codenames


def test_what_is_wrong_is_named_by_file_and_line(folder, cache):
    path = folder / FILES["characters"]
    lines = path.read_text().split("\n")
    lines[2] = lines[2].replace('"age": 29', '"age": "young"')
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"^{path}, line 3: age is 'young'; it must be a whole number") as caught:
        sotopia.load(str(folder), folder=cache)
    assert "\n" not in str(caught.value)
    path.write_text("\n")
    with pytest.raises(ValueError, match=f"{folder}: has no characters"):
        sotopia.load(str(folder), folder=cache)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such file, and no folder with environment_profiles"):
        sotopia.load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="there is no such file"):
        sotopia.load(str(tmp_path))


def test_the_hub_is_asked_for_what_can_be_read(folder, cache, hub):
    hub["answer"], said = folder, []
    assert sotopia.load("hub", said.append, cache) == sotopia_sources.load()
    assert hub["name"] == "cmu-lti/sotopia" and hub["repo_type"] == "dataset"
    assert set(hub["allow_patterns"]) == {*FILES.values(), "sotopia_episodes_v1.jsonl"}
    assert len(said) == 1 and "huggingface.co" in said[0]


@pytest.mark.parametrize(
    "error",
    [errors.LocalEntryNotFoundError("no connection\nat all"), OSError("disk full"), errors.HFValidationError("bad")],
)
def test_a_hub_that_cannot_be_reached_is_one_line(hub, error):
    hub["answer"] = error
    with pytest.raises(ValueError, match=r"cmu-lti/sotopia could not be downloaded from huggingface\.co: ") as caught:
        sotopia.load("hub", lambda line: None)
    assert "\n" not in str(caught.value)


def test_an_empty_hub_is_named(tmp_path, hub):
    hub["answer"] = tmp_path
    with pytest.raises(ValueError, match="no folder with environment_profiles"):
        sotopia.load("hub", lambda line: None)
