"""Folders read and written: every bit, one error that names all, and no second model in memory."""

import json
import subprocess
import sys
from pathlib import Path

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from omar_jax import catalogue
from omar_jax.model import families, hf
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.model.hf import ModelError

CONFIG = DecoderConfig(vocabulary=11, width=8, layers=2, heads=4, kv_heads=2, head_dim=6, mlp_width=10, rope_theta=5e3)
UNTIED = DecoderConfig(
    vocabulary=11, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=10, tied_embeddings=False
)


def random_params(config):
    """Every bit of every tensor random, in the shapes that the decoder makes."""
    tokens = np.zeros((1, 2), np.int32)
    attend = causal(config, tokens)
    shapes = jax.eval_shape(
        lambda key: Decoder(config).init(key, tokens, tokens, attend, method="init_all"), jax.random.key(0)
    )
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


def save(folder, config, params, *options):
    hf.save(folder, families.qwen3_config_json(config), config, params, *options)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path, CONFIG, random_params(CONFIG))
    return tmp_path


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    save(folder, CONFIG, random_params(CONFIG), np.float32, 1500)
    return folder


def says(call, *arguments):
    with pytest.raises(ModelError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same_bits(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# ---------------------------------------------------------------- every bit


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_what_is_saved_is_loaded_bit_by_bit(config, tmp_path):
    params = random_params(config)
    save(tmp_path, config, params)
    assert hf.read_config(tmp_path) == config
    loaded = hf.load(tmp_path, config)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert_same_bits(loaded, params)


@pytest.mark.parametrize(("family", "seed"), family_cases.CASES)
def test_what_is_imported_is_exported_bit_by_bit(family, seed, tmp_path):
    with family_cases.case_folder(family, seed) as folder:
        config, config_json = hf.read_config(folder), hf.read_config_json(folder)
        hf.save(tmp_path, config_json, config, hf.load(folder, config))
    wanted = family_cases.draw_weights(config, seed)
    found = load_file(tmp_path / hf.WEIGHTS)
    assert {name: (x.dtype, x.shape, x.tobytes()) for name, x in found.items()} == {
        name: (x.dtype, x.shape, x.tobytes()) for name, x in wanted.items()
    }
    assert hf.read_config_json(tmp_path) == config_json | {"dtype": "float32"}


def test_shards_hold_the_same(folder, shards):
    files = sorted(path.name for path in shards.glob("model*"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files) - 1:05d}.safetensors" and files[-1] == hf.INDEX
    sizes = {path.name: sum(x.nbytes for x in load_file(path).values()) for path in shards.glob("model-*")}
    assert all(0 < size <= 1500 for size in sizes.values())
    index = json.loads((shards / hf.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert set(index["weight_map"]) == set(load_file(folder / hf.WEIGHTS))
    assert all(name in load_file(shards / file) for name, file in index["weight_map"].items())
    assert_same_bits(hf.load(shards, CONFIG), random_params(CONFIG))


def test_half_the_bytes(tmp_path):
    params = random_params(CONFIG)
    save(tmp_path, CONFIG, jax.tree.map(jnp.asarray, params), jnp.bfloat16)
    assert hf.read_config_json(tmp_path)["dtype"] == "bfloat16"
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.bfloat16), params)
    rounded["params"]["value_head"] = params["params"]["value_head"]
    assert_same_bits(hf.load(tmp_path, CONFIG), rounded)
    older = hf.read_config_json(tmp_path) | {"torch_dtype": "bfloat16"}
    del older["dtype"]
    hf.save(tmp_path, older, CONFIG, params, "float16")
    assert hf.read_config_json(tmp_path) == older | {"torch_dtype": "float16"}


def test_place_gets_every_tensor_in_our_orientation(folder):
    params, placed = random_params(CONFIG), {}

    def place(name, array):
        placed[name] = array.copy()
        return jnp.asarray(array, jnp.bfloat16)

    loaded = hf.load(folder, CONFIG, place)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(jnp.bfloat16)}
    wanted = {"/".join(part.key for part in path[1:]): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    assert_same_bits(placed, wanted)


def test_tensors_lie_as_hugging_face_has_them(folder):
    stored, params = load_file(folder / "model.safetensors"), random_params(CONFIG)["params"]
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], params["embedding"])
    np.testing.assert_array_equal(stored["model.layers.1.mlp.down_proj.weight"], params["block_1"]["down"]["kernel"].T)
    assert stored["model.layers.0.self_attn.k_proj.weight"].shape == (2 * 6, 8)  # [out, in]
    assert len(stored) == 2 + 11 * CONFIG.layers


def test_the_embedded_model_is_its_file():
    folder = catalogue.EMBEDDED["werewolf"]
    config = hf.read_config(folder)
    stored, params = (
        load_file(folder / hf.WEIGHTS),
        hf.load(folder, config)["params"],
    )
    np.testing.assert_array_equal(params["embedding"], stored["model.embed_tokens.weight"])
    np.testing.assert_array_equal(
        params["block_2"]["out"]["kernel"], stored["model.layers.2.self_attn.o_proj.weight"].T
    )
    critic = load_file(folder / hf.VALUE_HEAD)
    np.testing.assert_array_equal(params["value_head"]["kernel"], critic["kernel"])
    assert families.qwen3_config_json(config) == hf.read_config_json(folder)


def test_without_a_stored_critic_its_head_is_zeros(folder):
    (folder / "value_head.safetensors").unlink()
    head = hf.load(folder, CONFIG)["params"]["value_head"]
    assert {name: leaf.shape for name, leaf in head.items()} == {"kernel": (8, 1), "bias": (1,)}
    assert not any(leaf.any() for leaf in head.values())


def test_a_stored_head_of_tied_embeddings_is_ignored(folder):
    stored = load_file(folder / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"] + 1
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    save_file(stored, folder / "model.safetensors")
    assert_same_bits(hf.load(folder, CONFIG), random_params(CONFIG))


# ---------------------------------------------------------------- errors


def test_a_folder_that_is_not_there_is_named(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert says(hf.read_config, nowhere) == f"model.source='{nowhere}' holds no config.json"
    index = "model.safetensors.index.json"
    assert says(hf.load, nowhere, CONFIG) == f"model.source='{nowhere}' holds no model.safetensors and no {index}"


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON: "), ("[]", "holds a JSON list; it must be an obj")])
def test_a_broken_config_is_named(folder, text, message):
    (folder / "config.json").write_text(text)
    assert says(hf.read_config, folder).startswith(f"{folder / 'config.json'} {message}")


def test_another_family_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    message = says(hf.read_config, folder)
    assert message.startswith(f"{folder / 'config.json'}: model_type='mamba' is not supported; llama, qwen2, ")


@pytest.mark.parametrize("name", ["model.safetensors", "value_head.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_a_file_cut_short_is_named(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    assert says(hf.load, folder, CONFIG).startswith(f"{folder / name} is broken or cut short: ")


def test_an_absent_or_broken_shard_is_named(shards):
    second = sorted(shards.glob("model-*"))[1]
    second.write_bytes(second.read_bytes()[:-1])
    assert says(hf.load, shards, CONFIG).startswith(f"{second} is broken or cut short: ")
    second.unlink()
    message = says(hf.load, shards, CONFIG)
    assert message.startswith(str(shards / hf.INDEX)) and message.endswith(f"1 are absent: {second.name}")
    (shards / hf.INDEX).write_text("{}")
    assert says(hf.load, shards, CONFIG) == f"{shards / hf.INDEX} has no weight_map"


def test_everything_wrong_is_in_one_error(folder):
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.0.mlp.gate.weight"] = stored.pop("model.layers.0.mlp.gate_proj.weight")
    stored["model.norm.weight"] = np.ones(9, np.float32)
    stored["model.layers.1.mlp.up_proj.weight"] = np.ones((10, 8), np.int8)
    save_file(stored, folder / "model.safetensors")
    assert says(hf.load, folder, CONFIG) == (
        f"{folder / 'model.safetensors'}: of 24 tensors 1 missing (model.layers.0.mlp.gate_proj.weight), "
        "1 left over (model.layers.0.mlp.gate.weight), 2 of a wrong shape or type "
        "(model.norm.weight F32 [9] instead of [8], model.layers.1.mlp.up_proj.weight I8 [10, 8] instead of [10, 8]); "
        "does config.json belong to it?"
    )


def test_weights_of_another_depth_are_refused(folder):
    message = says(hf.load, folder, UNTIED)
    assert "1 missing (lm_head.weight)" in message and "11 left over (model.layers.1." in message
    assert ", ...)" in message


def test_a_critic_of_another_width_is_refused(folder):
    save_file({"kernel": np.zeros((9, 1)), "bias": np.zeros(1)}, folder / "value_head.safetensors")
    assert "kernel F64 [9, 1] instead of [8, 1]" in says(hf.load, folder, CONFIG)


def test_only_what_fits_is_saved(tmp_path):
    params = random_params(CONFIG)
    message = says(save, tmp_path, CONFIG, params, np.int8)
    assert message == "weights cannot be saved as dtype=int8; float32, bfloat16, float16 are possible"
    message = says(hf.save, tmp_path, families.qwen3_config_json(UNTIED), CONFIG, params)
    assert message == "config.json of model_type='qwen3' describes another decoder"
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- memory

# Qwen3-4B with fewer layers.
LARGE = DecoderConfig(
    vocabulary=151_936, width=2560, layers=4, heads=32, kv_heads=8, head_dim=128, mlp_width=9728, rope_theta=1e6
)
MEASURE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from omar_jax.model import hf

def memory(what):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(what))

jnp.ones(8).block_until_ready()
folder, before = Path(sys.argv[1]), memory("VmRSS")
params = hf.load(folder, hf.read_config(folder))
print((memory("VmHWM") - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_loading_takes_little_more_memory_than_the_model(tmp_path):
    """Peak resident memory while loading a sharded bfloat16 model, over what the process had after jax started."""
    hf.write_config(tmp_path, families.qwen3_config_json(LARGE))
    shapes, weight_map = families.tensor_shapes(LARGE), {}
    bits = np.random.default_rng(0).integers(0, 2**14, 2**20, dtype=np.uint16)
    for part in ["model.embed_tokens", "model.norm", *(f"model.layers.{layer}." for layer in range(LARGE.layers))]:
        tensors = {
            there: np.resize(bits, shapes[here][::-1] if transposed else shapes[here]).view(jnp.bfloat16)
            for here, there, transposed in families.tensor_names(LARGE)
            if there.startswith(part)
        }
        file = f"model-{len(set(weight_map.values())):05d}.safetensors"
        save_file(tensors, tmp_path / file)
        weight_map |= dict.fromkeys(tensors, file)
    (tmp_path / hf.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 1.5e9
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert 1 <= float(done.stdout) < 1.3
