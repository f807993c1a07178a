"""Data sets on disk: TFDS builders run once, their records read at random as often as needed.

The life of a data set: a builder says what its records look like and generates them; `Builder.source` runs it the first
time (array_record files, no TensorFlow) and opens what it wrote. It lies in a folder named after the files that were
read (`version_of`), so other files make another data set.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

SPLIT = "train"  # the only one: which records are held out is for whoever uses them


def cache() -> Path:
    """Where data sets are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omar_jax" / "datasets"


def version_of(files: Iterable[Path]) -> str:
    """A name for these files as they are now; it changes when any of them does."""
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Reads files into one split, in their order. Builders that can be used say FEATURES and `_generate_examples`.

    Args:
      files: what is read.
      folder: where data sets are kept.
    """

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: dict[str, Any]

    def __init__(self, files: Iterable[Path], folder: Path | None = None):
        self.files = tuple(files)
        super().__init__(data_dir=(folder or cache()) / version_of(self.files), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(self.FEATURES), description=self.__doc__, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def source(self) -> Sequence[dict[str, Any]]:
        """The records, each by its features' names, text as bytes; made now if they are not there."""
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.download_and_prepare()
        except OSError:
            if not self.is_prepared():  # otherwise another process was faster
                raise
        return self.as_data_source(split=SPLIT)
