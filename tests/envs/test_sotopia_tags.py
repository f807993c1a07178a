"""Tags: who sees what, and what is wrong with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omar_jax.envs.sotopia_tags import EVERYBODY, NAMES, player, visible, what_is_wrong

TEXT = (
    "A <extra_info>b <strategy_hint>c</strategy_hint></extra_info>"
    """<p viewer="environment"> d</p><p viewer='agent_1'> e</p>"""
)


def test_only_its_viewer_sees_what_is_reserved():
    assert visible(TEXT, player(0)) == visible(TEXT, EVERYBODY) == "A b c"
    assert visible(TEXT, player(1)) == "A b c e"
    assert visible(TEXT, "environment") == "A b c d"


def test_what_is_inside_reserved_text_is_reserved_too():
    nested = '<root viewer="agent_0">a <p viewer="environment">b</p> <extra_info>c</extra_info></root>'
    assert visible(nested, player(0)) == "a  c"
    assert visible(nested, player(1)) == visible(nested, "environment") == ""


def test_signs_that_are_no_tags_stay():
    assert visible("2 < 3 > 1 <3 <-", EVERYBODY) == "2 < 3 > 1 <3 <-"
    assert what_is_wrong("2 < 3 > 1 <3 <-") is None


def test_open_tags_end_with_their_text():
    assert visible('a <extra_info>b <p viewer="environment">c', player(0)) == "a b "


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a <extra_info>b", "never closes <extra_info>"),
        ("a</extra_info>", "closes </extra_info> where it is not open"),
        ("<p><extra_info></p></extra_info>", "closes </p> where it is not open"),
        ("<b>a</b>", "has the unknown tag <b>"),
    ],
)
def test_wrong_tags_are_named(text, what):
    assert what_is_wrong(TEXT) is None
    assert what in what_is_wrong(text)


tagged = st.recursive(
    st.text(alphabet="abc <>/", max_size=5).filter(lambda text: visible(text, EVERYBODY) == text),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(st.sampled_from(NAMES), inner).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>"),
        inner.map(lambda text: f'<p viewer="agent_1">SECRET{text}</p>'),
    ),
)


@given(tagged)
def test_reserved_text_never_leaks(text):
    assert "SECRET" not in visible(text, player(0))
    assert visible(text, player(1)).count("SECRET") == text.count("SECRET")
