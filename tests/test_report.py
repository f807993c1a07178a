"""The report's page as it is written: which games and how many bytes, and what is said of what is not there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import written_runs
from tokenizer_families import byte_level, finished, sentence_piece

from omar_jax import report_curves, report_games, report_page
from omar_jax.settings import SettingError

ROOT = Path(__file__).parents[1]
LIMIT = 20_000_000  # bytes of a page


def data(page, name):
    """What the page embeds as JSON."""
    text = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)


def write(workdir, out, **options):
    """(the page, what was reported)."""
    said = []
    size = report_page.write(workdir, out, said.append, **options)
    assert size == out.stat().st_size < LIMIT
    return out.read_text(encoding="utf-8"), said


# ---------------------------------------------------------------- which games


def test_even_choices():
    assert report_games.even(5, 9) == [0, 1, 2, 3, 4]
    assert report_games.even(9, 3) == [0, 4, 8]
    assert report_games.even(9, 1) == [8] and report_games.even(9, 0) == [] and report_games.even(0, 3) == []


def test_games_are_chosen_evenly_over_iterations_and_in_them():
    counts = {0: 3, 5: 3, 7: 0, 10: 3, 15: 3}
    assert report_games.choose(counts, 2) == [(0, 2), (15, 2)]
    assert report_games.choose(counts, 3) == [(0, 2), (10, 2), (15, 2)]
    assert report_games.choose(counts, 9) == [
        (0, 0),
        (0, 2),
        (5, 0),
        (5, 2),
        (10, 0),
        (10, 2),
        (15, 0),
        (15, 1),
        (15, 2),
    ]
    assert len(report_games.choose(counts, 99)) == 12
    assert report_games.choose({}, 5) == []


def test_games_are_left_out_until_the_rest_fits():
    sizes = {iteration: [100, 100] for iteration in range(10)}
    assert len(report_games.within(sizes, 99, 10**6)) == 20
    fitting = report_games.within(sizes, 99, 950)
    assert len(fitting) == 9 and {iteration for iteration, _ in fitting} >= {0, 9}
    assert report_games.within(sizes, 99, 99) == report_games.within(sizes, 99, -1) == []


def test_lines_that_are_no_games_are_counted(tmp_path):
    game = written_runs.played(1)
    wrong = [
        "[]",
        '{"game": 1}',
        "[" * 100_000,
        json.dumps(game)[:500],
        json.dumps(game | {"names": ["Alice"]}),
        json.dumps(game | {"turns": [game["turns"][0] | {"seat": 9}]}),
        json.dumps(game | {"turns": [game["turns"][0] | {"values": []}]}),
        json.dumps(game | {"transcript": [{"visible_to": "public", "text": None}]}),
        json.dumps(game | {"turns": [game["turns"][0] | {"turn_advantage": "high"}]}),
        json.dumps(game | {"rewards": ["won"] * 5}),
        "\udcff",
    ]
    file = tmp_path / "000000.jsonl"
    file.write_text("\n".join([json.dumps(game), *wrong, "", json.dumps(game)]), errors="surrogateescape")
    assert report_games.read(file) == ([game, game], len(wrong))


# ---------------------------------------------------------------- what the reader shows


@pytest.mark.parametrize("text", ["I am Bob.", "naïve 狼 \U0001f43a\U0001f43a!", "\u202eabc\u2028 שלום", "a  b\n c "])
@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_pieces_join_to_the_text(make, text):
    tokenizer = finished(make())
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    for cut in range(len(tokens) + 1):  # a turn may end within a letter
        found = report_games.pieces(tokens[:cut], tokenizer.decode)
        assert "".join(piece for piece, _ in found) == tokenizer.decode(tokens[:cut])
        assert sum(count for _, count in found) == cut
    assert len(found) >= len(text) // 2
    assert all(piece for piece, _ in found)


def test_letters_of_many_tokens_are_one_piece():
    tokenizer = finished(byte_level())
    tokens = tokenizer("a狼b")["input_ids"]
    assert report_games.pieces(tokens, tokenizer.decode) == [("a", 1), ("狼", 3), ("b", 1)]
    assert report_games.pieces(tokens[:2], tokenizer.decode)[-1] == (report_games.REPLACEMENT, 1)
    assert report_games.pieces([], tokenizer.decode) == []
    assert report_games.pieces([1, 2], lambda ids: "") == [("", 2)]


def test_a_tokenizer_whose_parts_say_something_else_gives_one_piece():
    assert report_games.pieces([1, 2, 3], lambda ids: str(len(ids))) == [("3", 3)]


def record(transcript, turns, **changes):
    """Alice the wolf and Bob the seer; turns are (seat, cue, text)."""
    made = [
        {"step": 0, "seat": seat, "cue": cue, "text": text, "tokens": [7, 8], "log_probs": [-0.5, -0.25],
         "values": [0.1, 0.2], "advantages": [1.0, -2.0], "kept": True} for seat, cue, text in turns
    ]  # fmt: skip
    told = [{"visible_to": who, "text": text} for who, text in transcript]
    game = {"game": 3, "seed": 4, "names": ["Alice", "Bob"], "roles": ["wolf", "seer"], "rewards": [1.0, -1.0]}
    return game | {"transcript": told, "turns": made} | changes


def test_the_story_tells_once_what_was_said():
    transcript = [
        ("Alice", "psst"),
        ("Bob", "psst"),
        ("Alice's turn", "Bob  lies."),
        ("Bob's turn", "kill Alice"),
        ("public", "Day 1.\nAlice: Bob lies."),
        ("Bob", "Bob: kill Alice"),
        ("Alice's turn", "Bob"),
        ("public", "Alice: Bob lies."),  # long ago: the moderator says it now
    ]
    cues = [" Alice the wolf says:<|end|><|assistant|>", "You are Bob.\nBob the seer kills:<end_of_turn>\n", "whom?"]
    turns = list(zip((0, 1, 0), cues, ("Bob  lies.", "kill Alice", "Bob"), strict=True))
    found = report_games.shown(record(transcript, turns), 5, lambda role: role, None)
    assert found["story"] == [
        {"to": ["Alice", "Bob"], "text": "psst"},
        0,
        1,
        {"to": [], "text": "Day 1."},
        2,
        {"to": [], "text": "Alice: Bob lies."},
    ]
    assert [turn["heard"] for turn in found["turns"]] == [["public"], ["Bob"], []]
    assert [turn["question"] for turn in found["turns"]] == ["says:", "kills:", "whom?"]
    assert (found["iteration"], found["game"], found["winner"]) == (5, 3, "wolf")
    assert found["turns"][0]["advantage"] is None  # an old record
    assert found["turns"][0]["mean"] == -0.5 and "pieces" not in found["turns"][0]


def test_winners():
    def winner(rewards):
        return report_games.winner(record([], [], rewards=rewards), lambda role: role)

    assert [winner(r) for r in ([1, -1], [1, 0.5], [0, 0], [None, 1], None)] == [
        "wolf", "wolf and seer", "nobody", "seer", "cut short",
    ]  # fmt: skip


def test_every_piece_has_its_numbers():
    game = written_runs.played(1)
    found = report_games.shown(game, 0, written_runs.ENV.team, written_runs.CHAT)
    for turn, recorded in zip(found["turns"], game["turns"], strict=True):
        assert "".join(turn["pieces"]) == written_runs.CHAT.tokenizer.decode(recorded["tokens"])
        assert turn["control"] == [len(turn["pieces"]) - 1]
        assert turn["advantage"] == recorded["turn_advantage"]
        assert turn["values"] == recorded["values"] and "counts" not in turn
        assert turn["advantages"] == pytest.approx(recorded["advantages"], abs=6e-4)


# ---------------------------------------------------------------- curves


def test_curves_are_few_and_thin():
    rows = [written_runs.metrics_of(iteration) for iteration in range(5000)]
    found = {chart["title"]: chart for chart in report_curves.curves(rows, ["werewolves", "village"])}
    assert all(len(chart["x"]) == report_curves.MOST_POINTS for chart in found.values()) and len(found) < 12
    assert found["Drift"]["x"][0] == 0 and found["Drift"]["x"][-1] == 4999
    assert [series["team"] for series in found["Who wins"]["series"]] == ["werewolves", "village"]
    assert [series["name"] for series in found["What happens"]["series"]] == ["false seer claims"]  # votes never change
    assert report_curves.curves([], ["werewolves"]) == []
    other_teams = report_curves.curves(rows[:2], ["buyers", "sellers"])[0]
    assert [series["name"] for series in other_teams["series"]] == ["werewolves", "village", "seer"]
    critic = report_curves.curves(rows[:3], ["village"])[5]
    assert critic["title"] == "Critic" and critic["series"][0]["y"] == [0.5, None, 0.5]


def test_half_lines_of_metrics_are_counted(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 0, "a": NaN}\n[]\n{"iteration": 2, "po')
    rows, broken = report_curves.read_metrics(tmp_path)
    assert [row["iteration"] for row in rows] == [0, 1] and broken == 2
    assert report_curves.read_metrics(tmp_path / "nowhere") == ([], 0)


def test_the_result_is_one_sentence():
    said = report_page.result(written_runs.ARENA, [], [])
    assert said == (
        "Rates of wins, trained against cold start: +25.0 points as werewolves (from 25% to 50%) and "
        "\u22125.0 points as village (from 75% to 70%, perhaps by chance)."
    )
    rows = [{"iteration": 4, "win_rate/village": 0.4}]
    assert report_page.result(None, rows, ["village", "wolves"]).startswith("In self-play at iteration 4 the rates of")
    assert report_page.result(None, [], ["village"]) == "Nothing has been trained yet."


# ---------------------------------------------------------------- the page


def test_nothing_in_the_data_ends_its_element():
    text = report_page.embedded(["</script><!--", "\u2028", "\ud800", '"'])
    assert text.isascii() and "<" not in text and json.loads(text) == ["</script><!--", "\u2028", "\ud800", '"']


def test_a_run_of_a_thousand_iterations_fits(tmp_path):
    games = [written_runs.played(number) for number in range(6)]
    for game in games:
        game["transcript"].append({"visible_to": "public", "text": "<" * 20_000})  # 6 bytes each on the page
    games[0]["transcript"].append({"visible_to": "public", "text": "x" * report_page.LARGEST_GAME})
    workdir = written_runs.write(tmp_path / "run", {0: games}, 1000, compared=False)
    first = workdir / "episodes" / "000000.jsonl"
    with first.open("a") as file:
        file.write('{"half": ')
    for iteration in range(1, 1000):
        os.link(first, workdir / "episodes" / f"{iteration:06d}.jsonl")
    page, said = write(workdir, tmp_path / "report.html")
    assert said == ["reading the games of 40 of 1000 logged iterations"]
    shown = data(page, "game-data")["games"]
    iterations = sorted({game["iteration"] for game in shown})
    assert 60 < len(shown) < 200 and iterations[0] == 0 and iterations[-1] == 999 and len(iterations) == 40
    assert len(page) > 0.9 * LIMIT  # the room is used
    for left_out in (
        f"{len(shown)} of the 240 games of 40 iterations are on this page, evenly chosen",
        "960 more logged iterations were not read",
        "40 games are left out because of their size",
        "40 unreadable lines were skipped",
    ):
        assert left_out in page
    again, _ = write(workdir, tmp_path / "again.html")
    assert again == page
    few, _ = write(workdir, tmp_path / "few.html", most_games=7)
    assert len(data(few, "game-data")["games"]) == 7


def test_what_is_missing_is_named_with_its_command(tmp_path):
    workdir = written_runs.write(tmp_path / "r", {}, 0, compared=False)
    (workdir / "arena.json").write_text('{"a": "trai')
    page, said = write(workdir, tmp_path / "new" / "report.html")
    assert said == []
    for what, command in [
        ("There are no metrics yet", f"python -m omar_jax.main --config=configs/werewolf.py:smoke --workdir={workdir}"),
        ("arena.json", f"python -m omar_jax.arena --a={workdir} --b=cold_start --out={workdir}"),
        ("round_robin.json", f"python -m omar_jax.arena --round_robin={workdir}"),
        ("No games were logged yet", "--config.log.episodes_every=5"),
    ]:
        assert re.search(rf'<p class="missing">[^<]*{re.escape(what)}[^<]*<code>[^<]*{re.escape(command)}', page), what


def test_without_a_tokenizer_turns_are_shown_whole(tmp_path):
    workdir = written_runs.write(tmp_path / "run", {0: [written_runs.played(1), written_runs.played(2)]}, 1)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["source"] = "/nowhere"
    (workdir / "config.json").write_text(json.dumps(config))
    page, said = write(workdir, tmp_path / "report.html")
    assert len(said) == 2 and said[1].startswith(
        "tokens are shown by the turn, without their texts: model.source='/now"
    )
    assert "whole turns are tinted instead" in page
    assert "pieces" not in data(page, "game-data")["games"][0]["turns"][0]


def test_games_that_cannot_be_measured_are_shown_all_the_same(tmp_path):
    foreign = record([("public", "<b>hello</b>")], [(0, "?", "hi")], roles=["buyer", "seller"])
    page, _ = write(written_runs.write(tmp_path / "run", {0: [foreign]}, 1), tmp_path / "report.html")
    assert "Nothing could be measured: iteration 0: " in page
    assert data(page, "game-data")["games"][0]["winner"] == written_runs.ENV.team("buyer")


def command(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "none_such"}  # whoever asks JAX for a device fails
    call = [sys.executable, "-m", "omar_jax.report", *arguments]
    return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_needs_no_device_and_tells_the_size(tmp_path):
    workdir = written_runs.write(tmp_path / "run", {0: [written_runs.played(1), written_runs.played(2)]}, 2)
    done = command(f"--workdir={workdir}", "--games=1")
    assert done.returncode == 0, done.stderr
    reading, written = done.stdout.splitlines()
    assert reading == "reading the games of 1 of 1 logged iterations"
    assert re.fullmatch(rf"{workdir}/report\.html: [45]\.\d MB", written)
    assert len(data((workdir / "report.html").read_text(), "game-data")["games"]) == 1


def test_mistakes_are_one_line(tmp_path):
    done = command(f"--workdir={tmp_path}/nowhere")
    assert done.returncode == 1
    assert done.stderr == f"omar_jax: --workdir={tmp_path}/nowhere holds no config.json; give the folder of a run\n"
    with pytest.raises(SettingError, match="is a folder; give a file such as"):
        report_page.write(tmp_path, tmp_path, print)
