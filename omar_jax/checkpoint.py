"""Checkpoints of a run: everything that moves, saved in the background, checked when it is read back.

The life of a checkpoint: `save` takes a digest of every array, copies the arrays to the host and returns;
Orbax writes `<folder>/<iteration>.orbax-checkpoint-tmp` in the background and renames it to
`<folder>/<iteration>` when it is whole, so that a run killed at any moment leaves only whole checkpoints and
temporary folders, which the next run removes. `restore_latest` takes the newest checkpoint that is sound:
readable, of the expected tree, with the digests it was saved with. Saving iteration k forgets checkpoints
of k and later, so a folder always holds one history.
"""

import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from jax.experimental import multihost_utils


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says why."""


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them.

    With several hosts every process makes one and calls the same methods in the same order.

    Args:
      folder: where they lie; made if it is missing.
      keep: how many to keep; None only reads, leaving the folder of a run in progress untouched.
      report: receives one line for every damaged checkpoint that is passed over.

    Raises:
      CheckpointError: the folder has a name that Orbax cannot save into.
    """

    def __init__(self, folder: Path, keep: int | None, report: Callable[[str], None] = logging.warning):
        if keep is not None and keep < 1:
            raise ValueError(f"keep is {keep}, but a run must keep at least 1 checkpoint")
        if set("[]*?") & set(str(folder)):
            raise CheckpointError(f"{folder} cannot hold checkpoints: Orbax takes names with [, ], * or ? for patterns")
        self._report = report
        self._rejected: set[int] = set()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(n=keep),
            save_interval_steps=1 if keep else 0,
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
            read_only=keep is None,
        )
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(), item_names=("arrays", "counters"), options=options
        )

    def iterations(self) -> list[int]:
        """Iterations that have a finished checkpoint, sound or not, ascending."""
        # Not the manager's own list, which leaves damaged folders out: they would block a save.
        folder = self._manager.directory
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []

    def save(self, iteration: int, arrays: Any, counters: dict[str, Any]) -> None:
        """Saves in the background. The arrays may be changed or donated as soon as this returns.

        Waits for the save before it, and for `arrays` to be computed.

        Args:
          iteration: its number; checkpoints of this and later iterations are forgotten.
          arrays: pytree of `jax.Array` and `np.ndarray`.
          counters: JSON; comes back as JSON does (tuples as lists, keys as strings).

        Raises:
          TypeError: a leaf is no array, or counters are not JSON.
        """
        contents = {"arrays": _fingerprints(arrays), "counters": counters}
        contents["crc"] = _json_crc(contents)
        self.wait()
        self._forget([i for i in self.iterations() if i >= iteration or i in self._rejected])
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), counters=ocp.args.JsonSave(contents))
        if not self._manager.save(iteration, args=items, force=True):
            raise CheckpointError(f"orbax did not save checkpoint {iteration} in {self._manager.directory}")

    def restore(self, iteration: int, template: Any) -> tuple[Any, dict[str, Any]]:
        """Reads and checks one checkpoint.

        Args:
          iteration: its number.
          template: the pytree to return, of `jax.Array`, `jax.ShapeDtypeStruct` (both restored as `jax.Array`
            with the leaf's sharding, or on the first device) or `np.ndarray`.

        Returns:
          (arrays, counters), arrays bitwise as they were saved.

        Raises:
          CheckpointError: it is missing, damaged, or of another tree.
        """
        self.wait()
        # Every step of it is agreed on by all processes before the next, which none could do alone.
        counters, saved = _agreed(lambda: self._examine(iteration, template))
        target = ocp.args.StandardRestore(jax.tree.map(_placed, template))
        arrays = _agreed(lambda: self._restore_item(iteration, arrays=target).arrays)
        _agreed(lambda: _check_digests(saved, arrays))
        return arrays, counters

    def restore_latest(self, template: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest sound checkpoint, reporting every damaged one that is newer.

        Returns:
          (iteration, arrays, counters), or None if there is no checkpoint at all.

        Raises:
          CheckpointError: there are checkpoints but none can be used; nothing is changed on disk.
        """
        self.wait()
        reasons: dict[int, str] = {}
        for iteration in reversed(self.iterations()):
            try:
                arrays, counters = self.restore(iteration, template)
            except CheckpointError as error:
                reasons[iteration] = str(error)
                self._report(f"checkpoint {self._manager.directory / str(iteration)} cannot be used: {error}")
            else:
                self._rejected = set(reasons)
                return iteration, arrays, counters
        if not reasons:
            return None
        raise CheckpointError(
            f"none of the checkpoints {sorted(reasons)} in {self._manager.directory} can be used; the newest:"
            f" {reasons[max(reasons)]}. If the model's settings changed, change them back or give another"
            " --workdir; if the files are damaged, bring back a copy, or remove that folder to start anew."
        )

    def wait(self) -> None:
        """Returns when the save in progress is on disk; raises what went wrong in it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and ends the background threads."""
        self._manager.close()

    def _examine(self, iteration: int, template: Any) -> tuple[dict[str, Any], dict[str, list]]:
        """(counters, fingerprints of the arrays) of a checkpoint whose arrays can be read and fit."""
        contents = self._restore_item(iteration, counters=ocp.args.JsonRestore()).counters
        if contents.pop("crc") != _json_crc(contents):
            raise CheckpointError("its counters are not the ones that were saved")
        _check_tree(contents["arrays"], template)
        _check_readable(self._manager.directory / str(iteration) / "arrays")
        return contents["counters"], contents["arrays"]

    def _restore_item(self, iteration: int, **item: ocp.args.CheckpointArgs) -> Any:
        if iteration not in self._manager.all_steps():
            # Saying it ourselves: orbax's message would be about steps, not about what is missing.
            present = (self._manager.directory / str(iteration)).exists()
            raise CheckpointError("its files are incomplete" if present else "there is no such checkpoint")
        return self._manager.restore(iteration, args=ocp.args.Composite(**item))

    def _forget(self, iterations: list[int]) -> None:
        if not iterations:
            return
        if jax.process_index() == 0:
            for iteration in iterations:
                (self._manager.directory / str(iteration)).rmtree()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("omar_jax.checkpoint.forget")
        self._manager.reload()


def digest(tree: Any) -> str:
    """Tells a tree of arrays from others, bit by bit; the same wherever the arrays lie."""
    return f"{_json_crc(_fingerprints(tree)):08x}"


def _check_readable(folder: Any) -> None:
    """Reads the files of the arrays once, each process its share, and raises at what cannot be read.

    Orbax would find it too, but stop at the first error with all other reads under way, and each of those
    then prints tracebacks from threads and event loops that nobody can catch: thousands of lines.
    """
    for path in (folder / "array_metadatas").iterdir():
        json.loads(path.read_text())
    # As a path, not as an URL, in which some letters would have to be spelled otherwise.
    base = f"{folder}/" if "://" in str(folder) else {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = store.list().result()
    if not keys:
        raise CheckpointError("its arrays' manifest is missing")

    def read(key: bytes) -> None:
        if not store.read(key).result().value:  # what lay in a missing file reads as empty
            raise CheckpointError(f"the file that holds {key.decode()} is missing")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, keys[jax.process_index() :: jax.process_count()]))


def _agreed(attempt: Callable[[], Any]) -> Any:
    """What `attempt` returns, if it succeeds in every process: hosts that parted ways would wait for ever.

    Raises:
      CheckpointError: it failed here (whatever it raised: that is for orbax and tensorstore to choose), or
        elsewhere.
    """
    result, failure = None, None
    try:
        result = attempt()
    except Exception as error:
        failure = error
    sound = failure is None
    if jax.process_count() > 1:
        sound = bool(multihost_utils.process_allgather(np.asarray(sound)).all())
    if not sound:
        kind = "" if failure is None or isinstance(failure, CheckpointError) else f"{type(failure).__name__}: "
        reason = str(failure) if failure else "another process could not read it"
        raise CheckpointError(" ".join(f"{kind}{reason}".split())[:300]) from failure
    return result


def _placed(leaf: Any) -> Any:
    """The template leaf as orbax wants it: with a sharding, so that it takes none from the file."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _check_tree(saved: dict[str, list], template: Any) -> None:
    """Orbax pads, cuts and casts a leaf that does not fit; a run must not go on from such arrays."""
    expected = {name: [str(x.dtype), list(x.shape)] for name, x in _named_leaves(template).items()}
    missing, unknown = expected.keys() - saved.keys(), saved.keys() - expected.keys()
    if missing or unknown:
        raise CheckpointError(f"another tree: it lacks {_some(missing)} and has {_some(unknown)} besides")
    for name, leaf in expected.items():
        if saved[name][:2] != leaf:
            raise CheckpointError(f"another tree: {name} is {saved[name][:2]}, this run's is {leaf}")


def _check_digests(saved: dict[str, list], arrays: Any) -> None:
    changed = [name for name, fingerprint in _fingerprints(arrays).items() if fingerprint != saved[name]]
    if changed:
        raise CheckpointError(f"its bytes are not the ones that were saved: {_some(changed)}")


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _json_crc(contents: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(contents, sort_keys=True).encode())


def _fingerprints(tree: Any) -> dict[str, list]:
    """[dtype, shape, digest] of every leaf by name, as JSON gives them back."""
    leaves = _named_leaves(tree)
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(f"{name} is a {type(leaf).__name__}; checkpoints take arrays, counters the rest")
    # All are queued before the first is fetched.
    digests = jax.device_get({name: _digest(_words(leaf)) for name, leaf in leaves.items()})
    return {name: [str(x.dtype), list(x.shape), int(digests[name])] for name, x in leaves.items()}


def _words(leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """A NumPy leaf as unsigned words: JAX would narrow its 64-bit types."""
    if isinstance(leaf, jax.Array):
        return leaf
    word = np.dtype(f"u{min(leaf.dtype.itemsize, 4)}")
    return np.ascontiguousarray(leaf).reshape(-1).view(word)


@jax.jit
def _digest(array: jax.Array) -> jax.Array:
    """A uint32 that changes with any change to one word of the array, and with nearly any to several.

    Computed where the array lies (no transfer, any sharding, every process gets the same): the sum modulo
    2^32, whose order does not matter, of a bijective mix of each word and its place. The mix is `lowbias32`
    of C. Wellons, "Prospecting for Hash Functions" (nullprogram.com, 2018).
    """
    bits = 8 * array.dtype.itemsize
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    word = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{min(bits, 32)}")).astype(jnp.uint32)
    place = jnp.zeros(word.shape, jnp.uint32)
    for axis, size in enumerate(word.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, word.shape, axis)
    word = word + place * jnp.uint32(0x9E3779B9)
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return jnp.sum(word ^ (word >> 16), dtype=jnp.uint32)
