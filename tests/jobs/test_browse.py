"""`reeltable browse` as a command: how it begins, whom it lets in, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import cli_browse
from jobs.cli import app
from pipeline.tables.publish import publish
from pipeline.tables.store import Store
from tests.pipeline.browse.lake import LAST_DAY, add_video, clip, clip_id_of, video_id_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def film(tmp_path, video_file):
    """A film that no socket swallows whole: 64 MB of nothing stand behind it."""
    path = tmp_path / "film.mp4"
    size = 64 * 2**20
    path.write_bytes(video_file.read_bytes() + size.to_bytes(4) + b"free")
    os.truncate(path, path.stat().st_size + size - 8)
    return path


@pytest.fixture
def out(tmp_path, film):
    store = Store(str(tmp_path / "tables"))
    add_video(store, film, [clip(0, "A flash.", [])])
    publish(store, LAST_DAY)
    return store.root


def invoke(*arguments):
    return CliRunner().invoke(app, ["browse", *arguments])


@pytest.mark.parametrize(("stop", "how"), [(signal.SIGINT, "--json"), (signal.SIGTERM, "--no-open")])
def test_it_tells_its_address_answers_and_ends_with_0(out, tmp_path, film, stop, how):
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "jobs", "browse", out, how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes) as process:
        line = process.stdout.readline()
        url = json.loads(line)["url"] if how == "--json" else line.split()[0]
        with urllib.request.urlopen(url) as answer:
            assert b"A flash." in answer.read()
        still = f"clips/{clip_id_of(video_id_of(film), 0)}/still.jpg"
        with urllib.request.urlopen(url + still) as answer:
            assert answer.headers["content-type"] == "image/jpeg"
        port = int(url.split(":")[-1].strip("/"))
        assert url == f"http://127.0.0.1:{port}/"
        assert list(tmp_path.glob("reeltable-browse-*"))
        elsewhere = socket.socket()
        assert elsewhere.connect_ex((_other_address(), port)) != 0
        # Somebody's player is paused in the middle of the film.
        paused = urllib.request.urlopen(f"{url}videos/{video_id_of(film)}/original")
        assert len(paused.read(1000)) == 1000
        os.killpg(process.pid, stop)  # a terminal's Ctrl-C reaches all that were started
        told = process.communicate(timeout=20)
        paused.close()
    assert process.returncode == 0
    assert told == ("", "stopped\n")
    assert not list(tmp_path.glob("reeltable-browse-*"))


def _other_address() -> str:
    """An address of this machine that is not the one listened on: Linux has all of 127/8."""
    return "127.0.0.2"


def test_it_begins_without_ray_or_torch():
    asked = "import sys, pipeline.browse.app; print({'ray', 'torch'} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", asked], env=env, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_directory_without_tables_is_one_line_and_ends_as_status_does(tmp_path):
    for arguments in (["browse", str(tmp_path), "--no-open"], ["status", str(tmp_path)]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1
        assert "no tables here" in done.stderr


def test_what_is_not_installed_is_named_with_how_to_install_it(out, monkeypatch):
    monkeypatch.setattr(cli_browse, "find_spec", lambda name: None if name == "uvicorn" else name)
    done = invoke(out, "--no-open")
    assert done.exit_code == 2
    assert done.stderr == ("error: reeltable browse needs uvicorn: pip install 'reeltable[browse]'\n")


def test_a_port_that_is_taken_is_one_line(out):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = invoke(out, "--port", str(port), "--no-open")
    assert done.exit_code == 1
    assert done.stderr == f"error: --port {port}: cannot listen there: Address already in use\n"
