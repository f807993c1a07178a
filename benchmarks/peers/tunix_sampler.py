"""google-tunix's own sampler in conversations: every turn's whole prompt is sent again, as its interface has it.

Reads a task as a line of JSON: {"model": {sizes of a Qwen3}, "games": N, "prompts": [tokens of each turn's prompt],
"action": tokens of a turn, "greedy": whether the likeliest token is taken, "dtype": that of weights, activations and
cache}; then runs it at every line it gets and answers with the seconds.
"""

import json
import sys
import time

import jax.numpy as jnp
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen3.model import ModelConfig, Qwen3


class Numbers:
    """A tokenizer whose words are token ids."""

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def bos_id(self):
        return 0  # none is put in front

    def eos_id(self):
        return 1

    def pad_id(self):
        return 0


def main():
    """Waits for lines."""
    task = json.loads(sys.stdin.readline())
    dtype = jnp.dtype(task["dtype"])
    config = ModelConfig(**task["model"], dtype=dtype, param_dtype=dtype)
    longest = max(task["prompts"]) + task["action"]
    cache = CacheConfig(longest, config.num_layers, config.num_kv_heads, config.head_dim)
    sampler = Sampler(Qwen3(config, rngs=nnx.Rngs(0)), Numbers(), cache)
    words = [str(2 + i % (config.vocab_size - 2)) for i in range(longest)]
    drawn = {} if task["greedy"] else {"temperature": 1.0, "top_p": 1.0}

    def converse():
        for turn, length in enumerate(task["prompts"]):
            prompts = [" ".join(words[:length])] * task["games"]
            # No id ends a turn, so that every turn has all its tokens; prompts are not padded.
            sampler(
                prompts, task["action"], max_prompt_length=length, eos_tokens=[config.vocab_size], seed=turn, **drawn
            )

    converse()  # compiles
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        converse()
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
