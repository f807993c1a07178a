"""How policies get there, not only how far: what a judge finds in their conversations, one policy against another.

The life of a measure: the games of a comparison (`matches`) are judged by `judge_rubrics.MEASURES`, batch by batch, and
what was found is kept beside them and never asked for again; what A's seats got on a side against B is set against
what B's got there against itself on the same deal (`compare`), over everything and for each scenario. Conversations
about the same scenario are alike, so the intervals are clustered by scenario.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from omar_jax import contest, hosts
from omar_jax.console import Console
from omar_jax.envs.base import sides
from omar_jax.envs.sotopia import Sotopia
from omar_jax.judge import Jury
from omar_jax.judge_rubrics import MEASURES
from omar_jax.matches import Contestant, Games, LineUp, Record, line_ups
from omar_jax.metrics import PairedDifference, paired_difference, write_atomically
from omar_jax.settings import SettingError

NAMES = tuple(dimension.name for dimension in MEASURES)
# Games judged between two writings.
AT_ONCE = 32


class Measured(NamedTuple):
    """A against B.

    Attributes:
      a, b: their names.
      missing: games that were cut short, or that the judge failed on.
      overall: by measure, from 0 to 10.
      scenarios: the same by scenario, of those with two deals or more.
    """

    a: str
    b: str
    missing: int
    overall: Mapping[str, PairedDifference]
    scenarios: Mapping[str, Mapping[str, PairedDifference]]


class _Pair(NamedTuple):
    """What A's and B's seats got on a side of a deal: [measures] each."""

    scenario: str
    game: int
    a: np.ndarray
    b: np.ndarray


def hold(jury: Jury, a: Contestant, b: Contestant, config: ConfigDict, folder: Path, console: Console) -> None:
    """Judges the games of A against B that `contest.hold` played, shows what was found, and writes measures.json.

    Args:
      jury: of their environment.
      a, b: who played.
      config: of the arena.
      folder: where the games are; what is found is kept in it.
      console: shows a bar, and the tables.

    Raises:
      JudgeError: the judge failed too often.
      SettingError: what was found before, another judge found; or there is nothing to compare.
      StopRequested: the judge's check did; what was found is kept.
    """
    games = contest.kept(folder, config, (a, b))
    names, num_games = sides(jury.env), config.arena.games
    wanted = [*line_ups(names, a.name, b.name), (b.name,) * len(names)]
    judge = {f"config.judge.{name}": config.judge[name] for name in ("backend", "model", "url")}
    found = Games(folder / "measures", judge)
    total = sum(len(found.missing(line_up, num_games)) for line_up in wanted)
    with console.progress("judge", total, lambda: None) as progress:  # the judge looks whether to stop
        measure(jury, games, found, wanted, num_games, lambda done: progress(done, 0))
    games.close()
    found.close()
    measured = compare(jury.env, found, a.name, b.name, num_games)
    if hosts.is_first():
        write_atomically(folder / "measures.json", [json.dumps(as_json(measured), indent=1)])
    for table in tables(measured):
        console.table(table)


def measure(
    jury: Jury,
    games: Games,
    found: Games,
    wanted: Sequence[LineUp],
    num_games: int,
    progress: Callable[[int], None],
) -> None:
    """Has the missing games of these line-ups judged, batch by batch; `progress` is told how many are.

    `found` gets players, game and seed of each, and its scores: [P] by measure, or None where there are none.
    """
    done = 0
    for line_up in wanted:
        records = games.of(line_up, num_games)
        missing = [records[number] for number in found.missing(line_up, num_games)]
        for first in range(0, len(missing), AT_ONCE):
            some = missing[first : first + AT_ONCE]
            over = [record for record in some if record["rewards"] is not None]
            answers = jury.measure(over, MEASURES)
            scores = {record["game"]: of and list(of) for record, of in zip(over, answers, strict=True)}
            kept = ("players", "game", "seed", "roles")
            found.add({name: of[name] for name in kept} | {"scores": scores.get(of["game"])} for of in some)
            done += len(some)
            progress(done)


def compare(env: Sotopia, found: Games, a: str, b: str, num_games: int) -> Measured:
    """What the judged games of A on each side against B, and of B against itself, came to.

    Raises:
      SettingError: there are too few to compare.
    """
    names = sides(env)
    alone = found.of((b,) * len(names), num_games)
    pairs, missing = [], sum(record["scores"] is None for record in alone)
    for side, line_up in zip(names, line_ups(names, a, b), strict=True):
        for of_a, of_b in zip(found.of(line_up, num_games), alone, strict=True):
            missing += of_a["scores"] is None
            if of_a["scores"] is not None and of_b["scores"] is not None:
                scenario = env.reset(of_a["seed"]).scenario.codename
                pairs.append(_Pair(scenario, of_a["game"], _mean(env, of_a, side), _mean(env, of_b, side)))
    if len({pair.game for pair in pairs}) < 2:
        raise SettingError(f"fewer than 2 of {num_games} deals were judged, too few to compare: give more games")
    by_scenario = {
        name: [pair for pair in pairs if pair.scenario == name] for name in sorted({pair.scenario for pair in pairs})
    }
    return Measured(
        a=a,
        b=b,
        missing=missing,
        overall=_differences(pairs, [pair.scenario if len(by_scenario) > 1 else pair.game for pair in pairs]),
        scenarios={
            name: _differences(of_scenario, [pair.game for pair in of_scenario])
            for name, of_scenario in by_scenario.items()
            if len({pair.game for pair in of_scenario}) > 1
        },
    )


def _mean(env: Sotopia, record: Record, side: str) -> np.ndarray:
    """[measures] over the seats of a side."""
    of_seats = [record["scores"][seat] for seat in contest.seats_of(env, record, side)]
    return np.array([np.mean([of_seat[name] for of_seat in of_seats]) for name in NAMES])


def _differences(pairs: Sequence[_Pair], clusters: Sequence[Any]) -> dict[str, PairedDifference]:
    a, b = (np.array([getattr(pair, which) for pair in pairs]) for which in ("a", "b"))
    return {name: paired_difference(a[:, n], b[:, n], clusters) for n, name in enumerate(NAMES)}


def as_json(measured: Measured) -> dict[str, Any]:
    """The content of `measures.json`."""

    def of_all(differences):
        return {
            name: {"a": of.a, "b": of.b, "difference": of.difference, "interval": [of.low, of.high]}
            for name, of in differences.items()
        }

    return {
        "a": measured.a,
        "b": measured.b,
        "missing": measured.missing,
        "overall": of_all(measured.overall),
        "scenarios": {name: of_all(differences) for name, differences in measured.scenarios.items()},
    }


def tables(measured: Measured) -> list[Table]:
    """The measures over all scenarios, and A's difference from B in each scenario."""
    a, b = measured.a, measured.b
    overall = Table(title=f"How {a} talks, against {b}: a judge's scores from 0 to 10, all sides", title_justify="left")
    for column in ("measure", a, b, "difference, 95% interval"):
        overall.add_column(column, justify="left" if column == "measure" else "right", overflow="fold")
    for name, of in measured.overall.items():
        difference = f"{of.difference:+.2f} ({of.low:+.2f} to {of.high:+.2f})"
        overall.add_row(name.replace("_", " "), f"{of.a:.2f}", f"{of.b:.2f}", difference)
    if measured.missing:
        overall.caption = f"{measured.missing} games were cut short, or the judge failed on them"
    each = Table(title="The differences by scenario", title_justify="left")
    for column in ("scenario", *NAMES):
        each.add_column(column.replace("_", " "), justify="left" if column == "scenario" else "right", overflow="fold")
    for scenario, differences in measured.scenarios.items():
        each.add_row(scenario, *(f"{of.difference:+.2f}" for of in differences.values()))
    return [overall, each]
