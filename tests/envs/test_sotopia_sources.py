"""Our own pack is whole and varied; published forms are read, and the published files where they lie beside us."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from sotopia_packs import character_row, scenario_row

from omar_jax.envs import sotopia_records as records
from omar_jax.envs import sotopia_sources, sotopia_tags
from omar_jax.envs import sotopia_text as text
from omar_jax.envs.sotopia import PUBLISHED_ENDING, Settings, Sotopia, State
from omar_jax.envs.sotopia_records import LEVELS
from omar_jax.envs.sotopia_sources import chosen, load

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "sotopia"
OWN = load()
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published records do not lie beside this checkout")


# ---------------------------------------------------------------- our own pack
def test_our_pack_is_varied():
    assert len(OWN.scenarios) >= 40 and len(OWN.characters) >= 24
    kinds = Counter(scenario.source for scenario in OWN.scenarios.values())
    wanted = {"bargain", "negotiation", "persuasion", "secrets", "conflict", "cooperation", "small talk"}
    assert set(kinds) == wanted and min(kinds.values()) >= 6
    assert sum(scenario.points is not None for scenario in OWN.scenarios.values()) >= 12
    levels = range(len(LEVELS))
    assert {scenario.relationship for scenario in OWN.scenarios.values()} == set(levels)
    assert {relationship.relationship for relationship in OWN.relationships} == set(levels)
    people = OWN.characters.values()
    assert {person.gender for person in people} == {"Man", "Woman", "Nonbinary"}
    ages = [person.age for person in people]
    assert min(ages) < 22 and max(ages) > 65
    for unique in (lambda person: person.first_name, lambda person: person.occupation, lambda person: person.secret):
        assert len(set(map(unique, people))) == len(people)
    assert len({len(scenario.agent_goals) for scenario in OWN.scenarios.values()}) == 2  # two, three


def test_everybody_and_everything_in_our_pack_is_played():
    played = {combo.scenario_id for combo in OWN.combos}
    assert played == set(OWN.scenarios)
    assert {id for combo in OWN.combos for id in combo.agent_ids} == set(OWN.characters)
    assert len({(combo.scenario_id, combo.agent_ids) for combo in OWN.combos}) == len(OWN.combos)


def test_those_who_meet_are_what_the_scenario_says():
    related = {frozenset(r.agent_ids): r.relationship for r in OWN.relationships}
    assert len(related) == len(OWN.relationships)
    for combo in OWN.combos:
        assert len(set(combo.agent_ids)) == len(combo.agent_ids)
        for pair in {frozenset((a, b)) for a in combo.agent_ids for b in combo.agent_ids if a != b}:
            scenario = OWN.scenarios[combo.scenario_id]
            alone = 0 if scenario.relationship == 0 else scenario.relationship if len(combo.agent_ids) > 2 else None
            assert related.get(pair, alone) == scenario.relationship, (combo.id, pair)


def test_goals_have_something_private_and_nothing_is_left_to_fill_in():
    for seats in (2, 3):
        env = Sotopia(OWN, Settings(seats=seats))
        for combo in OWN.combos:
            scenario = OWN.scenarios[combo.scenario_id]
            if len(combo.agent_ids) != seats:
                continue
            if scenario.source != "bargain":
                assert all("<extra_info>" in goal for goal in scenario.agent_goals)
            alone = Sotopia(OWN.split([combo]), Settings(seats=seats))
            step = alone.step(alone.reset(0), {})
            for told in (step.public, *step.private.values()):
                assert not re.search(r"\{[a-z]+\}|<|>|  ", told), told
            for seat, goal in enumerate(scenario.agent_goals):
                hidden = sotopia_tags.visible(goal, sotopia_tags.player(seat))[-30:]
                others = [step.public, *(told for other, told in step.private.items() if other != seat)]
                assert "{" in hidden or scenario.agent_goals.count(goal) > 1 or all(hidden not in o for o in others)
        assert env.num_seats == seats


# ---------------------------------------------------------------- forms
def dump(tmp_path, **changed):
    path = tmp_path / "dump.json"
    scenario = scenario_row(scenario="<extra_info>They meet.", **changed)
    place = "sotopia.database.persistent_profile"
    rows = {
        f":{place}.EnvironmentProfile:meeting": scenario,
        f":{place}.AgentProfile:ana": character_row("Ana", "Souza"),
        f":{place}.AgentProfile:ben": character_row("Ben", "Okafor"),
        f":{place}.RelationshipProfile:r": {"pk": "r", "agent_1_id": "ana", "agent_2_id": "ben", "relationship": 3},
        ":sotopia.database.env_agent_combo_storage.EnvAgentComboStorage:c": {
            "pk": "c",
            "env_id": "meeting",
            "agent_ids": ["ana", "ben"],
        },
        ":__main__.Person:1": {"name": "nobody"},
    }
    path.write_text(json.dumps(rows))
    return path


def test_a_dump_is_read_with_its_open_tags(tmp_path):
    pack = load(dump(tmp_path))
    assert [len(part) for part in (pack.scenarios, pack.characters, pack.relationships, pack.combos)] == [1, 2, 1, 1]
    assert sotopia_tags.visible(pack.scenarios["meeting"].scenario, sotopia_tags.EVERYBODY) == "They meet."
    with pytest.raises(ValueError, match=r"dump.json, record :\S+EnvironmentProfile:meeting: relationship is 9"):
        load(dump(tmp_path, relationship=9))
    for content, what in (("[]", "is a list; a dump must be an object"), ("{", "cannot be read as JSON")):
        (tmp_path / "dump.json").write_text(content)
        with pytest.raises(ValueError, match=f"dump.json: {what}"):
            load(tmp_path / "dump.json")


def episode(level, **changed):
    """A conversation as published, of our own people."""
    scenario = records.scenario(scenario_row(relationship=level), "here")
    people = [records.character(character_row(*n), "here") for n in (("Ana", "Souza"), ("Ben", "Okafor"))]
    told = [text.first_observation(scenario, people, None, ("Ana", "Ben"), seat) for seat in (0, 1)]
    row = {
        "environment_id": scenario.id,
        "codename": scenario.codename,
        "scenario": scenario.scenario,
        "agent_ids": [person.id for person in people],
        "agents_background": {person.name: text.biography(person) for person in people},
        "social_goals": dict(zip([person.name for person in people], scenario.agent_goals, strict=True)),
        "raw_messages": [[["Environment", person.name, words] for person, words in zip(people, told, strict=True)]],
    }
    return row | changed


@pytest.mark.parametrize("level", range(6))
def test_published_conversations_tell_who_took_part_in_what(tmp_path, level):
    path = tmp_path / sotopia_sources.EPISODES
    path.write_text("".join(json.dumps(row) + "\n" for row in (episode(level), episode(level))))
    pack = load(tmp_path)
    assert pack == load(path)
    scenario = records.scenario(scenario_row(relationship=min(level, 3), source=""), "here")
    assert pack.scenarios == {"meeting": scenario}
    assert [text.biography(person) for person in pack.characters.values()] == list(
        episode(0)["agents_background"].values()
    )
    assert pack.characters["ana"].occupation == "deep-sea diver" and pack.characters["ana"].gender == "Woman"
    assert [(combo.scenario_id, combo.agent_ids) for combo in pack.combos] == [("meeting", ("ana", "ben"))]
    assert [known.relationship for known in pack.relationships] == [min(level, 3)]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"agents_background": {"Ana": "She dives.", "Ben": "He dives."}}, "the background of Ana is not worded as"),
        ({"raw_messages": []}, "is no published conversation"),
        ({"social_goals": ["win", "lose"]}, "is no published conversation"),
        ({"social_goals": {"Ana Souza": "win"}}, "is no conversation of two"),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path, changed, what):
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps(episode(3)) + "\n" + json.dumps(episode(3, **changed)))
    with pytest.raises(ValueError, match=f"episodes.jsonl, line 2: {what}"):
        load(path)


def test_a_folder_without_files_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"environment_profiles\.jsonl: there is no such file"):
        load(tmp_path)


# ---------------------------------------------------------------- the published files
def episodes():
    return [row for _, row in records.rows(PUBLISHED / "episodes" / "episodes_with_scores_8.jsonl")]


def squeezed(words):
    return " ".join(words.split())


@published
def test_published_records_are_read():
    pack = load(PUBLISHED / "profiles")
    sizes = [len(part) for part in (pack.scenarios, pack.characters, pack.relationships, pack.combos)]
    assert sizes == [90, 40, 120, 450]
    hard = pack.split(records.read(PUBLISHED / "hard" / "benchmark_agents_70.json", "combos"))
    assert len(hard.combos) == 70 and len({combo.scenario_id for combo in hard.combos}) == 14
    chosen_hard = pack.only(lambda scenario: chosen(scenario, "hard"))
    assert {combo.id for combo in chosen_hard.combos} == {combo.id for combo in hard.combos}
    more = load(PUBLISHED / "pi_train" / "redis_json_data.json")
    sizes = [len(part) for part in (more.scenarios, more.characters, more.relationships, more.combos)]
    assert sizes == [303, 40, 120, 2760]
    clean = {word for person in more.characters.values() for word in person.moral_values}
    assert not any(set("[]' ") & set(word[0] + word[-1]) for word in clean)


@published
def test_published_conversations_agree_with_the_profiles():
    pack = load(PUBLISHED / "profiles")
    told = load(PUBLISHED / "episodes" / "episodes_with_scores_8.jsonl")
    assert len(told.scenarios) == 8 and len(told.characters) == 12
    for id, scenario in told.scenarios.items():
        other = pack.scenarios[id]
        assert (scenario.scenario, scenario.agent_goals) == (other.scenario, other.agent_goals)
        assert scenario.relationship == min(3, other.relationship)
    for id, person in told.characters.items():
        assert squeezed(text.biography(person)) == squeezed(text.biography(pack.characters[id]))


@published
@pytest.mark.parametrize("number", range(8))
def test_published_conversations_end_as_recorded(number):
    """The first observations, what is heard after every turn, the number of turns and the reason of the end."""
    row, pack = episodes()[number], load(PUBLISHED / "profiles")
    env = Sotopia(pack, Settings(actions="json", opening="published", ending=PUBLISHED_ENDING))
    people = tuple(pack.characters[id] for id in row["agent_ids"])
    step = env.step(State(0, pack.scenarios[row["environment_id"]], people, None), {})
    for seat, (_, _, recorded) in enumerate(row["raw_messages"][0][:2]):
        assert squeezed(step.private[seat]) == squeezed(recorded)
    for turn, after in zip(row["raw_messages"], row["raw_messages"][1:], strict=False):
        assert step.rewards is None
        done = {who: words for who, _, words in turn if who != "Environment"}
        (seat,) = step.asks
        acts = done.pop(people[seat].name)
        assert set(done.values()) == {"did nothing"}  # of those who wait
        step = env.step(step.state, {seat: text.write_json(text.from_words(acts))})
        assert {squeezed(words) for who, _, words in after if who == "Environment"} == {squeezed(step.public)}
    assert step.rewards is not None
    leaving = "".join(f"Agent {seat + 1} is leaving; " for seat in sorted(step.state.left))
    says = {
        "too_long": "The conversation is too long; ",
        "left": leaving,
        "stale": "The conversation stales for too long; ",
    }
    recorded = re.search(r"terminated: (.*)", row["reasoning"])[1]
    assert "".join(says[reason] for reason in step.state.ended).strip() == recorded.strip()
