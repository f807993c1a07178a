"""What judges are told, and that nothing but a whole answer is taken for one."""

import json

import conversations
import hypothesis
import hypothesis.strategies as st
import pytest

from omar_jax import judge_cases, judge_text
from omar_jax.judge_rubrics import MEASURES, SEVEN
from omar_jax.judge_text import AnswerError, read_scores, read_turns

many = hypothesis.settings(max_examples=60, derandomize=True)

SCORES = {d.name: {"reason": "So it was.", "score": d.high} for d in SEVEN}
ANSWER = {"person_1": SCORES, "person_2": {name: of | {"score": 0} for name, of in SCORES.items()}}


def case(texts=("Hello.", "Hi there.")):
    env = conversations.env()
    return judge_cases.of_episode(env, conversations.episode(env, texts))


# ---------------------------------------------------------------- questions


def test_a_judge_is_told_everything():
    told = judge_text.score_messages(case(), SEVEN)[1]["content"]
    for words in ("They meet. It is a trap.", "Ben Okafor hides: " + conversations.SKATER, 'Ana Souza said: "Hello."'):
        assert words in told
    assert "Ana Souza hides" not in told
    assert "person_1 is Ana Souza, person_2 is Ben Okafor" in told
    for d in SEVEN:
        assert f"{d.name}, from {d.low} to {d.high}: " in told


def test_turns_are_numbered_where_they_are_asked_for():
    of = case(("Hello.", "Hi there.", "So."))
    told = judge_text.turn_messages(of, [of.said[1], of.said[2]])[1]["content"]
    assert '\nAna Souza said: "Hello."\n[1] Ben Okafor said: "Hi there."\n[2] Ana Souza said: "So."\n' in told


@pytest.mark.parametrize("rubric", [SEVEN, MEASURES])
def test_the_schema_asks_for_exactly_what_is_read(rubric):
    schema = judge_text.score_schema(rubric, 2)
    answer = made_by(schema)
    assert len(read_scores(json.dumps(answer), rubric, 2)) == 2
    assert read_turns(json.dumps(made_by(judge_text.turn_schema(3))), 3) == [True] * 3


def made_by(schema):
    """The smallest value of a schema."""
    if schema["type"] == "object":
        assert schema["additionalProperties"] is False and schema["required"] == list(schema["properties"])
        return {name: made_by(of) for name, of in schema["properties"].items()}
    return schema["enum"][0] if "enum" in schema else schema.get("minimum", "because")


# ---------------------------------------------------------------- answers


def test_a_whole_answer_is_read():
    first, second = read_scores(json.dumps(ANSWER), SEVEN, 2)
    assert first == {d.name: float(d.high) for d in SEVEN} and second == {d.name: 0.0 for d in SEVEN}
    assert list(first) == [d.name for d in SEVEN]
    shuffled = {person: dict(reversed(of.items())) for person, of in reversed(ANSWER.items())}
    assert read_scores(f"```json\n{json.dumps(shuffled)}\n```", SEVEN, 2) == (first, second)


def changed(*path, to=None, without=False):
    answer = json.loads(json.dumps(ANSWER))
    inner = answer
    for name in path[:-1]:
        inner = inner[name]
    inner.pop(path[-1], None) if without else inner.update({path[-1]: to})
    return answer


GOAL = ("person_2", "goal")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (changed(*GOAL, "score", to=10.5), r"person_2.goal.score is 10.5; it must be a number from 0 to 10"),
        (changed(*GOAL, "score", to="7"), r'goal.score is "7"; it must be a number'),
        (changed(*GOAL, "score", to=True), "goal.score is true"),
        (changed(*GOAL, "score", to=None), "goal.score is null"),
        (changed("person_1", "secret", "score", to=1), "person_1.secret.score is 1; it must be a number from -10 to 0"),
        (changed(*GOAL, "reason", to=3), "goal.reason is 3; it must be text"),
        (changed(*GOAL, "reason", without=True), "person_2.goal lacks reason"),
        (changed(*GOAL, to=7), "person_2.goal is 7; it must be an object with reason, score"),
        (changed(*GOAL, without=True), "person_2 lacks goal"),
        (changed("person_2", without=True), "the answer lacks person_2"),
        (changed("person_2", "charm", to=3), 'person_2 has "charm"; it must have only believability, '),
        ([ANSWER], "the answer is .* it must be an object with person_1, person_2"),
    ],
)
def test_what_is_wrong_is_named(answer, complaint):
    with pytest.raises(AnswerError, match=complaint):
        read_scores(json.dumps(answer), SEVEN, 2)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("", "is no JSON"),
        ("Here you are: " + json.dumps(ANSWER), "is no JSON"),
        (json.dumps(ANSWER)[:-1], "is no JSON"),
        (json.dumps(ANSWER) + "\nI hope this helps.", "is no JSON"),
        (json.dumps(changed(*GOAL, "score", to=float("nan"))), "NaN is no number in JSON"),
        (json.dumps(changed(*GOAL, "score", to=float("inf"))), "Infinity is no number"),
        (json.dumps(ANSWER).replace('"score": 0', '"score": 1e999', 1), "score is Infinity; it must be"),
        (json.dumps(ANSWER).replace('"score": 0', f'"score": 1{"0" * 4000}', 1), "it must be a number from"),
        (json.dumps(ANSWER).replace('"score": 0', f'"score": 1{"0" * 5000}', 1), "is no JSON"),
        (json.dumps(ANSWER).replace('"score": 0', '"score": 0, "score": 1', 1), '"score" is given twice'),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
    ],
)
def test_what_is_no_answer_is_refused(answer, complaint):
    with pytest.raises(AnswerError, match=complaint) as error:
        read_scores(answer, SEVEN, 2)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"1": "yes"}, "the answer lacks 2"),
        ({"1": "yes", "2": "no", "3": "no"}, 'the answer has "3"; it must have only 1, 2'),
        ({"1": "yes", "2": "maybe"}, "2 is \"maybe\"; it must be 'yes' or 'no'"),
        ({"1": "yes", "2": True}, "2 is true"),
        ({"1": "yes", "2": ["no"]}, "must be 'yes' or 'no'"),
        ("yes", "must be an object with 1, 2"),
    ],
)
def test_yes_and_no_are_all_that_counts_for_turns(answer, complaint):
    with pytest.raises(AnswerError, match=complaint):
        read_turns(json.dumps(answer), 2)
    assert read_turns('{"2": "no", "1": "yes"}', 2) == [True, False]


# ---------------------------------------------------------------- whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from([*ANSWER, *SCORES, "reason", "score", "1"]) | st.text(), inner)
    ),
    max_leaves=20,
)


@many
@hypothesis.given(JSON.map(json.dumps) | st.text())
def test_whatever_is_said_is_refused_and_nothing_breaks(said):
    with pytest.raises(AnswerError):
        read_scores(said, SEVEN, 2)
    with pytest.raises(AnswerError):
        read_turns(said, 2)


@many
@hypothesis.given(st.data())
def test_exactly_the_scores_in_range_are_taken(data):
    numbers = st.integers(-12, 12) | st.floats(-12, 12)
    given = {d.name: data.draw(numbers) for d in SEVEN}
    answer = changed("person_1", to={name: {"reason": "", "score": score} for name, score in given.items()})
    if all(d.low <= given[d.name] <= d.high for d in SEVEN):
        assert read_scores(json.dumps(answer), SEVEN, 2)[0] == given
    else:
        with pytest.raises(AnswerError, match="it must be a number from"):
            read_scores(json.dumps(answer), SEVEN, 2)


@many
@hypothesis.given(st.data(), JSON)
def test_an_answer_with_anything_changed_is_refused_or_still_in_range(data, value):
    path = [data.draw(st.sampled_from(["person_1", "person_2"])), data.draw(st.sampled_from(sorted(SCORES)))]
    path = [*path, data.draw(st.sampled_from(["reason", "score"]))][: data.draw(st.integers(1, 3))]
    try:
        scores = read_scores(json.dumps(changed(*path, to=value)), SEVEN, 2)
    except AnswerError:
        return
    assert all(d.low <= of[d.name] <= d.high for of in scores for d in SEVEN)
