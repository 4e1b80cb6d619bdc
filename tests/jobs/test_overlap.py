"""Two schedules on one output, as whole commands: the second is refused or waits, and is told whom for."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.tables import lease as leases
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.soak.tables import begin, run_command

pytestmark = pytest.mark.timeout(600)


def call(command):
    """A command in this process: it has nothing to do but wait and look."""
    result = CliRunner().invoke(app, command[3:])  # after `python -m jobs`
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
    """A run, and what two others said that came while it ran: one that would not wait, and one that would."""
    folder = tmp_path_factory.mktemp("overlap")
    lake, out = folder / "lake", folder / "out"
    lake.mkdir()
    flash_and_click(lake / "v.mp4", seconds=3)
    first = begin(lake, out)
    try:
        deadline = time.monotonic() + 120
        while not (out / leases.LEASE).exists():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.1)
        owner = json.loads((out / leases.LEASE).read_text())
        refused = call(run_command(lake, out))
        waited = call([*run_command(lake, out), "--wait", "300"])
        assert first.wait(240) == 0
    finally:
        first.kill()
    return lake, out, first.pid, owner, refused, waited


def test_one_that_would_not_wait_is_refused_and_told_who_writes(overlapping):
    _, out, pid, owner, (code, _, stderr), _ = overlapping
    assert owner["pid"] == pid
    assert code == 1
    assert f"{out}/_lease.json: another job writes here: run {owner['token']} of " in stderr
    assert f"(process {pid}) since " in stderr


def test_one_that_waits_says_whom_for_and_finds_all_done(overlapping):
    *_, owner, _, (code, stdout, stderr) = overlapping
    assert code == 0
    assert f"waiting for run {owner['token']} of " in stderr
    assert "Nothing to do: all 2 units of 1 videos" in stdout


@pytest.fixture
def impatient(monkeypatch):
    """A heartbeat that stands still for 2 s is a dead one; in earnest it is 60 s."""
    monkeypatch.setattr("jobs.run.lease", functools.partial(leases.lease, ttl_s=2.0))


def elsewhere(store, beat=0):
    held = leases._mine("run", "of-another-machine").__dict__
    store.write_json(leases.LEASE, held | {"host": "another/1", "beat": beat})


@pytest.mark.usefixtures("impatient")
def test_a_lock_whose_owner_elsewhere_died_is_taken_over(overlapping):
    lake, out, *_ = overlapping
    elsewhere(Store(str(out)))
    code, stdout, stderr = call(run_command(lake, out))
    assert code == 0, stderr
    assert "waiting for run of-another-machine of " in stderr
    assert "Nothing to do" in stdout
    assert not (out / leases.LEASE).exists()


@pytest.mark.usefixtures("impatient")
def test_a_lock_whose_owner_elsewhere_lives_is_respected(overlapping):
    lake, out, *_ = overlapping
    store, stopped = Store(str(out)), threading.Event()

    def beat():
        n = 0
        while not stopped.wait(0.3):
            n += 1
            elsewhere(store, n)

    elsewhere(store)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        code, _, stderr = call(run_command(lake, out))
    finally:
        stopped.set()
        thread.join()
        store.remove(leases.LEASE)
    assert code == 1
    assert "another job writes here: run of-another-machine" in stderr


def test_a_run_with_nothing_to_do_loads_neither_torch_nor_ray(overlapping):
    """They take four seconds of processor time to load; all else takes one."""
    lake, out, *_ = overlapping
    command = run_command(lake, out)
    command[1:1] = ["-X", "importtime"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert "Nothing to do" in done.stdout
    loaded = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "jobs.run" in loaded
    assert not loaded & {"torch", "ray", "pandas", "transformers"}
    assert sys.executable == command[0]
