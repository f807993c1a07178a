"""How players behave, measured from games in full: how they talk in any game, what they do in Werewolf.

The life of a measure: a recorded game (`metrics.episode_record`) is played again from its seed and texts (`replay`);
what happened in it becomes a numerator and a denominator a probe; sums over games become a share or mean, and how far
single games pull it becomes its 95% interval; `compare` takes differences, `table` shows groups side by side.

Every estimate is kept with its influence values: to first order estimate - truth = mean(influence) over clusters. A
cluster is a seed: games of one seed share the deal. For a ratio of sums R = sum(y) / sum(x) they are
(y - R x) / mean(x), which makes var(R) = sum((y - R x)^2) / (C (C - 1) mean(x)^2): Cochran, "Sampling Techniques"
(3rd edition, 1977), section 2.11.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from omar_jax.envs import werewolf_probes
from omar_jax.envs.base import Environment, Step
from omar_jax.envs.werewolf import Werewolf
from omar_jax.metrics import distinct_n, rate_interval

# Distinct n-grams are counted among this many texts a game of this many games, whatever the number of games.
TEXTS_A_GAME, GAMES_A_BLOCK = 4, 8

DESCRIPTIONS: Mapping[str, str] = {
    "turn/words": "Words of free-text turns, a turn.",
    "turn/tokens": "Tokens of free-text turns whose tokens are recorded, a turn.",
    "turn/invalid": "Answers that the environment could not use (its event 'invalid'), of all turns of all seats.",
    "turn/filtered": "Turns that the turn filter took out of training, of all turns that say whether it did.",
    **{
        f"diversity/distinct_{n}": f"Different {n}-grams of words, of all {n}-grams, among {TEXTS_A_GAME} free-text "
        f"turns drawn from each of {GAMES_A_BLOCK} games, averaged over such blocks of games."
        for n in (1, 2, 3)
    },
    "diversity/same_across_games": "Pairs of free-text turns of games of different seeds, at the same step and by the "
    "same role, that are the same word for word, of all such pairs.",
    **werewolf_probes.DESCRIPTIONS,
}
_MEANS = {"turn/words", "turn/tokens", *(f"diversity/distinct_{n}" for n in (1, 2, 3)), *werewolf_probes.MEANS}

_Z = 1.96  # of 95%


class Measure(NamedTuple):
    """A share or mean over games, its 95% interval, and the denominator's total.

    For a difference the interval is the difference's and `count` is of both denominators together.
    """

    value: float
    low: float
    high: float
    count: int


class _Estimate(NamedTuple):
    value: float
    clusters: tuple[int, ...]  # [C] seeds
    influence: np.ndarray  # [C]
    occasions: int  # clusters that have a part in the denominator
    count: int


class _Game(NamedTuple):
    record: Mapping[str, Any]
    steps: Sequence[Step]
    cluster: int  # number of its seed among all seeds in order
    free: Sequence[Mapping[str, Any]]  # the record's turns that answer a question without options


def replay(record: Mapping[str, Any], env: Environment) -> list[Step]:
    """Plays a recorded game again.

    Args:
      record: of `metrics.episode_record`; of a game cut short what there is.
      env: with the rules it was played under.

    Returns:
      The opening and one step for each step with turns.

    Raises:
      ValueError: it goes otherwise, as games of other rules do.
    """

    def check(holds: bool, why: str) -> None:
        if not holds:
            raise ValueError(f"game {record['game']} of seed {record['seed']} does not replay under these rules: {why}")

    actions: dict[int, dict[int, str]] = {}
    for turn in record["turns"]:
        actions.setdefault(turn["step"], {})[turn["seat"]] = turn["text"]
    state, roles = env.reset(record["seed"]), tuple(record["roles"])
    check(roles == env.roles(state), f"its roles are {roles}, not {env.roles(state)}")
    steps = [env.step(state, {})]
    for number, said in sorted(actions.items()):
        asked = sorted(steps[-1].asks)
        check(number == len(steps) - 1, f"step {number} follows step {len(steps) - 2}")
        check(sorted(said) == asked, f"in step {number} seats {sorted(said)} act, asked are {asked}")
        steps.append(env.step(steps[-1].state, said))
    rewards = steps[-1].rewards
    # A record has 4 digits after the point; those that are all 0, or of judged games, may be a judge's.
    ended = None if rewards is None else [round(float(rewards[seat]), 4) for seat in range(env.num_seats)]
    judged = rewards is not None and record["rewards"] is not None and (not any(ended) or "leaks" in record["events"])
    check(judged or ended == record["rewards"], f"it ends with rewards {ended}, not {record['rewards']}")
    return steps


def measure(records: Iterable[Mapping[str, Any]], env: Environment) -> dict[str, Measure]:
    """Everything that `DESCRIPTIONS` names and that these games have occasion for.

    A mean's interval is value ± t standard errors, with Student's t (1.96 for many seeds) for as many seeds as have
    occasion. A share's is Wilson's (1927) with the number of trials that would give a binomial share the same ± t
    standard errors, and no more than there are (Korn and Graubard, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", 1998), so that a share of 0 has one, too. Where all
    seeds agree, every one counts as one trial.

    Args:
      records: of `metrics.episode_record`; "tokens" and "kept" may lack.
      env: with the rules they were played under.

    Returns:
      By name, in the order of `DESCRIPTIONS`.

    Raises:
      ValueError: the games are of fewer than two seeds, or one does not replay.
    """
    return {name: _with_interval(name, of) for name, of in _estimates(records, env).items()}


def compare(
    a_records: Iterable[Mapping[str, Any]], b_records: Iterable[Mapping[str, Any]], env: Environment
) -> dict[str, Measure]:
    """The difference a - b of what both groups have occasion for.

    The intervals of both are put together by the method of variance estimates recovery (Zou and Donner, "Construction
    of confidence limits about effect measures: a general approach", 2008): for means, ± t standard errors of the
    difference. If both groups hold the same seeds, the correlation of their influence values takes off what the seeds'
    luck has in common; otherwise they are independent.

    Args:
      a_records, b_records: as for `measure`.
      env: with the rules that both were played under.

    Raises:
      ValueError: as for `measure`.
    """
    a, b = _estimates(a_records, env), _estimates(b_records, env)
    return {name: _difference(name, a[name], b[name]) for name in a if name in b}


def _with_interval(name: str, of: _Estimate) -> Measure:
    error = float(of.influence.std(ddof=1)) / math.sqrt(len(of.influence))
    margin = _student(of.occasions - 1) * error
    if name in _MEANS:
        return Measure(of.value, of.value - margin, of.value + margin, of.count)
    trials = of.value * (1 - of.value) * (_Z / margin) ** 2 if error > 1e-9 else of.occasions
    low, high = rate_interval(of.value, min(trials, of.count))
    # Of shares 0 and 1 an end is the share itself; rounding must not put it beside.
    return Measure(of.value, min(low, of.value), max(high, of.value), of.count)


def _student(freedom: int) -> float:
    """Student's t at 97.5%, of 2 and more degrees of freedom to 0.14: Abramowitz and Stegun (1964), equation 26.7.5."""
    z, n = _Z, max(freedom, 1)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _difference(name: str, a: _Estimate, b: _Estimate) -> Measure:
    of_a, of_b = _with_interval(name, a), _with_interval(name, b)
    paired = a.clusters == b.clusters and a.influence.std() > 0 and b.influence.std() > 0
    correlation = np.corrcoef(a.influence, b.influence)[0, 1] if paired else 0.0

    def distance(from_a: float, from_b: float) -> float:
        return math.sqrt(max(from_a**2 + from_b**2 - 2 * correlation * from_a * from_b, 0.0))

    value = a.value - b.value
    low = value - distance(a.value - of_a.low, of_b.high - b.value)
    high = value + distance(of_a.high - a.value, b.value - of_b.low)
    return Measure(value, low, high, a.count + b.count)


# ------------------------------------------------------------------ from games to estimates
def _estimates(records: Iterable[Mapping[str, Any]], env: Environment) -> dict[str, _Estimate]:
    records = list(records)
    seeds = tuple(sorted({record["seed"] for record in records}))
    if len(seeds) < 2:
        raise ValueError(f"an interval needs games of at least 2 seeds, got {len(records)} games of {len(seeds)}")
    if isinstance(env, Werewolf):
        env = Werewolf(env.rules)  # asks with options, however it was asked while playing
    number = {seed: i for i, seed in enumerate(seeds)}
    games = [_game(record, env, number[record["seed"]]) for record in records]
    counts = [_turn_counts(game) for game in games]
    if isinstance(env, Werewolf):
        of_werewolf = (werewolf_probes.counts([step.state for step in game.steps]) for game in games)
        counts = [of_turns | of_game for of_turns, of_game in zip(counts, of_werewolf, strict=True)]
    found = _ratios(games, counts, seeds) | _distinct(games) | _same_across_games(games, seeds)
    return {name: found[name] for name in DESCRIPTIONS if name in found}


def _game(record: Mapping[str, Any], env: Environment, cluster: int) -> _Game:
    steps = replay(record, env)
    free = [turn for turn in record["turns"] if steps[turn["step"]].asks[turn["seat"]].options is None]
    return _Game(record, steps, cluster, free)


def _ratio(y: np.ndarray, x: np.ndarray, clusters: Sequence[int]) -> _Estimate:
    """sum(y) / sum(x), both [C] and by cluster."""
    value = y.sum() / x.sum()
    influence = (y - value * x) / x.mean()
    return _Estimate(float(value), tuple(clusters), influence, int((x > 0).sum()), round(float(x.sum())))


def _ratios(
    games: Sequence[_Game], counts: Sequence[Mapping[str, tuple[float, float]]], seeds: Sequence[int]
) -> dict[str, _Estimate]:
    y, x = ({name: np.zeros(len(seeds)) for name in DESCRIPTIONS} for _ in range(2))
    for game, of_game in zip(games, counts, strict=True):
        for name, (hits, total) in of_game.items():
            y[name][game.cluster] += hits
            x[name][game.cluster] += total
    return {name: _ratio(y[name], x[name], seeds) for name in DESCRIPTIONS if x[name].any()}


def _turn_counts(game: _Game) -> dict[str, tuple[float, float]]:
    """By probe (numerator, denominator) of one game."""
    turns = game.record["turns"]
    tokens = [len(turn["tokens"]) for turn in game.free if turn.get("tokens") is not None]
    kept = [turn["kept"] for turn in turns if turn.get("kept") is not None]
    counts: dict[str, tuple[float, float]] = {
        "turn/words": (sum(len(turn["text"].split()) for turn in game.free), len(game.free)),
        "turn/tokens": (sum(tokens), len(tokens)),
        "turn/filtered": (kept.count(False), len(kept)),
    }
    if "invalid" in game.record["events"]:
        counts["turn/invalid"] = (game.record["events"]["invalid"], len(turns))
    return counts


def _distinct(games: Sequence[_Game]) -> dict[str, _Estimate]:
    """Distinct n-grams of blocks of games in the order of their seeds; each block is a cluster."""
    enough = sorted((g for g in games if len(g.free) >= TEXTS_A_GAME), key=lambda g: (g.cluster, g.record["game"]))
    blocks = [enough[i : i + GAMES_A_BLOCK] for i in range(0, len(enough) - GAMES_A_BLOCK + 1, GAMES_A_BLOCK)]
    if len(blocks) < 2:
        return {}
    texts = [[text for game in block for text in _drawn_texts(game)] for block in blocks]
    size = np.full(len(blocks), float(TEXTS_A_GAME * GAMES_A_BLOCK))
    first = [block[0].record["seed"] for block in blocks]
    return {
        f"diversity/distinct_{n}": _ratio(size * [distinct_n(of_block, n) for of_block in texts], size, first)
        for n in (1, 2, 3)
    }


def _drawn_texts(game: _Game) -> list[str]:
    rng = np.random.default_rng(game.record["seed"])
    return [game.free[i]["text"] for i in rng.choice(len(game.free), TEXTS_A_GAME, replace=False)]


def _same_across_games(games: Sequence[_Game], seeds: Sequence[int]) -> dict[str, _Estimate]:
    """The probability of a collision, an unbiased U-statistic of pairs, as the ratio of two of them.

    With y and x a cluster's equal pairs and pairs with all others, it is sum(y) / sum(x), and every pair moves it at
    both its ends: twice a ratio's influence (Hoeffding, "A Class of Statistics with Asymptotically Normal
    Distribution", 1948).
    """
    said = [[(t["step"], t["role"], " ".join(t["text"].split())) for t in game.free] for game in games]
    points = [[(t["step"], t["role"]) for t in game.free] for game in games]
    y, x = (_pairs_with_others(things, games, len(seeds)) for things in (said, points))
    if not x.any():
        return {}
    ratio = _ratio(y, x, seeds)
    return {"diversity/same_across_games": ratio._replace(influence=2 * ratio.influence, count=ratio.count // 2)}


def _pairs_with_others(things: Sequence[Sequence[Any]], games: Sequence[_Game], num_clusters: int) -> np.ndarray:
    """[C] for how many of a cluster's things, paired with equal ones of other clusters."""
    of_cluster = [Counter() for _ in range(num_clusters)]
    for game, of_game in zip(games, things, strict=True):
        of_cluster[game.cluster].update(of_game)
    total = Counter(itertools.chain.from_iterable(things))
    return np.array([sum(n * (total[thing] - n) for thing, n in mine.items()) for mine in of_cluster], float)


# ------------------------------------------------------------------ terminal
def table(groups: Mapping[str, Mapping[str, Measure]]) -> Table:
    """Probes down, groups (of `measure` or `compare`) across, each with its interval.

    Shares are in percent, their differences in percentage points.
    """
    shown = Table(title="Behaviour, with 95% intervals")
    shown.add_column("probe")
    for group in groups:
        shown.add_column(group, justify="right")
    names = [name for name in DESCRIPTIONS if any(name in of_group for of_group in groups.values())]
    for name, following in itertools.zip_longest(names, names[1:], fillvalue=""):
        cells = [_cell(name, of_group[name]) if name in of_group else "" for of_group in groups.values()]
        shown.add_row(name, *cells, end_section=name.split("/")[0] != following.split("/")[0])
    return shown


def _cell(name: str, of: Measure) -> str:
    if name in _MEANS:
        return f"{of.value:z.2f} ({of.low:z.2f} to {of.high:z.2f})"
    return f"{100 * of.value:z.1f}% ({100 * of.low:z.1f} to {100 * of.high:z.1f})"
