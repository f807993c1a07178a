"""One page about a run, in one file that needs no network: its result, curves, comparisons, behaviour and games.

The life of a page: the run's files are read as far as they are there; what is missing is named with the command that
makes it; numbers become charts (`report_curves`), logged games what the reader shows (`report_games`), as many as the
page may have bytes; a template writes the tables and embeds the rest as data. Text of models reaches the browser as
JSON alone, and its script sets it as text, never as markup.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from ml_collections import ConfigDict
from plotly.offline import get_plotlyjs

from omar_jax import catalogue, experiment, probes, report_curves, report_games, workdirs
from omar_jax.envs.base import Environment, sides
from omar_jax.model.hf import ModelError
from omar_jax.settings import SettingError
from omar_jax.text.chat import Chat

ASSETS = Path(__file__).parent / "assets" / "report"
SCRIPTS = ("charts.js", "reader.js")
MOST_BYTES = 19_900_000  # of a page
MOST_GAMES = 200  # in the reader
LARGEST_GAME = 1_000_000  # bytes; the reader would be slow
MOST_ITERATIONS = 40  # whose games are read: probes and reader show these
MOST_ROWS = 200  # of a table


def write(workdir: Path, out: Path, report: Callable[[str], None], most_games: int = MOST_GAMES) -> int:
    """Writes the page of a run and returns its size in bytes, which is below 20 MB. No device of JAX's is used.

    Args:
      workdir: the run's folder.
      out: the file to write; its folder is made.
      report: is told in a line what takes long.
      most_games: in the reader.

    Raises:
      SettingError: `workdir` holds no run, or `out` is a folder.
    """
    if out.is_dir():
        raise SettingError(f"--out={out} is a folder; give a file such as {out / 'report.html'}")
    config = workdirs.stored_config(workdir)
    env = catalogue.environment(config)
    teams = list(sides(env))
    rows, broken_rows = report_curves.read_metrics(workdir)
    arena, round_robin = _json(workdir / "arena.json"), _json(workdir / "round_robin.json")
    played = read_games(workdir, config, env, report, most_games)
    behaviour, level = report_curves.small_multiples(played.measured, probes.DESCRIPTIONS)
    page = {
        "title": f"{workdir.resolve().name}: omar_jax report",
        "name": workdir.resolve().name,
        "result": result(arena, rows, teams),
        "facts": _facts(config, rows),
        "broken_rows": broken_rows,
        "curves": report_curves.curves(rows, teams),
        "wide": (report_curves.WINS.title, report_curves.EVENTS.title),
        "arena": arena,
        "elo": report_curves.ratings(round_robin),
        "round_robin": round_robin,
        "probes": behaviour,
        "level": level,
        "played": played,
        "commands": _commands(workdir, config),
        "most_rows": MOST_ROWS,
    }
    rest = _render(page | {"shown": 0}, teams, env, [])
    sizes = {iteration: [len(game) + 1 for game in games] for iteration, games in played.candidates.items()}
    chosen = report_games.within(sizes, most_games, MOST_BYTES - len(rest))
    games = [played.candidates[iteration][game] for iteration, game in chosen]
    content = _render(page | {"shown": len(games)}, teams, env, games)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, out)
    return len(content)


def _json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None if it is not there or not whole."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _commands(workdir: Path, config: ConfigDict) -> dict[str, str]:
    """What makes the files that the page is made of."""
    preset = f":{config.preset}" if config.preset else ""
    run = f"python -m omar_jax.main --config=configs/{config.environment.name}.py{preset} --workdir={workdir}"
    return {
        "run": run,
        "arena": f"python -m omar_jax.arena --a={workdir} --b=cold_start --out={workdir}",
        "round_robin": f"python -m omar_jax.arena --round_robin={workdir}",
        "episodes": f"{run} --config.log.episodes_every=5",
    }


def _facts(config: ConfigDict, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the run is: (title, text)."""
    done = rows[-1]["iteration"] + 1 if rows else 0
    seconds = sum(row.get(f"time/{phase}") or 0 for row in rows for phase in ("play", "score", "update"))
    played = [(name, config.environment[name]) for name in ("rules", "scenarios") if name in config.environment]
    return [
        ("preset", config.preset or "default"),
        ("model", config.model.source),
        *[({"rules": "rule set"}.get(name, name), value) for name, value in played],
        ("iterations", f"{done:,} of {config.ppo.iterations:,}"),
        ("games", f"{done * config.play.games:,}, {config.play.games:,} an iteration"),
        ("training time", _duration(seconds)),
        ("advantages", config.advantages.mode),
        ("seed", str(config.seed)),
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def result(arena: Mapping[str, Any] | None, rows: list[dict[str, Any]], teams: list[str]) -> str:
    """The run's main result in one sentence."""
    if arena and arena.get("sides"):
        sides = []
        for side, of in arena["sides"].items():
            low, high = of["interval"]
            chance = "" if low > 0 or high < 0 else ", perhaps by chance"
            sides.append(f"{points(of['difference'])} points as {side} (from {of['b']:.0%} to {of['a']:.0%}{chance})")
        return f"Rates of wins, {arena['a']} against {arena['b']}: {' and '.join(sides)}."
    wins = [(team, rows[-1].get(f"win_rate/{team}")) for team in teams] if rows else []
    rates = ", ".join(f"{team} {rate:.0%}" for team, rate in wins if rate is not None)
    if not rates:
        return "Nothing has been trained yet."
    return f"In self-play at iteration {rows[-1]['iteration']} the rates of wins are {rates}; no arena was played yet."


def points(share: float) -> str:
    """A difference of two shares in points: +9.4, \u22124.1."""
    return signed(100 * share, 1)


def signed(number: float, digits: int = 3) -> str:
    """A difference: +0.120, \u22120.041."""
    return f"{number:+z.{digits}f}".replace("-", "\u2212")


class Played(NamedTuple):
    """What was taken from a run's logged games.

    Attributes:
      logged: how many iterations were.
      iterations: those whose games were read.
      games: how many games they hold.
      broken: lines in their files that are no games.
      too_large: games left out of the reader because of their size.
      has_tokens: whether the tokenizer could be loaded.
      candidates: for the reader, as JSON by iteration.
      measured: probes by iteration.
      differences: (first iteration, last, last minus first) by probe.
      problem: why some iteration could not be measured, or "".
    """

    logged: int
    iterations: list[int]
    games: int
    broken: int
    too_large: int
    has_tokens: bool
    candidates: dict[int, list[str]]
    measured: dict[int, Mapping[str, probes.Measure]]
    differences: dict[str, tuple[probes.Measure, ...]]
    problem: str


def read_games(
    workdir: Path, config: ConfigDict, env: Environment, report: Callable[[str], None], most_games: int
) -> Played:
    """Reads the games of evenly chosen iterations, measures them all, and makes about `most_games` for the reader."""
    files = report_games.logged(workdir)
    iterations = [list(files)[place] for place in report_games.even(len(files), MOST_ITERATIONS)]
    if files:
        report(f"reading the games of {len(iterations)} of {len(files)} logged iterations")
    chat = _chat(config, report) if files else None
    games = broken = too_large = 0
    candidates, measured, ends, problem = {}, {}, {}, ""
    quota = math.ceil(most_games / max(len(iterations), 1))
    for iteration in iterations:
        records, broken_here = report_games.read(files[iteration])
        games, broken = games + len(records), broken + broken_here
        chosen = [records[place] for place in report_games.even(len(records), quota)]
        made = [embedded(report_games.shown(record, iteration, env.team, chat)) for record in chosen]
        candidates[iteration] = [game for game in made if len(game) <= LARGEST_GAME]
        too_large += len(made) - len(candidates[iteration])
        try:
            measured[iteration] = probes.measure(records, env)
        except ValueError as error:  # too few games, or none of these rules
            problem = f"iteration {iteration}: {error}"
            continue
        ends = {min(measured): ends.get(min(measured), records), iteration: records}
    differences = {}
    if len(ends) == 2:
        (first, a), (last, b) = ends.items()
        found = probes.compare(b, a, env)
        there = (name for name in found if name in measured[first] and name in measured[last])
        differences = {name: (measured[first][name], measured[last][name], found[name]) for name in there}
    numbers = (len(files), iterations, games, broken, too_large)
    return Played(*numbers, chat is not None, candidates, measured, differences, problem)


def _chat(config: ConfigDict, report: Callable[[str], None]) -> Chat | None:
    """The model's text; None, which is reported, where its tokenizer cannot be had."""
    try:
        folder = experiment.model_folder(config, report, weights=False)
        return experiment.read_chat(folder, config)
    except ModelError as error:
        report(f"tokens are shown by the turn, without their texts: {error}")
        return None


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: ASCII, and nothing in it closes the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _render(page: Mapping[str, Any], teams: Sequence[str], env: Environment, games: Sequence[str]) -> bytes:
    loader = jinja2.FileSystemLoader(ASSETS)
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    templates.filters |= {"points": points, "signed": signed}
    scripts = [get_plotlyjs().replace("\r\n", "\n"), *((ASSETS / name).read_text("utf-8") for name in SCRIPTS)]
    charts = {"curves": page["curves"], "probes": page["probes"], "elo": page["elo"] and [page["elo"]], "teams": teams}
    about = {"teams": teams, "teamOf": {role: env.team(role) for role in env.role_names}}
    text = templates.get_template("page.html.jinja").render(
        **page,
        teams=teams,
        style=(ASSETS / "page.css").read_text("utf-8"),
        scripts=scripts,
        policy=" ".join(_digest(script) for script in scripts),
        chart_data=embedded(charts),
        game_data=f'{{"about":{embedded(about)},"games":[{",".join(games)}]}}',
    )
    return text.encode("utf-8", "replace")


def _digest(script: str) -> str:
    """What allows a script in a content security policy; all others are refused."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
