"""From a configuration to weights: what is trained, what is frozen, and in which precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams

from configs.werewolf import get_config
from omar_jax import experiment, layout, workdirs
from omar_jax.advantages import Advantages
from omar_jax.console import Console
from omar_jax.settings import SettingError


def smoke(**changes):
    config = get_config("smoke")
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def test_everything_is_trained_by_default(tmp_path):
    run = experiment.build(smoke())
    trained, frozen, reference = run.start(tmp_path, Console())
    assert frozen is None and dtypes(trained) == dtypes(reference) == {"float32"}
    jax.tree.map(np.testing.assert_array_equal, trained, reference)
    pointers = [{x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)} for tree in (trained, reference)]
    assert not pointers[0] & pointers[1]  # the optimizer gives away what it trains


def test_in_mixed_precision_the_reference_is_kept_as_it_computes(tmp_path):
    run = experiment.build(smoke(precision__compute="bfloat16"))
    trained, frozen, reference = run.start(tmp_path, Console())
    assert frozen is None and dtypes(trained) == {"float32"}
    kernel = reference["params"]["block_0"]["query"]["kernel"]
    assert kernel.dtype == jnp.bfloat16 and reference["params"]["final_norm"]["weight"].dtype == jnp.float32
    assert run.policy(trained, frozen)["params"]["embedding"].dtype == jnp.bfloat16


def test_with_adapters_the_reference_shares_what_is_frozen(tmp_path):
    run = experiment.build(smoke(lora__rank=2, precision__compute="bfloat16"))
    trained, frozen, reference = run.start(tmp_path, Console())
    assert dtypes(trained) == {"float32"}
    assert frozen["params"]["block_0"]["query"]["kernel"].dtype == jnp.bfloat16
    for path, leaf in jax.tree.leaves_with_path(frozen):
        shared = reference
        for key in path:
            shared = shared[key.key]
        assert shared is leaf
    assert reference["params"]["block_0"]["query"]["lora_a"] is not trained["params"]["block_0"]["query"]["lora_a"]


def test_random_weights_differ_by_seed():
    first, second = (experiment.build(smoke(model__weights="random", seed=seed)).weights()[0] for seed in (0, 1))
    stored = experiment.build(smoke()).weights()[0]
    embeddings = [tree["params"]["embedding"] for tree in (first, second, stored)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(embeddings[a], embeddings[b])


def test_a_run_that_has_begun_keeps_its_configuration_and_a_failed_start_does_not(tmp_path):
    workdirs.prepare(smoke(seed=1), str(tmp_path), "werewolf.py")
    workdirs.prepare(smoke(seed=2), str(tmp_path), "werewolf.py")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(SettingError, match=r"holds a run with config\.seed=2, not 3"):
        workdirs.prepare(smoke(seed=3), str(tmp_path), "werewolf.py")
    assert workdirs.stored_config(tmp_path).seed == 2


def test_dialogues_that_are_none_are_one_line(tmp_path):
    (tmp_path / "games.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello?"}]}\n')
    for dialogues, said in [(tmp_path / "nowhere.jsonl", "no such file"), (tmp_path / "games.jsonl", "no game that")]:
        config = smoke(cold_start__dialogues=str(dialogues))
        with pytest.raises(SettingError, match=rf"^config\.cold_start\.dialogues.*{said}"):
            experiment.build(config).given_games(print)


def test_a_stored_run_is_read_on_any_devices(tmp_path):
    trained_elsewhere = get_config("smoke")
    trained_elsewhere.mesh.train = "1,4,1"
    (tmp_path / "config.json").write_text(trained_elsewhere.to_json())
    assert workdirs.stored_config(tmp_path).mesh.train == "auto"


def test_records_have_every_turn_with_its_own_advantage():
    run = experiment.build(smoke())
    learns = (True, True, False, True, True)
    episode = dataclasses.replace(streams.random_game(3, num_seats=5, num_steps=6), learns=learns)
    batch = layout.pack([episode], streams.ROLES, layout.sizes(episode), streams.LEGAL_WIDTH)
    at = np.asarray(batch.action_turn, np.float32)
    rows = np.arange(batch.turn_seat.shape[1], dtype=np.float32)[None]
    (record,) = run.records([episode], batch, Advantages(at / 10, at, batch.action_mask, rows), {3: ({"goal": 1.234},)})
    assert record["scores"] == [{"goal": 1.23}]
    others = [turn for turn in record["turns"] if turn["seat"] == 2]
    assert others and all(turn["advantages"] is turn["turn_advantage"] is None for turn in others)
    mine = (turn for turn in record["turns"] if turn["seat"] != 2)
    in_rows = sorted(mine, key=lambda turn: (turn["seat"], turn["step"]))
    assert [turn["turn_advantage"] for turn in in_rows] == list(range(len(in_rows))) and len(in_rows) > 4
    for row, turn in enumerate(in_rows):
        assert turn["advantages"] == pytest.approx([row / 10] * len(turn["tokens"]))
