"""Deals are read in the words people use, and not where they leave anything open."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sotopia_packs import ITEMS, TERMS

from omar_jax.envs import sotopia_deals
from omar_jax.envs.sotopia_deals import accepts, fill, stated, statement, written
from omar_jax.envs.sotopia_points import Issue, Terms, draw

NAMES = ("Ana", "Ben")
ALIASES = (("Ana", "Ana Souza"), ("Ben", "Ben Okafor"))
THINGS = draw(ITEMS, 2, np.random.default_rng(0))  # 2 books, 1 hat
SALE = draw(TERMS, 2, np.random.default_rng(0))  # 20, 30, 40 dollars; Monday, Friday
SLOTS = Terms((Issue("slot", ("Monday 9:00", "Monday 15:00", "Friday 9:00"), ((1, 2, 3), (3, 2, 1))),), (0, 0))

MINE_BOTH = ((2, 0), (0, 1))  # Ana gets the books


@pytest.mark.parametrize(
    "words",
    [
        "Deal: Ana gets 2 books; Ben gets 1 hat.",
        "Deal: Ana gets 2 books; Ben gets the rest.",
        "Deal: Ben gets the rest; Ana gets two books!",
        "Deal: Ana gets 2 books.",
        "Deal: Ben gets a hat",
        "deal: ben gets the hat, and ana gets the books.",
        "DEAL : Ana Souza: both books, Ben Okafor: one hat.",
        "I see. Deal: I take 2 books and no hat, you take the hat. I hope you agree.",
        "Deal: you get the hat and no books.",
        "Deal: Ana gets everything. No. Deal: Ana gets all books.",
        "Deal:Ana keeps 2 of the books and Ben 0 books and 1 of the hats",
    ],
)
def test_ways_to_say_who_gets_what(words):
    assert stated(words, THINGS, ALIASES, 0) == MINE_BOTH


@pytest.mark.parametrize(
    "words",
    [
        "Ana gets 2 books; Ben gets 1 hat.",  # no deal is stated
        "I can not deal with it: Ana gets 2 books.",
        "Deal.",
        "Deal:",
        "Deal: yes.",
        "Deal: 2 books.",
        "Deal: Ana gets 3 books; Ben gets the rest.",
        "Deal: Ana gets 2 books; Ben gets nothing.",  # who gets the hat?
        "Deal: Ana gets 2 books; Ben gets 1 book and 1 hat.",
        "Deal: Ana gets the rest; Ben gets the rest.",
        "Deal: Ana gets 2 books; Ana gets 1 hat.",
        "Deal: Ana gets 2 books or Ben gets 1 hat.",
        "Deal: Ana does not get 2 books.",
        "Deal: Ana gets 2 books and my lamp; Ben gets 1 hat.",
        "Deal: Ana gets 2 1 books.",
        "Deal: Ana gets 1 book and 1 book.",
        "Deal: Ana gets 2 books?",
        "Deal: Ana gets 2; Ben gets the rest.",
        "Deal: Ana gets 2 books / 1 hat.",
        "Deal: Ana gets 2 книги.",
    ],
)
def test_what_is_no_deal(words):
    assert stated(words, THINGS, ALIASES, 0) is None


def test_the_speaker_is_i():
    assert stated("Deal: I get the hat, you get the books.", THINGS, ALIASES, 1) == MINE_BOTH
    three = draw({**ITEMS, "values": [{"book": 1, "hat": 1}] * 3}, 3, np.random.default_rng(0))
    aliases = (*ALIASES, ("Cem", "Cem Demir"))
    full = "Deal: Ana gets 1 book; Ben gets 1 book; I get the hat."
    assert stated(full, three, aliases, 2) == ((1, 0), (1, 0), (0, 1))
    assert stated("Deal: Ana gets 1 book; Ben gets 1 book.", three, aliases, 0) == ((1, 0), (1, 0), (0, 1))
    assert stated("Deal: Ana gets 2 books.", three, aliases, 0) is None  # two could get the hat
    assert stated("Deal: Ana gets 2 books; you get the hat; Cem gets nothing.", three, aliases, 2) is None


@pytest.mark.parametrize(
    "words",
    [
        "Deal: 30 dollars, Monday.",
        "Deal: Monday for $30",
        "deal: a price of 30.00 and the day is monday!",
        "Deal: 30, Monday",
    ],
)
def test_ways_to_say_terms(words):
    assert stated(words, SALE, ALIASES, 0) == (1, 0)


@pytest.mark.parametrize(
    "words",
    [
        "Deal: 30 dollars.",
        "Deal: Monday.",
        "Deal: 35 dollars, Monday.",
        "Deal: 30 dollars, Monday or Friday.",
        "Deal: 20 or 30 dollars, Monday.",
        "Deal: not 30 dollars, Monday.",
        "Deal: 30 euros, Monday.",
        "Deal: 30 dollars, Mondays.",
    ],
)
def test_what_are_no_terms(words):
    assert stated(words, SALE, ALIASES, 0) is None


def test_options_of_several_words():
    assert stated("Deal: Monday 15:00.", SLOTS, ALIASES, 0) == (1,)
    assert stated("Deal: we meet on Friday 9:00.", SLOTS, ALIASES, 0) == (2,)
    assert stated("Deal: Monday.", SLOTS, ALIASES, 0) is None


@given(st.sampled_from([THINGS, SALE, SLOTS]), st.data())
def test_deals_are_read_as_they_are_written(bargain, data):
    deal = data.draw(st.sampled_from(list(bargain.deals())))
    speaker = data.draw(st.sampled_from([0, 1]))
    assert stated(f"Deal: {written(bargain, deal, NAMES)}.", bargain, ALIASES, speaker) == deal
    for example in sotopia_deals.examples(bargain, NAMES):
        assert stated(example, bargain, ALIASES, speaker) in list(bargain.deals())


@given(st.sampled_from([THINGS, SALE, SLOTS]), st.text())
def test_any_words_are_a_possible_deal_or_none(bargain, words):
    for said in (words, f"Deal: {words}", f"Deal: Ana {words}; Ben gets the rest."):
        assert stated(said, bargain, ALIASES, 0) in (None, *bargain.deals())


def test_acceptances():
    for words in ("Deal.", "deal", "Good. Deal!", "It’s a deal.", "I accept.", "Agreed. See you then."):
        assert accepts(words) and statement(words) is None
    for words in ("Deal?", "No deal.", "Deal: 3.", "What a deal!", "I accept that it is hard.", "", "Is that agreed?"):
        assert not accepts(words)


def test_a_game_fills_in_the_scenario():
    assert fill("{first} and {second} divide {items}.", THINGS, NAMES) == "Ana and Ben divide 2 books and 1 hat."
    assert fill("Worth: {points}; without: {outside}.", THINGS, NAMES, 1) == "Worth: book 5, hat 0; without: 0."
    assert fill("{points}", THINGS, NAMES) == "{points}"  # nobody's in particular
    text = "{price}; {day}; {unknown}"
    assert fill(text, SALE, NAMES) == "20 to 40 dollars in steps of 10; Monday or Friday; {unknown}"
    assert fill("{points}", SALE, NAMES, 0) == "1 for every dollar above 20; Monday 0, Friday 5"
    assert fill("{points}", SALE, NAMES, 1) == "1 for every dollar below 40; Monday 3, Friday 0"
