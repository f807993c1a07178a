"""transformers' generate in conversations: every turn's whole prompt is sent again, all who are asked in one batch.

Reads a task as a line of JSON: {"model": a Hugging Face folder, "games": N, "rounds": [[seats asked, tokens of a
prompt, tokens of a turn], ...], "dtype": that of weights, activations and cache}; then runs it at every line it
gets and answers with the seconds.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    """Waits for lines."""
    task = json.loads(sys.stdin.readline())
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=getattr(torch, task["dtype"])).eval()
    torch.manual_seed(0)

    @torch.inference_mode()
    def converse(rounds):
        for asked, prompt, action in rounds:
            tokens = torch.randint(10, 1000, (task["games"] * asked, prompt))
            turn = {"min_new_tokens": action, "max_new_tokens": action, "do_sample": True, "top_k": 0}
            model.generate(tokens, attention_mask=torch.ones_like(tokens), pad_token_id=0, **turn)

    converse(task["rounds"][:1])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        converse(task["rounds"])
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
