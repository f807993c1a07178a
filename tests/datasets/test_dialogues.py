"""Dialogues of every kind come back as they were; what is none is named by file and line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omar_jax.datasets import dialogues
from omar_jax.datasets.dialogues import Dialogue

CHAT = {"messages": [{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Ho.\u2028"}], "id": 3}
GAME = {"game": 0, "seed": 7, "turns": [{"seat": 0, "text": "I trust Bob."}], "rewards": [1.0, -1.0]}
WEREWOLF = {"seats": ["A"], "roles": {"A": None}, "winner": None, "actions": [[0, "A", "skip"]]}
EPISODE = {"raw_messages": [[["Environment", "A", "Hello"]]], "codename": "meeting"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_dialogues_come_back_in_order(tmp_path):
    path = write(tmp_path / "some.jsonl", CHAT, GAME, WEREWOLF, EPISODE)
    expected = [("chat", CHAT), ("game", GAME), ("werewolf", WEREWOLF), ("sotopia", EPISODE)]
    assert dialogues.load(path, tmp_path / "cache") == [Dialogue(*pair) for pair in expected]
    assert dialogues.load(str(path), tmp_path / "cache")[0].record["messages"][1]["content"] == "Ho.\u2028"
    assert dialogues.Dialogues(path, tmp_path / "cache").source()[3]["number"] == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.lists(st.dictionaries(st.sampled_from(["seed", "names", "events"]), json_values), min_size=1, max_size=5))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_games_of_any_content_come_back(tmp_path, games):
    games = [game | {"turns": [number]} for number, game in enumerate(games)]
    path = write(tmp_path / f"{abs(hash(str(games)))}.jsonl", *games)
    assert [dialogue.record for dialogue in dialogues.load(path, tmp_path / "cache")] == games


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ([], "is a list; a dialogue must be an object"),
        ({"text": "Hello"}, "has none of messages, turns, actions, raw_messages"),
        ({"messages": []}, r"messages is \[\]; it must be a list of what was said"),
        ({"turns": "Hello"}, "turns is 'Hello'; it must be a list"),
        ({"messages": [{"role": "user"}]}, "messages have {'role': 'user'}; each must have a role and a content"),
        ({"messages": ["Hello"]}, "messages have 'Hello'"),
    ],
)
def test_what_is_no_dialogue_is_named(tmp_path, row, what):
    path = write(tmp_path / "some.jsonl", GAME, row)
    with pytest.raises(ValueError, match=f"some.jsonl, line 2: {what}") as caught:
        dialogues.load(path, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no such file; it must be a file of games or chats"):
        dialogues.load(tmp_path / "nothing.jsonl")
