"""The report's charts as data: what they show of the metrics, of the probes and of the ratings.

The life of a curve: a line of `metrics.jsonl` is an iteration's numbers; `curves` groups the numbers worth looking at
into few charts and thins them to what a screen can show; the page's script draws them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omar_jax.probes import Measure
from omar_jax.report_games import even

MOST_POINTS = 1000  # of a curve
MOST_EVENTS = 8  # curves of events
EVENTS_AT_FIRST = 4  # of them, those that changed most; the others are drawn when asked for


class Chart(NamedTuple):
    """Metrics that belong together.

    Attributes:
      title: what is measured.
      note: what to make of it.
      unit: "share", "number" or "seconds".
      metrics: names; one that ends in "/" stands for all that begin so.
    """

    title: str
    note: str
    unit: str
    metrics: tuple[str, ...]


WINS = Chart("Who wins", "Share of seats on the winning side, in self-play.", "share", ("win_rate/",))
EVENTS = Chart("What happens", "Events a game, as the environment counts them.", "number", ("events/",))
CHARTS = (
    Chart("Drift", "KL from the policy that self-play started with, nats a token.", "number", ("policy/kl",)),
    Chart("Entropy", "Of the next token, nats: how undecided the policy is.", "number", ("policy/entropy",)),
    Chart("Clipped", "Tokens whose update the clip cut off.", "share", ("policy/clip_fraction",)),
    Chart(
        "Critic",
        "Explained variance: 1 foresees all, 0 no more than the mean.",
        "number",
        ("critic/explained_variance",),
    ),
    Chart("Length", "Tokens a turn.", "number", ("turn/tokens",)),
    Chart(
        "Left out",
        "Turns filtered, games cut short, games too long to train on, invalid actions.",
        "share",
        ("turn/filtered_share", "game/cut_share", "game/oversize_share", "invalid/per_turn"),
    ),
    Chart("Time", "Seconds an iteration, by phase.", "seconds", ("time/play", "time/score", "time/update")),
    Chart("Speed", "Tokens sampled a second of play.", "number", ("time/tokens_per_second",)),
)
LABELS = {  # where a metric's own name says too little beside others
    "turn/filtered_share": "filtered",
    "game/cut_share": "cut short",
    "game/oversize_share": "too long",
    "invalid/per_turn": "invalid",
}


def read_metrics(workdir: Path) -> tuple[list[dict[str, Any]], int]:
    """(the lines of metrics.jsonl in the order of iterations, how many lines are broken); nothing if there is none."""
    file = workdir / "metrics.jsonl"
    lines = [line for line in file.read_bytes().split(b"\n") if line.strip()] if file.is_file() else []
    rows = {}
    for line in lines:
        try:
            row = json.loads(line)
            rows[int(row["iteration"])] = row
        except (ValueError, KeyError, TypeError):  # half a line: the run is writing it, or was killed
            continue
    return [rows[iteration] for iteration in sorted(rows)], len(lines) - len(rows)


def curves(rows: Sequence[Mapping[str, Any]], teams: Sequence[str]) -> list[dict[str, Any]]:
    """The charts of a run's metrics; those without a single number are left out.

    Args:
      rows: `read_metrics`.
      teams: whose wins are shown; all that the metrics know where they know none of these.

    Returns:
      For each chart title, note, unit, x (iterations) and series: name, metric, y, hidden, and team where it is one.
    """
    rows = [rows[place] for place in even(len(rows), MOST_POINTS)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    drawn = [
        _chart(WINS, [f"win_rate/{team}" for team in teams] if f"win_rate/{teams[0]}" in names else names, rows, teams),
        _chart(EVENTS, _telling(names, rows), rows, (), shown=EVENTS_AT_FIRST),
        *(_chart(chart, chart.metrics, rows, ()) for chart in CHARTS),
    ]
    return [chart for chart in drawn if chart["series"]]


def _chart(chart: Chart, names: Sequence[str], rows: Sequence[Mapping[str, Any]], teams, shown=None) -> dict[str, Any]:
    series = []
    for name in names:
        y = [_number(row.get(name)) for row in rows]
        if name.startswith(chart.metrics) and any(number is not None for number in y):
            of_group = name.split("/", 1)[1]
            one = {"name": LABELS.get(name, of_group.replace("_", " ")), "metric": name, "y": y}
            one["hidden"] = shown is not None and len(series) >= shown
            series.append(one | ({"team": of_group} if of_group in teams else {}))
    return {**chart._asdict(), "group": "", "x": [row["iteration"] for row in rows], "series": series}


def _telling(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The events that change at all, those first that change most from the first fifth of the run to the last."""
    changes = {}
    for name in names:
        y = [number for row in rows if (number := _number(row.get(name))) is not None]
        if name.startswith("events/") and len(set(y)) > 1:
            part = max(len(y) // 5, 1)
            first, last = sum(y[:part]) / part, sum(y[-part:]) / part
            changes[name] = abs(last - first) / (max(map(abs, y)) or 1)
    return sorted(changes, key=lambda name: -changes[name])[:MOST_EVENTS]


def _number(value: Any) -> float | None:
    """With 5 significant digits; None for what is no finite number."""
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return float(f"{value:.5g}") if is_number else None


def small_multiples(
    measured: Mapping[int, Mapping[str, Measure]], descriptions: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The probes over iterations: a chart for each that changes, and a few words for each that does not.

    Returns:
      Charts like those of `curves`, with low and high beside y and the group that the probe's name begins with; and
      such as "votes/nobody_out 0".
    """
    charts: list[dict[str, Any]] = []
    level = []
    for name in dict.fromkeys(name for of_iteration in measured.values() for name in of_iteration):
        there = {iteration: of_iteration[name] for iteration, of_iteration in measured.items() if name in of_iteration}
        y, low, high = ([_number(number) for number in part] for part in list(zip(*there.values(), strict=True))[:3])
        if len(measured) > 1 and len(set(y)) == 1:
            level.append(f"{name} {y[0]:.3g}" if y[0] is not None else name)
            continue
        group, _, title = name.rpartition("/")
        title = title.replace("_", " ")
        series = {"name": title, "metric": name, "y": y, "low": low, "high": high, "hidden": False}
        chart = Chart(title, descriptions.get(name, ""), "number", (name,))
        charts.append({**chart._asdict(), "group": group, "x": list(there), "series": [series]})
    return charts, level


def ratings(round_robin: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The chart of a round robin's Elo over iterations; policies that are none of the run's become level lines."""
    elo = (round_robin or {}).get("elo") or []
    of_run = sorted((one for one in elo if one.get("iteration") is not None), key=lambda one: one["iteration"])
    if not of_run:
        return None
    of_run = [of_run[place] for place in even(len(of_run), MOST_POINTS)]
    low, high = ([_number(one["interval"][side]) for one in of_run] for side in (0, 1))
    y = [_number(one["elo"]) for one in of_run]
    series = [{"name": "the run's policies", "metric": "elo", "y": y, "low": low, "high": high, "hidden": False}]
    for one in elo:
        if one.get("iteration") is None and len(series) <= MOST_EVENTS:
            level = [_number(one["elo"])] * len(of_run)
            series.append({"name": one["name"], "metric": "elo", "y": level, "hidden": False})
    return {
        "title": "Elo",
        "note": "Of the run's checkpoints, each against each, with 95% intervals.",
        "group": "",
        "unit": "number",
        "x": [one["iteration"] for one in of_run],
        "series": series,
    }
