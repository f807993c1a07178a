"""Records of both spellings are read; what is wrong with one is said with its file and line."""

import json

import pytest
from sotopia_packs import ITEMS, character_row, pack, scenario_row

from omar_jax.envs import sotopia_records as records

RELATIONSHIP = {"pk": "r", "agent_1_id": "ana", "agent_2_id": "ben", "relationship": 5, "background_story": "Sisters."}
COMBO = {"pk": "c", "env_id": "meeting", "agent_ids": ["ana", "ben"]}


def test_both_spellings_are_the_same_record():
    theirs = scenario_row(relationship=3, age_constraint=None, agent_constraint="nan")
    theirs["pk"] = theirs.pop("env_id")
    assert records.scenario(theirs, "here") == records.scenario(scenario_row(), "there")
    profile = {"relationship_id": "r", "agent1_id": "ana", "agent2_id": "ben", "relationship": "5"}
    ours = records.relationship(profile | {"background_story": "Sisters."}, "here")
    assert records.relationship(RELATIONSHIP, "there") == ours
    assert records.combo({"combo_id": "c", **COMBO}, "here") == records.Combo("c", "meeting", ("ana", "ben"))
    lists = records.character(character_row("Ana", "Souza", moral_values=["Care", " Fairness"]), "here")
    texts = records.character(character_row("Ana", "Souza", moral_values=["['Care'", " ' Fairness']"]), "here")
    assert lists == texts and lists.moral_values == ("Care", "Fairness")


def test_a_record_that_was_bytes_and_json_is_the_same():
    row = scenario_row(points=ITEMS)
    stored = {name: value.encode() if isinstance(value, str) else value for name, value in row.items()}
    stored |= {"agent_goals": [goal.encode() for goal in row["agent_goals"]], "points": json.dumps(ITEMS).encode()}
    stored["occupation_constraint"] = b""
    assert records.scenario(stored, "here") == records.scenario(row, "there")


WRONG_SCENARIOS = [
    ({"codename": 3}, "codename is 3; it must be text"),
    ({"relationship": "6"}, r"relationship is '6'; it must be one of 0 \(stranger\), .* 5 \(family\)"),
    ({"relationship": "friends"}, "relationship is 'friends'; it must be a whole number"),
    ({"relationship": 2.5}, "relationship is 2.5; it must be a whole number"),
    ({"agent_goals": "win"}, "agent_goals is 'win'; it must be a list of texts"),
    ({"agent_goals": ["win"]}, "agent_goals is .*; it must be two goals or more"),
    ({"agent_goals": ["win", "<extra_info>lose"]}, "agent_goals never closes <extra_info>"),
    ({"scenario": "<i>They</i> meet."}, "scenario has the unknown tag <i>"),
    ({"points": "{"}, "points are '{', which is not JSON"),
    ({"points": []}, r"points are \[\]; they must be an object"),
]


@pytest.mark.parametrize(("changed", "what"), WRONG_SCENARIOS)
def test_wrong_scenarios_are_named_by_file_and_line(tmp_path, changed, what):
    path = tmp_path / "environment_profiles.jsonl"
    path.write_text("\n".join(["", json.dumps(scenario_row()), json.dumps(scenario_row(**changed))]))
    with pytest.raises(ValueError, match=f"^{path}, line 3: {what}"):
        records.read(path, "scenarios")


@pytest.mark.parametrize("kind", records.READERS)
def test_missing_fields_are_named(kind):
    whole = {"scenarios": scenario_row(), "characters": character_row("Ana", "Souza")}
    whole |= {"relationships": RELATIONSHIP, "combos": COMBO}
    optional = {"source", "age_constraint", "occupation_constraint", "agent_constraint", "mbti", "background_story"}
    for name in set(whole[kind]) - optional:
        row = {field: value for field, value in whole[kind].items() if field != name}
        with pytest.raises(ValueError, match=f"^here: lacks .*{name}"):
            records.READERS[kind](row, "here")
    with pytest.raises(ValueError, match=r"^here: is a list; a record must be an object"):
        records.READERS[kind]([], "here")


@pytest.mark.parametrize("changed", [{"age": "old"}, {"age": True}, {"moral_values": ["['Care"]}, {"secret": None}])
def test_wrong_characters_are_named(changed):
    with pytest.raises(ValueError, match=f"^here: {next(iter(changed))} is "):
        records.character(character_row("Ana", "Souza", **changed), "here")


def test_open_tags_are_forgiven_where_asked():
    row = scenario_row(scenario="<extra_info>They meet.")
    assert records.scenario(row, "here", strict=False).scenario == row["scenario"]


def test_files_are_lines_or_one_list(tmp_path):
    path = tmp_path / "combos"
    path.write_text(json.dumps([COMBO, COMBO | {"pk": "d"}], indent=2))
    assert [combo.id for combo in records.read(path, "combos")] == ["c", "d"]
    path.write_text("[{]")
    with pytest.raises(ValueError, match=f"{path}: is not JSON"):
        records.read(path, "combos")
    path.write_text(json.dumps(COMBO) + "\nnothing\n")
    with pytest.raises(ValueError, match=f"{path}, line 2: is not JSON"):
        records.read(path, "combos")
    path.write_text(json.dumps(COMBO | {"env_id": "a\u2028b"}, ensure_ascii=False) + "\n")
    assert records.read(path, "combos")[0].scenario_id == "a\u2028b"  # no end of a line
    with pytest.raises(ValueError, match="there is no such file"):
        records.read(tmp_path / "nothing", "combos")


def test_a_pack_holds_all_that_its_combos_name():
    whole = pack()
    scenarios = [("scenarios, line 1", scenario) for scenario in whole.scenarios.values()]
    characters = [("characters, line 1", character) for character in whole.characters.values()]
    for combo, what in (
        (records.Combo("c", "nowhere", ("Ana Souza", "Ben Okafor")), "env_id is 'nowhere', which no scenario has"),
        (records.Combo("c", "meeting", ("Ana Souza", "Cem")), "agent_ids names 'Cem', which no character has"),
        (records.Combo("c", "meeting", ("Ana Souza",)), "has 1 agent_ids; its scenario has 2 goals"),
    ):
        with pytest.raises(ValueError, match=f"^combos, line 7: {what}"):
            records.pack(scenarios, characters, [], [("combos, line 7", combo)])
        with pytest.raises(ValueError, match=f"^combo c: {what}"):
            whole.split([combo])
    with pytest.raises(ValueError, match=r"^scenarios, line 1: the id meeting occurs a second time"):
        records.pack(scenarios * 2, characters, [], [])


def test_a_pack_can_be_narrowed():
    whole = pack()
    assert whole.only(lambda scenario: scenario.source == "tests") == whole
    none = whole.only(lambda scenario: False)
    assert not none.scenarios and not none.combos and none.characters == whole.characters
    assert whole.split(whole.combos) == whole
