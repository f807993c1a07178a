"""Two jitted calls that play: `extend` writes what was said into the cache, `decode` lets all asked seats speak.

The life of a turn in `decode`: its cue is read in one pass but for the last token (right-aligned, so that every turn
of the batch writes the same branch slot from then on); a while loop reads the last token and samples the next until
every asked seat has ended its turn or used up its tokens. The cache of the past is read-only all the while.

    branch slot   0 ............. Q            Q + J
    turn          . . cue cue cue action action . .

Every random number is of the key, the game, the turn and the token's number alone, so a game's words depend on neither
its neighbours in the batch nor on the order of play. Shapes come from short lists (`Shapes`), so that nothing compiles
after warm-up.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.losses import IMPOSSIBLE
from omar_jax.model import cache as kv
from omar_jax.model.decoder import Decoder
from omar_jax.sharding import GAMES, over_heads, split
from omar_jax.types import PADDING, Params


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The sizes that play is compiled for.

    Attributes:
      games: batch sizes, descending; the batch shrinks to the next as games finish.
      transcript: cache sizes in tokens a game, ascending; the cache grows to the next as games go on.
      piece: tokens a game written by one `extend`; longer pieces take several.
      cue: longest cue in tokens.
      action: longest action in tokens, its end included.
      asked: numbers of turns a game spoken at once, ascending; the last is the number of seats.
      legal_nodes, legal_width: size of a legal-choice table, see `LegalTable`.
    """

    games: tuple[int, ...]
    transcript: tuple[int, ...]
    piece: int
    cue: int
    action: int
    asked: tuple[int, ...]
    legal_nodes: int
    legal_width: int


class Ask(NamedTuple):
    """The turns to be spoken: A a game, in N games. Rows nobody was asked for have limit 0."""

    cue: Any  # [N, A, Q] int32, right-aligned
    cue_count: Any  # [N, A] int32
    seat: Any  # [N, A] int32
    position: Any  # [N, A] int32: position of the cue's first token
    limit: Any  # [N, A] int32: most action tokens
    game: Any  # [N] int32: the game's number, for its random numbers
    turn: Any  # [N, A] int32: a number that no two turns of a game share, likewise
    legal: Any  # [N, A] bool: decoded along the choice table
    legal_tokens: Any  # [N, A, M, O] int32: at choice node m, the ids allowed next, PADDING-filled
    legal_next: Any  # [N, A, M, O] int32: the node each leads to


class Spoken(NamedTuple):
    """What the asked seats said: J action tokens at most, `count` of them valid."""

    tokens: Any  # [N, A, J] int32
    log_probs: Any  # [N, A, J] float32, under the sampling distribution
    values: Any  # [N, A, J] float32, read where the token's logits were read
    count: Any  # [N, A] int32


class LegalTable(NamedTuple):
    """A choice as a walk over token ids: from node 0, each id leads to a node; the end-of-turn id closes it."""

    tokens: np.ndarray  # [M, O] int32, PADDING-filled
    next: np.ndarray  # [M, O] int32

    @staticmethod
    def size(options: Iterable[tuple[int, ...]]) -> tuple[int, int]:
        """(nodes, width) of the table of all these options; that of any of them is no larger."""
        trie = _trie(options)
        return len(trie), max(1, *map(len, trie))

    @staticmethod
    def build(options: tuple[tuple[int, ...], ...], nodes: int, width: int) -> "LegalTable":
        """The table of options given as token ids, each ending with the end-of-turn id.

        Raises:
          ValueError: the options need more than `nodes` nodes or `width` branches.
        """
        needed = LegalTable.size(options)
        if needed[0] > nodes or needed[1] > width:
            raise ValueError(
                f"{len(options)} options need a table of {needed[0]} x {needed[1]}, the sampler's is {nodes} x {width}"
            )
        table = LegalTable(*(np.full((nodes, width), fill, np.int32) for fill in (PADDING, 0)))
        for node, following in enumerate(_trie(options)):
            table.tokens[node, : len(following)] = list(following)
            table.next[node, : len(following)] = list(following.values())
        return table


def _trie(options: Iterable[tuple[int, ...]]) -> list[dict[int, int]]:
    """At every node the node that each id leads to; in the order in which the options come to them."""
    trie: list[dict[int, int]] = [{}]
    for option in options:
        node = 0
        for token in option:
            if token not in trie[node]:
                trie[node][token] = len(trie)
                trie.append({})
            node = trie[node][token]
    return trie


def nothing_said(num_games: int, shapes: Shapes) -> kv.Piece:
    """An empty piece (numpy), to be filled in."""
    size = (num_games, shapes.piece)
    return kv.Piece(
        tokens=np.zeros(size, np.int32),
        owner=np.full(size, kv.EMPTY, np.int32),
        positions=np.zeros(size, np.int32),
        count=np.zeros(num_games, np.int32),
    )


def nobody_asked(num_games: int, asked: int, shapes: Shapes) -> Ask:
    """Questions to nobody (numpy), to be filled in."""

    def zeros(*size):
        return np.zeros((num_games, asked, *size), np.int32)

    table = (shapes.legal_nodes, shapes.legal_width)
    return Ask(
        cue=zeros(shapes.cue),
        cue_count=zeros(),
        seat=zeros(),
        position=zeros(),
        limit=zeros(),
        game=np.zeros(num_games, np.uint32),
        turn=zeros(),
        legal=zeros().astype(bool),
        legal_tokens=zeros(*table) + PADDING,
        legal_next=zeros(*table),
    )


def _find(masses, threshold):
    """Where the cumulative sum of `masses` [..., S] first exceeds `threshold` [...]: the index, and the sum before it.

    Only indices of positive mass are found: the sum rises at them. Rounding may put the threshold on the total itself;
    the last index that rises is then meant.
    """
    cumulative = jnp.cumsum(masses, axis=-1)
    below = (cumulative <= threshold[..., None]) & (cumulative < cumulative[..., -1:])
    return below.sum(axis=-1), jnp.where(below, cumulative, 0).max(axis=-1)


def _uniform(keys, turns, token, num_action):
    """A number in [0, 1) for that token of each turn [N, A], of its game's key [N]: the bits of a key folded in."""

    def bits(key, turn):
        return jax.random.key_data(jax.random.fold_in(key, turn * num_action + token))[0]

    return (jax.vmap(jax.vmap(bits, (None, 0)))(keys, turns) >> 8).astype(jnp.float32) * 2**-24


def _pick(values, index):
    """values [..., S] at index [...]. Few are compared: a gather takes longer to compile."""
    return jnp.where(jnp.arange(values.shape[-1]) == index[..., None], values, 0).sum(axis=-1)


def _draw_of_few(logits, uniform):
    """One sample a row: logits [..., O], uniform [...] -> indices and log-probabilities [...]."""
    top = logits.max(axis=-1)
    masses = jnp.exp(logits - top[..., None])
    total = masses.sum(axis=-1)
    index, _ = _find(masses, uniform * total)
    return index, _pick(logits, index) - top - jnp.log(total)


def _draw(logits, uniform):
    """One sample a row: logits [..., V], uniform [...] -> ids and log-probabilities [...].

    The cumulative distribution is inverted with a single uniform number, much cheaper than V Gumbel ones. First among
    sums of blocks of ids, then within the block: a cumulative sum of all ids costs more than the vocabulary's product.
    """
    vocabulary = logits.shape[-1]
    size = 2 ** math.ceil(math.log2(vocabulary) / 2)  # of a block
    logits = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, -vocabulary % size)], constant_values=-jnp.inf)
    blocks = logits.reshape(*logits.shape[:-1], -1, size)
    top = logits.max(axis=-1)
    masses = jnp.exp(blocks - top[..., None, None]).sum(axis=-1)
    total = masses.sum(axis=-1)
    block, before = _find(masses, uniform * total)
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    index, _ = _find(jnp.exp(inside - top[..., None]), uniform * total - before)
    chosen = jnp.take_along_axis(inside, index[..., None], axis=-1)[..., 0]
    return block * size + index, chosen - top - jnp.log(total)


def _sample(logits, uniform, ask: Ask, node, temperature):
    """One token a turn. -> (token, log_prob, next node), each [N, A]."""
    logits = logits / temperature
    free, free_log_prob = _draw(logits, uniform)

    at_node = node[..., None, None]
    allowed = jnp.take_along_axis(ask.legal_tokens, at_node, axis=2)[:, :, 0]  # [N, A, O]
    following = jnp.take_along_axis(ask.legal_next, at_node, axis=2)[:, :, 0]
    choice_logits = jnp.take_along_axis(logits, jnp.maximum(allowed, 0), axis=-1)
    choice, choice_log_prob = _draw_of_few(jnp.where(allowed != PADDING, choice_logits, IMPOSSIBLE), uniform)
    token = jnp.where(ask.legal, _pick(allowed, choice), free)
    return token, jnp.where(ask.legal, choice_log_prob, free_log_prob), _pick(following, choice)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The jitted calls of one model.

    Attributes:
      model: the decoder.
      ends: the ids that end a turn.
      shapes: what play is compiled for.
    """

    model: Decoder
    ends: tuple[int, ...]
    shapes: Shapes

    def key(self, seed: int) -> jax.Array:
        """A key whose numbers are the same whatever the devices and the batch."""
        return jax.random.key(seed, impl="threefry2x32")

    def warm_up(self, params: Params) -> None:
        """Compiles every combination of shapes that play may come to, so that no iteration waits for one."""
        shapes, key, temperature = self.shapes, self.key(0), jnp.float32(1.0)
        for num_games in shapes.games:
            cache = self.empty(num_games)
            for room in shapes.transcript:
                cache = self.grow(cache, room) if room > cache.room else cache
                cache = self.extend(params, cache, nothing_said(num_games, shapes))
                for asked in shapes.asked:
                    self.decode(params, cache, nobody_asked(num_games, asked, shapes), key, temperature)
                for fewer in shapes.games:
                    if fewer < num_games:
                        self.take(cache, np.zeros(fewer, np.int64))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def empty(self, num_games: int) -> kv.Cache:
        """The cache of games not yet begun."""
        return self._split(kv.empty(self.model.config, num_games, self.shapes.transcript[0], self.model.dtype))

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def grow(self, cache: kv.Cache, room: int) -> kv.Cache:
        """The cache with room for `room` tokens a game."""
        return self._split(kv.grow(cache, room))

    @functools.partial(jax.jit, static_argnums=0)
    def take(self, cache: kv.Cache, games: jax.Array) -> kv.Cache:
        """The cache of the games at rows `games` [M]."""
        return self._split(kv.take(cache, games))

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def extend(self, params: Params, cache: kv.Cache, piece: kv.Piece) -> kv.Cache:
        """Writes a piece of each game's conversation into the (donated) cache."""
        marked = kv.write_metadata(cache, piece)
        attend = kv.extending(self.model.config, cache, marked, piece)
        _, kept = self.model.apply(params, piece.tokens, piece.positions, attend)
        return self._split(marked._replace(keys=tuple(k for k, _ in kept), values=tuple(v for _, v in kept)))

    def _split(self, cache: kv.Cache) -> kv.Cache:
        """Each game on the devices that play it, its heads split over those if that comes out even."""
        mesh, kv_heads = self.model.mesh, self.model.config.kv_heads
        return jax.tree.map(lambda x: split(x, mesh, GAMES, *([over_heads(mesh, kv_heads)] * (x.ndim == 4))), cache)

    @functools.partial(jax.jit, static_argnums=0)
    def decode(self, params: Params, cache: kv.Cache, ask: Ask, key: jax.Array, temperature: jax.Array) -> Spoken:
        """Lets every asked seat of every game speak its turn.

        Args:
          params: the policy.
          cache: what was said so far.
          ask: who is asked what.
          key: of this iteration's play.
          temperature: scalar array; logits are divided by it.
        """
        config, num_cue, num_action = self.model.config, ask.cue.shape[2], self.shapes.action
        room = num_cue + num_action
        ends = jnp.asarray(self.ends, jnp.int32)
        keys = jax.vmap(lambda game: jax.random.fold_in(key, game))(ask.game)
        slot = jnp.arange(room)
        first_slot = num_cue - ask.cue_count[..., None]  # [N, A, 1]
        branch_positions = ask.position[..., None] + slot - first_slot  # [N, A, B]

        def read(branches, tokens, written):
            """Reads Q tokens of every turn at branch slot `written`. -> hidden [N, A, Q, D], the new branches."""
            at = written + jnp.arange(tokens.shape[2])
            visible = (slot >= first_slot)[:, :, None, :] & (slot <= at[:, None])
            positions = ask.position[..., None] + at - first_slot
            attend = kv.speaking(config, cache, branches, ask.seat, positions, written, visible, branch_positions)
            hidden, kept = self.model.apply(params, tokens, positions, attend)
            branches = kv.Branches(tuple(k for k, _ in kept), tuple(v for _, v in kept))
            heads = over_heads(self.model.mesh, config.kv_heads)
            return hidden, jax.tree.map(lambda x: split(x, self.model.mesh, GAMES, heads), branches)

        def more(carry):
            j, _, _, _, over, _ = carry
            return (j < num_action) & ~over.all()

        def step(carry):
            """Reads the last token of every turn, samples token j where the turn is not over, and notes it down."""
            j, branches, token, node, over, spoken = carry
            hidden, branches = read(branches, token[..., None], num_cue - 1 + j)
            logits = self.model.apply(params, hidden[:, :, 0], method="logits")
            logits = split(logits, self.model.mesh, GAMES)  # each token is drawn in one place
            value = self.model.apply(params, hidden[:, :, 0], method="value")
            uniform = _uniform(keys, ask.turn, j, num_action)
            token, log_prob, node = _sample(logits, uniform, ask, node, temperature)

            def note(row, new):
                new = jnp.where(over, 0, new)[..., None].astype(row.dtype)
                return jax.lax.dynamic_update_slice_in_dim(row, new, j, 2)

            spoken = Spoken(
                tokens=note(spoken.tokens, token),
                log_probs=note(spoken.log_probs, log_prob),
                values=note(spoken.values, value),
                count=spoken.count + ~over,
            )
            over |= jnp.isin(token, ends) | (j + 1 >= ask.limit)
            return j + 1, branches, token, node, over, spoken

        shape = ask.seat.shape
        branches = kv.empty_branches(config, *shape, room, self.model.dtype)
        if num_cue > 1:
            _, branches = read(branches, ask.cue[:, :, :-1], 0)
        nothing = jnp.zeros((*shape, num_action))
        spoken = Spoken(nothing.astype(jnp.int32), nothing, nothing, jnp.zeros(shape, jnp.int32))
        node = jnp.zeros(shape, jnp.int32)
        begin = (jnp.int32(0), branches, ask.cue[:, :, -1], node, ask.limit == 0, spoken)
        return jax.lax.while_loop(more, step, begin)[-1]
