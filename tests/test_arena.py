"""The arena as a command: what it says of whom, and that nothing already played is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import arenas
import commands
import processes
import pytest
from envs.exact_mafia import wolves_win

SCRIPTS = ("--config=configs/werewolf.py:smoke", "--a=scripted", "--b=random", "--games=120")  # in batches of 16


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("arena")


@pytest.fixture(scope="module")
def arena(place):
    """The command, in a process that has everything imported."""
    with commands.of("omar_jax.arena", place / "cache", "openai") as give:
        yield give


@pytest.fixture(scope="module")
def run(place):
    """The folder of a run of two iterations, by main with its own arena at the end."""
    model = processes.small_model(place / "model")
    settings = (f"--config.model.source={model}", "--config.ppo.iterations=2", "--config.arena.games=4")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in commands.environment(place / "cache").items():
            patch.setenv(name, value)
        with processes.start(place / "run", place / "said", place, *settings) as job:
            job.succeed()
    return place / "run"


def succeed(done):
    assert done.status == 0 and not done.err, done
    return done.out


def fail(done):
    """The line that a command ends with."""
    assert done.status == 1 and "Traceback" not in done.err, done
    said = done.err.splitlines()[-1]
    assert said.startswith("omar_jax: ") and len(done.err.splitlines()) == 1, done
    return said


def found_in(folder):
    return json.loads((folder / "arena.json").read_text())


def lines_of(folder):
    path = folder / "games.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def covers(interval, truth):
    return interval[0] <= truth <= interval[1]


# ---------------------------------------------------------------- who wins


def test_scripts_against_themselves_differ_by_nothing(arena, tmp_path):
    said = succeed(arena("--a=scripted", "--b=scripted", "--games=60", f"--out={tmp_path}"))
    found = found_in(tmp_path)
    assert (found["a"], found["b"], found["seeds"], found["games"]) == ("scripted", "scripted again", 60, 180)
    assert all(of["difference"] == 0 and covers(of["interval"], 0) for of in found["sides"].values())
    assert [each["elo"] for each in found["elo"]] == [0, 0]
    assert "scripted against scripted again: games won, with 95% intervals; 60 a side and line-up" in said
    assert "Elo of scripted over scripted again: +0 (95% interval +0 to +0)" in said
    assert said.splitlines()[-1] == f"Everything else is in {tmp_path}"


def test_random_players_win_plain_mafia_as_often_as_they_must(arena, tmp_path):
    players = ("--a=random", "--b=random", "--config.environment.rules=mafia")
    succeed(arena(*players, "--games=200", f"--out={tmp_path}"))
    found, exact = found_in(tmp_path)["sides"], float(wolves_win(7, 2, "night"))
    assert covers(found["werewolves"]["a_interval"], exact) and covers(found["werewolves"]["b_interval"], exact)
    assert covers(found["village"]["a_interval"], 1 - exact)


def test_a_run_is_its_newest_checkpoint_and_plays_as_well_as_itself(arena, run, tmp_path):
    said = succeed(arena(f"--a={run}", f"--b={run}@2", "--games=4", f"--out={tmp_path}"))
    assert f"{run}@2 against {run}@2 again" in said
    found = found_in(tmp_path)
    assert found["a"] == f"{run}@2"
    assert all(covers(each["interval"], each["elo"]) and each["elo"] == 0 for each in found["elo"])
    assert all(of["difference"] == 0 for of in found["sides"].values())
    assert found["cut"] == 0


def test_by_default_a_run_plays_its_cold_start_and_may_be_older_than_its_settings(arena, run, tmp_path):
    old = shutil.copytree(run, tmp_path / "old")
    stored = json.loads((old / "config.json").read_text())
    del stored["filter"], stored["arena"]
    (old / "config.json").write_text(json.dumps(stored))
    succeed(arena(f"--a={old}@1", "--games=4", f"--out={tmp_path / 'out'}"))
    found = found_in(tmp_path / "out")
    assert (found["a"], found["b"]) == (f"{old}@1", f"{old}@cold_start")
    assert {line["seed"] for line in map(json.loads, lines_of(tmp_path / "out"))} != {0}


def test_a_run_ends_with_the_same_table(run):
    found = found_in(run)
    assert (found["a"], found["b"], found["seeds"]) == ("trained", "cold start", 4)
    assert found["sides"].keys() == {"werewolves", "village"} and len(found["elo"]) == 2
    assert len(lines_of(run / "arena" / "2")) == 12


def test_checkpoints_play_one_another_and_more_of_them_go_on(arena, run, tmp_path):
    said = succeed(arena(f"--round_robin={run}", "--checkpoints=2", "--games=3", f"--out={tmp_path}"))
    assert "Elo over iteration 0, 3 deals a pair and line-up" in said
    before = lines_of(tmp_path / "round_robin")
    assert len(before) == 2 * 3
    succeed(arena(f"--round_robin={run}", "--games=3", f"--out={tmp_path}"))
    assert lines_of(tmp_path / "round_robin")[:6] == before and len(lines_of(tmp_path / "round_robin")) == 6 * 3
    found = json.loads((tmp_path / "round_robin.json").read_text())
    assert (found["policies"], found["seeds"], found["games"]) == ([f"iteration {n}" for n in range(3)], 3, 18)
    assert [each["iteration"] for each in found["elo"]] == [0, 1, 2]
    assert found["elo"][0]["elo"] == 0 and all(covers(each["interval"], each["elo"]) for each in found["elo"])
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [
        ("iteration 0", "iteration 1"), ("iteration 0", "iteration 2"), ("iteration 1", "iteration 2"),
    ]  # fmt: skip


# ---------------------------------------------------------------- nothing is lost


@pytest.fixture(scope="module")
def undisturbed(arena, place):
    succeed(arena(*SCRIPTS, f"--out={place / 'undisturbed'}"))
    return place / "undisturbed"


# Ends while it writes the third batch down.
DYING = """
import os, sys
from absl import app
from omar_jax import arena, matches

number, record, written = int(sys.argv.pop(1)), matches.record, []

def dying(*arguments):
    written.append(record(*arguments))
    if len(written) == 40:
        os.kill(os.getpid(), number)
    return written[-1]

matches.record = dying
app.run(arena.main, flags_parser=arena.parse_flags)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_arena_that_was_ended_goes_on(arena, undisturbed, tmp_path, number):
    """What is over is not played again, half a line is, and the end is the same."""
    command = [sys.executable, "-W", "ignore", "-c", DYING, str(int(number)), *SCRIPTS, f"--out={tmp_path}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=processes.ROOT, env=environment, capture_output=True, text=True)
    whole, left = lines_of(undisturbed), lines_of(tmp_path)
    kept = [line for line in left if line in whole]
    if number == signal.SIGKILL:
        assert done.returncode == -signal.SIGKILL and 32 <= len(kept) < 40 and not done.stdout, done
    else:
        assert (done.returncode, done.stdout) == (0, "stopped; the same command goes on\n"), done
        assert len(kept) == len(left) == 48
    assert not (tmp_path / "arena.json").exists()
    with (tmp_path / "games.jsonl").open("a") as file:
        file.write(whole[-1][:99])
    succeed(arena(*SCRIPTS, f"--out={tmp_path}"))
    assert lines_of(tmp_path) == whole and whole[: len(kept)] == kept
    assert (tmp_path / "arena.json").read_bytes() == (undisturbed / "arena.json").read_bytes()


def test_a_larger_arena_goes_on_from_a_smaller_one(arena, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "out")
    succeed(arena(*SCRIPTS, "--games=125", f"--out={tmp_path / 'out'}"))
    assert lines_of(tmp_path / "out")[:360] == lines_of(undisturbed) and len(lines_of(tmp_path / "out")) == 375
    succeed(arena(*SCRIPTS, f"--out={tmp_path / 'out'}"))
    assert found_in(tmp_path / "out") == found_in(undisturbed)


def test_an_endpoint_that_dies_and_comes_back_is_asked_nothing_twice(arena, tmp_path):
    with arenas.serve() as server:
        command = (f"--a=openai:llama@{server.url}", "--b=scripted", "--games=6", "--retries=0", "--at_once=4")
        succeed(arena(*command, f"--out={tmp_path / 'undisturbed'}"))
        needed, server.answered, server.left = len(server.answered), [], 20
        said = fail(arena(*command, f"--out={tmp_path / 'out'}"))
        assert said.startswith(f"omar_jax: llama at {server.url} gives no answer (InternalServerError: ")
        assert len(server.answered) == 20 < needed
        server.left = None
        succeed(arena(*command, f"--out={tmp_path / 'out'}"))
        asked = [json.dumps(body) for body in server.answered]
        assert len(asked) == needed == len((tmp_path / "out" / "answers.jsonl").read_text().splitlines())
        assert server.busiest <= 4
        assert (tmp_path / "out" / "arena.json").read_bytes() == (tmp_path / "undisturbed" / "arena.json").read_bytes()
        server.left = 0
        succeed(arena(*command, f"--out={tmp_path / 'out'}"))  # all is known


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either --a and --b, two policies, or --round_robin, a run's folder"),
        (("--a=scripted", "--round_robin=RUN"), "give either --a and --b"),
        (("--a=scripted", "--b=runs/nowhere"), "--b=runs/nowhere: no such policy; right are a run's folder (runs/x,"),
        (("--a=RUN@7",), "--a=RUN@7: no such checkpoint; there are 0, 1, 2, and cold_start"),
        (("--a=random", "--b=RUN@x"), "--b=RUN@x: no such checkpoint; there are 0, 1, 2, and cold_start"),
        (
            ("--a=RUN", "--config.environment.rules=omar"),
            "--a=RUN learned with config.environment.rules='five', and this game is played with 'omar': give a policy",
        ),
        (
            ("--a=openai:m@http://127.0.0.1:PORT/v1", "--b=random", "--retries=0"),
            "m at http://127.0.0.1:PORT/v1 gives no answer (APIConnectionError: Connection error.); what is over is",
        ),
        (("--a=openai:m", "--b=random"), "--a=openai:m: give openai:MODEL@URL"),
        (("--a=scripted", "--games=1"), "--games=1 cannot be used: it must be a whole number of at least 2"),
        (("--a=scripted", "--timeout=0"), "--timeout=0 cannot be used: it must be a number of at least 0.1"),
        (
            ("--a=scripted", "--config.arena.games=9"),
            "--config.arena.games=9 is for the arena at a run's end: give --g",
        ),
        (("--a=scripted", "--config.play.gamez=9"), "config.play.gamez is unknown; did you mean config.play.games?"),
        (("--round_robin=runs/nowhere",), "--round_robin=runs/nowhere is no run: give a run's folder"),
        (("--round_robin=BEGUN",), "--round_robin=BEGUN holds 0 checkpoints: at least 2 can play one another"),
        (("--a=scripted", "--b=random", "--seed=3", "--out=PLAYED"), "PLAYED holds games with seed=1000000, not 3: "),
        (
            ("--a=scripted", "--b=random", "--config.environment.rules=omar", "--out=PLAYED"),
            "PLAYED holds games with config.environment.rules='five', not 'omar': give the same to go on with them, or",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_one_line(arena, run, undisturbed, tmp_path, arguments, said):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / "config.json", begun)
    means = {"RUN": run, "BEGUN": begun, "PLAYED": undisturbed, "PORT": processes.free_port()}

    def meant(text):
        return re.sub("[A-Z]{3,}", lambda word: str(means.get(word[0], word[0])), text)

    out = () if any("PLAYED" in argument for argument in arguments) else (f"--out={tmp_path / 'out'}",)
    smoke = () if any("RUN" in argument for argument in arguments) else SCRIPTS[:1]
    assert fail(arena(*smoke, *map(meant, arguments), *out)).startswith(f"omar_jax: {meant(said)}")


def test_help_names_every_kind_of_policy(arena):
    said = " ".join(arena("--helpfull").out.split())
    for words in (
        "--round_robin: Instead of",
        "cold_start, scripted, random, a Hugging Face folder, or openai:MODEL@URL",
    ):
        assert words in said
