"""Models behind endpoints: asked with patience and never twice, and told what their seat has heard and nothing else."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import arenas
import numpy as np
import pytest

from omar_jax.endpoint import INSTRUCTIONS, Endpoint, EndpointError, EndpointPlayer
from omar_jax.envs.base import Ask
from omar_jax.runtime import StopRequested
from omar_jax.tables import Game

QUESTION = [{"role": "user", "content": "Who is it?"}]


@pytest.fixture(scope="module")
def up():
    with arenas.serve() as server:
        yield server


@pytest.fixture
def server(up):
    """As new."""
    up.say, up.fails, up.left, up.seconds, up.raw, up.reason = arenas.choose, [], None, 0.0, None, "stop"
    up.requests, up.answered, up.busiest, up.cut, up.usage = [], [], 0, 0, None
    return up


@pytest.fixture
def ask(server):
    """Makes endpoints that are closed at the end."""
    made = []

    def endpoint(kept=None, at_once=8, timeout=10.0, retries=0, **how):
        made.append(Endpoint("llama", server.url, at_once, timeout, retries, kept, **how))
        return made[-1]

    yield endpoint
    for each in made:
        each.close()


# ---------------------------------------------------------------- answers


def test_a_question_is_put_as_the_protocol_says(server, ask):
    server.say = lambda messages: " Bob.\n"
    assert ask().answer(QUESTION, max_tokens=7, temperature=0.5) == "Bob."
    assert server.requests == [{"model": "llama", "messages": QUESTION, "max_tokens": 7, "temperature": 0.5}]


def test_the_same_question_is_asked_once(server, ask, tmp_path):
    kept = tmp_path / "folder" / "answers.jsonl"
    one = ask(kept)
    for _ in range(2):
        one.answer(QUESTION, occasion=1)
    one.answer(QUESTION, occasion=2)
    one.answer(QUESTION, occasion=1, temperature=0.5)
    assert len(server.requests) == len(kept.read_text().splitlines()) == 3
    another = ask(kept)
    assert another.answer(QUESTION, occasion=2) == one.answer(QUESTION, occasion=2)
    assert len(server.requests) == 3
    another.answer(QUESTION, occasion=3)
    assert len(server.requests) == 4


def test_half_an_answer_is_asked_for_again_and_spoils_no_other(server, ask, tmp_path):
    """A process was killed while it wrote."""
    kept = tmp_path / "answers.jsonl"
    first = ask(kept)
    for occasion in range(3):
        first.answer(QUESTION, occasion)
    whole = kept.read_text()
    kept.write_text(whole[:-9])
    again = ask(kept)
    for occasion in (2, 3, 0, 1):
        again.answer(QUESTION, occasion)
    assert len(server.requests) == 5  # three, the half one, a new one
    assert [len(json.loads(line)) for line in kept.read_text().splitlines()] == [2] * 4
    assert kept.read_text().startswith(whole)


def test_what_is_forgotten_is_asked_again(server, ask, tmp_path):
    kept = tmp_path / "answers.jsonl"
    one = ask(kept)
    for occasion in range(2):
        one.answer(QUESTION, occasion, temperature=0.5)
    one.forget(QUESTION, 0, temperature=0.5)
    another = ask(kept)
    for endpoint in (one, another):
        for occasion in (0, 0, 1):
            endpoint.answer(QUESTION, occasion, temperature=0.5)
    assert len(server.requests) == 4  # two, and the forgotten one by each
    ask(kept).answer(QUESTION, 0, temperature=0.5)
    assert len(server.requests) == 4


def test_costs_are_counted(server, ask):
    endpoint = ask(retries=3)
    assert endpoint.cost == (0, 0, 0)
    server.fails, server.usage = [429, 500], {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    for _ in range(2):
        endpoint.answer(QUESTION)
    assert endpoint.cost == (3, 7, 2)  # every request, whether it was answered or not; none for what is known
    for occasion, usage in enumerate([None, "none", [], {"prompt_tokens": "many"}]):
        server.usage = usage
        endpoint.answer(QUESTION, occasion)
        assert endpoint.cost == (4 + occasion, 7, 2)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("<think>Bob is odd.</think>\n\nBob", "Bob"),
        ("Bob is odd.</think>Bob", "Bob"),  # the template opened the thought
        ("Bob<think>Or is it", "Bob"),
        ("", ""),
        (None, ""),
    ],
)
def test_thoughts_are_not_heard(server, ask, said, heard):
    server.say = lambda messages: said
    assert ask().answer(QUESTION) == heard


def test_a_model_that_only_thinks_is_no_player(server, ask):
    server.say, server.reason = lambda messages: "<think>It may be Bob, or", "length"
    with pytest.raises(EndpointError, match="no tokens left for words: serve it without thinking"):
        ask().answer(QUESTION)


# ---------------------------------------------------------------- failures


def test_what_passes_is_waited_for(server, ask):
    server.fails = [429, 500, 503]
    assert ask(retries=3).answer(QUESTION) == arenas.choose(QUESTION)
    assert len(server.requests) == 4


def one_line(error):
    said = str(error.value)
    assert "\n" not in said and len(said) < 400
    return said


def test_patience_ends(server, ask):
    server.fails = [500] * 9
    with pytest.raises(EndpointError, match="not now: 500") as error:
        ask(retries=2).answer(QUESTION)
    said = one_line(error)
    assert said.startswith(f"llama at {server.url} gives no answer (InternalServerError: ")
    assert said.endswith("what is over is kept, and the same command goes on")
    assert len(server.requests) == 3


def test_a_refusal_is_not_asked_again(server, ask):
    server.fails = [401]
    with pytest.raises(EndpointError, match=r"gives no answer \(AuthenticationError: .*401"):
        ask(retries=5).answer(QUESTION)
    assert len(server.requests) == 1


def test_an_answer_that_ends_in_the_middle_is_asked_for_again(server, ask):
    server.cut = 1
    assert ask(retries=1).answer(QUESTION) == arenas.choose(QUESTION)
    assert len(server.requests) == 2
    server.cut = 2
    with pytest.raises(EndpointError, match=r"gives no answer \(APIConnectionError: "):
        ask(retries=1).answer(QUESTION, 1)


def test_answers_that_take_too_long_are_an_error(server, ask):
    server.seconds = 0.5
    with pytest.raises(EndpointError, match=r"gives no answer \(APITimeoutError: ") as error:
        ask(timeout=0.1).answer(QUESTION)
    one_line(error)


def test_an_endpoint_that_is_down_is_an_error():
    with arenas.serve() as server:
        url = server.url
    endpoint = Endpoint("llama", url, 1, 1.0, 0)
    with pytest.raises(EndpointError, match=rf"llama at {url} gives no answer \(APIConnectionError: ") as error:
        endpoint.answer(QUESTION)
    endpoint.close()
    one_line(error)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text/html", "<html>\nWelcome\n</html>"),
        ("application/json", "{no"),
        ("application/json", ""),
        ("application/json", "{}"),
        ("application/json", "null"),
        ("application/json", '{"error": {"message": "no credit"}}'),
        ("application/json", '{"choices": []}'),
        ("application/json", '{"choices": [{}]}'),
        ("application/json", '{"choices": [{"message": {"content": [1]}}]}'),
    ],
)
def test_garbage_is_an_error_and_not_kept(server, ask, tmp_path, kind, content):
    server.raw = (kind, content)
    with pytest.raises(EndpointError, match="gives no answer") as error:
        ask(tmp_path / "answers.jsonl").answer(QUESTION)
    one_line(error)
    assert not (tmp_path / "answers.jsonl").exists()


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(EndpointError, match="pip install openai"):
        Endpoint("llama", "http://127.0.0.1:1/v1", 1, 1.0, 0)


def test_a_stop_ends_the_asking(server, ask):
    def stopped():
        raise StopRequested

    with pytest.raises(StopRequested):
        ask(check=stopped).answer(QUESTION)
    assert not server.requests


def test_many_may_ask_at_once(server, ask, tmp_path):
    server.seconds = 0.01
    endpoint = ask(tmp_path / "answers.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda occasion: endpoint.answer(QUESTION, occasion), range(40)))
    assert server.busiest > 1
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len({json.loads(line)[0] for line in lines}) == len(lines) == 40


# ---------------------------------------------------------------- players


def act(endpoint, ask, heard=("Day 1.",)):
    return EndpointPlayer(endpoint, 0.5).act(None, None, 0, ask, heard, np.random.default_rng(0))


def test_a_player_says_one_line(server, ask):
    server.say = lambda messages: "\n\n  I trust Bob. \nAlice: me too."
    assert act(ask(), Ask("Carol the villager says:", 24)) == "I trust Bob."
    [request] = server.requests
    assert request["max_tokens"] == 48 and request["temperature"] == 0.5
    assert request["messages"] == [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": "Day 1.\nCarol the villager says:"},
    ]
    server.say = lambda messages: " \n"
    assert act(ask(), Ask("Carol the villager says:", 24)) == ""


def test_options_are_named(server, ask):
    assert act(ask(), Ask("Carol votes for:", 8, ("Bob", "Emma"))) in ("Bob", "Emma")
    assert server.requests[0]["messages"][1]["content"] == "Day 1.\nCarol votes for:\n(One of: Bob, Emma.)"


class Notes:
    """In an endpoint's place: notes what it is asked."""

    def __init__(self, at_once=1):
        self.at_once, self.questions = at_once, []

    def answer(self, messages, occasion, **options):
        self.questions.append(messages[-1]["content"])
        return arenas.choose(messages)


def play(player, rules, games=3):
    rollout = arenas.run_of(rules).rollout
    specs = [Game(number, number, lambda roles: [player] * len(roles)) for number in range(games)]
    return rollout.play(specs, [], rollout.sampler.key(0))[0]


@pytest.mark.parametrize("rules", ["omar", "sotopia"])
def test_a_player_is_told_what_its_seat_has_heard_and_nothing_else(rules):
    notes = Notes()
    episodes = play(EndpointPlayer(notes, 1.0), rules)
    env, asked = arenas.run_of(rules).env, 0
    for episode in episodes:
        now, heard, cards = env.step(env.reset(episode.seed), {}), {seat: [] for seat in range(env.num_seats)}, None
        for said in episode.steps:
            cards = cards or now.private
            for seat in heard:
                heard[seat] += [text for text in (now.public, now.private.get(seat)) if text]
            if not said.turns:
                break
            for seat, ask in now.asks.items():
                options = [f"(One of: {', '.join(ask.options)}.)"] if ask.options else []
                question = "\n".join([*heard[seat], ask.cue, *options])
                assert question in notes.questions
                asked += 1
                assert cards[seat] in question
                others = set(env.seat_names) - {env.seat_names[seat]}
                assert not any(f"You are {name}," in question for name in others)
            now = env.step(now.state, {seat: turn.text for seat, turn in said.turns.items()})
    assert asked == len(notes.questions) > 40
    assert any("partner" in question for question in notes.questions)  # secrets were told, to those whom they concern


def test_those_who_wait_are_asked_at_once_and_play_the_same_games(server, ask):
    server.seconds = 0.005
    alone = play(EndpointPlayer(Notes(), 1.0), "five")
    endpoint = ask(at_once=3)
    together = play(EndpointPlayer(endpoint, 1.0), "five")
    assert 1 < server.busiest <= 3
    assert [episode.transcript for episode in together] == [episode.transcript for episode in alone]
