"""What transformers says about the cases, for `test_families` where torch is not installed.

    PYTHONPATH=.:tests:tests/model python tests/model/make_logits.py        writes tests/model/data/logits.npz

Needs requirements-parity.txt.
"""

from pathlib import Path

import family_cases
import numpy as np
import torch
from transformers import AutoModelForCausalLM

STORED = Path(__file__).parent / "data" / "logits.npz"


def read(folder: Path) -> torch.nn.Module:
    """transformers' model of a folder, in float32, with its plainest attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


@torch.no_grad()
def text_logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """[N, L, V] of texts [N, L]."""
    return model(input_ids=torch.from_numpy(tokens).long(), use_cache=False).logits.numpy()


@torch.no_grad()
def prompt_logits(model: torch.nn.Module, view: family_cases.View) -> np.ndarray:
    """[action tokens, V] of a view as an ordinary prompt, with its positions."""
    positions = torch.from_numpy(view.positions)[None]
    # A mask of ones, because without one transformers takes a jump of positions for the start of another text.
    ones = torch.ones_like(positions)
    tokens = torch.from_numpy(view.tokens)[None]
    logits = model(input_ids=tokens, position_ids=positions, attention_mask=ones, use_cache=False).logits
    return logits[0, list(view.reads)].numpy()


@torch.no_grad()
def masked_logits(model: torch.nn.Module, view: family_cases.View) -> np.ndarray:
    """[action tokens, V] of a view whose tokens see what the game's rules say, windows counting positions."""
    window = model.config.sliding_window if "sliding_attention" in kinds(model) else None
    back = view.positions[:, None] - view.positions[None, :]

    def mask(visible):
        return torch.where(torch.from_numpy(visible), 0.0, torch.finfo(torch.float32).min)[None, None]

    masks = {"full_attention": mask(view.visible)}
    if window is not None:
        masks["sliding_attention"] = mask(view.visible & (back < window))
    given = masks if kinds(model) else masks["full_attention"]
    tokens, positions = torch.from_numpy(view.tokens)[None], torch.from_numpy(view.positions)[None]
    logits = model(input_ids=tokens, position_ids=positions, attention_mask=given, use_cache=False).logits
    return logits[0, list(view.reads)].numpy()


def kinds(model: torch.nn.Module) -> set[str]:
    """The kinds of layers, none for models without such a choice."""
    return set(model.config.layer_types or ()) if hasattr(model.config, "layer_types") else set()


def logits_of(model: torch.nn.Module, seed: int) -> dict[str, np.ndarray]:
    """As `family_cases.logits_of`."""
    _, views = family_cases.games(seed)
    turns = np.concatenate([masked_logits(model, view) for view in views])
    return {"text": text_logits(model, family_cases.text(seed)), "turns": turns}


def case_logits(family: str, seed: int) -> dict[str, np.ndarray]:
    """A case's logits."""
    with family_cases.case_folder(family, seed) as folder:
        return logits_of(read(folder), seed)


if __name__ == "__main__":
    STORED.parent.mkdir(exist_ok=True)
    found = {
        f"{family}-{seed}/{name}": logits
        for family, seed in family_cases.CASES
        for name, logits in case_logits(family, seed).items()
    }
    np.savez_compressed(STORED, **found)
    print(f"{len(found)} arrays, {STORED.stat().st_size / 1000:.0f} kB")
