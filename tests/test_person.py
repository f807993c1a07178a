"""A person at the table: whatever is typed, the game gets an answer that the question allows."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omar_jax.envs.base import Ask
from omar_jax.person import Left, Person, shown

VOTE = Ask("Bob votes for:", 8, ("Alice", "Carol", "Cara", "Dan"))
SPEECH = Ask("Bob says:", 5)


def ask(typed, ask=VOTE, heard=()):
    """(the answer, what was shown)."""
    lines, typed = [], list(typed)

    def read(prompt):
        assert prompt == f"{ask.cue} "
        if not typed:
            raise EOFError
        return typed.pop(0)

    person = Person(lines.append, read, lambda text: len(text.split()))
    return person.act(None, None, 1, ask, heard, np.random.default_rng(0)), lines


@pytest.mark.parametrize("typed", ["Carol", "carol", " CAROL ", "carO", "2"])
def test_a_choice_may_be_typed_in_many_ways(typed):
    assert ask([typed])[0] == "Carol"


@pytest.mark.parametrize(
    ("typed", "objection"),
    [
        ("car", "'car' may be Carol or Cara: type more of it."),
        ("Bob", "'Bob' is no choice. Type one of them, or its number: Alice, Carol, Cara, Dan."),
        ("0", "'0' is no choice."),
        ("5", "'5' is no choice."),
        ("", "'' is no choice."),
        ("²", "'²' is no choice."),
    ],
)
def test_what_is_no_choice_is_explained_and_asked_again(typed, objection):
    answer, lines = ask([typed, "dan"])
    assert answer == "Dan"
    assert lines[0] == "[1 Alice  2 Carol  3 Cara  4 Dan]"
    assert lines[1].startswith(objection)


def test_a_whole_name_is_not_taken_for_the_beginning_of_another():
    assert ask(["ann"], Ask("?", 8, ("Anna", "Ann")))[0] == "Ann"


def test_a_speech_may_be_anything_that_is_not_too_long():
    assert ask(["I am the seer."], SPEECH)[0] == "I am the seer."
    assert ask([""], SPEECH)[0] == ""
    answer, lines = ask(["one two three four five six", "short"], SPEECH)
    assert answer == "short"
    assert lines == ["That is 6 tokens of the model, and 5 are allowed: say less."]


@pytest.mark.parametrize("of", [VOTE, SPEECH])
def test_help_tells_what_may_be_typed(of):
    _, lines = ask(["?", "/help", "Dan"], of)
    assert sum("/quit leaves the game" in line for line in lines) == 2


@pytest.mark.parametrize("typed", [["/quit"], ["/LEAVE"], ["nonsense"], []])
def test_a_person_may_leave_at_any_time(typed):
    with pytest.raises(Left):
        ask(typed)


def test_everything_heard_is_shown_once():
    lines = []
    person = Person(lines.append, lambda prompt: "1", len)
    for heard in (["Day 1."], ["Day 1.", "You are Bob."], ["Day 1.", "You are Bob.", "Night 2."]):
        person.act(None, None, 1, VOTE, heard, np.random.default_rng(0))
    assert [line for line in lines if not line.startswith("[")] == ["Day 1.", "You are Bob.", "Night 2."]


def test_models_cannot_write_to_the_terminal_but_text():
    assert shown("\x1b[2Jgone\a\x9b5m\u202eright\nnext") == " [2Jgone  5m right\nnext"
    _, lines = ask(["Dan"], heard=["\x1b]0;title\x07"])
    assert "\x1b" not in "".join(lines)


@given(st.text(), st.lists(st.text(st.characters(categories=["L"]), min_size=1), min_size=1, unique=True))
def test_an_answer_is_always_a_choice(typed, options):
    with contextlib.suppress(Left):
        assert ask([typed], Ask("?", 8, tuple(options)))[0] in options
