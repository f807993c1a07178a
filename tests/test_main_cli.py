"""Mistakes on the command line: each is one line without a traceback, and the exit status is not 0."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}
MISTAKES = {
    "--config=configs/werewolf.py:nope": "preset 'nope' of configs/werewolf.py is unknown; it must be",
    "--config=nope.py": "--config=nope.py: no such file; give file.py or file.py:preset",
    "--config.ppo.lr=1": "config.ppo.lr is no setting; config.ppo has ",
    "--config.ppo.epoch=1": "config.ppo.epoch is unknown; did you mean config.ppo.epochs?",
    "--noconfig.model.rematt": "config.model.rematt is unknown; did you mean config.model.remat?",
    "--config.ppo=3": "config.ppo is no setting; config.ppo has ",
    "--config.ppo.epochs=two": "config.ppo.epochs=two cannot be used: it must be a whole number",
    "--config.ppo.epochs 1.5": "config.ppo.epochs=1.5 cannot be used: it must be a whole number",
    "--config.ppo.clip_low=low": "config.ppo.clip_low=low cannot be used: it must be a number",
    "--config.model.remat=maybe": "config.model.remat=maybe cannot be used: it must be true or false",
    "--config.layout.buckets=(1,": "cannot be used: it must be like (256, 512)",
    "--config.layout.buckets=(1,2)": "config.layout.buckets=(1, 2) cannot be used: it must be (shared, ",
    "--config.environment.rules=six": "config.environment.rules='six' cannot be used: it must be one of ",
    "--config.play.games=100": "config.play.games=100 cannot be used: it must be a multiple of",
    "--config.ppo.kl_coefficient=-1": "kl_coefficient=-1.0 cannot be used: it must be at least 0",
    "--config=configs/werewolf.py:smoke --config.ppo.minibatch_games=5": "games=5 cannot be used",
    "--config.model.source=/nowhere": "model.source='/nowhere' is no folder here; right are",
    "--confg=1": "Unknown command line flag 'confg'. Did you mean: config",
    "smoke": "'smoke' is no flag; settings are given as --config.section.name=value",
}
# Imports once, then makes every mistake in a fork of its own; prints (exit status, standard error) of each.
DRIVER = r"""
import json, os, sys
from absl import app
from omar_jax import main

results = []
for arguments in json.loads(sys.argv[1]):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 2)
        sys.argv = ["main", *arguments]
        try:
            app.run(main.main, flags_parser=main.parse_flags)
        except SystemExit as error:
            os.write(2, f"{error.code}\n".encode())
            os._exit(1)  # at once: taking all modules down takes a second
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read()
    results.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(exit status, standard error) by mistake."""
    workdir = tmp_path_factory.mktemp("run")
    commands = [[*mistake.split(), f"--workdir={workdir}"] for mistake in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(commands)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(answers, mistake):
    status, said = answers[mistake]
    assert status == 1
    assert said.startswith("omar_jax: ") and said.count("\n") == 1, said
    assert MISTAKES[mistake] in said


def test_the_command_itself_answers_so(tmp_path):
    command = [sys.executable, "-m", "omar_jax.main", "--config.ppo.lr=1", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith("omar_jax: config.ppo.lr is no setting; config.ppo has ")
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
