"""Every code block of README and docs is run over small real videos, or parsed where a comment says why."""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import nbformat
import pyarrow as pa
import pytest
import typer
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo import sample_videos
from pipeline.config import load_config
from pipeline.tables.read import query, read
from tests.media_factory import flash_and_click
from tests.pages import PAGES, ROOT, Block, blocks_of, commands_of, section, table_rows

LANGUAGES = {"python", "sh", "sql", "yaml", "toml", "csv", "text"}
WITH_BLOCKS = [page for page in PAGES if blocks_of(page)]
NO_DEPENDENCY = {"pyspark"}  # of a reader that needs more than Python
cli = CliRunner()


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A folder as the pages have it: `videos/`, their tables in `tables` and `demo_out`, a list of actions."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "videos").mkdir()
    bunny, _, car = sample_videos()
    for name, file in {"one.mp4": bunny, "again.mp4": bunny, "two.mp4": car}.items():
        shutil.copy(file, folder / "videos" / name)
    flash_and_click(folder / "videos" / "late.mp4", seconds=4, audio_delay_s=0.5)
    (folder / "my_actions.txt").write_text("falling: a person falls to the ground\nwelding\n")
    command = [sys.executable, "-m", "jobs", "run", "videos/", "--out", "tables"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "tables", folder / "kept")
    return folder


@pytest.fixture
def here(lake, monkeypatch):
    """The folder as it was at first, and the place where commands are given."""
    for name in ("tables", "demo_out"):
        shutil.rmtree(lake / name, ignore_errors=True)
        shutil.copytree(lake / "kept", lake / name)
    monkeypatch.chdir(lake)
    monkeypatch.setenv("PWD", str(lake))
    monkeypatch.setenv("MPLBACKEND", "agg")
    return lake


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_says_its_language_and_why_it_is_not_run(page):
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block}: {block.language or 'no language'}"
        assert block.parsed is None or len(block.parsed.split()) > 1, f"{block}: why is it not run?"


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_is_what_its_language_says(page):
    for block in blocks_of(page):
        PARSERS[block.language](block)


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_of_a_page_runs_one_after_the_other(page, here, monkeypatch):
    names: dict[str, object] = {}
    for block in blocks_of(page):
        try:
            if block.file is not None:
                (here / block.file).parent.mkdir(exist_ok=True)
                (here / block.file).write_text(block.text)
            elif block.parsed is not None:
                for project in re.findall(r"^pip install \./(\w+)$", block.text, re.MULTILINE):
                    install(here / project, monkeypatch)
            elif block.language in RUNNERS:
                RUNNERS[block.language](block, names)
        except Exception as e:
            raise AssertionError(f"{block}: {type(e).__name__}: {e}") from e
    if page == "docs/encoders.md":
        labels = names["rows"].clips["labels"].to_pylist()
        assert {label["space"] for clip in labels for label in clip} == {"colours", "audioset"}
        assert names["rows"].clips["top_label"].to_pylist() == ["green scene"] * 2  # a meadow


def test_the_notebook_runs_and_carries_no_outputs(here):
    notebook = nbformat.read(ROOT / "docs" / "first_look.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    where = {"metadata": {"path": str(here)}}
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | {"PYTHONPATH": str(ROOT)}
    NotebookClient(notebook, km=kernel, timeout=240, resources=where).execute(env=env)
    told = [output["data"] for cell in cells for output in cell.outputs if "data" in output]
    assert sum("image/png" in data for data in told) == 2
    (nearest,) = (data["text/plain"] for data in told if "cosine" in data["text/plain"])
    assert "two.mp4" in nearest.splitlines()[1]  # the man in the car
    assert "late.mp4" in told[-1]["text/plain"]  # sound that begins late


def test_a_column_that_is_never_null_is_not(here):
    for table in ("clips", "segments", "videos"):
        rows = table_rows(section((ROOT / "docs/tables.md").read_text(), f"### {table}"), "column")
        found = read(str(here / "tables"), table, to="arrow")
        assert len(found)
        for name, _, _, null in rows:
            column, _, inner = name.strip("`").partition("[].")
            values = found[column]
            if inner:
                values = pa.compute.struct_field(pa.compute.list_flatten(values), inner)
            assert null != "never" or not values.null_count, f"{table}.{name}"


# What a block must be, run or not.


def parse_python(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert_is_there(block, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = assert_is_there(block, node.module)
            for alias in node.names if module else ():
                is_module = importlib.util.find_spec(node.module).submodule_search_locations and (
                    importlib.util.find_spec(f"{node.module}.{alias.name}")
                )
                assert hasattr(module, alias.name) or is_module, f"{block}: {alias.name}"


def assert_is_there(block: Block, name: str) -> object:
    if name.split(".")[0] in NO_DEPENDENCY:
        assert block.parsed, f"{block}: {name} is not among the packages of the tests"
        return None
    return importlib.import_module(name)


def parse_sh(block: Block) -> None:
    """Known commands with known options; what is no command of ours, by the shell."""
    root = typer.main.get_command(app)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands_of(block):
        if words[0] == "reeltable":
            parse_command(root, words[1 : words.index(">") if ">" in words else None])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), str(
                block
            )
        for named in re.findall(r"(?:\.|reeltable)\[([\w,]+)\]", " ".join(words)):
            assert set(named.split(",")) <= set(extras), f"{block}: {named}"
    shell = subprocess.run(
        ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
    )
    assert not shell.returncode, f"{block}: {shell.stderr}"


def parse_command(command, words: list[str]) -> None:
    root = command
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    parameters = command.make_context("reeltable", words).params
    if "arguments" in parameters:  # of `run`, passed on
        root.commands["run"].make_context("reeltable run", [*parameters["arguments"]])


def parse_yaml(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict), str(block)


def parse_csv(block: Block) -> None:
    head, *rows = csv.reader(io.StringIO(block.text))
    assert rows
    assert all(len(row) == len(head) for row in rows), str(block)


PARSERS = {
    "python": parse_python,
    "sh": parse_sh,
    "sql": lambda block: duckdb.extract_statements(block.text),
    "yaml": parse_yaml,
    "toml": lambda block: tomllib.loads(block.text),
    "csv": parse_csv,
    "text": lambda _: None,
}


# What running one means.


def run_python(block: Block, names: dict[str, object]) -> None:
    exec(compile(block.text, str(block), "exec"), names)


def run_sh(block: Block, _: dict[str, object]) -> None:
    for words in commands_of(block):
        words = [os.path.expandvars(word) for word in words]
        assert words[0] == "reeltable", f"{words[0]} is not run here; a comment may say why"
        to_file = words[words.index(">") + 1] if ">" in words else None
        done = cli.invoke(app, words[1 : words.index(">") if to_file else None])
        assert done.exit_code == 0, f"{words}: {done.stderr or done.exception!r}"
        if to_file:
            Path(to_file).write_text(done.stdout)


def run_sql(block: Block, _: dict[str, object]) -> None:
    for statement in duckdb.extract_statements(block.text):
        query("tables", statement.query.strip().rstrip(";"))


RUNNERS = {"python": run_python, "sh": run_sh, "sql": run_sql}


def test_the_config_files_of_the_pages_are_ones(tmp_path):
    files = [b for page in WITH_BLOCKS for b in blocks_of(page) if b.language == "yaml"]
    assert files
    for block in files:
        (tmp_path / "config.yaml").write_text(block.text)
        assert load_config(tmp_path / "config.yaml") != load_config()


def install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pip install` makes of a small project: its modules in reach, and its entry points."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    folder = project / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    )
    lines = []
    for group, points in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(project)
