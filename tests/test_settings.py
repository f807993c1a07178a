import json
import re
from pathlib import Path

import pytest

from configs import sotopia
from configs.werewolf import PRESETS, get_config
from omar_jax import settings
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.settings import SettingError

CONFIGS = Path(__file__).parents[1] / "configs"


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


SETTINGS = dict(flat(get_config().to_dict()))
NUMBERS = [name for name, value in SETTINGS.items() if type(value) in (int, float)]


def changed(**values):
    """The default configuration with settings changed; a__b stands for a.b."""
    config = get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in values.items()})
    return config


def one_line(call, *arguments):
    with pytest.raises(SettingError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- values
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_pass(preset):
    settings.check(get_config(preset))


@pytest.mark.parametrize("preset", sotopia.PRESETS)
def test_presets_of_sotopia_pass(preset):
    settings.check(sotopia.get_config(preset))


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [
        ("environment.order", "chaos", "one of 'round-robin', 'simultaneous'"),
        ("environment.seats", 1, "one of 2, 3, 4, 5, 6"),
        ("environment.joint_weight", 2.0, "between 0 and 1"),
        ("opponents.side", "third", "one of 'first', 'second'"),
        ("cold_start.player", "random", "one of 'scripted'"),
    ],
)
def test_settings_of_sotopia_are_checked(setting, value, right):
    config = sotopia.get_config()
    config.update_from_flattened_dict({setting: value})
    assert one_line(settings.check, config) == f"config.{setting}={value!r} cannot be used: it must be {right}"


def test_an_older_configuration_is_completed_with_defaults():
    stored = get_config("smoke").to_dict()
    del stored["opponents"], stored["arena"]["every"]
    stored["ppo"]["iterations"] = 77
    found = settings.completed(stored)
    assert found == {**get_config("smoke").to_dict(), "ppo": {**get_config("smoke").ppo.to_dict(), "iterations": 77}}


@pytest.mark.parametrize("rules", RULE_SETS)
def test_every_rule_set_passes(rules):
    settings.check(changed(environment__rules=rules))


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [
        ("environment.rules", "six", "one of 'omar', 'five', 'sotopia', 'arena', 'mafia', 'mafia_6', 'mafia_8'"),
        ("environment.role_card", "", "one of 'private', 'cue'"),
        ("opponents.player", "anybody", "one of '', 'scripted', 'random'"),
        ("opponents.side", "wolves", "one of 'werewolves', 'village'"),
        ("opponents.past", 1.5, "between 0 and 1"),
        ("opponents.pool", 0, "at least 1"),
        ("cold_start.player", "", "one of 'scripted', 'random'"),
        ("advantages.mode", "gae", "one of 'hierarchical', 'token', 'turn', 'return'"),
        ("play.temperature", 0.0, "above 0"),
        ("ppo.learning_rate", float("nan"), "above 0"),
        ("ppo.epochs", 0, "at least 1"),
        ("ppo.kl_coefficient", -0.1, "at least 0"),
        ("advantages.lambda_turn", 1.01, "between 0 and 1"),
        ("ppo.minibatch_games", 65, "a multiple of ppo.microbatch_games=4"),
        ("play.games", 100, "a multiple of ppo.minibatch_games=64"),
        ("cold_start.minibatch_games", 30, "a multiple of ppo.microbatch_games=4"),
        ("cold_start.games_at_once", 100, "a multiple of cold_start.minibatch_games=32"),
        ("precision.compute", "float16", "one of 'auto', 'float32', 'bfloat16'"),
        ("precision.params", "auto", "one of 'float32', 'bfloat16'"),
        ("model.weights", "", "one of 'stored', 'random'"),
        ("lora.projections", ("query", "q"), "some of query, key, value, out, gate, up, down"),
        ("environment.speech_tokens", 25, "at most play.action_tokens=24"),
        ("play.batch_eighths", (8, 8), "descending from 8, as in (8, 6, 4)"),
        ("arena.games", 1, "0 (no table) or at least 2"),
        ("play.transcript_tokens", (), "ascending cache sizes, as in (256, 512)"),
        ("play.transcript_tokens", (512, 256), "ascending cache sizes, as in (256, 512)"),
        ("play.transcript_tokens", ("many",), "ascending cache sizes, as in (256, 512)"),
        ("play.transcript_tokens", (40, 256), "at least twice play.piece_tokens=24"),
        ("layout.buckets", (), "(shared, seat, action, turn) sizes, as in ((256, 320, 128, 24),)"),
        ("layout.buckets", (1, 2), "(shared, seat, action, turn) sizes, as in ((256, 320, 128, 24),)"),
        ("layout.buckets", ((8, 8, 8),), "(shared, seat, action, turn) sizes, as in ((256, 320, 128, 24),)"),
        ("layout.buckets", ((8, 8, 8, 8), (9, 9, 9, 7)), "ascending in every size"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_right(setting, value, right):
    wrong = changed(**{setting.replace(".", "__"): value})
    assert one_line(settings.check, wrong) == f"config.{setting}={value!r} cannot be used: it must be {right}"


@pytest.mark.parametrize("setting", NUMBERS)
def test_no_number_may_be_negative(setting):
    value = type(SETTINGS[setting])(-1)
    wrong = changed(**{setting.replace(".", "__"): value})
    assert one_line(settings.check, wrong).startswith(f"config.{setting}={value!r} cannot be used")


# ---------------------------------------------------------------- names
def test_a_fresh_configuration_is_that_of_its_file_and_preset():
    file = str(CONFIGS / "werewolf.py")
    assert settings.fresh(file).to_dict() == get_config().to_dict()
    assert settings.fresh(f"{file}:smoke").to_dict() == get_config("smoke").to_dict()


def test_unknown_files_and_presets():
    assert one_line(settings.fresh, "none.py:smoke") == (
        "--config=none.py:smoke: no such file; give file.py or file.py:preset"
    )
    unknown = one_line(settings.fresh, f"{CONFIGS / 'werewolf.py'}:tiny")
    assert "preset 'tiny'" in unknown and unknown.endswith(f"must be one of (empty), {', '.join(PRESETS[1:])}")


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("ppo.epoch", r"is unknown; did you mean config\.ppo\.epochs\?"),
        ("ppo.epochs.x", r"is unknown; did you mean config\.ppo\.epochs\?"),
        ("temperature", r"is unknown; did you mean config\.play\.temperature\?"),
        (
            "learning_rate",
            r"is unknown; did you mean config\.\w+\.learning_rate or config\.\w+\.learning_rate\?",
        ),
        ("ppo.lr", r"is no setting; config\.ppo has .*\blearning_rate, .*"),
        ("ppo", r"is no setting; config\.ppo has .*\bepochs, .*"),
        ("nothing", r"is no setting; config has .*\bppo, .*"),
    ],
)
def test_an_unknown_setting_is_answered_by_the_nearest(setting, answer):
    said = one_line(settings.check_known, get_config(), setting)
    assert re.fullmatch(rf"config\.{re.escape(setting)} {answer}", said), said


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_known(setting):
    settings.check_known(get_config(), setting)


# ---------------------------------------------------------------- continuing a run
def stored(config):
    return json.loads(config.to_json())


def test_a_run_continues_with_the_same_settings_and_those_that_may_change():
    longer = changed(ppo__iterations=60, arena__games=0, checkpoint__keep=9)
    settings.check_same(stored(get_config()), stored(get_config()), Path("runs/x"))
    settings.check_same(stored(get_config()), stored(longer), Path("runs/x"))


def test_a_run_does_not_continue_with_other_settings():
    other = changed(ppo__epochs=3, ppo__iterations=60)
    assert one_line(settings.check_same, stored(get_config()), stored(other), Path("runs/x")) == (
        "runs/x holds a run with config.ppo.epochs=2, not 3: give the same value to continue it, or another --workdir"
    )
    older = stored(get_config())
    del older["play"]["temperature"]
    assert "config.play.temperature=None, not 1.0" in one_line(
        settings.check_same, older, stored(get_config()), Path("runs/x")
    )
