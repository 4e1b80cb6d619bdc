"""Outputs that fail while a job writes: a clear error, nothing lost, and the next run completes."""

from __future__ import annotations

import http.client
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.tables.read import read
from tests.http_server import LoopbackServer
from tests.media_factory import flash_and_click
from tests.pipeline.tables.conftest import s3, s3_server  # noqa: F401
from tests.soak.tables import rows, run_command


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "lake"
    folder.mkdir()
    for k in range(2):
        flash_and_click(folder / f"v{k}.mp4", seconds=4)
    return folder


@pytest.fixture(scope="module")
def undisturbed(lake, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(lake, out)[0] == 0
    return rows(out)


def run(lake, out, **env):
    """Exit code and complaints of a run."""
    done = subprocess.run(
        run_command(lake, out),
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB; the test is skipped where none may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs rights that are not here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_full_disk(small_disk, lake, undisturbed):
    (small_disk / "other").write_bytes(bytes(170_000))
    code, complaint = run(lake, small_disk / "out")
    assert code == 1
    assert "No space left on device" in complaint
    assert str(small_disk / "out") in complaint
    assert "Traceback" not in complaint
    remount(small_disk, "size=50m")
    code, complaint = run(lake, small_disk / "out")
    assert code == 0, complaint
    assert rows(small_disk / "out") == undisturbed


def test_an_output_that_may_not_be_written(small_disk, lake):
    remount(small_disk, "ro")
    code, complaint = run(lake, small_disk / "out")
    assert code == 1
    assert "Read-only file system" in complaint
    assert str(small_disk / "out") in complaint
    assert "Traceback" not in complaint


class FaultyS3(LoopbackServer):
    """Stands before a real S3 server and lets table files fail while `fault` says how."""

    def __init__(self, server: str) -> None:
        self.target = urlsplit(server).netloc
        self.fault: str | None = None
        self.n_faults = 0
        super().__init__()

    def answer(self, request):
        size = int(request.headers.get("content-length", 0))
        if self.fault and request.command == "PUT" and ".parquet" in request.path:
            self.n_faults += 1
            if self.fault == "close":
                request.rfile.read(size // 2)
                request.close_connection = True
                request.connection.close()
                return
            request.rfile.read(size)
            request.send_error(500)
            return
        connection = http.client.HTTPConnection(self.target)
        connection.request(
            request.command, request.path, request.rfile.read(size), dict(request.headers)
        )
        answer = connection.getresponse()
        body = answer.read()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body if request.command != "HEAD" else b"")


@pytest.mark.parametrize("fault", ["500", "close"])
def test_a_bucket_that_fails(s3, s3_server, lake, undisturbed, fault, tmp_path):  # noqa: F811
    faulty = FaultyS3(s3_server)
    env = {"AWS_ENDPOINT_URL": faulty.url, "AWS_MAX_ATTEMPTS": "2"}
    faulty.fault = fault
    code, complaint = run(lake, s3, **env)
    assert faulty.n_faults
    assert code == 1
    assert ".parquet: cannot be written" in complaint
    assert "Traceback" not in complaint
    faulty.fault = None
    code, complaint = run(lake, s3, **env)
    assert code == 0, complaint
    assert len(read(s3, "clips")) == len(undisturbed["clips"])
    copy_of(s3, tmp_path / "copy")
    assert rows(tmp_path / "copy") == undisturbed


def copy_of(url: str, folder: Path) -> None:
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    fs.get(path, str(folder), recursive=True)
