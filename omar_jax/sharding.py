"""How a run's arrays lie on its devices: a mesh of data x fsdp x tensor, and a table of parameters.

The life of an array: games are split over `data` and `fsdp` together, each device working on games of its own.
Parameters, and with them gradients and optimizer state, are split over `fsdp` (gathered layer by layer where they
are used) and `tensor` (each device computing with its part), as `RULES` says. Every jitted call states where its
results lie; XLA inserts the communication (GSPMD, arXiv 2105.04663). One device needs no mesh, and has none: None
stands for it everywhere.

Play and update may use different meshes. Several hosts update together, on all devices, and play each by itself, on
its own devices, so that decoding waits for nobody (`to_play`).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
GAMES = ("data", "fsdp")  # what the axis of games is split over

# The first pattern found in a parameter's name says what its axes are split over; its optimizer state lies with it.
RULES = (
    (r"embedding$", P("tensor", "fsdp")),  # [V, D], and the untied unembedding
    (r"(query|key|value|gate|up)/kernel$", P("fsdp", "tensor")),  # [D, heads or F]
    (r"(query|key|value|gate|up)/lora_a$", P("fsdp", None)),  # [D, rank]
    (r"(query|key|value|gate|up)/lora_b$", P(None, "tensor")),  # [rank, heads or F]
    (r"(query|key|value)/bias$", P("tensor")),
    (r"(out|down)/kernel$", P("tensor", "fsdp")),  # [heads or F, D]
    (r"(out|down)/lora_a$", P("tensor", None)),
    (r"(out|down)/lora_b$", P(None, "fsdp")),
    (r"out/bias$", P()),
    (r"norm/weight$", P()),
    (r"value_head/(kernel|bias)$", P()),
)


class ShardingError(ValueError):
    """A parameter that no rule fits."""


def by_process(devices: Iterable[Any]) -> list[Any]:
    """The devices process after process, each one's in the order of their numbers."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def split(x: jax.Array, mesh: Mesh | None, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Inside a jitted call: the array, its first axes split over these of the mesh's, the others not."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*axes)))


def gather_rows(table: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Inside a jitted call: a vocabulary's table [V, D], each row whole, rows split over `tensor` if it divides V.

    Looked up in pieces of rows, XLA would have to move what it found between the devices, and does so badly.
    """
    return table if mesh is None else split(table, mesh, None if table.shape[0] % mesh.shape["tensor"] else "tensor")


def put(array: np.ndarray, mesh: Mesh | None, spec: P) -> jax.Array:
    """A host array, the same in every process, on the devices of the mesh or on the only one."""
    if mesh is None:
        return jax.device_put(array)
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), array.__getitem__)


def spread(arrays: Any, mesh: Mesh | None) -> Any:
    """A tree of host arrays on the devices of the mesh, their first axis split over the games."""
    return arrays if mesh is None else jax.tree.map(lambda x: put(x, mesh, P(GAMES)), arrays)


def num_game_parts(mesh: Mesh | None) -> int:
    """Into how many parts a mesh splits the games."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def over_heads(mesh: Mesh | None, kv_heads: int) -> str | None:
    """The axis that splits key/value heads, or None where they are the same on all of it: heads stay whole."""
    return None if mesh is None or kv_heads % mesh.shape["tensor"] else "tensor"


# ---------------------------------------------------------------- parameters


def partition(name: str, shape: Sequence[int], mesh: Mesh | None, kv_heads: int) -> P:
    """How a parameter, or the optimizer's state of it, is split.

    Keys and values are as `over_heads` says. An axis of a size that does not divide is not split.

    Raises:
      ShardingError: no rule fits the name.
    """
    if mesh is None:
        return P()
    spec = next((spec for pattern, spec in RULES if re.search(pattern, name)), None)
    if spec is None and shape:
        raise ShardingError(f"no rule of sharding.RULES fits the parameter {name!r}")
    if re.search(r"(key|value)/(kernel|bias|lora_b)$", name) and not over_heads(mesh, kv_heads):
        spec = P(*(None if axis == "tensor" else axis for axis in spec))
    sizes = zip(spec or (), shape, strict=False)
    return P(*(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in sizes))


def shardings(tree: Any, mesh: Mesh, kv_heads: int) -> Any:
    """The sharding of every leaf of a tree of parameters, gradients or training state (arrays or their shapes)."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition(name, x.shape, mesh, kv_heads))

    return jax.tree_util.tree_map_with_path(leaf, tree)


def described(shapes: Any, mesh: Mesh | None, kv_heads: int) -> Any:
    """Shapes with the sharding that their arrays have on the mesh."""
    if mesh is None:
        return shapes
    split = shardings(shapes, mesh, kv_heads)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, split)


def keep_split(tree: Any, mesh: Mesh | None, kv_heads: int) -> Any:
    """Inside a jitted call: the tree, split as `RULES` says."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings(tree, mesh, kv_heads))


def place(tree: Any, mesh: Mesh | None, kv_heads: int) -> Any:
    """The tree with those leaves that lie on one device, the same in every process, split as `RULES` says."""
    if mesh is None:
        return tree

    def leaf(x, sharding):
        return x if x.sharding.device_set == sharding.device_set else put(np.asarray(x), mesh, sharding.spec)

    return jax.tree.map(leaf, tree, shardings(tree, mesh, kv_heads))


def to_play(params: Any, update: Mesh | None, play: Mesh | None, kv_heads: int) -> Any:
    """The parameters of the update's mesh on the devices that this process plays on.

    With several processes, each plays on devices of its own: the parameters are copied to every process and
    split there as `play` says.
    """
    if update is None:
        return params
    mine = [device for device in update.devices.flat if device.process_index == jax.process_index()]
    processes = update.devices.size // len(mine)
    if processes == 1:
        return params if play is update else jax.device_put(params, shardings(params, play, kv_heads))
    sizes = (1, 1, 1) if play is None else play.devices.shape
    copies = Mesh(np.asarray(by_process(update.devices.flat)).reshape(processes, *sizes), ("process", *AXES))

    def local_part(x):
        parts = [shard.data for shard in x.addressable_shards]
        if play is None:
            return parts[0]
        return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(play, x.sharding.spec), parts)

    return jax.tree.map(local_part, jax.device_put(params, shardings(params, copies, kv_heads)))
