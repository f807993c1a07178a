"""Every kind of name leads to a folder, and a wrong one to one line that says what to do."""

import os
import sys
import types

import pytest
from huggingface_hub import errors

from omar_jax.model import source
from omar_jax.model.hf import ModelError


def refusal(name):
    with pytest.raises(ModelError) as caught:
        source.resolve(name, print)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A GGUF file, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pytest.importorskip("gguf")
    from gguf_models import hugging_face_weights, write_gguf

    return write_gguf(tmp_path / "small model.gguf", "qwen2", hugging_face_weights("qwen2"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Stands in for the hub: what it was asked, and what it answers (a folder, or an error to raise)."""
    asked = types.SimpleNamespace(answer=tmp_path / "snapshot", names=[])

    def snapshot_download(name, **patterns):
        asked.names.append(name)
        asked.patterns = patterns
        if isinstance(asked.answer, Exception):
            raise asked.answer
        return str(asked.answer)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "snapshot").mkdir()
    return asked


def test_a_folder_is_itself_even_if_the_hub_could_have_it(tmp_path, monkeypatch, hub):
    (tmp_path / "organization" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert source.resolve("organization/model", print).samefile(tmp_path / "organization" / "model")
    assert source.resolve(str(tmp_path), print) == tmp_path
    assert not hub.names


def test_a_gguf_file_is_converted_once(gguf):
    lines = []
    folder = source.resolve(str(gguf), lines.append)
    assert folder.parent == gguf.parent / "cache" / "omar_jax" / "models"
    assert folder.name.startswith("small model-")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert str(folder) in lines[-1]
    again = []
    assert source.resolve(str(gguf), again.append) == folder
    assert not again
    os.utime(gguf, ns=(0, 0))  # another file of that name and size
    assert source.resolve(str(gguf), print) != folder
    assert len(list(folder.parent.iterdir())) == 2


def test_a_conversion_that_fails_leaves_nothing(gguf):
    gguf.write_bytes(gguf.read_bytes()[:-100])
    assert "not a whole GGUF file" in refusal(str(gguf))
    assert not list((gguf.parent / "cache" / "omar_jax" / "models").iterdir())


def test_another_process_may_be_faster(gguf, monkeypatch):
    first = source.resolve(str(gguf), print)
    first.rename(first.with_name("aside"))
    convert = source.importlib.import_module("omar_jax.model.gguf_file").convert

    def overtaken(path, folder, report):
        convert(path, folder, report)
        first.with_name("aside").rename(first)

    monkeypatch.setattr("omar_jax.model.gguf_file.convert", overtaken)
    assert source.resolve(str(gguf), print) == first
    assert list(first.parent.iterdir()) == [first]


def test_a_package_brings_a_file(gguf, monkeypatch):
    package = types.ModuleType("a_model_gguf")
    monkeypatch.setitem(sys.modules, "a_model_gguf", package)
    package.assemble = lambda: gguf
    assert source.resolve("pip:a-model-gguf", print).name.startswith("small model-")
    package.assemble = lambda: (_ for _ in ()).throw(FileNotFoundError("Missing chunk files: part2"))
    assert "Missing chunk files: part2" in refusal("pip:a-model-gguf")
    del package.assemble
    assert "does not bring a whole GGUF file" in refusal("pip:a-model-gguf")


def test_what_must_be_installed_is_named(gguf, monkeypatch):
    assert refusal("pip:no-such-model").endswith("is not installed: pip install no-such-model")
    monkeypatch.delitem(sys.modules, "omar_jax.model.gguf_file", raising=False)
    monkeypatch.delattr("omar_jax.model.gguf_file", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refusal(str(gguf)).endswith("reading GGUF files needs a package: pip install gguf")


def test_the_hub_gives_config_weights_and_tokenizer(hub):
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (hub.answer / name).touch()
    assert source.resolve("organization/model", print) == hub.answer
    assert hub.names == ["organization/model"]
    assert "*.safetensors" in hub.patterns["allow_patterns"]


def test_the_hub_refuses_in_one_line(hub):
    assert "no config.json and safetensors" in refusal("organization/model")
    httpx = pytest.importorskip("httpx2" if "httpx2" in sys.modules else "httpx")
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
    for error, right in (
        (errors.LocalEntryNotFoundError("a\nb"), "go online once"),
        (errors.RepositoryNotFoundError("a\nb", response=response), "neither a folder here nor a model"),
        (
            errors.GatedRepoError("a\nb", response=response),
            "accept its terms at https://huggingface.co/organization/model",
        ),
        (errors.HfHubHTTPError("503\nb", response=response), "could not be downloaded: 503"),
        (PermissionError("no place"), "could not be downloaded: no place"),
    ):
        hub.answer = error
        assert right in refusal("organization/model")


@pytest.mark.parametrize("name", ["", "nowhere", "/no/such/folder", "./a/b/c", "a/b/c", "../b"])
def test_a_wrong_name_is_told_what_would_be_right(name, hub):
    assert f"model.source={name!r} is no folder here; right are" in refusal(name)
    assert not hub.names


def test_a_wrong_file_is_named(tmp_path):
    assert refusal(f"{tmp_path}/absent.gguf").endswith("there is no such file")
