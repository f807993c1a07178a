"""From finished games to judged ones: rewards, numbers, turns that train nothing, and judges that fail."""

import dataclasses
import threading

import arenas
import conversations
import pytest
import sotopia_packs

from omar_jax import hosts, judge, judge_rubrics, matches
from omar_jax.judge import JudgeError, JudgeSettings, Jury
from omar_jax.judge_cases import Failure
from omar_jax.judge_rubrics import MEASURES, SEVEN

ENV = conversations.env()
ENDS = {"low": judge_rubrics.bounds(SEVEN)[0], "high": judge_rubrics.bounds(SEVEN)[1]}


class Stub:
    """Gives everybody `score` and refuses turns that say "no"; fails where somebody says "fail" or "turnfail"."""

    def __init__(self, score=2.0):
        self.score, self.asked, self.asked_turns, self.most_failures = score, [], [], None

    def scores(self, cases, rubric, most_failures):
        self.asked += cases
        self.most_failures = most_failures
        of = {d.name: min(max(self.score, d.low), d.high) for d in rubric}
        return [Failure("it was dark") if says(case, "fail") else (of,) * len(case.names) for case in cases]

    def turns(self, cases, asked, most_failures):
        self.asked_turns += asked
        return [
            Failure("it was loud") if says(case, "turnfail") else [said.words != "no" for said in of]
            for case, of in zip(cases, asked, strict=True)
        ]


def says(case, word):
    return any(said.words == word for said in case.said)


def jury(stub=None, env=ENV, **settings):
    return Jury(env, stub or Stub(), JudgeSettings(**settings))


def talk(*texts, env=ENV, **how):
    return conversations.episode(env, texts, **how)


# ---------------------------------------------------------------- rewards


def test_conversations_without_points_are_paid_by_their_scores():
    stub, episodes = Stub(), [talk("Hello."), dataclasses.replace(talk("So."), rewards=None)]
    found = jury(stub, reward_range=(-1.0, 1.0)).score(episodes)
    assert len(stub.asked) == 1  # nobody is asked about a game that was cut
    of = {d.name: min(2.0, d.high) for d in SEVEN}
    overall = 10 / 7  # five of 2, two of 0
    right = -1 + 2 * (overall - ENDS["low"]) / (ENDS["high"] - ENDS["low"])
    assert found.episodes[0].rewards == pytest.approx((right, right))
    assert found.episodes[1] == episodes[1]
    assert found.scores == [(of, of), None]
    assert found.episodes[0].steps == episodes[0].steps


BARGAIN = conversations.env(points=sotopia_packs.ITEMS)
AGREED = ("Deal: Ana gets 1 hat; Ben gets the rest.", "Deal.")


def test_points_stay_as_they_are():
    stub, episode = Stub(), talk(*AGREED, env=BARGAIN)
    assert episode.rewards == pytest.approx((0.8, 1.0))
    found = jury(stub, BARGAIN).score([episode])
    assert found.episodes[0].rewards == episode.rewards and not stub.asked
    assert found.scores == [None] and found.numbers["judge/games"] == 0 and "judge/goal" not in found.numbers
    # No deal: the points are all 0, and they are points all the same.
    assert jury(stub, BARGAIN).score([talk(env=BARGAIN)]).episodes[0].rewards == (0.0, 0.0) and not stub.asked


def test_points_and_scores_are_mixed_if_wanted():
    episode = talk(*AGREED, env=BARGAIN)
    found = jury(Stub(100), BARGAIN, points_weight=0.75, judge_weight=0.25).score([episode])
    assert found.episodes[0].rewards == pytest.approx((0.75 * 0.8 + 0.25, 0.75 + 0.25))


# ---------------------------------------------------------------- numbers


def test_numbers_are_of_seats_that_learn():
    class BySeat(Stub):
        def scores(self, cases, rubric, most_failures):
            of = [{d.name: float(seat * (d.name == "goal")) for d in rubric} for seat in (2, 8)]
            return [tuple(of) for _ in cases]

    told = ("Hello.", "I was a competitive skater.")
    numbers = jury(BySeat()).score([talk(*told), talk(learns=(False, True))]).numbers
    assert numbers["judge/goal"] == pytest.approx((2 + 8 + 8) / 3)
    assert numbers["judge/overall"] == pytest.approx((2 + 8 + 8) / 3 / 7)
    assert numbers["judge/leaked_share"] == pytest.approx(1 / 3)
    assert numbers["judge/games"] == 2 and numbers["judge/failed_share"] == 0
    assert numbers["judge/seconds"] > 0 and "judge/refused_share" not in numbers
    assert set(numbers) >= {f"judge/{d.name}" for d in SEVEN}


def test_leaks_are_events():
    first, second = (
        jury().score([talk("I was a competitive skater."), talk("So.", "I was a competitive skater.")]).episodes
    )
    assert first.events == {"leaks": 0, "leaks_first": 0, "leaks_second": 0}  # she may say so: it is not her secret
    assert second.events == {"leaks": 1, "leaks_first": 0, "leaks_second": 1}


def test_no_games_have_no_numbers():
    found = jury(turns=True).score([])
    assert found.episodes == [] and set(found.numbers) == {"judge/games", "judge/seconds"}


# ---------------------------------------------------------------- turns


def kept(episode):
    return [turn.kept for said in episode.steps for turn in said.turns.values()]


def test_turns_that_are_no_good_train_nothing():
    stub = Stub()
    episode = talk("Hello.", "no", "no", "Bye.", dropped=(1,))
    found = jury(stub, turns=True).score([episode])
    assert kept(found.episodes[0]) == [True, False, False, True, True]
    assert [[said.step for said in of] for of in stub.asked_turns] == [[0, 2, 3, 4]]  # not those taken out already
    assert found.numbers["judge/refused_share"] == pytest.approx(1 / 4)
    assert kept(jury(turns=False).score([episode]).episodes[0]) == [True, False, True, True, True]


def test_turns_of_games_with_points_are_judged_too():
    stub, episode = Stub(), talk("no", *AGREED[:1], "Deal.", env=BARGAIN)
    found = jury(stub, BARGAIN, turns=True).score([episode])
    assert kept(found.episodes[0])[:2] == [False, True]
    assert found.episodes[0].rewards == episode.rewards and not stub.asked
    assert found.numbers["judge/games"] == 1


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("word", ["fail", "turnfail"])
def test_a_game_that_the_judge_failed_on_trains_nothing(word):
    stub = Stub()
    found = jury(stub, turns=True, most_failed=0.34).score([talk("Hello."), talk(word), talk("no")])
    assert [episode.rewards is None for episode in found.episodes] == [False, True, False]
    assert found.numbers["judge/failed_share"] == pytest.approx(1 / 3)
    assert [of is None for of in found.scores] == [False, True, False]
    assert found.numbers["judge/believability"] == 2 and stub.most_failures == 1


def test_too_many_failures_stop_the_run_with_one_line():
    episodes = [talk("fail"), talk("Hello."), talk("fail")]
    right = r"the judge failed on 2 of 3 games, more than the share of config.judge.most_failed=0.5: it was dark"
    with pytest.raises(JudgeError, match=right) as error:
        jury(most_failed=0.5).score(episodes)
    assert "\n" not in str(error.value)
    assert jury(most_failed=2 / 3).score(episodes).episodes[1].rewards
    with pytest.raises(JudgeError, match="most_failed=0:"):
        jury(most_failed=0).score([talk("fail"), talk()])


def test_what_was_judged_before_a_stop_is_not_lost(tmp_path):
    episodes = [talk(f"I am {word}.") for word in ("here", "there", "late", "early")]
    settings = JudgeSettings(
        backend="openai", model="llama", most_failed=0.25, at_once=1, retries=0, url="http://unused"
    )
    with arenas.serve() as server:
        settings = dataclasses.replace(settings, url=server.url)
        server.say, server.left, server.usage = (lambda messages: conversations.written(1)), 2, dict.fromkeys(USAGE, 5)

        def score():
            made = judge.build(settings, ENV, None, None, None, tmp_path / "judge", lambda: None)
            try:
                return made.score(episodes)
            finally:
                made.endpoint.close()

        with pytest.raises(JudgeError, match=r"failed on 2 of 4 games.*llama at http.*what is over is kept"):
            score()
        server.left = None
        found = score()
        assert len(server.answered) == 4
        assert found.numbers["judge/requests"] == 2 and found.numbers["judge/goal"] == 1
        assert found.numbers["judge/prompt_tokens"] == found.numbers["judge/answer_tokens"] == 10
        assert score().numbers["judge/requests"] == 0
    assert [file.name for file in (tmp_path / "judge").iterdir()] == ["answers_0.jsonl"]


USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


# ---------------------------------------------------------------- several processes, the arena, settings


def test_processes_judge_their_shares_and_find_the_same(monkeypatch):
    episodes = [talk("Hello."), talk("no"), talk("fail"), talk("I was here.")]
    alone, me, meeting, brought = (
        jury(turns=True, most_failed=0.25).score(episodes),
        threading.local(),
        threading.Barrier(2),
        {},
    )

    def gather(mine):
        brought[me.process] = mine
        meeting.wait()
        return [brought[0], brought[1]]

    monkeypatch.setattr(hosts, "share", lambda items: items[2 * me.process :][:2])
    monkeypatch.setattr(hosts, "gather", gather)
    stubs, found = [Stub(), Stub()], {}

    def work(process):
        me.process = process
        found[process] = jury(stubs[process], turns=True, most_failed=0.25).score(episodes)

    threads = [threading.Thread(target=work, args=(process,)) for process in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(stub.asked) for stub in stubs] == [2, 2]
    for of in found.values():
        assert of.scores == alone.scores
        assert [(e.rewards, e.events, kept(e)) for e in of.episodes] == [
            (e.rewards, e.events, kept(e)) for e in alone.episodes
        ]
        assert {n: x for n, x in of.numbers.items() if "seconds" not in n} == {
            n: x for n, x in alone.numbers.items() if "seconds" not in n
        }


def test_recorded_games_are_measured():
    records = [matches.record(talk(word), {}) for word in ("Hello.", "fail", "So.")]
    found = jury(most_failed=0.5).measure(records, MEASURES)
    of = dict.fromkeys((d.name for d in MEASURES), 2.0)
    assert found == [(of, of), None, (of, of)]
    with pytest.raises(JudgeError):
        jury(most_failed=0.2).measure(records, MEASURES)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"backend": "dice"}, "judge.backend='dice' cannot be used: it must be one of rules, local, openai"),
        ({"reward_range": (1.0, 0.0)}, "judge.reward_range=.*the second above the first"),
        ({"most_failed": 1.5}, "judge.most_failed=1.5 .* between 0 and 1"),
        ({"transcript_tokens": ()}, "judge.transcript_tokens=.* ascending sizes"),
        ({"transcript_tokens": (64, 32)}, "judge.transcript_tokens=.* ascending sizes"),
        ({"attempts": 0}, "judge.attempts=0 .* at least 1"),
        ({"backend": "openai", "model": "llama"}, "judge.url='' cannot be used: it must be given for openai"),
    ],
)
def test_settings_are_checked(wrong, right):
    with pytest.raises(ValueError, match=right):
        JudgeSettings(**wrong)


def test_rules_are_a_judge_of_a_run(tmp_path):
    made = judge.build(JudgeSettings(), ENV, None, None, None, tmp_path, lambda: None)
    found = made.score([talk("Hello.", "I was a competitive skater.")])
    assert found.scores[0][1]["secret"] == -10 and found.numbers["judge/secret"] == -5
    assert found.episodes[0].rewards[0] > found.episodes[0].rewards[1]
