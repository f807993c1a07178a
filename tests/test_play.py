"""The command that seats a person, driven through a pseudo-terminal as a person would."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("Alice", "Bob", "Carol", "David", "Emma")


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        self.said = ""
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "TERM": "dumb", "COLUMNS": "200"}
        command = [sys.executable, "-m", "omar_jax.play", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)

    def wait_for(self, pattern, seconds=120):
        """What was said up to and with the pattern, and no more of it."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)):
            assert select.select([self.master], [], [], max(until - time.monotonic(), 0))[0], self.said
            try:
                new = os.read(self.master, 4096)
            except OSError:  # the command has ended
                new = b""
            assert new, f"no {pattern!r} in {self.said!r}"
            self.said += new.decode()
        before, self.said = self.said[: found.end()], self.said[found.end() :]
        return before

    def type(self, line):
        os.write(self.master, f"{line}\n".encode())

    def ended(self):
        status = self.process.wait(60)
        os.close(self.master)
        return status


@pytest.fixture
def terminal():
    opened = []

    def open_one(*arguments):
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_one
    for each in opened:
        each.process.kill()


def test_a_person_plays_a_game_to_its_end(terminal):
    """As the seer, with wrong input at every kind of question."""
    game = terminal("--policy=scripted", "--seed=5", "--role=seer")
    heard = game.wait_for("the seer looks at: ")
    me = re.search(r"You are (\w+)\. scripted plays the others", heard)[1]
    assert f"You are {me}, the seer." in heard
    game.type("?")
    game.wait_for("Type one of .*; its first letters or its number do")
    game.type("Nobody")
    game.wait_for("'Nobody' is no choice")
    game.type("1")
    heard = game.wait_for("the seer says: ")
    assert re.search(r"You looked at \w+\.", heard)
    game.type("word " * 60)
    game.wait_for("tokens of the model, and 24 are allowed: say less")
    game.type("I have seen something.")
    heard = game.wait_for("the seer votes for: ")
    assert f"{me}: I have seen something." in heard
    while True:
        game.type("1")
        heard += game.wait_for("Game over|the seer [a-z ]+: ")
        if heard.endswith("Game over"):
            break
    # Up to here nobody else's secrets.
    assert not re.search(rf"You are (?!{me})\w+, ", heard) and "'s turn" not in heard
    after = game.wait_for(r"Emma: \w+, reward [+-]\d")
    assert after.count("werewolf, reward") == 1 and f"{me}: seer" in after
    assert game.ended() == 0


@pytest.mark.parametrize("leave", ["/quit", "\x04", "Ctrl-C"])
def test_a_person_may_leave(terminal, leave):
    game = terminal("--policy=scripted", "--seed=5", "--role=seer")
    game.wait_for("looks at: ")
    if leave == "Ctrl-C":
        os.killpg(game.process.pid, signal.SIGINT)
        # Python's input() does not notice what comes between its prompt and its read: a person presses again.
        while not select.select([game.master], [], [], 3)[0]:
            os.killpg(game.process.pid, signal.SIGINT)
    else:
        game.type(leave) if leave == "/quit" else os.write(game.master, leave.encode())
    game.wait_for("You left; the game is not kept")
    assert game.ended() == 0


def run(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "omar_jax.play", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_model_is_watched_with_everything_revealed():
    done = run("--policy=cold_start", "--watch", "--seed=2")
    assert done.returncode == 0, done.stderr
    assert all(f"You are {name}, " in done.stdout for name in NAMES)
    assert re.search(r"\[\w+'s turn\] ", done.stdout) and "Game over (--seed=2" in done.stdout
    again = run("--policy=cold_start", "--watch", "--seed=2")
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--role=doctor"], "--role=doctor: this game has werewolf, seer, villager"),
        (["--policy=nobody"], "--policy=nobody: no such policy; right are"),
    ],
)
def test_mistakes_are_one_line(arguments, says):
    done = run("--policy=scripted", *arguments)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
