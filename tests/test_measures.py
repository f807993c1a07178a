"""How policies talk: what is judged and kept, differences by hand, and the command with a judge behind a server."""

import json
import math

import arenas
import commands
import conversations
import numpy as np
import pytest

from omar_jax import measures
from omar_jax.envs.sotopia import Settings, Sotopia
from omar_jax.envs.sotopia_sources import load
from omar_jax.judge import JudgeSettings, Jury
from omar_jax.judge_cases import Failure
from omar_jax.judge_rubrics import MEASURES
from omar_jax.matches import Games, record
from omar_jax.runtime import StopRequested
from omar_jax.settings import SettingError

ENV = Sotopia(load(), Settings())
SIDES = ("first", "second")
A_FIRST, A_SECOND, ALONE = ("a", "b"), ("b", "a"), ("b", "b")
DEALS = 40


def judged(scores, deals=DEALS):
    """Judged games of all line-ups; `scores` by line-up and deal, [seats, measures] or None."""
    games = Games(None, {})
    for line_up in (A_FIRST, A_SECOND, ALONE):
        for deal in range(deals):
            of = scores[line_up][deal]
            named = None if of is None else [dict(zip(measures.NAMES, seat, strict=True)) for seat in of.tolist()]
            players = dict(zip(SIDES, line_up, strict=True))
            games.add([{"players": players, "game": deal, "seed": deal, "roles": SIDES, "scores": named}])
    return games


def random_scores():
    rng = np.random.default_rng(0)
    return {line_up: rng.uniform(0, 10, (DEALS, 2, len(MEASURES))) for line_up in (A_FIRST, A_SECOND, ALONE)}


def by_hand(differences, clusters):
    """The mean and the half width of its interval, cluster by cluster."""
    mean = sum(differences) / len(differences)
    sums = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference - mean
    count = len(sums)
    variance = count / (count - 1) * sum(of**2 for of in sums.values()) / len(differences) ** 2
    return mean, 1.96 * math.sqrt(variance)


def test_differences_by_hand():
    scores = random_scores()
    found = measures.compare(ENV, judged(scores), "a", "b", DEALS)
    scenarios = [ENV.reset(deal).scenario.codename for deal in range(DEALS)]
    assert found.missing == 0 and set(found.overall) == set(measures.NAMES)
    for n, name in enumerate(measures.NAMES):
        first = [scores[A_FIRST][deal][0, n] - scores[ALONE][deal][0, n] for deal in range(DEALS)]
        second = [scores[A_SECOND][deal][1, n] - scores[ALONE][deal][1, n] for deal in range(DEALS)]
        mean, margin = by_hand(first + second, scenarios + scenarios)
        of = found.overall[name]
        assert (of.difference, of.high - of.difference) == pytest.approx((mean, margin))
        assert of.a - of.b == pytest.approx(of.difference)
        for scenario, differences in found.scenarios.items():
            deals = [deal for deal in range(DEALS) if scenarios[deal] == scenario]
            mean, margin = by_hand([first[d] for d in deals] + [second[d] for d in deals], deals + deals)
            of = differences[name]
            assert (of.difference, of.high - of.difference) == pytest.approx((mean, margin))
    assert set(found.scenarios) == {name for name in scenarios if scenarios.count(name) > 1}


def test_games_without_scores_are_left_out_and_counted():
    scores = {line_up: list(of) for line_up, of in random_scores().items()}
    whole = measures.compare(ENV, judged(scores), "a", "b", DEALS)
    scores[ALONE][3] = scores[A_FIRST][5] = None
    found = measures.compare(ENV, judged(scores), "a", "b", DEALS)
    assert found.missing == 2 and found.overall != whole.overall
    nothing = {line_up: [None] * DEALS for line_up in scores}
    with pytest.raises(SettingError, match="fewer than 2 of 40 deals were judged"):
        measures.compare(ENV, judged(nothing), "a", "b", DEALS)


class Stub:
    """Scores everybody by the number of turns; fails where somebody says "fail"; stops before its third answer."""

    def __init__(self):
        self.asked, self.stops = [], False

    def scores(self, cases, rubric, most_failures):
        if self.stops and len(self.asked) >= 2:
            raise StopRequested
        assert rubric == MEASURES
        self.asked.append(len(cases))
        failure = Failure("it was dark")
        return [
            failure
            if any(said.words == "fail" for said in case.said)
            else tuple(dict.fromkeys(measures.NAMES, float(len(case.said))) for _ in case.names)
            for case in cases
        ]


def test_every_game_is_judged_once(monkeypatch, tmp_path):
    monkeypatch.setattr(measures, "AT_ONCE", 2)
    env = conversations.env()
    games = Games(None, {})
    for line_up in (A_FIRST, ALONE):
        talks = [conversations.episode(env, texts, game=n) for n, texts in enumerate((["Hi."], ["fail"], [], []))]
        games.add(record(talk, dict(zip(SIDES, line_up, strict=True))) for talk in talks[:3])
        cut = record(talks[3], dict(zip(SIDES, line_up, strict=True)))
        games.add([cut | {"rewards": None}])
    stub, told = Stub(), []
    jury = Jury(env, stub, JudgeSettings(most_failed=0.5))
    stub.stops = True
    found = Games(tmp_path, {})
    with pytest.raises(StopRequested):
        measures.measure(jury, games, found, [A_FIRST, ALONE], 4, told.append)
    found.close()
    assert told == [2, 4] and stub.asked == [2, 1]
    stub.stops, found = False, Games(tmp_path, {})
    measures.measure(jury, games, found, [A_FIRST, ALONE], 4, told.append)
    assert told[2:] == [2, 4] and stub.asked[2:] == [2, 1]
    scores = [kept["scores"] for kept in found.of(ALONE, 4)]
    found.close()
    turns = dict.fromkeys(measures.NAMES, 2.0)  # "Hi.", and somebody leaves
    assert scores == [[turns, turns], None, [dict.fromkeys(measures.NAMES, 1.0)] * 2, None]


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    with commands.of("omar_jax.arena", tmp_path_factory.mktemp("cache"), "openai", "omar_jax.datasets.sotopia") as give:
        yield give


PLAYERS = ("--config=configs/sotopia.py:smoke", "--a=scripted", "--b=scripted", "--games=12")


def test_a_judge_behind_a_server_is_asked_and_what_it_says_is_shown(arena, tmp_path):
    with arenas.serve() as server:
        server.say = lambda messages: conversations.written(len(messages[-1]["content"]) % 11, MEASURES)
        judge = ("--config.judge.backend=openai", "--config.judge.model=llama", f"--config.judge.url={server.url}")
        done = arena(*PLAYERS, "--measures", *judge, f"--out={tmp_path}")
        assert done.status == 0, done
        assert "How scripted talks, against scripted again" in done.out and "compromise seeking" in done.out
        found = json.loads((tmp_path / "measures.json").read_text())
        assert all(of["difference"] == 0 and 0 < of["a"] < 10 for of in found["overall"].values())
        assert found["missing"] == 0
        asked = len(server.requests)
        assert 0 < asked <= 36  # games are said alike, and like questions are asked once
        again = arena(*PLAYERS, "--measures", *judge, f"--out={tmp_path}")
        assert again.status == 0 and len(server.requests) == asked
    other = ("--config.judge.backend=openai", "--config.judge.model=other", f"--config.judge.url={server.url}")
    done = arena(*PLAYERS, "--measures", *other, f"--out={tmp_path}")
    assert done.status == 1 and "holds games with config.judge.model='llama', not 'other'" in done.err


def test_without_a_judge_that_reads_it_says_so(arena, tmp_path):
    for backend in ("", "rules"):
        done = arena(*PLAYERS, "--measures", f"--config.judge.backend={backend}", f"--out={tmp_path}")
        assert done.status == 1 and "--measures needs a judge that can read" in done.err
    own = ("--config.judge.backend=local", "--config.cold_start.train=true")
    done = arena(*PLAYERS, "--measures", *own, f"--out={tmp_path}")
    assert done.status == 1 and "needs a run, whose cold start judges" in done.err
