"""Games of line-ups: the same deals for all, everybody on the right side, and nothing that is over is played again."""

import json
from types import SimpleNamespace

import arenas
import pytest

from omar_jax import hosts, matches
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.matches import Contestant, Games
from omar_jax.runtime import StopRequested
from omar_jax.settings import SettingError

RULES = {"config.environment.rules": "five", "--seed": 1}
SIDES = ("werewolves", "village")
LINE_UPS = [("a", "b"), ("b", "a"), ("b", "b")]


class Counting(ScriptedPlayer):
    """Knows in which games it sat, and where."""

    def __init__(self, at_once=1):
        super().__init__()
        self.at_once, self.seats = at_once, set()

    def act(self, env, state, seat, ask, heard, rng):
        self.seats.add((state.seed, state.roles[seat]))
        return super().act(env, state, seat, ask, heard, rng)


def contest(folder=None, num_games=3, a=None, progress=lambda finished, tokens: None, line_ups=LINE_UPS, games=4):
    """Plays; (the games, the line-ups' records)."""
    kept = Games(folder, RULES)
    contestants = [Contestant("a", a or ScriptedPlayer()), Contestant("b", RandomPlayer())]
    try:
        matches.play(arenas.run_of(games=games).rollout, contestants, line_ups, num_games, 1, 1.0, kept, progress)
    finally:
        kept.close()
    return kept, [kept.of(line_up, num_games) for line_up in line_ups]


def lines(folder):
    return [json.loads(line) for line in (folder / "games.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- line-ups


def test_one_policy_plays_each_side_in_turn():
    env = arenas.run_of().env
    assert matches.sides(env) == ("werewolves", "village")
    assert matches.line_ups(matches.sides(env), "a", "b") == [("a", "b"), ("b", "a")]
    assert matches.line_ups(("x", "y", "z"), "a", "b") == [("a", "b", "b"), ("b", "a", "b"), ("b", "b", "a")]


def test_all_line_ups_play_the_same_deals():
    _, records = contest()
    deals = [[(game["game"], game["seed"], game["roles"]) for game in of_line_up] for of_line_up in records]
    assert deals[0] == deals[1] == deals[2]
    assert len({seed for _, seed, _ in deals[0]}) == 3
    assert [record["game"] for record in records[0]] == [0, 1, 2]


def test_everybody_plays_the_side_of_the_line_up():
    for line_up, roles in {("a", "b"): {"werewolf"}, ("b", "a"): {"seer", "villager"}, ("b", "b"): set()}.items():
        player = Counting()
        _, [records] = contest(a=player, line_ups=[line_up])
        assert {role for _, role in player.seats} == roles
        assert all(record["players"] == dict(zip(SIDES, line_up, strict=True)) for record in records)


def test_equal_players_play_the_same_games_in_all_line_ups():
    _, records = contest(a=RandomPlayer())
    of_all = [[{**game, "players": None} for game in of_line_up] for of_line_up in records]
    assert of_all[0] == of_all[1] == of_all[2]


def test_a_record_replays_its_game():
    env = arenas.run_of().env
    for record in (game for of_line_up in contest()[1] for game in of_line_up):
        now = env.step(env.reset(record["seed"]), {})
        for step in range(1 + max(turn["step"] for turn in record["turns"])):
            said = {turn["seat"]: turn["text"] for turn in record["turns"] if turn["step"] == step}
            now = env.step(now.state, said)
        assert [now.rewards[seat] for seat in range(env.num_seats)] == record["rewards"]
        assert list(env.roles(now.state)) == record["roles"] and list(env.seat_names) == record["names"]


def test_progress_tells_games_that_are_over_now():
    told = []
    contest(num_games=5, progress=lambda finished, tokens: told.append(finished))
    assert told == sorted(told) and told[0] == 0 and told[-1] == 15


# ---------------------------------------------------------------- kept games


def test_games_that_are_over_are_never_played_again(tmp_path):
    first, again, more = Counting(), Counting(), Counting()
    _, records = contest(tmp_path, a=first)
    assert lines(tmp_path) == [game for of_line_up in records for game in of_line_up]
    told = []
    assert contest(tmp_path, a=again, progress=lambda *now: told.append(now))[1] == records
    assert not again.seats and not told
    _, larger = contest(tmp_path, num_games=5, a=more)
    assert [of_line_up[:3] for of_line_up in larger] == records
    assert not {seed for seed, _ in more.seats} & {seed for seed, _ in first.seats}
    assert larger == contest(num_games=5)[1]  # as if played at once
    assert [of[:2] for of in larger] == contest(tmp_path, num_games=2)[1]  # and fewer are a part of them
    assert len(lines(tmp_path)) == 15


def test_a_stop_keeps_what_is_over_and_the_same_call_goes_on(tmp_path):
    def stop(finished, tokens):
        if finished >= 9:
            raise StopRequested

    with pytest.raises(StopRequested):
        contest(tmp_path, num_games=6, progress=stop)
    kept = lines(tmp_path)
    assert len(kept) == 6  # the batch in which the ninth was over is not
    _, records = contest(tmp_path, num_games=6)
    assert lines(tmp_path)[:6] == kept and len(lines(tmp_path)) == 18
    assert records == contest(num_games=6)[1]


@pytest.mark.parametrize("end", ['{"players": {"werewolves": "a", "vill', "{}\n", "\x00\x00\x00"])
def test_a_line_that_is_not_whole_is_played_again(tmp_path, end):
    _, records = contest(tmp_path)
    whole = (tmp_path / "games.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "games.jsonl").write_text("".join(whole[:-1]) + end)
    player = Counting()
    assert contest(tmp_path, a=player)[1] == records
    assert not player.seats  # the last is b's alone
    assert (tmp_path / "games.jsonl").read_text() == "".join(whole)


def test_a_folder_holds_games_of_one_game(tmp_path):
    Games(tmp_path, RULES, {"a": "1"}).close()
    for rules, said in [
        (RULES | {"--seed": 2}, "--seed=1, not 2: give the same to go on with them, or another folder"),
        (RULES | {"config.environment.rules": "omar"}, "config.environment.rules='five', not 'omar'"),
        ({"--seed": 1}, "config.environment.rules='five', not None"),
    ]:
        with pytest.raises(SettingError, match=said) as error:
            Games(tmp_path, rules)
        assert str(error.value).startswith(f"{tmp_path} holds games with ")
    Games(tmp_path, {**RULES}, {"a": "1"}).close()


def test_rules_are_compared_as_they_are_read_back(tmp_path):
    for _ in range(2):
        Games(tmp_path, {"config.play.transcript_tokens": (256, 512)}).close()


def test_policies_may_come_and_none_may_become_another(tmp_path):
    for origins in ({"a": "1"}, {"b": "2"}, {}, {"a": "1", "c": "3"}):
        Games(tmp_path, RULES, origins).close()
    with pytest.raises(SettingError, match="holds games of another b, of other weights: give another folder"):
        Games(tmp_path, RULES, {"b": "1"})


def test_where_several_processes_play_all_hear_of_a_folder_that_cannot_be_used(monkeypatch, tmp_path):
    """Else the others would wait for the first for ever."""
    Games(tmp_path, RULES).close()
    sent = []
    monkeypatch.setattr(hosts, "gather", lambda mine: sent.append(mine) or [sent[0]])
    with pytest.raises(SettingError, match="--seed=1"):
        Games(tmp_path, {"--seed": 2})
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    with pytest.raises(SettingError, match="--seed=1"):
        Games(tmp_path / "nowhere", {"--seed": 2})
    assert not (tmp_path / "nowhere").exists()


def test_where_several_processes_play_all_know_what_is_over(monkeypatch, tmp_path):
    _, records = contest(tmp_path)
    first = Games(tmp_path, RULES)
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    monkeypatch.setattr(hosts, "gather", lambda mine: [(None, first._records), mine])
    other = Games(tmp_path, RULES)
    assert [other.of(line_up, 3) for line_up in LINE_UPS] == records
    other.add([{**records[0][0], "game": 3}])  # the first writes
    first.close()
    assert len(lines(tmp_path)) == 9


# ---------------------------------------------------------------- those who wait


def test_where_answers_take_long_games_end_and_are_kept_one_after_another(monkeypatch):
    """The batch would hold 256."""
    rollout, at_once = arenas.run_of(games=16).rollout, []

    class Watching(SimpleNamespace):
        def play(self, specs, *rest):
            at_once.append(len(specs))
            return rollout.play(specs, *rest)

    watching = Watching(env=rollout.env, sampler=SimpleNamespace(key=rollout.sampler.key), at_once=256)
    contestants = [Contestant("a", Counting(at_once=2)), Contestant("b", RandomPlayer())]

    def play(line_up):
        at_once.clear()
        matches.play(watching, contestants, [line_up], 20, 1, 1.0, Games(None, {}), lambda *now: None)
        return at_once

    assert play(("a", "b")) == [8, 8, 4]
    assert play(("b", "b")) == [20]
