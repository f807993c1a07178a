"""What the games of a comparison came to: rates by side and role, what one policy has over the other, ratings.

The life of a number: every game is a record (`matches`); a side has won it if its rewards are above 0. A's games on a
side against B are set against B's own games on it, deal by deal, where the luck of the deal cancels (`compare`). Games
between policies alone make ratings (`rate`).
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from omar_jax import elo, hosts, matches
from omar_jax.console import Console
from omar_jax.envs.base import Environment, sides
from omar_jax.matches import Contestant, Games, LineUp, Record, line_ups
from omar_jax.metrics import PairedDifference, paired_difference, rate_interval, write_atomically
from omar_jax.rollout import Rollout
from omar_jax.runtime import Stop


class Rated(NamedTuple):
    """A policy's rating."""

    name: str
    iteration: int | None  # of the run it is a checkpoint of
    rating: elo.Rating


class Comparison(NamedTuple):
    """A against B.

    Attributes:
      a, b: their names.
      num_games: deals, each played by every line-up.
      cut: how many games of all were cut short; they are nobody's.
      counts: "wins" or "points", see `envs.base.Environment`.
      sides: by side, what A got on it against B on average, B against itself, and their difference.
      roles: the same by role, over its seats.
      joint: how well all seats of A together did, all of B together, and their difference; None where they play
        against one another.
      ratings: of B, which has 0, and of A.
    """

    a: str
    b: str
    num_games: int
    cut: int
    counts: str
    sides: Mapping[str, PairedDifference]
    roles: Mapping[str, PairedDifference]
    joint: PairedDifference | None
    ratings: Sequence[Rated]


def wanted(env: Environment, a: str, b: str) -> list[LineUp]:
    """The line-ups that compare A with B: A on every side, and B alone; A alone too, where seats do well together."""
    names = sides(env)
    alone = [(b,) * len(names), *([(a,) * len(names)] if env.counts == "points" else [])]
    return [*line_ups(names, a, b), *alone]


def seats_of(env: Environment, record: Record, group: str) -> list[int]:
    """The seats of a side or a role."""
    return [seat for seat, role in enumerate(record["roles"]) if group in (role, env.team(role))]


def results(env: Environment, records: Sequence[Record], group: str) -> np.ndarray:
    """[games] what a side's or role's seats got on average; a game cut short is nobody's."""

    def result(record):
        if record["rewards"] is None:
            return 0.0
        of_seats = (
            env.result(record["roles"][seat], record["rewards"][seat], record["events"])
            for seat in seats_of(env, record, group)
        )
        return np.mean(list(of_seats))

    return np.array([result(record) for record in records], float)


def joint_results(env: Environment, records: Sequence[Record]) -> np.ndarray:
    """[games] how well all seats did together; a game cut short is nobody's."""
    return np.array([env.joint_result(record["events"]) or 0.0 for record in records], float)


def scores(env: Environment, records: Sequence[Record], side: str) -> np.ndarray:
    """[games] 1 where a side's seats did better than all others on average, 0 where they did worse, else 0.5."""

    def score(record):
        if record["rewards"] is None:
            return 0.5
        mine = set(seats_of(env, record, side))
        of_side = np.mean([reward for seat, reward in enumerate(record["rewards"]) if seat in mine])
        of_rest = np.mean([reward for seat, reward in enumerate(record["rewards"]) if seat not in mine])
        return (1 + np.sign(of_side - of_rest)) / 2

    return np.array([score(record) for record in records], float)


def pairings(env: Environment, games: Games, names: Sequence[str], num_games: int) -> list[elo.Pairing]:
    """The games in which one of two policies played a side and the other the rest, of all pairs of `names`."""
    found = []
    for first, one in enumerate(names):
        for second, rest in enumerate(names):
            # With two sides, one's being the first is the other's being the second.
            for side, line_up in enumerate(line_ups(sides(env), one, rest)[: 1 if len(sides(env)) == 2 else None]):
                if first != second:
                    of_line_up = scores(env, games.of(line_up, num_games), sides(env)[side])
                    found.append(elo.Pairing(first, second, side, of_line_up))
    return found


def all_pairs(env: Environment, names: Sequence[str]) -> list[LineUp]:
    """The line-ups of every two of these policies, each on every side against the other."""
    found = [line_up for one, rest in itertools.permutations(names, 2) for line_up in line_ups(sides(env), one, rest)]
    return list(dict.fromkeys(found))


def rate(env: Environment, games: Games, names: Mapping[str, int | None], num_games: int) -> list[Rated]:
    """Ratings of policies of which all pairs have played; `names` with their iterations, the first the zero."""
    found = elo.ratings(pairings(env, games, list(names), num_games), len(names))
    return [Rated(name, iteration, rating) for (name, iteration), rating in zip(names.items(), found, strict=True)]


def cut(games: Games, line_ups: Sequence[LineUp], num_games: int) -> int:
    """How many games of these line-ups were cut short."""
    return sum(record["rewards"] is None for line_up in line_ups for record in games.of(line_up, num_games))


def compare(env: Environment, games: Games, a: str, b: str, num_games: int) -> Comparison:
    """What the games of `wanted` came to."""
    names = sides(env)
    alone = games.of((b,) * len(names), num_games)
    of_side = {side: games.of(line_up, num_games) for side, line_up in zip(names, line_ups(names, a, b), strict=True)}

    def difference(group, side):
        return paired_difference(results(env, of_side[side], group), results(env, alone, group))

    joint = None
    if env.counts == "points":
        together = games.of((a,) * len(names), num_games)
        joint = paired_difference(joint_results(env, together), joint_results(env, alone))

    return Comparison(
        a=a,
        b=b,
        num_games=num_games,
        cut=cut(games, wanted(env, a, b), num_games),
        counts=env.counts,
        sides={side: difference(side, side) for side in names},
        roles={role: difference(role, env.team(role)) for role in env.role_names},
        joint=joint,
        ratings=rate(env, games, {b: None, a: None}, num_games),
    )


def kept(folder: Path, config: ConfigDict, contestants: Sequence[Contestant]) -> Games:
    """The games that a folder holds; raises SettingError if they are of another game or of other policies."""
    environment = {f"config.environment.{name}": value for name, value in config.environment.items()}
    batches = ("games", "batch_games", "batch_eighths", "lanes")  # in other batches they are the same games
    play = {f"config.play.{name}": of for name, of in config.play.items() if name not in batches}
    rules = {**environment, **play, "seed": config.arena.seed}
    return Games(folder, rules, {contestant.name: contestant.origin for contestant in contestants})


def hold(
    rollout: Rollout,
    a: Contestant,
    b: Contestant,
    config: ConfigDict,
    folder: Path,
    out: Path,
    console: Console,
    stop: Stop,
) -> None:
    """Plays A against B, shows how it went, and writes it as JSON; games in `folder` are not played again.

    Args:
      rollout: of the game.
      a, b: who play.
      config: how many deals, of which seed.
      folder: where games are kept.
      out: the JSON file.
      console: shows a bar, and the tables.
      stop: may end it.

    Raises:
      SettingError: the folder holds other games.
      StopRequested: somebody asked for it; the games that are over are kept.
    """
    games = kept(folder, config, (a, b))
    found = play(rollout, a, b, config, games, console, stop)
    games.close()
    if hosts.is_first():
        write_atomically(out, [json.dumps(comparison_json(found), indent=1)])
    show(console, found, games.of(wanted(rollout.env, a.name, b.name)[0], config.arena.games))


def play(
    rollout: Rollout,
    a: Contestant,
    b: Contestant,
    config: ConfigDict,
    games: Games,
    console: Console,
    stop: Stop,
) -> Comparison:
    """Plays A against B, with a bar, and compares them; what was played before is in `games`.

    Raises:
      StopRequested: somebody asked for it; the games that are over are kept.
    """
    play_missing(rollout, (a, b), wanted(rollout.env, a.name, b.name), config, games, console, stop)
    return compare(rollout.env, games, a.name, b.name, config.arena.games)


def score(rollout: Rollout, a: Contestant, b: Contestant, config: ConfigDict) -> float:
    """A's mean score against B on all sides, from 0 to 1, on `arena.check_games` deals; no game is kept."""
    games, names, num_games = Games(None, {}), sides(rollout.env), config.arena.check_games
    line_up = line_ups(names, a.name, b.name)
    seed, temperature = config.arena.seed, config.play.temperature
    matches.play(rollout, (a, b), line_up, num_games, seed, temperature, games, lambda finished, tokens: None)
    of_sides = [
        scores(rollout.env, games.of(each, num_games), side).mean() for each, side in zip(line_up, names, strict=True)
    ]
    return float(np.mean(of_sides))


def play_missing(
    rollout: Rollout,
    contestants: Sequence[Contestant],
    line_ups: Sequence[LineUp],
    config: ConfigDict,
    games: Games,
    console: Console,
    stop: Stop,
) -> None:
    """Plays with a bar what is missing of these line-ups; raises StopRequested as `play` does."""
    num_games, seed, temperature = config.arena.games, config.arena.seed, config.play.temperature
    missing = sum(len(games.missing(line_up, num_games)) for line_up in line_ups)
    with console.progress("arena", missing, stop.check) as progress:
        matches.play(rollout, contestants, line_ups, num_games, seed, temperature, games, progress)


# ---------------------------------------------------------------- what is shown


def _as_json(of: PairedDifference, found: "Comparison") -> dict[str, Any]:
    return {
        "a": of.a,
        "b": of.b,
        "difference": of.difference,
        "interval": [of.low, of.high],
        "games": found.num_games,
        **({"a_interval": list(rate_interval(of.a, found.num_games))} if found.counts == "wins" else {}),
        **({"b_interval": list(rate_interval(of.b, found.num_games))} if found.counts == "wins" else {}),
    }


def ratings_json(rated: Sequence[Rated]) -> list[dict[str, Any]]:
    """Ratings as JSON."""
    return [
        {
            "name": name,
            "iteration": iteration,
            "elo": round(rating.elo, 2),
            "interval": [round(rating.low, 2), round(rating.high, 2)],
        }
        for name, iteration, rating in rated
    ]


def num_played(found: Comparison) -> int:
    """All games of a comparison."""
    return found.num_games * (len(found.sides) + 1 + (found.joint is not None))


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The content of `arena.json`."""
    return {
        "a": found.a,
        "b": found.b,
        "games": num_played(found),
        "seeds": found.num_games,
        "cut": found.cut,
        "counts": found.counts,
        "sides": {side: _as_json(of, found) for side, of in found.sides.items()},
        "roles": {role: _as_json(of, found) for role, of in found.roles.items()},
        **({"joint": _as_json(found.joint, found)} if found.joint else {}),
        "elo": ratings_json(found.ratings),
    }


def pairs_json(env: Environment, games: Games, names: Sequence[str], num_games: int) -> list[dict[str, Any]]:
    """Rates of wins by side of every two policies against each other."""

    def rate_on(side, line_up):
        return float(results(env, games.of(line_up, num_games), side).mean())

    return [
        {
            "a": one,
            "b": other,
            "sides": {
                side: {"a": rate_on(side, of_one), "b": rate_on(side, of_other), "games": num_games}
                for side, of_one, of_other in zip(
                    sides(env),
                    line_ups(sides(env), one, other),
                    line_ups(sides(env), other, one),
                    strict=True,
                )
            },
        }
        for one, other in itertools.combinations(names, 2)
    ]


def comparison_table(found: Comparison) -> Table:
    """The same for the terminal; roles where they say more than sides."""
    wins = found.counts == "wins"
    what = "games won, with 95% intervals" if wins else "points won"
    title = f"{found.a} against {found.b}: {what}; {found.num_games} a side and line-up"

    def rate(of_one, in_percent=wins):
        if not wins:
            return f"{of_one:.1%}" if in_percent else f"{of_one:.2f}"
        low, high = rate_interval(of_one, found.num_games)
        return f"{of_one:.1%} ({100 * low:.0f} to {100 * high:.0f})"

    def difference(of, in_percent=wins):
        numbers = (of.difference, of.low, of.high)
        return ("{:+.1f} ({:+.1f} to {:+.1f})" if in_percent else "{:+.2f} ({:+.2f} to {:+.2f})").format(
            *(100 * x if in_percent else x for x in numbers)
        )

    shown = Table(title=title)
    for column in ("side", found.a, found.b, "difference in points"):
        shown.add_column(column, justify="left" if column == "side" else "right", overflow="fold")
    differing = {role: of for role, of in found.roles.items() if of not in found.sides.values()}
    for name, of in {**found.sides, **differing}.items():
        shown.add_row(name, rate(of.a), rate(of.b), difference(of))
    if found.joint:
        joint = found.joint
        shown.add_row("joint points, of those possible", *(rate(of, True) for of in joint[:2]), difference(joint, True))
    return shown


def show(console: Console, found: Comparison, examples: Sequence[Record]) -> None:
    """The tables of a comparison, and lines of a game."""
    console.table(comparison_table(found))
    console.line(rating_line(found))
    show_cut(console, found.cut, num_played(found))
    if lines := example(examples):
        console.line(f"From a game of {found.a} as {next(iter(found.sides))}:")
        for line in lines:
            console.line(f"  {line}")


def show_cut(console: Console, cut: int, total: int) -> None:
    """A line about games that were cut short, if any were."""
    if cut:
        console.line(f"{cut} of {total} games are nobody's: too long for config.play.transcript_tokens or cue_tokens")


def rating_line(found: Comparison) -> str:
    """A's rating over B's in one line."""
    rating = found.ratings[-1].rating
    return f"Elo of {found.a} over {found.b}: {_points(rating.elo)} (95% interval {_interval(rating)})"


def _points(elo: float) -> str:
    return f"{round(elo):+d}"


def _interval(rating: elo.Rating) -> str:
    return f"{_points(rating.low)} to {_points(rating.high)}"


def ratings_table(rated: Sequence[Rated], num_games: int) -> Table:
    """Ratings for the terminal, the best first."""
    shown = Table(title=f"Elo over {rated[0].name}, {num_games} deals a pair and line-up")
    for column in ("policy", "Elo", "95% interval"):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    for name, _, rating in sorted(rated, key=lambda each: -each.rating.elo):
        shown.add_row(name, _points(rating.elo), _interval(rating))
    return shown


def example(records: Sequence[Record], lines: int = 3) -> list[str]:
    """What was said first in the first game; answers of a word, such as votes, are left out."""
    said = [turn for turn in records[0]["turns"] if " " in turn["text"]]
    return [f"{records[0]['names'][turn['seat']]}: {turn['text']}" for turn in said[:lines]]
