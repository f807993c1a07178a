"""The sampler: legal tables by hand, frequencies of draws, words that depend on nothing but their game."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams

from omar_jax import sampler as sampling
from omar_jax.metrics import CompilationCounter
from omar_jax.model import cache as kv
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.sampler import LegalTable, Sampler, Shapes
from omar_jax.types import PADDING

END, VOCABULARY = 0, 12
CONFIG = DecoderConfig(
    vocabulary=VOCABULARY, width=16, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0
)
SHAPES = Shapes(games=(3, 1), transcript=(24, 40), piece=8, cue=5, action=6, asked=(2,), legal_nodes=8, legal_width=3)
SAMPLER = Sampler(Decoder(CONFIG), (END,), SHAPES)
PARAMS = streams.random_params(SAMPLER.model, seed=0)
OPTIONS = ((3, 4, END), (3, 5, END), (6, END))
KEY = jax.random.key(7)


# ---------------------------------------------------------------- tables of legal choices


def test_a_table_shares_what_options_share():
    table = LegalTable.build(OPTIONS, nodes=8, width=3)
    # Nodes are numbered as options come to them: 0 -3-> 1 -4-> 2 -END-> 3, 1 -5-> 4 -END-> 5, 0 -6-> 6 -> 7.
    p = PADDING
    wanted = [[3, 6, p], [4, 5, p], [0, p, p], [p] * 3, [0, p, p], [p] * 3, [0, p, p], [p] * 3]
    assert table.tokens.tolist() == wanted
    assert table.next.tolist() == [
        [1, 6, 0],
        [2, 4, 0],
        [3, 0, 0],
        [0] * 3,
        [5, 0, 0],
        [0] * 3,
        [7, 0, 0],
        [0] * 3,
    ]


def test_an_option_may_begin_another():
    table = LegalTable.build(((3, END), (3, 4, END)), nodes=5, width=2)
    assert table.tokens[0].tolist() == [3, PADDING]
    assert table.tokens[1].tolist() == [END, 4]


@pytest.mark.parametrize(("nodes", "width"), [(7, 3), (8, 1)])
def test_a_table_that_is_too_small_says_what_is_needed(nodes, width):
    with pytest.raises(ValueError, match=rf"3 options need a table of 8 x 2, the sampler's is {nodes} x {width}"):
        LegalTable.build(OPTIONS, nodes, width)


def test_the_table_of_some_options_is_no_larger_than_that_of_all():
    assert LegalTable.size(OPTIONS) == (8, 2)
    assert LegalTable.size(OPTIONS[1:]) == (6, 2)
    assert LegalTable.size(()) == (1, 1)


# ---------------------------------------------------------------- draws


@pytest.mark.parametrize("seed", range(3))
def test_draws_have_the_frequencies_of_the_softmax(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=8).astype(np.float32) * 2
    logits[[2, 5]] = -np.inf, -1e30
    num_draws = 50_000
    uniform = rng.random(num_draws, dtype=np.float32)
    drawn = np.asarray(sampling._draw(jnp.tile(logits, (num_draws, 1)), uniform)[0])
    frequency = np.bincount(drawn, minlength=8) / num_draws
    probability = np.asarray(jax.nn.softmax(logits))
    error = np.sqrt(probability * (1 - probability) / num_draws)
    assert (np.abs(frequency - probability) <= 3 * error).all()
    assert frequency[2] == frequency[5] == 0


@pytest.mark.parametrize("vocabulary", [8, 71])
@pytest.mark.parametrize("possible", [[3], [0, 6], [1, 2], [7], [0], list(range(8))])
def test_edge_draws_are_possible_ids(possible, vocabulary):
    logits = np.full(vocabulary, -1e30, np.float32)
    logits[possible] = np.linspace(-20, 3, len(possible))
    edges = np.array([0.0, 1e-38, 0.5, 1 - 2**-23, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    drawn = np.asarray(sampling._draw(jnp.tile(logits, (len(edges), 1)), edges)[0]).tolist()
    likely = [i for i in possible if jax.nn.softmax(logits)[i] > 0]
    assert set(drawn) <= set(likely)
    assert drawn[0] == likely[0] and drawn[-1] == likely[-1]


@pytest.mark.parametrize("vocabulary", [1, 2, 5, 64, 300, 2048, 5000])
def test_a_draw_inverts_the_cumulative_distribution(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = (4 * rng.normal(size=(50, vocabulary))).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = -1e30
    logits[:, rng.integers(vocabulary)] = 1.0
    uniform = rng.random(50, dtype=np.float32)
    drawn, log_probs = map(np.asarray, sampling._draw(jnp.asarray(logits), jnp.asarray(uniform)))
    exact = logits.astype(np.float64)
    exact = np.exp(exact - exact.max(axis=-1, keepdims=True))
    exact /= exact.sum(axis=-1, keepdims=True)
    after, row = exact.cumsum(axis=-1), np.arange(50)
    at, mass = after[row, drawn], exact[row, drawn]
    assert ((at - mass <= uniform + 1e-6) & (uniform <= at + 1e-6)).all()
    np.testing.assert_allclose(log_probs, np.log(mass), atol=2e-6, rtol=2e-6)


# ---------------------------------------------------------------- turns


class Past:
    """What was said in one game and what its two asked seats are asked."""

    def __init__(self, game, limit=SHAPES.action, legal=(False, False)):
        rng = np.random.default_rng(game)
        self.game, self.limit, self.legal = game, limit, legal
        self.length = int(rng.integers(4, SHAPES.piece + 5))
        self.tokens = rng.integers(1, VOCABULARY, self.length)
        self.owner = rng.choice([kv.SHARED, kv.SHARED, 0, 1], self.length)
        self.positions = np.arange(self.length)
        self.cues = [rng.integers(1, VOCABULARY, rng.integers(1, SHAPES.cue + 1)) for _ in range(2)]


def cache_of(pasts, room=SHAPES.transcript[0]):
    """The cache of some games (None for an unused slot), written in two pieces."""
    cache = SAMPLER.grow(SAMPLER.empty(len(pasts)), room)
    for start in (0, SHAPES.piece):
        piece = sampling.nothing_said(len(pasts), SHAPES)
        for n, past in enumerate(pasts):
            if past is not None:
                count = piece.count[n] = np.clip(past.length - start, 0, SHAPES.piece)
                for name in ("tokens", "owner", "positions"):
                    getattr(piece, name)[n, :count] = getattr(past, name)[start : start + count]
        cache = SAMPLER.extend(PARAMS, cache, piece)
    return cache


def ask_of(pasts):
    ask = sampling.nobody_asked(len(pasts), 2, SHAPES)
    table = LegalTable.build(OPTIONS, SHAPES.legal_nodes, SHAPES.legal_width)
    for n, past in enumerate(pasts):
        if past is None:
            continue
        ask.game[n], ask.position[n], ask.limit[n], ask.legal[n] = (
            past.game,
            past.length,
            past.limit,
            past.legal,
        )
        for seat, cue in enumerate(past.cues):
            ask.cue[n, seat, SHAPES.cue - len(cue) :] = cue
            ask.cue_count[n, seat], ask.seat[n, seat], ask.turn[n, seat] = len(cue), seat, 10 + seat
            ask.legal_tokens[n, seat], ask.legal_next[n, seat] = table
    return ask


def speak(pasts, key=KEY, temperature=1.0, room=SHAPES.transcript[0]):
    spoken = SAMPLER.decode(PARAMS, cache_of(pasts, room), ask_of(pasts), key, jnp.float32(temperature))
    return jax.tree.map(np.asarray, spoken)


def assert_valid(spoken, limit):
    """Turns have 1 to `limit` tokens, the end only as the last one, and nothing behind it."""
    for n, seat in np.ndindex(*spoken.count.shape):
        count = spoken.count[n, seat]
        tokens = spoken.tokens[n, seat]
        assert 1 <= count <= limit
        assert END not in tokens[: count - 1]
        assert count == limit or tokens[count - 1] == END
        assert not spoken.tokens[n, seat, count:].any()
        assert not spoken.log_probs[n, seat, count:].any()
        assert not spoken.values[n, seat, count:].any()


@pytest.mark.parametrize("limit", [1, 2, SHAPES.action])
def test_a_turn_stops_at_its_limit(limit):
    counts = set()
    for seed in range(4):
        spoken = speak([Past(game, limit) for game in range(3)], jax.random.key(seed))
        assert_valid(spoken, limit)
        counts |= {*spoken.count.flat}
    assert limit in counts


def test_any_of_several_ends_ends_a_turn():
    ends = (END, 3, 4, 5)
    sampler = dataclasses.replace(SAMPLER, ends=ends)
    pasts = [Past(game) for game in range(3)]
    stopped = set()
    for i in range(4):
        key = jax.random.key(i)
        spoken = sampler.decode(PARAMS, cache_of(pasts), ask_of(pasts), key, jnp.float32(1.0))
        longer = speak(pasts, key)
        for at in np.ndindex(3, 2):
            wanted = longer.tokens[at][: longer.count[at]].tolist()
            first = next((i for i, token in enumerate(wanted) if token in ends), len(wanted) - 1)
            assert spoken.tokens[at][: spoken.count[at]].tolist() == wanted[: first + 1]
            stopped.add(wanted[first])
    assert len(stopped & {*ends}) > 1


def test_nobody_asked_says_nothing():
    spoken = speak([Past(0), Past(1, limit=0), None])
    assert spoken.count[0].min() >= 1
    assert not spoken.count[1:].any()


def test_legal_turns_say_one_of_the_options():
    said = set()
    for i in range(10):
        spoken = speak([Past(game, legal=(True, False)) for game in range(3)], jax.random.key(i))
        assert_valid(spoken, SHAPES.action)
        said |= {tuple(spoken.tokens[n, 0, : spoken.count[n, 0]].tolist()) for n in range(3)}
    assert said == set(OPTIONS)


def test_words_depend_on_neither_place_nor_batch_nor_cache_size():
    games = [Past(5), Past(6, legal=(True, False)), Past(7, limit=3)]
    orders = [(0, 1, 2), (2, 0, 1), (1, None, 0)]
    wanted = {}
    for i, game in enumerate(games):
        wanted[i] = jax.tree.map(lambda x: x[0], speak([game]))
    for order, room in [*((order, 24) for order in orders), (orders[1], 40)]:
        spoken = speak([None if i is None else games[i] for i in order], room=room)
        for row, i in enumerate(order):
            if i is not None:
                found = jax.tree.map(lambda x, row=row: x[row], spoken)
                np.testing.assert_array_equal(found.tokens, wanted[i].tokens)
                np.testing.assert_array_equal(found.count, wanted[i].count)
                np.testing.assert_allclose(found.log_probs, wanted[i].log_probs, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(found.values, wanted[i].values, rtol=1e-5, atol=1e-5)


def test_games_turns_and_keys_have_random_numbers_of_their_own():
    base = Past(8)
    pasts = [base, *(Past(8) for _ in range(2))]
    pasts[1].game = 9
    assert not np.array_equal(speak(pasts).tokens[0], speak(pasts).tokens[1])
    np.testing.assert_array_equal(speak(pasts).tokens[0], speak(pasts).tokens[2])
    keys = [speak(pasts, jax.random.key(i)).tokens[0] for i in range(5)]
    assert len({tokens.tobytes() for tokens in keys}) > 1
    ask = ask_of(pasts)
    ask.turn[2] += 2
    spoken = SAMPLER.decode(PARAMS, cache_of(pasts), ask, KEY, jnp.float32(1.0))
    assert not np.array_equal(spoken.tokens[0], spoken.tokens[2])


def test_log_probs_are_those_of_the_tempered_softmax():
    """A turn of one token, whose logits a forward pass over the view gives."""
    past = Past(11, limit=1, legal=(False, True))
    for temperature in (0.5, 2.0):
        spoken = speak([past, None, None], temperature=temperature)
        for seat in (0, 1):
            logits = _logits_after(past, seat) / temperature
            if past.legal[seat]:
                logits = np.where(np.isin(np.arange(VOCABULARY), [3, 6]), logits, -np.inf)
            wanted = np.asarray(jax.nn.log_softmax(logits))[spoken.tokens[0, seat, 0]]
            np.testing.assert_allclose(spoken.log_probs[0, seat, 0], wanted, rtol=1e-5, atol=1e-5)


def _logits_after(past, seat):
    """Logits after a seat's cue, by an uncached forward over everything said and the cue."""
    cue = past.cues[seat]
    tokens = np.concatenate([past.tokens, cue])[None]
    owner = np.concatenate([past.owner, [seat] * len(cue)])
    positions = np.arange(len(owner))[None]
    visible = np.tri(len(owner), dtype=bool) & ((owner == kv.SHARED) | (owner == owner[:, None]))

    def attend(layer, query, key, value):
        scores = jnp.einsum("nqkgh,nskh->nkgqs", query, key)
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
        return jnp.einsum("nkgqs,nskh->nqkgh", weights, value), None

    @jax.jit
    def forward():
        hidden, _ = SAMPLER.model.apply(PARAMS, tokens, positions, attend)
        return SAMPLER.model.apply(PARAMS, hidden[0, -1], method="logits")

    return np.asarray(forward())


def test_temperatures_limits_and_games_compile_nothing_anew():
    pasts = [Past(0), Past(1), Past(2)]
    speak(pasts)
    compilations = CompilationCounter()
    spoken = [speak([Past(3 + i), Past(4, limit=i), None], temperature=0.5 + i) for i in range(3)]
    assert compilations.count == 0
    assert len(spoken) == 3
    jax.jit(lambda x: x + 1)(1.0)
    assert compilations.count > 0  # it does count


def test_low_temperature_says_the_likeliest_word():
    past = Past(12, limit=1)
    spoken = speak([past, None, None], temperature=1e-3)
    assert spoken.tokens[0, 0, 0] == _logits_after(past, 0).argmax()
