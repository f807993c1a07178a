"""A PPO step as one writes it with PyTorch and transformers: every seat's conversation is a padded row.

Reads a task as a line of JSON: {"model": a Qwen3 config.json, "arrays": an .npz file with tokens, length and acts
[rows, L], "microbatch": rows of a forward pass, "learning_rate"}; then takes a step at every line it gets and
answers with the seconds.
"""

import json
import sys
import time

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3Model

CLIP, VALUE, KL = 0.2, 0.5, 0.012


class Policy(torch.nn.Module):
    """A decoder with its vocabulary and value heads."""

    def __init__(self, config):
        super().__init__()
        self.decoder = Qwen3Model(config)
        self.value = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, tokens, mask):
        """Logits [rows, L, V] and values [rows, L]."""
        hidden = self.decoder(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden @ self.decoder.embed_tokens.weight.T, self.value(hidden)[..., 0]


def main():
    """Waits for lines."""
    task = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    policy = Policy(Qwen3Config(**task["model"], attn_implementation="sdpa"))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=task["learning_rate"])
    with np.load(task["arrays"]) as file:
        tokens, length, acts = (torch.from_numpy(file[name]) for name in ("tokens", "length", "acts"))
    tokens = tokens.long()
    mask = torch.arange(tokens.shape[1])[None] < length[:, None]
    trained = acts[:, 1:].float()  # a token's logits are read one before it
    old, advantages, returns = (torch.zeros_like(trained) for _ in range(3))
    old -= 2.0
    advantages.normal_()

    def step():
        optimizer.zero_grad()
        for first in range(0, len(tokens), task["microbatch"]):
            rows = slice(first, first + task["microbatch"])
            longest = int(length[rows].max())
            logits, values = policy(tokens[rows, :longest], mask[rows, :longest])
            cut = slice(0, longest - 1)
            log_probs = torch.log_softmax(logits[:, :-1], -1)
            said = log_probs.gather(-1, tokens[rows, 1:longest, None])[..., 0]
            ratio = (said - old[rows, cut]).exp()
            gain = advantages[rows, cut]
            policy_loss = -torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
            value_loss = 0.5 * (values[:, :-1] - returns[rows, cut]) ** 2
            difference = old[rows, cut] - said
            kl = difference.exp() - difference - 1
            loss = policy_loss + VALUE * value_loss + KL * kl
            ((loss * trained[rows, cut]).sum() / trained.sum()).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

    step()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        step()
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
