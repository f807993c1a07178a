"""Builders run once for the files they read, leave no TensorFlow behind, and mind others who build at the same time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from etils import epath

from omar_jax.datasets import prepared

runs = []


class Lines(prepared.Builder, skip_registration=True):
    """Lines of text."""

    FEATURES = {"text": tfds.features.Text()}  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent  # found by itself for builders in packages

    def _generate_examples(self):
        runs.append(self.files)
        for number, line in enumerate(self.files[0].read_text().splitlines()):
            yield number, {"text": line}


@pytest.fixture
def file(tmp_path):
    runs.clear()
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"line {n}" for n in range(50)))
    return path


def test_records_come_in_the_order_of_the_file_and_are_made_once(file, tmp_path, capfd):
    source = Lines([file], tmp_path / "cache").source()
    assert [example["text"].decode() for example in source] == file.read_text().split("\n")
    assert source[49]["text"] == b"line 49" and len(source) == 50
    assert len(Lines([file], tmp_path / "cache").source()) == 50
    assert len(runs) == 1
    assert [path.name for path in (tmp_path / "cache").rglob("*.array_record*")] == [
        "lines-train.array_record-00000-of-00001"
    ]
    assert capfd.readouterr().out == ""
    file.write_text("another")
    assert [example["text"] for example in Lines([file], tmp_path / "cache").source()] == [b"another"]
    assert len(runs) == 2


def test_data_sets_lie_in_the_users_cache(file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    Lines([file]).source()
    assert prepared.cache() == tmp_path / "mine" / "omar_jax" / "datasets"
    assert (prepared.cache() / prepared.version_of([file]) / "lines").is_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert prepared.cache() == Path.home() / ".cache" / "omar_jax" / "datasets"


def test_files_are_told_apart(file, tmp_path):
    before = prepared.version_of([file])
    assert prepared.version_of([file]) == before
    os.utime(file, ns=(1, 1))
    assert prepared.version_of([file]) != before
    assert prepared.version_of([]) != before


def test_another_process_may_be_faster(file, tmp_path, monkeypatch):
    Lines([file], tmp_path / "cache").source()

    def late(builder):
        raise OSError("Directory not empty")

    monkeypatch.setattr(Lines, "download_and_prepare", late)
    assert len(Lines([file], tmp_path / "cache").source()) == 50
    with pytest.raises(OSError, match="not empty"):
        Lines([file], tmp_path / "elsewhere").source()


def test_tensorflow_is_not_imported():
    code = "import sys; from omar_jax.datasets import dialogues, sotopia; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
