"""Ratings: worked by hand, unmoved by what must not matter, with intervals that hold the truth as often as they say."""

import math

import numpy as np
import pytest

from omar_jax import elo
from omar_jax.elo import Pairing


def pairing(first, second, wins, games, side=0):
    """`first` has won the first `wins` deals and lost the rest."""
    return Pairing(first, second, side, np.arange(games) < wins)


def closed_form(p):
    return 400 * math.log10(p / (1 - p))


def test_a_rating_by_hand_is_of_the_odds_with_a_drawn_game_more():
    """Seven of nine games won on each side, and in both line-ups one drawn: 7.5 of 10."""
    _, rating = elo.ratings([pairing(1, 0, 7, 9), pairing(0, 1, 2, 9)], 2)
    assert rating.elo == pytest.approx(closed_form(0.75), abs=1e-6)


def test_many_games_drown_the_drawn_one():
    _, rating = elo.ratings([pairing(1, 0, 640, 1000), pairing(0, 1, 360, 1000)], 2)
    assert rating.elo == pytest.approx(closed_form(0.64), abs=0.2)
    assert rating.low < rating.elo < rating.high


def test_odds_of_ten_are_400_points():
    _, rating = elo.ratings([pairing(1, 0, 1000, 1100), pairing(0, 1, 100, 1100)], 2)
    assert rating.elo == pytest.approx(400, abs=2)


def test_the_first_is_the_zero():
    first, _ = elo.ratings([pairing(0, 1, 3, 10)], 2)
    assert first == (0, 0, 0)


def test_the_sides_advantage_is_not_skill():
    """Whoever plays the one side wins nine games of ten against an equal, and so two more against a better one."""
    _, rating = elo.ratings([pairing(1, 0, 900, 1000), pairing(0, 1, 900, 1000)], 2)
    assert rating.elo == pytest.approx(0, abs=1e-6)
    odds = 2.0
    p, q = 9 * odds / (1 + 9 * odds), 9 / (9 + odds)  # of the better on the good side, of the other there
    _, rating = elo.ratings([pairing(1, 0, round(1000 * p), 1000), pairing(0, 1, round(1000 * q), 1000)], 2)
    assert rating.elo == pytest.approx(400 * math.log10(odds), abs=1)


def test_sides_have_each_their_advantage():
    """Three sides, of which two are good: again equals are equals."""
    pairings = [pairing(a, b, wins, 100, side) for side, wins in enumerate((80, 60, 10)) for a, b in ((0, 1), (1, 0))]
    assert elo.ratings(pairings, 2)[1].elo == pytest.approx(0, abs=1e-6)


def test_draws_count_half():
    drawn = Pairing(1, 0, 0, np.full(100, 0.5))
    half_won = pairing(1, 0, 50, 100)
    assert elo.ratings([drawn, drawn._replace(first=0, second=1)], 2)[1].elo == pytest.approx(0, abs=1e-6)
    assert elo.ratings([half_won, drawn], 2)[1].elo == pytest.approx(elo.ratings([drawn, half_won], 2)[1].elo)


def tournament(rng, truth, deals, advantage=0.3):
    """The pairings of all pairs of policies of these true ratings (in natural log-odds)."""
    found = []
    for first in range(len(truth)):
        for second in range(len(truth)):
            if first != second:
                chance = 1 / (1 + math.exp(-(truth[first] - truth[second] + advantage)))
                found.append(Pairing(first, second, 0, (rng.random(deals) < chance).astype(float)))
    return found


def test_neither_the_order_of_games_nor_of_policies_matters():
    pairings = tournament(np.random.default_rng(0), [0.0, 0.5, 1.0], 60)
    wanted = elo.ratings(pairings, 3)
    for found in (elo.ratings(pairings[::-1], 3), elo.ratings(pairings[3:] + pairings[:3], 3)):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    others = np.random.default_rng(1).permutation(60)
    shuffled = [each._replace(scores=each.scores[others]) for each in pairings]
    np.testing.assert_allclose([r.elo for r in elo.ratings(shuffled, 3)], [r.elo for r in wanted], atol=1e-6)
    renamed = [each._replace(first=(0, 2, 1)[each.first], second=(0, 2, 1)[each.second]) for each in pairings]
    np.testing.assert_allclose(elo.ratings(renamed, 3), [wanted[n] for n in (0, 2, 1)], atol=1e-6)


def test_a_policy_against_itself_rates_zero_with_certainty():
    scores = (np.random.default_rng(0).random(50) < 0.3).astype(float)
    _, rating = elo.ratings([Pairing(0, 1, 0, scores), Pairing(1, 0, 0, scores)], 2)
    np.testing.assert_allclose(rating, 0, atol=1e-6)


def test_whoever_wins_every_game_rates_high_and_not_infinitely():
    ratings = elo.ratings([pairing(1, 0, 50, 50), pairing(0, 1, 0, 50)], 2)
    assert 600 < ratings[1].elo < 1000
    assert all(math.isfinite(number) for rating in ratings for number in rating)
    more = elo.ratings([pairing(1, 0, 500, 500), pairing(0, 1, 0, 500)], 2)
    assert more[1].elo > ratings[1].elo


def test_a_side_that_wins_every_game_says_nothing_of_skill():
    ratings = elo.ratings([pairing(1, 0, 50, 50), pairing(0, 1, 50, 50)], 2)
    np.testing.assert_allclose(ratings, 0, atol=1e-3)


def test_those_who_never_met_are_rated_by_whom_they_met():
    """Odds multiply along the way: 400 points and 400 more."""
    met = [pairing(1, 0, 1000, 1100), pairing(0, 1, 100, 1100)]
    met += [pairing(2, 1, 1000, 1100), pairing(1, 2, 100, 1100)]
    assert elo.ratings(met, 3)[2].elo == pytest.approx(800, abs=4)


def test_intervals_hold_the_true_rating_as_often_as_they_say():
    """Of 150 tournaments of three policies; the standard deviation of the share is below 2%."""
    rng, truth = np.random.default_rng(0), [0.0, 0.4, -0.8]
    points = np.array(truth) * 400 / math.log(10)
    held = []
    for _ in range(150):
        ratings = elo.ratings(tournament(rng, truth, deals=100), 3)
        held.append([r.low <= wanted <= r.high for r, wanted in zip(ratings[1:], points[1:], strict=True)])
    print(f"held: {np.mean(held, axis=0)}")
    assert all(0.90 <= share <= 0.98 for share in np.mean(held, axis=0))


def test_games_of_one_deal_are_no_independent_evidence():
    """Where the deal alone decides, both line-ups of it are won together, and twice the games are no more certainty."""
    rng = np.random.default_rng(0)
    deal = (rng.random(200) < 0.6).astype(float)
    together = [Pairing(1, 0, 0, deal), Pairing(0, 1, 0, 1 - deal)]
    apart = [Pairing(1, 0, 0, deal), Pairing(0, 1, 0, 1 - rng.permutation(deal))]
    width = [rating.high - rating.low for rating in (elo.ratings(games, 2)[1] for games in (together, apart))]
    assert width[0] / width[1] == pytest.approx(math.sqrt(2), rel=0.15)


def test_mistakes_are_refused():
    for wrong in ([], [pairing(0, 1, 0, 0)], [pairing(0, 1, 1, 3), pairing(1, 0, 1, 4)]):
        with pytest.raises(ValueError, match="ratings need pairings of the same deals"):
            elo.ratings(wrong, 2)
