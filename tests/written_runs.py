"""Folders of runs that nobody trained: games at random, for tests of what reads such folders."""

import json
from pathlib import Path

import numpy as np

from configs.werewolf import get_config
from omar_jax import catalogue, experiment, metrics

SPEECHES = ("I am the seer. Bob is a werewolf.", "I trust Emma.", "Who is the seer?", "I have nothing to say yet.")
CONFIG = get_config("smoke")
ENV = catalogue.environment(CONFIG)
CHAT = experiment.read_chat(catalogue.EMBEDDED["werewolf"], CONFIG)


def played(number: int, says=None, kept=lambda step, seat: True) -> dict:
    """A game at random as `metrics.episode_record` tells it; `says` maps (step, seat) to what is said there."""
    rng = np.random.default_rng(number)
    state, turns, transcript, actions, step = ENV.reset(number), [], [], {}, -1
    while True:
        now = ENV.step(state, actions)
        transcript += [("public", now.public)] if now.public else []
        transcript += [(ENV.seat_names[seat], text) for seat, text in now.private.items() if text]
        if now.rewards is not None:
            break
        state, actions, step = now.state, {}, step + 1
        for seat, ask in now.asks.items():
            text = (says or {}).get((step, seat)) if ask.options is None else None
            actions[seat] = text or str(rng.choice(ask.options or SPEECHES))
            turns.append(_turn(step, seat, ENV.roles(state)[seat], ask.cue, actions[seat], kept(step, seat), rng))
            transcript.append((f"{ENV.seat_names[seat]}'s turn", actions[seat]))
    return {
        "game": number,
        "seed": number,
        "names": list(ENV.seat_names),
        "roles": list(ENV.roles(state)),
        "rewards": [now.rewards[seat] for seat in range(ENV.num_seats)],
        "events": {},
        "transcript": [{"visible_to": who, "text": text} for who, text in transcript],
        "turns": turns,
    }


def _turn(step, seat, role, cue, text, kept, rng):
    tokens = CHAT.action(text)
    log_probs, values, advantages = rng.normal(size=(3, len(tokens))).round(4)
    return {
        "step": step,
        "seat": seat,
        "name": ENV.seat_names[seat],
        "role": role,
        "cue": CHAT.tokenizer.decode(CHAT.cue(cue)),
        "text": text,
        "tokens": list(tokens),
        "log_probs": (-np.abs(log_probs)).tolist(),
        "values": values.tolist(),
        "advantages": advantages.tolist() if kept else [0.0] * len(tokens),
        "turn_advantage": round(float(rng.normal()), 4),
        "kept": kept,
    }


def metrics_of(iteration: int) -> dict:
    """A line of metrics.jsonl."""
    wins = 0.5 + 0.3 * np.sin(iteration / 100)
    numbers = {
        "policy/kl": iteration / 1000,
        "policy/entropy": 1 / (iteration + 1),
        "policy/clip_fraction": 0.01,
        "critic/explained_variance": None if iteration == 1 else 0.5,
        "win_rate/werewolves": wins,
        "win_rate/village": 1 - wins,
        "win_rate/seer": 1 - wins,
        "turn/tokens": 4.5,
        "turn/filtered_share": 0.01,
        "events/false_seer_claims": iteration / 100,
        "events/votes": 7.0,
        "time/play": 1.5,
        "time/score": 0.5,
        "time/update": 4.0,
        "time/tokens_per_second": 1000.0,
    }
    return {"iteration": iteration, **numbers}


ARENA = {
    "a": "trained",
    "b": "cold start",
    "games": 96,
    "seeds": 32,
    "sides": {
        "werewolves": {"a": 0.5, "b": 0.25, "difference": 0.25, "interval": [0.1, 0.4], "games": 32},
        "village": {"a": 0.7, "b": 0.75, "difference": -0.05, "interval": [-0.2, 0.1], "games": 32},
    },
    "roles": {"seer": {"a": 0.7, "b": 0.75, "games": 32}},
    "elo": [
        {"name": "cold start", "iteration": None, "elo": 0.0, "interval": [0.0, 0.0]},
        {"name": "trained", "iteration": 3, "elo": 31.2, "interval": [12.0, 50.1]},
    ],
}
ROUND_ROBIN = {
    "policies": ["iteration 0", "iteration 5", "scripted"],
    "seeds": 8,
    "games": 96,
    "elo": [
        {"name": "iteration 0", "iteration": 0, "elo": 0.0, "interval": [0.0, 0.0]},
        {"name": "iteration 5", "iteration": 5, "elo": 31.2, "interval": [12.0, 50.1]},
        {"name": "scripted", "iteration": None, "elo": -20.0, "interval": [-40.0, 1.0]},
    ],
    "pairs": [{"a": "iteration 0", "b": "iteration 5", "sides": {"village": {"a": 0.5, "b": 0.6, "games": 8}}}],
}


def write(folder: Path, games: dict[int, list[dict]], iterations: int, compared: bool = True) -> Path:
    """Writes a run's folder with these games by iteration; `compared` says whether the arenas were played."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(CONFIG.to_json())
    lines = [json.dumps(metrics_of(iteration)) for iteration in range(iterations)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    for iteration, records in games.items():
        metrics.write_episodes(folder, iteration, records)
    if compared:
        (folder / "arena.json").write_text(json.dumps(ARENA))
        (folder / "round_robin.json").write_text(json.dumps(ROUND_ROBIN))
    return folder
