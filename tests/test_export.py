"""From a short run with adapters to a Hugging Face folder: the same weights, and in transformers the same words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax import experiment, workdirs
from omar_jax.envs import werewolf_text as text
from omar_jax.model import cache as kv
from omar_jax.model import hf, lora
from omar_jax.model.decoder import Decoder
from omar_jax.sampler import Sampler, Shapes, nobody_asked
from omar_jax.text.chat import Chat

ROOT = Path(__file__).parents[1]
ROOM = 160  # tokens of a prompt


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The command, in a process that has everything imported."""
    with commands.of("omar_jax.export", tmp_path_factory.mktemp("cache")) as give:
        yield give


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that trained adapters for a few updates."""
    workdir = tmp_path_factory.mktemp("run")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "omar_jax.main", "--config=configs/werewolf.py:smoke", f"--workdir={workdir}"),
            *("--config.lora.rank=4", "--config.ppo.iterations=2", "--config.ppo.learning_rate=0.01"),
            *("--config.play.games=8", "--config.play.batch_eighths=(8,)"),
            *("--config.arena.games=0", "--config.log.report=False"),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def exported(export, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    done = export(f"--workdir={trained}", f"--out={out}", "--dtype=float32")
    assert done.status == 0, done
    assert done.out == f"{out}: the policy after 2 iterations in float32\n"
    return out


@pytest.fixture(scope="module")
def policy(trained):
    run = experiment.build(workdirs.stored_config(trained))
    return run, run.result(trained)[1]


def test_adapters_are_trained_and_saved_alone(trained, policy):
    run, params = policy
    metadata = json.loads((trained / "checkpoints" / "2" / "counters" / "metadata").read_text())["arrays"]
    kept = {name.split("/")[-1] for name in metadata if name.startswith("state/params/")}
    assert kept == {"lora_a", "lora_b", "kernel", "bias"}  # the last two are the critic's
    assert all("value_head" in name for name in metadata if name.endswith(("kernel", "bias")))
    adapters = params["params"]["block_0"]["query"]["lora_b"]
    assert np.abs(adapters).max() > 1e-3
    np.testing.assert_array_equal(  # beside the weights as they were
        params["params"]["embedding"], hf.load(run.folder, run.decoder_config)["params"]["embedding"]
    )


def test_the_folder_holds_the_folded_policy(exported, policy):
    run, params = policy
    assert hf.read_config(exported) == run.decoder_config
    folded = lora.fold(params, run.model.lora)
    jax.tree.map(np.testing.assert_array_equal, hf.load(exported, run.decoder_config), folded)
    assert Chat.from_folder(exported).ends == run.chat.ends
    assert json.loads((exported / "generation_config.json").read_text())["eos_token_id"] == list(run.chat.ends)


def greedy(model, params, ends, prompt):
    """What our sampler says after the prompt at a temperature of nearly 0."""
    shapes = Shapes((1,), (ROOM,), ROOM, 4, 24, (1,), 1, 1)
    sampler = Sampler(model, ends, shapes)
    heard, cue = prompt[:-4], prompt[-4:]
    piece = kv.Piece(
        tokens=np.array([heard + (0,) * (ROOM - len(heard))], np.int32),
        owner=np.where(np.arange(ROOM) < len(heard), kv.SHARED, kv.EMPTY)[None].astype(np.int32),
        positions=np.arange(ROOM, dtype=np.int32)[None],
        count=np.array([len(heard)], np.int32),
    )
    ask = nobody_asked(1, 1, shapes)
    ask.cue[0, 0], ask.cue_count[0, 0], ask.position[0, 0], ask.limit[0, 0] = cue, 4, len(heard), 24
    cache = sampler.extend(params, sampler.empty(1), piece)
    spoken = sampler.decode(params, cache, ask, jax.random.key(0), jnp.float32(1e-5))
    return spoken.tokens[0, 0, : int(spoken.count[0, 0])].tolist()


def test_transformers_says_the_same(exported, policy):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, params = policy
    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    lengths = set()
    for seed, role in enumerate(("werewolf", "seer", "villager")):
        opening = run.env.step(run.env.reset(seed), {})
        heard = f"{opening.public}\n{opening.private[0]}\nDay 1."
        prompt = run.chat.opening + run.chat.event(heard) + run.chat.cue(text.cue("Alice", role, "speech"))
        ids = torch.tensor([prompt])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)[0]
        wanted = said[len(prompt) :].tolist()
        assert greedy(run.model, params, run.chat.ends, prompt) == wanted
        bare = Decoder(run.decoder_config)
        assert greedy(bare, hf.load(exported, run.decoder_config), run.chat.ends, prompt) == wanted
        assert tokenizer.decode(wanted) == run.chat.tokenizer.decode(wanted)
        lengths.add(len(wanted))
    assert max(lengths) > 8


def test_mistakes_are_one_line(export, exported, trained, tmp_path):
    for arguments, said in [
        ((f"--workdir={tmp_path}", f"--out={tmp_path}/new"), f"--workdir={tmp_path} holds no config.json; give"),
        ((f"--workdir={trained}", f"--out={exported}"), f"--out={exported} exists already; give a new folder"),
        ((f"--workdir={trained}", f"--out={tmp_path}/new", "--iteration=7"), "there is no such checkpoint"),
    ]:
        done = export(*arguments)
        assert done.status == 1
        assert done.err.startswith("omar_jax: ") and said in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "new").exists()
