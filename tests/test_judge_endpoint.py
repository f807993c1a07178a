"""A judge behind a real HTTP server: what passes is waited for, what is no answer is asked again, then games fail."""

import time

import arenas
import conversations
import pytest

from omar_jax import judge_cases
from omar_jax.endpoint import Endpoint
from omar_jax.judge_cases import Failure
from omar_jax.judge_endpoint import EndpointJudge
from omar_jax.judge_rubrics import MEASURES, SEVEN
from omar_jax.runtime import StopRequested

ENV = conversations.env()
# No two of the same words.
CASES = [judge_cases.of_episode(ENV, conversations.episode(ENV, [f"I am number {n}.", "So."])) for n in range(6)]


def number(messages):
    """Which of the cases is asked for."""
    return next(n for n in range(len(CASES)) if f"I am number {n}." in messages[1]["content"])


def by_number(messages):
    return conversations.written(number(messages))


@pytest.fixture(scope="module")
def up():
    with arenas.serve() as server:
        yield server


@pytest.fixture
def server(up):
    up.say, up.fails, up.left, up.seconds, up.raw, up.reason = by_number, [], None, 0.0, None, "stop"
    up.requests, up.answered, up.busiest, up.cut, up.usage = [], [], 0, 0, None
    return up


@pytest.fixture
def judge(server):
    made = []

    def new(kept=None, at_once=4, timeout=10.0, retries=0, attempts=3, schema=True, **how):
        made.append(Endpoint("llama", server.url, at_once, timeout, retries, kept, **how))
        return EndpointJudge(made[-1], attempts, 500, schema)

    yield new
    for endpoint in made:
        endpoint.close()


def goals(found):
    return [of if isinstance(of, Failure) else of[1]["goal"] for of in found]


# ---------------------------------------------------------------- answers


def test_games_are_asked_for_at_once_and_each_has_its_scores(server, judge):
    server.seconds = 0.02
    found = judge().scores(CASES, SEVEN, 0)
    assert goals(found) == [0, 1, 2, 3, 4, 5]
    assert found[3][0] == {**dict.fromkeys((d.name for d in SEVEN), 3.0), "secret": 0.0, "social_rules": 0.0}
    assert len(server.requests) == 6 and 1 < server.busiest <= 4
    request = server.requests[0]
    assert request["temperature"] == 0 and request["max_tokens"] == 500
    assert request["response_format"]["json_schema"]["strict"] is True
    assert [message["role"] for message in request["messages"]] == ["system", "user"]


def test_no_schema_is_sent_where_none_is_wanted(server, judge):
    judge(schema=False).scores(CASES[:1], SEVEN, 0)
    assert "response_format" not in server.requests[0]


def test_nothing_is_paid_for_twice(server, judge, tmp_path):
    kept = tmp_path / "answers.jsonl"
    judge(kept).scores(CASES[:4], SEVEN, 0)
    assert goals(judge(kept).scores(CASES, SEVEN, 0)) == [0, 1, 2, 3, 4, 5]
    assert len(server.requests) == 6


def test_other_measures_are_asked_for_likewise(server, judge):
    server.say = lambda messages: conversations.written(number(messages), MEASURES)
    [found] = judge().scores(CASES[2:3], MEASURES, 0)
    assert found[0] == dict.fromkeys((d.name for d in MEASURES), 2.0)


# ---------------------------------------------------------------- failures


def test_what_passes_is_waited_for(server, judge):
    server.fails, server.cut = [429, 500, 503], 1
    assert goals(judge(at_once=1, retries=4).scores(CASES[:2], SEVEN, 0)) == [0, 1]
    assert len(server.requests) == 2 + 4


def test_a_bad_answer_goes_back_with_what_is_wrong_with_it(server, judge, tmp_path):
    bad = conversations.written(3).replace('"score": 3', '"score": 99', 1)
    server.say = lambda messages: bad if len(messages) == 2 else by_number(messages)
    kept = tmp_path / "answers.jsonl"
    assert goals(judge(kept).scores(CASES[2:3], SEVEN, 0)) == [2]
    first, second = server.requests
    assert second["messages"][:2] == first["messages"] and second["messages"][2] == {
        "role": "assistant",
        "content": bad,
    }
    complaint = second["messages"][3]["content"]
    assert "person_1.believability.score is 99; it must be a number from 0 to 10" in complaint
    # Both answers are kept.
    assert goals(judge(kept).scores(CASES[2:3], SEVEN, 0)) == [2] and len(server.requests) == 2


@pytest.mark.parametrize(
    "said",
    [
        "",
        "I would say 7.",
        "{}",
        conversations.written(3)[:-1],
        conversations.written(3).replace("goal", "aim"),
        "[" * 9999,
    ],
)
def test_a_game_that_is_never_answered_fails_and_is_asked_for_anew(server, judge, tmp_path, said):
    server.say, kept = lambda messages: said if number(messages) == 1 else by_number(messages), tmp_path / "answers"
    found = judge(kept).scores(CASES[:3], SEVEN, 3)
    assert [isinstance(of, Failure) for of in found] == [False, True, False]
    assert found[1].reason.startswith(f"llama at {server.url} gave no answer that can be used (")
    assert "\n" not in found[1].reason and len(found[1].reason) < 500
    assert len(server.requests) == 2 + 3
    server.say = by_number
    assert goals(judge(kept).scores(CASES[:3], SEVEN, 3)) == [0, 1, 2]
    assert len(server.requests) == 2 + 3 + 1


@pytest.mark.parametrize("raw", [("text/html", "<html>"), ("application/json", "{no"), ("application/json", "{}")])
def test_garbage_fails_a_game(server, judge, raw):
    server.raw = raw
    [found] = judge().scores(CASES[:1], SEVEN, 0)
    assert isinstance(found, Failure) and "gives no answer" in found.reason


def test_slow_answers_do_not_hold_anybody_up(server, judge):
    server.seconds = 5.0
    begun = time.monotonic()
    found = judge(timeout=0.1).scores(CASES, SEVEN, 0)
    assert all(isinstance(of, Failure) and "APITimeoutError" in of.reason for of in found)
    assert time.monotonic() - begun < 4


def test_once_too_many_failed_the_others_are_not_asked_for(server, judge):
    server.fails = [400] * 99
    found = judge(at_once=1).scores(CASES, SEVEN, 2)
    assert len(server.requests) == 3
    assert all(isinstance(of, Failure) and "400" in of.reason for of in found)


def test_a_stop_ends_the_asking(server, judge):
    def stopped():
        if len(server.requests) > 1:
            raise StopRequested

    with pytest.raises(StopRequested):
        judge(at_once=1, check=stopped).scores(CASES, SEVEN, 0)
    assert len(server.requests) == 2


# ---------------------------------------------------------------- turns


def test_turns_are_asked_for_in_one_request_a_game(server, judge):
    server.say = lambda messages: '{"1": "yes", "2": "no"}'
    case = CASES[0]
    found = judge().turns([case, CASES[1]], [case.said[1:], []], 0)
    assert found == [[True, False], []]
    [request] = server.requests
    assert '[1] Ben Okafor said: "So."\n[2] Ana Souza left' in request["messages"][1]["content"]


def test_turns_without_an_answer_are_a_failure(server, judge):
    server.say = lambda messages: '{"1": "yes"}'
    [found] = judge(attempts=2).turns(CASES[:1], [CASES[0].said], 0)
    assert isinstance(found, Failure) and "lacks 2, 3" in found.reason and len(server.requests) == 2
