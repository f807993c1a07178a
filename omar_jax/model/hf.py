"""Decoders in Hugging Face's format: `config.json` and safetensors, in one file or many, read and written.

The life of a tensor on its way in: its name and shape are compared with the configuration's, together with all
others', before anything is read; then it is read alone, turned to our orientation and handed to `place`, which casts
it and puts it on its devices, and the host forgets it. On its way out it is turned and cast on its device, fetched
and appended to its file. The host never holds a second model. `families` knows what things are called.

The critic's head, which Hugging Face does not know, has a file of its own.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from huggingface_hub.serialization import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from omar_jax.model.config import DecoderConfig, ModelError
from omar_jax.model.families import ARCHITECTURES, decoder_config, tensor_names, tensor_shapes, text_part, text_tensor

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
VALUE_HEAD = "value_head.safetensors"

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

# (name here, tensor as stored but in our orientation) -> what stands in the parameter tree
Place = Callable[[str, np.ndarray], jax.Array]


# ---------------------------------------------------------------- config.json


def read_config_json(folder: Path) -> dict[str, Any]:
    """`folder/config.json` as it is.

    Raises:
      ModelError: there is none, or it is not a JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"model.source={str(folder)!r} holds no {CONFIG}")
    return read_json(path)


def read_config(folder: Path) -> DecoderConfig:
    """The decoder described by `folder/config.json`.

    Raises:
      ModelError: there is none, or it describes what is not supported here.
    """
    stored = read_config_json(folder)
    try:
        return decoder_config(stored)
    except ModelError as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error


def write_config(folder: Path, config_json: dict[str, Any]) -> None:
    """Writes `folder/config.json`."""
    (folder / CONFIG).write_text(json.dumps(config_json, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
      ModelError: it does not.
    """
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ModelError(f"{path} holds a JSON {type(stored).__name__}; it must be an object")
    return stored


# ---------------------------------------------------------------- in


def put(name: str, array: np.ndarray) -> jax.Array:
    """The tensor on the default device, as stored."""
    del name
    # On the CPU it may share the array's memory, which nobody else holds. `jnp.array` would make two copies.
    return jax.device_put(array)


def load(folder: Path, config: DecoderConfig, place: Place = put) -> dict[str, Any]:
    """The parameter tree stored in `folder`; without a stored critic its head is zeros.

    Args:
      folder: holds `model.safetensors`, or its shards and their index.
      config: from `read_config(folder)`.
      place: called once for every tensor; what it returns stands in the tree.

    Raises:
      ModelError: files are absent or broken, or tensors are missing, left over or of a wrong shape; it names them.
    """
    names = {there: (here, transposed) for here, there, transposed in tensor_names(config)}
    shapes = tensor_shapes(config)
    whole, files = _weight_files(folder)
    found = {
        text_tensor(stored, config): (file, stored, *kind)
        for file in files
        for stored, kind in _tensors(file).items()
        if text_tensor(stored, config) is not None
    }
    wanted = {there: shapes[here][::-1] if transposed else shapes[here] for there, (here, transposed) in names.items()}
    _check(whole, wanted, {there: kind for there, (_, _, *kind) in found.items()})

    params: dict[str, Any] = {}

    def read(there):
        file, stored, *_ = found[there]
        with _opened(file) as tensors:
            array = tensors.get_tensor(stored)
        return array.T if names[there][1] else array

    def add(here, array):
        *parents, leaf = here.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        # Waiting keeps the host from reading ahead of the transfers.
        node[leaf] = jax.block_until_ready(place(here, array))

    # The largest first: what the host holds beside the model then shrinks while the model grows.
    for there in sorted(names, key=lambda there: math.prod(wanted[there]), reverse=True):
        add(names[there][0], read(there))
    for leaf, array in _value_head(folder, config).items():
        add(f"value_head/{leaf}", array)
    return {"params": params}


def _weight_files(folder: Path) -> tuple[Path, list[Path]]:
    """What names the weights as a whole, and the files that hold them."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS, [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(f"model.source={str(folder)!r} holds no {WEIGHTS} and no {INDEX}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ModelError(f"{index} names {len(files)} files, {len(absent)} are absent: {_first(absent)}")
    return index, files


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        # Reading instead of mapping: mapped pages would count as the process's memory until the file is closed.
        with safe_open(path, framework="np", backend="pread") as file:
            yield file
    except SafetensorError as error:
        raise ModelError(f"{path} is broken or cut short: {error}") from error


def _tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of what a file holds."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        return {name: (tuple(piece.get_shape()), piece.get_dtype()) for name, piece in slices.items()}


def _check(path: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raises one error that names what is missing, left over and wrong."""
    wrong = [
        f"{name} {found[name][1]} {list(found[name][0])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in found and (found[name][0] != shape or found[name][1] not in _DTYPES.values())
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", sorted(set(wanted) - set(found))),
            ("left over", sorted(set(found) - set(wanted))),
            ("of a wrong shape or type", wrong),
        )
        if names
    ]
    if problems:
        raise ModelError(f"{path}: of {len(wanted)} tensors {', '.join(problems)}; does {CONFIG} belong to it?")


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _value_head(folder: Path, config: DecoderConfig) -> dict[str, np.ndarray]:
    path, shapes = folder / VALUE_HEAD, {"kernel": (config.width, 1), "bias": (1,)}
    if not path.is_file():
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    _check(path, shapes, _tensors(path))
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in shapes}


# ---------------------------------------------------------------- out


def save(
    folder: Path,
    config_json: dict[str, Any],
    config: DecoderConfig,
    params: dict[str, Any],
    dtype: Any = np.float32,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes config and weights as Hugging Face has them, and the critic's head in a file of its own.

    Args:
      folder: an existing folder without older weights.
      config_json: the `config.json` the model came with (`read_config_json`), or `families.qwen3_config_json(config)`.
      config: the decoder it describes.
      params: the parameter tree, on any device.
      dtype: what weights are stored as: float32, bfloat16 or float16. The critic's head keeps its own.
      max_shard_bytes: weights beyond it are split into several files and an index.

    Raises:
      ModelError: the dtype is none of these, or config_json describes another decoder.
    """
    dtype = jnp.dtype(dtype)
    if dtype.name not in _DTYPES:
        raise ModelError(f"weights cannot be saved as dtype={dtype.name}; {', '.join(_DTYPES)} are possible")
    if decoder_config(config_json) != config:
        raise ModelError(f"config.json of model_type={config_json.get('model_type')!r} describes another decoder")
    described = dict(text_part(config_json))
    described["architectures"] = [ARCHITECTURES[described["model_type"]]]
    described["torch_dtype" if "torch_dtype" in described else "dtype"] = dtype.name
    write_config(folder, described)

    shapes = tensor_shapes(config)
    tensors = {
        there: (here, transposed, shapes[here][::-1] if transposed else shapes[here])
        for here, there, transposed in tensor_names(config)
    }
    split = split_state_dict_into_shards_factory(
        {there: dtype.itemsize * math.prod(shape) for there, (_, _, shape) in tensors.items()},
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    for name, held in split.filename_to_tensors.items():
        with (folder / name).open("wb") as file:
            _write_header(file, {there: tensors[there][2] for there in held}, dtype)
            for there in held:
                here, transposed, _ = tensors[there]
                file.write(_fetch(_leaf(params["params"], here), transposed, dtype).view(np.uint8))
    head = {name: np.asarray(leaf) for name, leaf in params["params"]["value_head"].items()}
    save_file(head, folder / VALUE_HEAD)


def _leaf(node: Any, here: str) -> Any:
    for part in here.split("/"):
        node = node[part]
    return node


def _fetch(leaf: Any, transposed: bool, dtype: np.dtype) -> np.ndarray:
    """A tensor as it is stored, contiguous on the host."""
    # A new array on the device: jax keeps the host's copy of an array that lives on, which would add up to a model.
    turned = jnp.array(leaf.T if transposed else leaf, dtype)
    return np.ascontiguousarray(turned)


def _write_header(file: BinaryIO, shapes: dict[str, tuple[int, ...]], dtype: np.dtype) -> None:
    """What a safetensors file opens with; the library's own writer wants all tensors at once in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _DTYPES[dtype.name], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
