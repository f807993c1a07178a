"""Who may import whom (docs/design.md), read from the import statements; and how long files may be."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "omar_jax"
FILES = sorted(
    file for folder in ("omar_jax", "configs", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")
)
MODULES = [file for file in FILES if file.is_relative_to(PACKAGE)]
MOST_LINES = 400


def name_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(file) for file in MODULES}


def imports(file):
    """Full names of all modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not used here"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else node.module for name in full}
    return found


def is_within(name, *packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def ours(file):
    return {name for name in imports(file) if is_within(name, "omar_jax", "configs")}


def theirs(file):
    """Third parties' top packages."""
    return {name.partition(".")[0] for name in imports(file) - ours(file)} - sys.stdlib_module_names


def of(*names):
    """The files of these modules and packages."""
    found = [file for file in MODULES if is_within(name_of(file), *(f"omar_jax.{name}" for name in names))]
    assert found
    return pytest.mark.parametrize("file", found, ids=name_of)


@of("envs")
def test_environments_know_nothing_of_ours_and_no_jax(file):
    assert all(is_within(name, "omar_jax.envs") for name in ours(file))
    assert theirs(file) <= {"numpy"}


@of("text")
def test_text_knows_nothing_above_it(file):
    assert all(is_within(name, "omar_jax.text", "omar_jax.types") for name in ours(file))


@of("types")
def test_types_know_nothing_above_them(file):
    assert not ours(file)
    assert theirs(file) <= {"jax", "numpy"}


@of("sharding", "accelerators")
def test_sharding_and_accelerators_know_nothing_of_ours(file):
    assert not ours(file)


@of("advantages", "losses")
def test_advantages_and_losses_know_jax_and_types(file):
    assert ours(file) <= {"omar_jax.types"}
    assert theirs(file) <= {"jax"}


@of("model")
def test_the_model_knows_jax_flax_and_types(file):
    assert all(is_within(name, "omar_jax.model", "omar_jax.types", "omar_jax.sharding") for name in ours(file))
    about_files = {"safetensors", "huggingface_hub", "gguf", "tokenizers", "transformers", "ml_dtypes"}
    reads_files = file.stem in ("hf", "families", "source", "gguf_file")
    assert theirs(file) <= {"jax", "flax", "numpy"} | (about_files if reads_files else set())


@of("datasets")
def test_datasets_know_environments(file):
    assert all(is_within(name, "omar_jax.datasets", "omar_jax.envs") for name in ours(file))
    assert theirs(file) <= {"numpy", "tensorflow_datasets", "huggingface_hub"}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=name_of)
def test_configurations_know_ml_collections_and_what_they_share(file):
    assert ours(file) <= {"configs.common"}
    assert theirs(file) <= {"ml_collections"}


def test_nothing_imports_a_command():
    commands = {name_of(file) for file in MODULES if '__name__ == "__main__"' in file.read_text()}
    assert {"omar_jax.main", "omar_jax.embedded"} <= commands
    assert not {(name_of(file), name) for file in MODULES for name in ours(file) & commands}


def test_everything_imported_of_ours_is_there():
    assert not {(name_of(file), name) for file in MODULES for name in ours(file) - NAMES}


def test_no_file_is_too_long():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert not {file: length for file, length in lengths.items() if length > MOST_LINES}
