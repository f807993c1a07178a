"""Dialogues to learn from: games of ours, published ones and chats become episodes as if they had been played here."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import sotopia, werewolf
from omar_jax import catalogue, experiment, given_games, metrics
from omar_jax.envs import sotopia_text
from omar_jax.tables import Game, environment_seed

PUBLISHED = Path(__file__).parents[2] / "shared" / "data"


def rollout_of(config, **changes):
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return experiment.build(config, lambda line: None, jax.devices()[:1]), config


@pytest.fixture(scope="module")
def wolves():
    run, config = rollout_of(werewolf.get_config("smoke"))
    return run.rollout, catalogue.player(config, "scripted")


@pytest.fixture(scope="module")
def bargains():
    run, config = rollout_of(sotopia.get_config("smoke"))
    return run.rollout, catalogue.player(config, "scripted")


def played(rollout, player, count):
    games = [Game(n, environment_seed(7, n), lambda roles: [player] * len(roles)) for n in range(count)]
    return rollout.play(games, [], jax.random.key(0))[0]


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("game", ["wolves", "bargains"])
def test_games_of_ours_are_said_again(game, request, tmp_path):
    rollout, player = request.getfixturevalue(game)
    episodes = played(rollout, player, 6)
    path = written(tmp_path / "games.jsonl", map(metrics.episode_record, episodes))
    found = given_games.load(path, rollout)
    assert len(found) == len(episodes)
    for mine, theirs in zip(found, episodes, strict=True):
        assert mine.transcript == theirs.transcript and mine.seed == theirs.seed and mine.roles == theirs.roles
        assert mine.rewards == pytest.approx(theirs.rewards, abs=1e-4)
        for step, other in zip(mine.steps, theirs.steps, strict=True):
            assert (step.public, step.private) == (other.public, other.private)
            assert {seat: turn.action for seat, turn in step.turns.items()} == {
                seat: turn.action for seat, turn in other.turns.items()
            }


def test_games_keep_the_rewards_of_their_judge_and_others_are_left_out(bargains, wolves, tmp_path):
    rollout, player = bargains
    judged, shorter, cut = map(metrics.episode_record, played(rollout, player, 3))
    judged["rewards"] = [0.25, 0.75]
    shorter["turns"] = shorter["turns"][:-1]
    cut["rewards"] = None
    other = metrics.episode_record(played(*wolves, 1)[0])
    found = given_games.load(written(tmp_path / "games.jsonl", [judged, shorter, other, cut]), rollout)
    assert [episode.rewards for episode in found] == [(0.25, 0.75), None]


def test_a_chat_is_a_talk_of_one_seat(wolves, tmp_path):
    rollout, _ = wolves
    messages = [("system", "Be kind."), ("user", "I vote\nfor Bob."), ("assistant", "So do I."), ("user", "Why?")]
    messages += [("assistant", "I trust Emma."), ("user", "Is that so?")]
    record = {"messages": [{"role": role, "content": content} for role, content in messages]}
    [episode] = given_games.load(written(tmp_path / "chats.jsonl", [record]), rollout)
    chat, (first, second) = rollout.chat, episode.steps
    assert first.public == chat.opening + chat.event("Be kind.\nUser: I vote for Bob.")
    assert second.public == chat.event("Assistant: So do I.\nUser: Why?")
    assert [step.turns[0].action for step in episode.steps] == [
        chat.action("So do I."), chat.action("I trust Emma."),
    ]  # fmt: skip
    assert first.turns[0].cue == chat.cue("Assistant:") and episode.rewards == (0.0,) and len(episode.roles) == 1


def test_a_broken_game_is_named(wolves, tmp_path):
    path = written(tmp_path / "games.jsonl", [{"turns": [{"seat": 0}], "roles": [], "seed": "one"}])
    with pytest.raises(ValueError, match=r"games.jsonl, dialogue 1: is no game"):
        given_games.load(path, wolves[0])


def test_a_file_without_anything_to_learn_from_is_named(wolves, tmp_path):
    path = written(tmp_path / "chats.jsonl", [{"messages": [{"role": "user", "content": "Hello?"}]}])
    with pytest.raises(ValueError, match=r"chats.jsonl holds no game that can be replayed under these settings, and"):
        given_games.load(path, wolves[0])


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published games do not lie beside this checkout")
def test_published_games_are_learned_from(bargains):
    run, _ = rollout_of(werewolf.get_config("smoke"), environment__rules="sotopia", play__transcript_tokens=(4096,))
    [path] = (PUBLISHED / "werewolf").glob("*.jsonl")
    found = given_games.load(path, run.rollout)
    assert len(found) > 10 and all(episode.rewards is not None for episode in found)
    with pytest.raises(ValueError, match="holds games of Werewolf, and this is another game"):
        given_games.load(path, bargains[0])


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published conversations do not lie beside this checkout")
def test_published_conversations_are_learned_from():
    profiles = str(PUBLISHED / "sotopia" / "profiles")
    changes = {"environment__pack": profiles, "environment__scenarios": "all", "environment__opening": "shared"}
    run, _ = rollout_of(sotopia.get_config("smoke"), **changes, environment__max_turns=20)
    path = PUBLISHED / "sotopia" / "episodes" / "episodes_with_scores_8.jsonl"
    found, records = given_games.load(path, run.rollout), [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == len(records) == 8
    for episode, record in zip(found, records, strict=True):
        assert episode.names == tuple(record["agents_background"])[:2] or len(set(episode.names)) == 2
        first = episode.steps[0].turns[0].text
        told = next(
            words for who, _, words in record["raw_messages"][0] if who == next(iter(record["agents_background"]))
        )
        assert first == sotopia_text.write_plain(sotopia_text.from_words(told))
        assert 2 <= sum(len(step.turns) for step in episode.steps) <= 20
    assert np.mean([len(episode.steps) for episode in found]) > 5
