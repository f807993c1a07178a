"""Advantages: one jitted scan over all games against a Python loop over turns and tokens.

    python -m benchmarks.advantages

1,024 games of 9 seats. The loops are the kind that training libraries have: over the elements of PyTorch tensors (in
a process of its own, which takes turns with ours), and, as the quickest that Python can do, over lists of floats.
They are run on a part of the games and their seconds multiplied, for they grow with the number of games.
"""

import functools

import jax
import numpy as np
from absl import app

from benchmarks.measuring import QUICK, TORCH, Table, against, alternate, peer
from omar_jax import layout, runtime
from omar_jax.advantages import AdvantageSettings, compute_whitened

SEATS, TURNS, TOKENS = 9, 8, 16  # of a game; turns of a seat; tokens of a turn
OF_LOOP = 32  # games that the loops are run on
SETTINGS = AdvantageSettings(whiten="global")


def games_of(games: int):
    """A batch of random values and rewards."""
    rng = np.random.default_rng(0)
    turns = SEATS * TURNS
    batch = layout.empty(games, layout.Sizes(8, 8, turns * TOKENS, turns), 0)
    rewards = np.zeros((games, turns), np.float32)
    rewards[:, TURNS - 1 :: TURNS] = rng.choice((-1.0, 1.0), (games, SEATS))
    return batch._replace(
        action_mask=np.ones((games, turns * TOKENS), bool),
        action_turn=np.broadcast_to(np.repeat(np.arange(turns), TOKENS), (games, turns * TOKENS)).astype(np.int32),
        action_values=rng.normal(size=(games, turns * TOKENS)).astype(np.float32),
        turn_seat=np.broadcast_to(np.repeat(np.arange(SEATS), TURNS), (games, turns)).astype(np.int32),
        turn_group=np.zeros((games, turns), np.int32),
        turn_reward=rewards,
        turn_kept=np.ones((games, turns), bool),
    )


def over_lists(values: list, rewards: list, gamma: float, lam: float) -> list:
    """The same numbers, not whitened: values [seats][turns][tokens], rewards [seats][turns], both lists of floats."""
    out = []
    for of_turns, of_rewards in zip(values, rewards, strict=True):
        following = ahead = 0.0
        seat = []
        for tokens, reward in zip(reversed(of_turns), reversed(of_rewards), strict=True):
            last = tokens[-1]
            ahead = reward + gamma * following - last + gamma * lam * ahead
            following = last
            token_ahead, after, turn = ahead, last, [ahead]
            for value in reversed(tokens[:-1]):
                token_ahead = after - value + token_ahead
                after = value
                turn.append(token_ahead)
            seat.append(turn[::-1])
        out.append(seat[::-1])
    return out


def main(argv):
    """One row."""
    del argv
    games = 128 if QUICK.value else 1024
    batch = games_of(games)
    on_device = jax.device_put(batch)
    ours = functools.partial(compute_whitened, on_device, SETTINGS, 1, np.zeros(1, np.float32))
    part = batch.action_values[:OF_LOOP].reshape(OF_LOOP * SEATS, TURNS, TOKENS)
    rewards = batch.turn_reward[:OF_LOOP].reshape(OF_LOOP * SEATS, TURNS)
    found = np.array(over_lists(part.tolist(), rewards.tolist(), SETTINGS.gamma_turn, SETTINGS.lambda_turn))
    expected = np.asarray(compute_whitened(on_device, SETTINGS._replace(whiten="none"), 1, np.zeros(1)).advantages)
    np.testing.assert_allclose(expected[:OF_LOOP].reshape(found.shape), found, atol=1e-4)

    turn = np.broadcast_to(np.repeat(np.arange(TURNS), TOKENS), (len(part), TURNS * TOKENS))
    arrays = {"values": part.reshape(len(part), -1), "turn": turn, "rewards": rewards}
    task = {"gamma": SETTINGS.gamma_turn, "lambda": SETTINGS.lambda_turn}
    lists = functools.partial(over_lists, part.tolist(), rewards.tolist(), SETTINGS.gamma_turn, SETTINGS.lambda_turn)
    with peer("tensors", "torch_gae", TORCH, task, arrays) as others:
        seconds = alternate({"ours": ours, "lists": lists} | others)
    times = games / OF_LOOP
    table = Table("advantages", ("games", "tokens", "ms", "against a loop over tensors", "against a loop over lists"))
    table.add(**{
        "games": games,
        "tokens": f"{batch.action_values.size:,}",
        "ms": 1000 * float(np.median(seconds["ours"])),
        "against a loop over tensors": against("tensors", seconds, "ours", times),
        "against a loop over lists": against("lists", seconds, "ours", times),
    })  # fmt: skip


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
