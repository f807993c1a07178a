"""Finished social games for tests of judges, made of given words."""

import json

import numpy as np
import sotopia_packs

from omar_jax.envs.sotopia import Settings, Sotopia
from omar_jax.judge_rubrics import SEVEN
from omar_jax.types import Episode, RolloutStep, Turn

SKATER = "He was once a competitive figure skater."


def env(secrets=("", SKATER), **how):
    """Ana and Ben, who hide these; `how` are fields of the scenario and settings."""
    settings = {name: how.pop(name) for name in ("actions", "order", "opening") if name in how}
    pack = sotopia_packs.pack(**how)
    for person, secret in zip(pack.characters.values(), secrets, strict=True):
        object.__setattr__(person, "secret", secret)
    return Sotopia(pack, Settings(**settings))


def turn(text, kept=True):
    nothing = np.zeros(1, np.float32)
    return Turn(cue=(1,), action=(2,), log_probs=nothing, values=nothing, text=text, kept=kept)


def episode(env, texts, seed=0, game=0, learns=(), dropped=()):
    """The game in which seats say these words one after another; whoever has none left leaves.

    `dropped` are the numbers of turns that a filter took out already.
    """
    texts, now, steps = list(texts), env.step(env.reset(seed), {}), []
    events, roles, names = {}, env.roles(now.state), env.names(now.state)
    while now.rewards is None:
        said = {seat: texts.pop(0) if texts else "(leaves)" for seat in now.asks}
        steps.append(RolloutStep(turns={seat: turn(text, len(steps) not in dropped) for seat, text in said.items()}))
        now = env.step(now.state, said)
    rewards = tuple(now.rewards[seat] for seat in range(env.num_seats))
    steps = (*steps, RolloutStep())
    return Episode(game, seed, steps, (), rewards, roles, events, learns, names)


def written(score, rubric=SEVEN):
    """A model's answer that gives both seats this score, or the nearest there is, in everything."""
    of = {d.name: {"reason": "So it was.", "score": min(max(score, d.low), d.high)} for d in rubric}
    return json.dumps({"person_1": of, "person_2": of})
