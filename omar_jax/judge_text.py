"""All wording of judges: how a case and its questions are told to a model, and how a model's written answers are read.

The life of a written answer: the model is told the case, the rubric and the shape of the answer (`score_messages`,
`turn_messages`; `score_schema`, `turn_schema` say the shape to endpoints that can hold a model to it); what it writes
is read strictly (`read_scores`, `read_turns`), and where it is not exactly that, the AnswerError says in words what is
wrong, for the model to mend.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omar_jax.judge_cases import Case, Said
from omar_jax.judge_rubrics import Rubric, Scores

YES, NO = "yes", "no"
LEFT_OUT = "(What was said before is left out here.)"
CLOSING = "(The conversation is over.)"
_OPENING = "You judge a conversation in which everybody plays a role. You know what each of them wants and hides."
_EXACTLY = "Answer with one JSON object and nothing else"
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_SHOWN = 60  # most characters of a wrong value in a complaint

Messages = list[dict[str, str]]


class AnswerError(ValueError):
    """A written answer that cannot be used; the message says what would be right."""


# ------------------------------------------------------------------ cases
def about(case: Case) -> list[str]:
    """What a judge is told before the conversation, line by line."""
    lines = [_OPENING, f"Scenario: {case.scenario}"]
    for name, person, goal, secret in zip(case.names, case.people, case.goals, case.secrets, strict=True):
        lines.append(f"{name}: {person}")
        lines.append(f"{name}'s goal: {goal}")
        lines += [f"{name} hides: {secret}"] * bool(secret)
    return [*lines, "The conversation:"]


def score_question(question: str, low: int, high: int) -> tuple[str, str]:
    """(what is asked after the conversation, what the answer follows on) of one dimension, for a small model."""
    return f"{CLOSING}\n{question}", f"Score from {low} to {high}:"


def turn_question(name: str) -> tuple[str, str]:
    """Likewise, whether the turn said last is any good."""
    asked = (
        f"(So far.) Is the last turn a turn that {name} could take here: one that can be understood, that fits what "
        "was said before and does more than say it again?"
    )
    return asked, f"{YES} or {NO}:"


# ------------------------------------------------------------------ written answers: scores
def _person(seat: int) -> str:
    """What an answer calls a seat."""
    return f"person_{seat + 1}"


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _told(case: Case, lines: Sequence[str], task: Sequence[str]) -> Messages:
    who = ", ".join(f"{_person(seat)} is {name}" for seat, name in enumerate(case.names))
    told = "\n".join([*about(case)[1:], *lines, CLOSING, "", f"In your answer {who}.", *task])
    return [{"role": "system", "content": _OPENING}, {"role": "user", "content": told}]


def score_messages(case: Case, rubric: Rubric) -> Messages:
    """Asks for all scores of a game, each after a reason."""
    task = [f"Judge each of them in {len(rubric)} ways:"]
    task += [f"* {d.name}, from {d.low} to {d.high}: {d.asked_of('this person')}" for d in rubric]
    shape = {_person(seat): {d.name: {"reason": "...", "score": 0} for d in rubric} for seat in range(len(case.names))}
    task.append(f"{_EXACTLY}, of this shape, with reasons of one short sentence: {json.dumps(shape)}")
    return _told(case, [said.told for said in case.said], task)


def score_schema(rubric: Rubric, num_seats: int) -> dict[str, Any]:
    """The JSON schema of the answer to `score_messages`."""
    of_seat = _closed(
        {
            d.name: _closed(
                {"reason": {"type": "string"}, "score": {"type": "number", "minimum": d.low, "maximum": d.high}}
            )
            for d in rubric
        }
    )
    return _closed({_person(seat): of_seat for seat in range(num_seats)})


def read_scores(answer: str, rubric: Rubric, num_seats: int) -> Scores:
    """[P] scores by dimension.

    Raises:
      AnswerError: the answer is not one JSON object with a reason and a score in range for every seat and dimension,
        and nothing else.
    """
    by_seat = _fields(_json(answer), [_person(seat) for seat in range(num_seats)], "the answer")
    found = []
    for person, of_seat in by_seat.items():
        scores = {}
        of_dimension = _fields(of_seat, [d.name for d in rubric], person)
        for d in rubric:
            where = f"{person}.{d.name}"
            given = _fields(of_dimension[d.name], ("reason", "score"), where)
            if not isinstance(given["reason"], str):
                raise AnswerError(f"{where}.reason is {_shown(given['reason'])}; it must be text")
            score = given["score"]
            if isinstance(score, bool) or not isinstance(score, int | float) or not d.low <= score <= d.high:
                raise AnswerError(f"{where}.score is {_shown(score)}; it must be a number from {d.low} to {d.high}")
            scores[d.name] = float(score)
        found.append(scores)
    return tuple(found)


# ------------------------------------------------------------------ written answers: turns
def turn_messages(case: Case, turns: Sequence[Said]) -> Messages:
    """Asks of some turns of a game, numbered from 1, whether they are any good."""
    number = {(said.step, said.seat): n for n, said in enumerate(turns, start=1)}
    lines = []
    for said in case.said:
        n = number.get((said.step, said.seat))
        lines.append(said.told if n is None else f"[{n}] {said.told}")
    shape = json.dumps({str(n): YES if n % 3 else NO for n in range(1, len(turns) + 1)})
    task = [
        "Judge each numbered turn by what was said before it: can it be understood, does it fit what was said before, "
        f"and does it do more than say it again? {YES}, or {NO}.",
        f"{_EXACTLY}, of this shape: {shape}",
    ]
    return _told(case, lines, task)


def turn_schema(num_turns: int) -> dict[str, Any]:
    """The JSON schema of the answer to `turn_messages`."""
    return _closed({str(n): {"type": "string", "enum": [YES, NO]} for n in range(1, num_turns + 1)})


def read_turns(answer: str, num_turns: int) -> list[bool]:
    """[turns] whether each is any good. Raises AnswerError unless the answer says exactly that."""
    given = _fields(_json(answer), [str(n) for n in range(1, num_turns + 1)], "the answer")
    for n, word in given.items():
        if word not in (YES, NO):
            raise AnswerError(f"{n} is {_shown(word)}; it must be {YES!r} or {NO!r}")
    return [word == YES for word in given.values()]


# ------------------------------------------------------------------ reading
def _shown(value: Any) -> str:
    try:
        shown = json.dumps(value)
    except (ValueError, RecursionError):  # such as a number of more digits than Python writes
        shown = f"a very large {type(value).__name__}"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."


def _json(answer: str) -> Any:
    fenced = _FENCE.fullmatch(answer.strip())
    try:
        return json.loads(fenced[1] if fenced else answer, object_pairs_hook=_object, parse_constant=_no_number)
    except AnswerError:
        raise
    except ValueError as error:
        raise AnswerError(f"the answer is no JSON ({error}); it must be one JSON object and nothing else") from None
    except RecursionError:
        raise AnswerError("the answer is nested too deeply; it must be one JSON object and nothing else") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
        raise AnswerError(f"{_shown(twice)} is given twice; it must be given once")
    return made


def _no_number(name: str) -> float:
    raise AnswerError(f"{name} is no number in JSON")


def _fields(value: Any, names: Collection[str], where: str) -> dict[str, Any]:
    """The object's fields in the order of `names`, if it has exactly those."""
    if not isinstance(value, dict):
        raise AnswerError(f"{where} is {_shown(value)}; it must be an object with {', '.join(names)}")
    if missing := [name for name in names if name not in value]:
        raise AnswerError(f"{where} lacks {', '.join(missing)}")
    if unknown := [name for name in value if name not in names]:
        raise AnswerError(f"{where} has {', '.join(map(_shown, unknown))}; it must have only {', '.join(names)}")
    return {name: value[name] for name in names}
