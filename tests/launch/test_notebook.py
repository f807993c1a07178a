"""The notebook is well-formed, and runs from top to bottom on a CPU.

It trains the preset `smoke`: half a minute, or a whole one where nothing is compiled yet.
"""

import ast
import fnmatch
import json
import os
import re
import shutil
import subprocess
from xml.etree import ElementTree

import nbformat
import pytest
from nbclient import NotebookClient
from stand_ins import ROOT

PATH = ROOT / "launch/colab_tpu.ipynb"


def test_the_notebook_is_valid_and_stores_no_outputs():
    notebook = nbformat.read(PATH, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in codes)


def start(folder):
    """A client that executes cells of the notebook in `folder`, with the project importable, on a CPU."""
    notebook = nbformat.read(PATH, as_version=nbformat.NO_CONVERT)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return client, environment


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """(the folder, outputs by cell id) after all cells ran; in it, a player wrote markup."""
    folder = tmp_path_factory.mktemp("colab")
    client, environment = start(folder)
    with client.setup_kernel(env=environment):
        for number, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, number)
            if cell.id == "train":
                put_markup_into_the_last_game(folder / "runs/colab/episodes")
    return folder, {cell.id: cell.outputs for cell in client.nb.cells if cell.cell_type == "code"}


def put_markup_into_the_last_game(episodes):
    newest = max(episodes.glob("*.jsonl"))
    first, *rest = newest.read_text().splitlines()
    game = json.loads(first)
    game["transcript"].append({"visible_to": "<b>Alice</b>'s turn", "text": "<script>alert(1)</script> & vote"})
    newest.write_text("\n".join([json.dumps(game), *rest]) + "\n")


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def shown(outputs, kind):
    [output] = [output for output in outputs if output.output_type == "display_data"]
    return output.data[kind]


def test_nothing_is_installed_where_the_project_is(executed):
    said = printed(executed[1]["install"])
    assert "omar_jax is here already" in said and "installing" not in said
    assert "training on [CpuDevice(id=0)" in said


def test_the_training_is_seen(executed):
    said = printed(executed[1]["train"])
    assert re.findall(r"^iteration +(\d+) ", said, re.MULTILINE) == ["0", "1", "2"]
    assert "trained against cold start" in said and "\x1b" not in said


def test_the_table_shows_the_arena(executed):
    folder, outputs = executed
    table = ElementTree.fromstring(shown(outputs["table"], "text/html"))
    head, *rows = [[cell.text for cell in row] for row in table]
    assert head == ["side", "trained", "cold start", "difference", "95% interval", "games"]
    sides = json.loads((folder / "runs/colab/arena.json").read_text())["sides"]
    assert [row[0] for row in rows] == ["werewolves", "village"] == list(sides)
    for row in rows:
        of = sides[row[0]]
        assert row[1:3] == [f"{of['a']:.1%}", f"{of['b']:.1%}"]
        assert row[3] == f"{100 * of['difference']:+.1f} points"
        assert [float(end) for end in row[4].split(" to ")] == pytest.approx(
            [100 * x for x in of["interval"]], abs=0.06
        )
        assert row[5] == "32"


def test_the_plot_has_a_point_for_every_iteration_and_side(executed):
    folder, outputs = executed
    plot = ElementTree.fromstring(shown(outputs["plot"], "image/svg+xml"))
    name = "{http://www.w3.org/2000/svg}"
    lines = [json.loads(line) for line in (folder / "runs/colab/metrics.jsonl").read_text().splitlines()]
    heights = [float(circle.get("cy")) for circle in plot.iter(f"{name}circle")]
    rates = [line[f"win_rate/{side}"] for side in ("werewolves", "village") for line in lines]
    assert heights == pytest.approx([220 - 200 * rate for rate in rates], abs=0.06)
    assert len(rates) == 6
    assert {"werewolves win", "village win", "iterations 0 to 2"} <= {text.text for text in plot.iter(f"{name}text")}


def test_the_game_is_shown_as_text(executed):
    folder, outputs = executed
    page = shown(outputs["game"], "text/html")
    assert "<script>" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; vote" in page
    who, table = ElementTree.fromstring(f"<page>{page}</page>")
    game = json.loads((folder / "runs/colab/episodes/000002.jsonl").read_text().splitlines()[0])
    assert [[cell.text for cell in row] for row in table][1:] == [
        [said["visible_to"], said["text"]] for said in game["transcript"]
    ]
    assert who.text.split(", ")[0] == f"{game['names'][0]} ({game['roles'][0]})"


def test_without_the_project_it_asks_for_its_address(tmp_path):
    client, environment = start(tmp_path)
    [install] = [cell for cell in client.nb.cells if cell.id == "install"]
    # The kernel finds no package of that name.
    install.source = install.source.replace('find_spec("omar_jax")', 'find_spec("omar_jax_of_nobody")')
    client.allow_errors = True
    with client.setup_kernel(env=environment):
        client.execute_cell(install, 0)
    [error] = [output for output in install.outputs if output.output_type == "error"]
    assert error.evalue == "REPOSITORY='' cannot be used: give the address of the project, as for `git clone`"


class Devices:
    """The folder /dev of a machine, as pathlib shows it."""

    def __init__(self, *names):
        self.names = names

    def __call__(self, folder):
        return type("Folder", (), {"glob": lambda _, name: fnmatch.filter(self.names, f"{folder}/{name}")})()


MACHINES = [
    (Devices(), None, "jax"),
    (Devices("/dev/accel0"), None, "jax[tpu]"),
    (Devices("/dev/vfio/vfio", "/dev/vfio/0"), None, "jax[tpu]"),
    (Devices("/dev/vfio/vfio"), "echo 580.65.06", "jax[cuda13]"),
    (Devices(), "echo 550.54.15", "jax[cuda12]"),
    (Devices(), "exit 9", "jax"),
]


@pytest.mark.parametrize(("devices", "nvidia_smi", "package"), MACHINES)
def test_jax_is_installed_for_what_the_machine_has(devices, nvidia_smi, package, tmp_path, monkeypatch):
    [install] = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.id == "install"]
    [function] = [node for node in ast.parse(install.source).body if isinstance(node, ast.FunctionDef)]
    names = {"Path": devices, "shutil": shutil, "subprocess": subprocess}
    exec(ast.unparse(function), names)
    monkeypatch.setenv("PATH", str(tmp_path))
    if nvidia_smi:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        program.chmod(0o755)
    assert names["jax_for_this_machine"]() == package
