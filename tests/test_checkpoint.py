import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax.checkpoint import CheckpointError, Checkpoints


class Adam(NamedTuple):
    count: jax.Array
    mean: dict


def state(seed):
    """All kinds of leaves, every byte of them random."""
    generator = np.random.default_rng(seed)
    weights = {
        "kernel": jnp.asarray(generator.standard_normal((40, 70)), jnp.float32),
        "half": jnp.asarray(generator.standard_normal(33), jnp.bfloat16),
        "legal": jnp.asarray(generator.random(9) < 0.5),
    }
    return {
        "params": weights,
        "optimizer": (Adam(jnp.int32(seed), {"kernel": jnp.full((40, 70), seed / 7)}), ()),
        "baselines": generator.standard_normal(5),
        "seed": np.array(2**40 + seed),
    }


def shapes(tree):
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_bitwise_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (type(x), x.dtype, x.shape) == (type(y), y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save_all(folder, iterations, keep=2):
    checkpoints = Checkpoints(folder, keep)
    for iteration in iterations:
        checkpoints.save(iteration, state(iteration), {"iteration": iteration, "rng": [0.1, 2**60]})
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints 2 and 3, to be copied."""
    folder = tmp_path_factory.mktemp("saved")
    save_all(folder, [1, 2, 3])
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.mark.parametrize("template", [state, lambda seed: shapes(state(seed))])
def test_round_trip_is_bitwise_and_older_ones_are_dropped(folder, template):
    checkpoints = Checkpoints(folder, 2)
    iteration, arrays, counters = checkpoints.restore_latest(template(0))
    assert (iteration, counters) == (3, {"iteration": 3, "rng": [0.1, 2**60]})
    assert_bitwise_equal(arrays, state(3))
    assert checkpoints.iterations() == [2, 3]
    assert_bitwise_equal(checkpoints.restore(2, template(0))[0], state(2))
    checkpoints.close()


def test_folders_whose_names_are_patterns_are_refused(tmp_path):
    """Orbax would save into them without an error, but not all."""
    with pytest.raises(CheckpointError, match=r"run \[1\] cannot hold checkpoints: Orbax takes names with \[, \], \*"):
        Checkpoints(tmp_path / "run [1]", 2)


def test_folders_may_have_any_other_name(tmp_path):
    folder = tmp_path / "run 1, 100% %20 #done"
    save_all(folder, [1])
    checkpoints = Checkpoints(folder, 2)
    assert_bitwise_equal(checkpoints.restore_latest(state(0))[1], state(1))
    checkpoints.close()


def test_nothing_saved_is_none(tmp_path):
    for keep in (2, None):
        checkpoints = Checkpoints(tmp_path / "none", keep)
        assert checkpoints.restore_latest(state(0)) is None
        checkpoints.close()


def test_arrays_may_be_donated_and_changed_after_save(tmp_path):
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    device, host = {"w": jnp.zeros((1000, 1000))}, np.zeros((500, 500))
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(1, {"device": device, "host": host}, {})
    for _ in range(3):
        device = advance(device)
        host += 1
    arrays, _ = checkpoints.restore(1, {"device": device, "host": host})
    checkpoints.close()
    assert not arrays["device"]["w"].any()
    assert not arrays["host"].any()


def truncate(folder):
    for path in (folder / "3" / "arrays").rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_data(folder):
    largest = max((folder / "3").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])


def delete_data(folder):
    max((folder / "3").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0).unlink()


def delete_counters(folder):
    (folder / "3" / "counters" / "metadata").unlink()


def delete_tree_metadata(folder):
    (folder / "3" / "arrays" / "manifest.ocdbt").unlink()


def flip_data(folder):
    for path in (folder / "3" / "arrays" / "ocdbt.process_0" / "d").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def flip_counters(folder):
    path = folder / "3" / "counters" / "metadata"
    path.write_text(path.read_text().replace("1152921504606846976", "1152921504606846977"))


def empty(folder):
    shutil.rmtree(folder / "3")
    (folder / "3").mkdir()


DAMAGES = [
    truncate,
    truncate_data,
    delete_data,
    delete_counters,
    delete_tree_metadata,
    flip_data,
    flip_counters,
    empty,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_and_the_one_before_is_used(folder, damage, capfd):
    damage(folder)
    lines = []
    checkpoints = Checkpoints(folder, 2, lines.append)
    iteration, arrays, counters = checkpoints.restore_latest(state(0))
    assert (iteration, counters["iteration"]) == (2, 2)
    assert_bitwise_equal(arrays, state(2))
    assert len(lines) == 1 and f"{folder / '3'} cannot be used: " in lines[0] and "\n" not in lines[0]
    assert "Traceback" not in capfd.readouterr().err

    checkpoints.save(3, state(30), {"again": True})  # over the damaged one
    iteration, arrays, counters = checkpoints.restore_latest(state(0))
    assert (iteration, counters) == (3, {"again": True})
    assert_bitwise_equal(arrays, state(30))
    assert checkpoints.iterations() == [2, 3]
    checkpoints.close()


def test_damaged_ones_do_not_push_out_sound_ones(folder):
    flip_counters(folder)
    checkpoints = Checkpoints(folder, 2, lambda line: None)
    checkpoints.restore_latest(state(0))
    checkpoints.save(4, state(4), {})
    checkpoints.wait()
    assert checkpoints.iterations() == [2, 4]
    checkpoints.close()


def test_all_damaged_is_an_error_and_changes_nothing(folder):
    for iteration in "23":
        (folder / iteration / "counters" / "metadata").write_text("{")
    before = sorted(folder.rglob("*"))
    checkpoints = Checkpoints(folder, 2, lambda line: None)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[2, 3\].*can be used.*start anew"):
        checkpoints.restore_latest(state(0))
    checkpoints.close()
    assert sorted(folder.rglob("*")) == before


def test_another_tree_is_refused(folder):
    checkpoints = Checkpoints(folder, 2)
    template = state(0)
    template["params"]["kernel"] = jnp.zeros((40, 71))
    with pytest.raises(CheckpointError, match=r"params/kernel is .*\[40, 70\].*this run's is .*\[40, 71\]"):
        checkpoints.restore(3, template)
    template["params"] = {"other": jnp.zeros(3)}
    with pytest.raises(CheckpointError, match="lacks params/other and has params/half"):
        checkpoints.restore(3, template)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoints.restore(9, template)
    checkpoints.close()


def test_reading_leaves_a_run_in_progress_alone(folder):
    unfinished = folder / "4.orbax-checkpoint-tmp"
    shutil.copytree(folder / "3", unfinished)
    reader = Checkpoints(folder, None)
    assert reader.restore_latest(state(0))[0] == 3
    reader.close()
    assert unfinished.exists()


def test_an_unfinished_save_is_ignored_and_removed(folder):
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp")
    lines = []
    checkpoints = Checkpoints(folder, 2, lines.append)
    assert checkpoints.restore_latest(state(0))[0] == 3
    checkpoints.save(4, state(4), {})
    checkpoints.close()
    assert not lines
    assert sorted(path.name for path in folder.iterdir() if path.name[0].isdigit()) == ["3", "4"]


def test_going_back_forgets_what_came_later(folder):
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(2, state(20), {})
    checkpoints.wait()
    assert checkpoints.iterations() == [2]
    checkpoints.close()


def test_leaves_that_are_no_arrays_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    with pytest.raises(TypeError, match="a/0 is a float"):
        checkpoints.save(1, {"a": [1.0]}, {})
    checkpoints.close()


SAVER = """
import sys
from pathlib import Path
from omar_jax.checkpoint import Checkpoints
from tests.test_checkpoint import state
checkpoints = Checkpoints(Path(sys.argv[1]), 2)
restored = checkpoints.restore_latest(state(0))
iteration = restored[0] if restored else 0
while True:
    iteration += 1
    checkpoints.save(iteration, state(iteration), {"iteration": iteration})
    print(iteration, flush=True)
"""


def test_killed_while_saving_leaves_a_restorable_state(tmp_path):
    reached = 0
    for delay in (0.05, 0.13):
        command = [sys.executable, "-c", SAVER, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(3):
            reached = int(process.stdout.readline())
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        reached = int(rest[-1]) if rest else reached
        lines = []
        checkpoints = Checkpoints(tmp_path, 2, lines.append)
        iteration, arrays, counters = checkpoints.restore_latest(state(0))
        checkpoints.close()
        assert not lines
        assert counters == {"iteration": iteration}
        assert reached - 1 <= iteration <= reached + 1  # a save waits for the one before it
        assert_bitwise_equal(arrays, state(iteration))
