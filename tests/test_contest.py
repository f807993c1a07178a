"""What games came to: rates by hand, differences of which the luck of the deal is taken away, and what is shown."""

import io
import math

import arenas
import pytest
from envs.exact_mafia import wolves_win
from rich.console import Console as RichConsole

from omar_jax import contest, elo, matches
from omar_jax.console import Console
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.matches import Contestant, Games
from omar_jax.runtime import Stop, StopRequested

ENV = arenas.run_of().env
SIDES = ("werewolves", "village")
ROLES = ("villager", "werewolf", "seer", "villager", "villager")
A_VILLAGE, A_WOLVES, ALONE = ("b", "a"), ("a", "b"), ("b", "b")


def game(number, line_up, winner, names=("a", "b")):
    """A game that is over; `winner` None: a draw, "cut": cut short."""
    rewards = [0.0 if winner is None else 1.0 if ENV.team(role) == winner else -1.0 for role in ROLES]
    return {
        "players": dict(zip(SIDES, line_up, strict=True)),
        "names": list(ENV.seat_names),
        "events": {},
        "game": number,
        "roles": list(ROLES),
        "rewards": None if winner == "cut" else rewards,
        "turns": [{"step": 0, "seat": 1, "text": "Emma"}, {"step": 1, "seat": 0, "text": "I trust Bob."}],
    }


def games_of(**winners):
    """Games of these winners by line-up, such as a_b="wwv."; "." is a draw, "x" cut short."""
    meaning = {"w": "werewolves", "v": "village", ".": None, "x": "cut"}
    games = Games(None, {})
    for line_up, of_deals in winners.items():
        games.add(game(n, tuple(line_up.split("_")), meaning[winner]) for n, winner in enumerate(of_deals))
    return games


# ---------------------------------------------------------------- by hand


def test_won_by_hand():
    records = games_of(a_b="wv.x").of(A_WOLVES, 4)
    assert contest.results(ENV, records, "werewolves").tolist() == [1, 0, 0, 0]
    assert contest.results(ENV, records, "village").tolist() == [0, 1, 0, 0]
    assert contest.results(ENV, records, "seer").tolist() == [0, 1, 0, 0]


def test_a_role_of_which_only_some_won_won_in_part():
    record = game(0, A_WOLVES, "village") | {"rewards": [1.0, 0.0, 0.5, 0.0, -1.0]}
    assert contest.results(ENV, [record], "villager").tolist() == [pytest.approx(1 / 3)]
    assert contest.results(ENV, [record], "village").tolist() == [0.5]


def test_scores_by_hand():
    records = games_of(a_b="wv.x").of(A_WOLVES, 4)
    assert contest.scores(ENV, records, "werewolves").tolist() == [1, 0, 0.5, 0.5]
    assert contest.scores(ENV, records, "village").tolist() == [0, 1, 0.5, 0.5]


def test_a_comparison_by_hand():
    found = contest.compare(ENV, games_of(a_b="wwwx", b_a="vwvv", b_b="wvwv"), "a", "b", 4)
    assert (found.a, found.b, found.num_games, found.cut) == ("a", "b", 4, 1)
    wolves, village = found.sides["werewolves"], found.sides["village"]
    assert (wolves.a, wolves.b, wolves.difference) == (0.75, 0.5, 0.25)
    assert (village.a, village.b, village.difference) == (0.75, 0.5, 0.25)
    margin = 1.96 * math.sqrt(((0.25**2) * 3 + 0.75**2) / 3) / 2  # differences 0, 1, 0, 0
    assert (wolves.low, wolves.high) == (pytest.approx(0.25 - margin), pytest.approx(0.25 + margin))
    assert found.roles["werewolf"] == wolves
    assert found.roles["seer"] == found.roles["villager"] == village
    b, a = found.ratings
    assert (b.name, b.rating) == ("b", (0, 0, 0))
    scores = [elo.Pairing(1, 0, 0, [1, 1, 1, 0.5]), elo.Pairing(0, 1, 0, [0, 1, 0, 0])]
    assert a == ("a", None, elo.ratings(scores, 2)[1])


def test_a_policy_against_itself_differs_by_nothing():
    found = contest.compare(ENV, games_of(a_b="wvwv", b_a="wvwv", b_b="wvwv"), "a", "b", 4)
    assert all((of.difference, of.low, of.high) == (0, 0, 0) for of in found.sides.values())
    assert found.ratings[1].rating == pytest.approx((0, 0, 0), abs=1e-6)


def test_all_pairs_meet_on_both_sides():
    assert contest.all_pairs(ENV, ["a", "b", "c"]) == [
        ("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b"),
    ]  # fmt: skip


def test_ratings_of_many_by_hand():
    games = games_of(a_b="wvwv", b_a="wvwv", a_c="vvvv", c_a="wwww", b_c="vvvv", c_b="wwww")
    rated = contest.rate(ENV, games, {"a": 1, "b": 2, "c": 9}, 4)
    assert [(each.name, each.iteration) for each in rated] == [("a", 1), ("b", 2), ("c", 9)]
    assert rated[1].rating.elo == pytest.approx(0, abs=1e-6) and rated[2].rating.elo > 200
    pairs = contest.pairs_json(ENV, games, ["a", "b", "c"], 4)
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs[1]["sides"] == {
        "werewolves": {"a": 0.0, "b": 1.0, "games": 4},
        "village": {"a": 0.0, "b": 1.0, "games": 4},
    }


# ---------------------------------------------------------------- played


def play(a, b, rules="five", num_games=100):
    run = arenas.run_of(rules)
    config = run.config.copy_and_resolve_references()
    config.arena.games, games = num_games, Games(None, {})
    console, stop = Console(quiet=True), Stop()
    return contest.play(run.rollout, Contestant("a", a), Contestant("b", b), config, games, console, stop), games


def covers(interval, truth):
    return interval[0] <= truth <= interval[1]


def test_players_of_the_same_habits_differ_by_luck_alone():
    """They draw otherwise, so their games do differ; the interval covers 0."""
    found, _ = play(arenas.OtherLuck(), ScriptedPlayer())
    print({side: of[2:] for side, of in found.sides.items()}, found.ratings[1].rating)
    for of in found.sides.values():
        assert of.low < 0 < of.high and of.high - of.low > 0.05
    rating = found.ratings[1].rating
    assert rating.low < 0 < rating.high and rating.high - rating.low > 20
    assert found.cut == 0


def test_scripts_win_more_than_chance_does():
    found, _ = play(ScriptedPlayer(), RandomPlayer(), num_games=150)
    assert found.sides["village"].low > 0 and found.ratings[1].rating.low > 0


def test_chance_wins_as_often_as_it_must():
    """Plain Mafia among random players, whose odds are known."""
    found, games = play(RandomPlayer(), RandomPlayer(), "mafia", 250)
    exact = float(wolves_win(7, 2, "night"))
    shown = contest.comparison_json(found)["sides"]
    print(exact, shown["werewolves"])
    assert covers(shown["werewolves"]["a_interval"], exact) and covers(shown["werewolves"]["b_interval"], exact)
    assert covers(shown["village"]["a_interval"], 1 - exact)
    assert shown["werewolves"]["difference"] == 0
    assert all(game["rewards"] for game in games.of(ALONE, 250))


def test_a_stop_is_told():
    run, stop = arenas.run_of(), Stop()
    stop.requested = True
    with pytest.raises(StopRequested):
        players = Contestant("a", RandomPlayer()), Contestant("b", RandomPlayer())
        contest.play(run.rollout, *players, run.config, Games(None, {}), Console(quiet=True), stop)


# ---------------------------------------------------------------- what is shown


@pytest.fixture
def printed(monkeypatch):
    console, said = Console(), io.StringIO()
    monkeypatch.setattr(console, "_console", RichConsole(file=said, width=80, highlight=False, soft_wrap=True))
    return console, said


def test_the_tables_fit_a_terminal(printed):
    console, said = printed
    found = contest.compare(ENV, games_of(a_b=10 * "wwwx", b_a=10 * "vwvv", b_b=10 * "wvwv"), "a", "b", 40)
    contest.show(console, found, [game(0, A_WOLVES, "werewolves")])
    lines = said.getvalue().splitlines()
    assert max(len(line) for line in lines if line[0] in "┏│└") <= 80
    assert "│ werewolves │ 75.0% (60 to 86) │ 50.0% (35 to 65) │ +25.0 (+11.4 to +38.6) │" in lines
    assert not any("villager" in line for line in lines)  # as the village
    assert "10 of 120 games are nobody's: too long for config.play.transcript_tokens or cue_tokens" in lines
    assert any(line.startswith("Elo of a over b: +") for line in lines)
    assert lines[-2:] == ["From a game of a as werewolves:", "  Alice: I trust Bob."]


def test_where_nothing_was_said_or_cut_nothing_is_shown(printed):
    console, said = printed
    found = contest.compare(ENV, games_of(a_b="ww", b_a="vw", b_b="wv"), "a", "b", 2)
    contest.show(console, found, [game(0, A_WOLVES, "werewolves") | {"turns": []}])
    assert said.getvalue().splitlines()[-1].startswith("Elo of a over b: ")


def test_the_best_stands_first(printed):
    console, said = printed
    rated = [
        contest.Rated("a", 0, elo.Rating(0, 0, 0)),
        contest.Rated("b", 1, elo.Rating(-3.6, -9, -0.2)),
        contest.Rated("c", 2, elo.Rating(12.4, -1, 20)),
    ]
    console.table(contest.ratings_table(rated, 7))
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.getvalue().splitlines() if "│" in line]
    assert shown == [["c", "+12", "-1 to +20"], ["a", "+0", "+0 to +0"], ["b", "-4", "-9 to +0"]]


def test_the_json_says_everything():
    found = contest.compare(ENV, games_of(a_b="wwwx", b_a="vwvv", b_b="wvwv"), "a", "b", 4)
    shown = contest.comparison_json(found)
    assert {name: shown[name] for name in ("a", "b", "games", "seeds", "cut")} == {
        "a": "a", "b": "b", "games": 12, "seeds": 4, "cut": 1,
    }  # fmt: skip
    assert shown["sides"].keys() == set(SIDES) and shown["roles"].keys() == {"werewolf", "seer", "villager"}
    wolves = shown["sides"]["werewolves"]
    assert (wolves["a"], wolves["b"], wolves["difference"], wolves["games"]) == (0.75, 0.5, 0.25, 4)
    assert covers(wolves["interval"], 0.25) and covers(wolves["a_interval"], 0.75) and covers(wolves["b_interval"], 0.5)
    assert [each["name"] for each in shown["elo"]] == ["b", "a"]
    assert covers(shown["elo"][1]["interval"], shown["elo"][1]["elo"])


def test_wanted_are_a_on_every_side_and_b_alone():
    assert contest.wanted(ENV, "a", "b") == [A_WOLVES, A_VILLAGE, ALONE]
    assert matches.sides(ENV) == SIDES
