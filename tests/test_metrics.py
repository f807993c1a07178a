import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax import metrics
from omar_jax.types import Episode, RolloutStep, Turn


def strict_lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def turn(text, tokens=2, kept=True):
    return Turn((1, 2), tuple(range(tokens)), np.full(tokens, -0.123456), np.zeros(tokens), text=text, kept=kept)


def episode(rewards, turns, events=None, learns=()):
    """Two seats, wolf and seer; `turns` is one {seat: Turn} a step."""
    steps = tuple(RolloutStep(turns=said) for said in turns)
    transcript = (("public", "hello"), ("Ann", "psst"))
    return Episode(7, 70, steps, transcript, rewards, ("wolf", "seer"), events or {}, learns, ("Ann", "Bob"))


def test_compilations_are_counted_once_a_shape():
    counter = metrics.CompilationCounter()
    step = jax.jit(lambda x: x * 2 + 1)
    small, large = jnp.zeros(3), jnp.zeros(5)
    start = counter.count
    step(small)
    assert counter.count == start + 1
    step(small)
    assert counter.count == start + 1
    step(large)
    assert counter.count == start + 2
    assert metrics.CompilationCounter().count == 0


def test_writer_appends_and_a_resumed_run_leaves_the_same_file(tmp_path):
    for name, runs in {"alone": [(0, 4)], "killed": [(0, 4), (2, 4)]}.items():
        for first, end in runs:
            writer = metrics.MetricsWriter(tmp_path / name, first)
            for iteration in range(first, end):
                writer.write(iteration, {"loss": 1 / (iteration + 1), "rate": jnp.float32(0.5)})
            writer.close()
            with (tmp_path / name / "metrics.jsonl").open("a") as file:
                file.write('{"iteration": 4, "lo')
    for name in ("alone", "killed"):
        metrics.MetricsWriter(tmp_path / name, 4).close()
    alone, killed = (tmp_path / name / "metrics.jsonl" for name in ("alone", "killed"))
    assert alone.read_bytes() == killed.read_bytes()
    assert strict_lines(alone)[1] == {"iteration": 1, "loss": 0.5, "rate": 0.5}
    assert len(strict_lines(alone)) == 4
    assert list((tmp_path / "alone").glob("events.out.tfevents*"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_line_is_on_disk_at_once(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, 0)
    writer.write(0, {"loss": 1.0})
    assert strict_lines(tmp_path / "metrics.jsonl") == [{"iteration": 0, "loss": 1.0}]
    writer.close()


def test_non_finite_metrics_stop_the_run_and_are_named(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, 0)
    with pytest.raises(FloatingPointError, match="iteration 3: loss is nan, norm is inf"):
        writer.write(3, {"loss": math.nan, "rate": 0.5, "norm": math.inf})
    writer.close()
    expected = [{"iteration": 3, "loss": None, "rate": 0.5, "norm": None}]
    assert strict_lines(tmp_path / "metrics.jsonl") == expected


def test_episodes_are_written_as_json(tmp_path):
    game = episode((1.0, -1.0), [{0: turn("I am Ann"), 1: turn("no", kept=False)}], {"claims": 2})
    advantages = {(0, 0): np.array([0.5, math.nan])}
    decode, of_turns = (lambda ids: f"<{len(ids)}>"), {(0, 0): np.float32(0.25)}
    record = metrics.episode_record(game, advantages, decode, of_turns)
    metrics.write_episodes(tmp_path, 12, [record, record])
    first, second = strict_lines(tmp_path / "episodes" / "000012.jsonl")
    assert first == second == record
    assert first["transcript"][1] == {"visible_to": "Ann", "text": "psst"}
    assert first["turns"][0] == {
        "step": 0,
        "seat": 0,
        "name": "Ann",
        "role": "wolf",
        "cue": "<2>",
        "text": "I am Ann",
        "tokens": [0, 1],
        "log_probs": [-0.1235, -0.1235],
        "values": [0.0, 0.0],
        "advantages": [0.5, None],
        "turn_advantage": 0.25,
        "kept": True,
    }
    assert first["turns"][1]["advantages"] is None and first["turns"][1]["turn_advantage"] is None
    metrics.write_episodes(tmp_path, 12, [])
    assert (tmp_path / "episodes" / "000012.jsonl").read_text() == ""


def test_a_cut_game_without_extras_is_written():
    record = metrics.episode_record(episode(None, [{0: turn("x")}]))
    assert record["rewards"] is None
    assert "cue" not in record["turns"][0]


def test_game_metrics_by_hand():
    games = [
        episode((1.0, -0.5), [{0: turn("a b c", 3), 1: turn("a b", 1)}], {"invalid": 1, "claims": 4}),
        episode((-1.0, 0.5), [{0: turn("a b", 2, kept=False)}, {1: turn("x", 2)}]),
        episode(None, []),
        episode((1.0, 1.0), [], learns=(False, True)),
    ]
    found = metrics.game_metrics(games, team_of=lambda role: "wolf" if role == "wolf" else "village")
    assert found == pytest.approx(
        {
            "game/count": 4,
            "game/cut_share": 1 / 4,
            "game/steps": 3 / 4,
            "reward/wolf": 0.0,  # 1, -1; the last game's wolf was somebody else
            "reward/seer": 1 / 3,  # -0.5, 0.5, 1
            "reward/village": 1 / 3,
            "win_rate/wolf": 1 / 2,
            "win_rate/seer": 2 / 3,
            "win_rate/village": 2 / 3,
            "turn/count": 4,
            "turn/tokens": 2,
            "turn/filtered_share": 1 / 4,
            "turn/distinct_2": 2 / 4,  # ab, bc, ab, ab
            "events/invalid": 1 / 4,
            "events/claims": 1,
            "invalid/per_game": 1 / 4,
            "invalid/per_turn": 1 / 4,
        }
    )


def test_game_metrics_of_nothing():
    assert metrics.game_metrics([]) == {"game/count": 0.0}
    assert all(math.isfinite(x) for x in metrics.game_metrics([episode(None, [])]).values())


def test_distinct_n():
    assert metrics.distinct_n(["a b a b", "a"], 2) == 2 / 3  # ab, ba, ab
    assert metrics.distinct_n(["a b a b", "a"], 1) == 2 / 5
    assert metrics.distinct_n(["a"], 2) == 0.0


def test_paired_difference_by_hand():
    found = metrics.paired_difference([1, 1, 0, 1], [0, 1, 0, 0])
    margin = 1.96 * math.sqrt(1 / 3) / 2  # differences 1, 0, 0, 1: variance (4 * 0.25) / 3
    assert found == pytest.approx((0.75, 0.25, 0.5, 0.5 - margin, 0.5 + margin))
    for wrong in ([1], [1, 0, 1]):
        with pytest.raises(ValueError, match="n >= 2 seeds"):
            metrics.paired_difference(wrong, wrong[:1])


def test_paired_interval_covers_the_truth():
    generator = np.random.default_rng(0)
    seeds = generator.random((500, 200, 1))  # how easy a seed is, shared by both
    won = generator.random((500, 200, 2)) < 0.2 + 0.4 * seeds + np.array([0.1, 0.0])
    intervals = [metrics.paired_difference(game[:, 0], game[:, 1]) for game in won]
    covered = np.mean([found.low <= 0.1 <= found.high for found in intervals])
    assert 0.92 < covered < 0.98
