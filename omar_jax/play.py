"""Take a seat against a policy, or watch it play with itself.

    python -m omar_jax.play --policy=runs/werewolf-default
    python -m omar_jax.play --policy=runs/werewolf-default --role=werewolf
    python -m omar_jax.play --policy=cold_start --watch

At the table you see what your seat may see and nothing else; roles are shown when the game is over. --watch shows
everything. Type ? at any question.
"""

import dataclasses
import secrets
import sys

import jax
from absl import app, flags, logging

from omar_jax import experiment, policies, runtime
from omar_jax.command_line import changes, define_config, is_given, parse_flags
from omar_jax.console import Console
from omar_jax.envs.base import Player
from omar_jax.experiment import Experiment
from omar_jax.person import Left, Person, shown
from omar_jax.rollout import Guest
from omar_jax.settings import SettingError
from omar_jax.tables import Game
from omar_jax.types import Episode, Params

CONFIG = define_config()
POLICY = flags.DEFINE_string("policy", "cold_start", f"Who plays the other seats: {policies.KINDS}.")
ROLE = flags.DEFINE_string("role", None, "The role you want. Default: as it is dealt.")
WATCH = flags.DEFINE_bool("watch", False, "Watch a game of the policy with itself, everything revealed.")
SEED = flags.DEFINE_integer("seed", None, "Of the deal and the words, to see the same game again. Default: by chance.")


def deal(run: Experiment, seed: int, role: str | None) -> tuple[int, int]:
    """(seed, seat): the first seed from this on whose deal has the person's role, and the person's seat.

    Raises:
      SettingError: there is no such role.
    """
    if role is not None and role not in run.env.role_names:
        raise SettingError(f"--role={role}: this game has {', '.join(run.env.role_names)}")
    while True:
        roles, seat = run.env.roles(run.env.reset(seed)), seed % run.env.num_seats
        if role is None or roles[seat] == role:
            return seed, seat
        seed += 1


def play(run: Experiment, mind: Params | Guest | Player, seed: int, person: Person | None, seat: int) -> Episode:
    """A game of a policy, with a person at one seat if there is one."""
    other = mind if isinstance(mind, Player) else 0
    game = Game(0, seed, lambda roles: [person if person and at == seat else other for at in range(len(roles))])
    minds = [] if isinstance(mind, Player) else [mind]
    key = run.rollout.sampler.key(seed)
    [episode], _ = run.rollout.play([game], minds, key, run.config.play.temperature)
    return episode


def reveal(episode: Episode, console: Console) -> None:
    """Shows who was who, and how it ended."""
    rewards = episode.rewards or [None] * len(episode.roles)
    for name, role, reward in zip(episode.names, episode.roles, rewards, strict=True):
        ended = "the game was cut short" if reward is None else f"reward {reward:+g}"
        console.line(f"  {name}: {role}, {ended}")


def watch(episode: Episode, console: Console) -> None:
    """Shows everything that was said, and to whom."""
    roles = dict(zip(episode.names, episode.roles, strict=True))
    for who, text in episode.transcript:
        if who == "public":
            console.line(shown(text))
        elif who in roles:
            console.line(shown(f"    (to {who}, {roles[who]}) {text}"))
        else:
            console.line(shown(f"    [{who}] {text or '(nothing)'}"))


def main(argv: list[str]) -> None:
    """Plays a game, and puts what the user can mend into one line."""
    del argv
    console = Console()
    try:
        seed = secrets.randbelow(2**31) if SEED.value is None else SEED.value
        config = policies.config_for([POLICY.value], CONFIG.value, is_given(sys.argv), changes())
        run = experiment.build(config, console.line, jax.devices()[:1])
        run = dataclasses.replace(run, rollout=run.rollout.in_batches((1,)))
        seed, seat = deal(run, seed, ROLE.value)
        policy = policies.find("--policy", POLICY.value, run, policies.Waiting(), console.line)
        person, name = None, run.env.names(run.env.reset(seed))[seat]
        if not WATCH.value:
            console.line(f"You are {name}. {policy.name} plays the others. Type ? for help.")

            def tokens(text):
                return len(run.chat.action(text))

            person = Person(console.line, input, tokens)
        episode = play(run, policy.mind, seed, person, seat)
        if person:
            person.tell([text for who, text in episode.transcript if who in ("public", name)])
        else:
            watch(episode, console)
        console.line(f"Game over (--seed={seed} deals it again):")
        reveal(episode, console)
    except Left:
        console.line("\nYou left; the game is not kept.")
    except experiment.USER_ERRORS as error:
        sys.exit(f"omar_jax: {error}")


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    runtime.remember_compilations()
    app.run(main, flags_parser=parse_flags)
