"""Turn and token advantages as training libraries compute them: a Python loop over the elements of tensors.

Reads a task as a line of JSON: {"arrays": an .npz file with values [rows, L], turn [rows, L] (-1: not sampled) and
rewards [rows, turns], "gamma", "lambda"}; then computes it at every line it gets and answers with the seconds.
"""

import json
import sys
import time

import numpy as np
import torch


def advantages(values, turn, rewards, gamma, lam):
    """GAE over each row's turns, then over each turn's tokens, from the last to the first."""
    out = torch.zeros_like(values)
    for row in range(values.shape[0]):
        sampled = torch.where(turn[row] >= 0)[0].tolist()
        last = {}  # of each turn: its last token
        for at in sampled:
            last[int(turn[row, at])] = at
        following, ahead, returns = 0.0, 0.0, {}
        for number, at in sorted(last.items(), reverse=True):
            delta = rewards[row, number] + gamma * following - values[row, at]
            ahead = delta + gamma * lam * ahead
            following = values[row, at]
            returns[number] = ahead + following
        ahead = 0.0
        for i in range(len(sampled) - 1, -1, -1):
            at = sampled[i]
            number = int(turn[row, at])
            if at == last[number]:
                ahead = returns[number] - values[row, at]
            else:
                ahead = values[row, sampled[i + 1]] - values[row, at] + ahead
            out[row, at] = ahead
    trained = turn >= 0
    mean, deviation = out[trained].mean(), out[trained].std()
    return torch.where(trained, (out - mean) / (deviation + 1e-8), torch.zeros_like(out))


def main():
    """Waits for lines."""
    task = json.loads(sys.stdin.readline())
    with np.load(task["arrays"]) as file:
        values, turn, rewards = (torch.from_numpy(file[name]) for name in ("values", "turn", "rewards"))
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        advantages(values, turn, rewards, task["gamma"], task["lambda"])
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
