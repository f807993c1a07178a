"""Where models come from: every name a model may have leads to a local folder in Hugging Face's format.

A folder is itself. A GGUF file is converted once, into the user's cache. `pip:some-package` is a Python package that
brings a GGUF file. `organization/name` is downloaded from the Hugging Face hub, which keeps its own cache.
"""

import hashlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from omar_jax.model.hf import ModelError

# Part of a conversion's name in the cache: raise it when conversions change, and old ones are no longer used.
_CONVERSION = 1
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name: str, report: Callable[[str], None], weights: bool = True) -> Path:
    """The folder with config.json, safetensors and tokenizer files of the model called `name`.

    Args:
      name: a folder; a path ending in .gguf; `pip:` and a package whose module has `assemble()`, which returns the
        path of a GGUF file; or `organization/name` on the Hugging Face hub. A folder of that name comes first.
      report: is told in a line what takes time.
      weights: whether to download the weights, too.

    Raises:
      ModelError: the name leads nowhere, something must be installed or downloaded first, or the file is unsuitable.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name.startswith("pip:"):
        return _converted(_assembled(name.removeprefix("pip:")), report)
    if name.lower().endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"model.source={name!r}: there is no such file")
        return _converted(path, report)
    if _HUB_NAME.fullmatch(name):
        return _downloaded(name, report, weights)
    raise ModelError(
        f"model.source={name!r} is no folder here; right are a folder, a file ending in .gguf, pip:package or "
        "organization/name on the Hugging Face hub"
    )


def _converted(gguf: Path, report: Callable[[str], None]) -> Path:
    """The folder in the cache that holds this GGUF file's model; made now if it is not there."""
    try:
        from omar_jax.model import gguf_file
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise ModelError(f"{gguf}: reading GGUF files needs a package: pip install gguf") from error
    state = gguf.stat()
    digest = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns} {_CONVERSION}".encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omar_jax" / "models"
    folder = cache / f"{gguf.stem}-{digest}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Made next to its place and renamed, so that what bears the name is whole.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
    try:
        gguf_file.convert(gguf, unfinished, report)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    report(f"converted into {folder}")
    return folder


def _assembled(package: str) -> Path:
    """The GGUF file that an installed package brings."""
    module_name = package.replace("-", "_")
    try:
        module = importlib.import_module(module_name)
        return Path(module.assemble())
    except ModuleNotFoundError as error:
        missing = (error.name or package).replace("_", "-") if error.name != module_name else package
        raise ModelError(f"model.source='pip:{package}' is not installed: pip install {missing}") from error
    except (AttributeError, OSError, ValueError) as error:
        detail = str(error).partition("\n")[0]
        raise ModelError(f"model.source='pip:{package}' does not bring a whole GGUF file: {detail}") from error


def _downloaded(name: str, report: Callable[[str], None], weights: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    report(f"{name}: looking at huggingface.co and downloading what is not in its cache ({constants.HF_HUB_CACHE})")
    try:
        folder = Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.jinja", "tokenizer.model", *(["*.safetensors"] if weights else [])],
                ignore_patterns=["*/*", "consolidated*"],  # the same weights again, in other formats
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            f"model.source={name!r} is gated: accept its terms at https://huggingface.co/{name}, then hf auth login"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"model.source={name!r} is neither a folder here nor a model on huggingface.co; "
            "correct it or, if the model is private, hf auth login"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"model.source={name!r} is no folder here nor in the cache, and huggingface.co cannot be reached; "
            "go online once or give a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        detail = str(error).partition("\n")[0]
        raise ModelError(f"model.source={name!r} could not be downloaded: {detail}") from error
    if not (folder / "config.json").is_file() or (weights and not any(folder.glob("*.safetensors"))):
        raise ModelError(
            f"model.source={name!r} has no config.json and safetensors on huggingface.co; if it holds GGUF files, "
            "download one and give its path"
        )
    return folder
