"""Runs killed at random moments, then run again: the rows are those of a run that nothing disturbed.

    make soak-tables

Each round starts a run, kills its driver, a worker, the raylet, or whichever process is about to give a
file its name, waits until the run has ended, and runs again to the end. All rows of all tables are then
compared with the undisturbed run's, run ids and times aside. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.media_factory import flash_and_click

VICTIMS = ("driver", "worker", "raylet", "rename")
CONFIG = [
    "labels.actions=[clapping, dancing]", "clips.length_s=1", "clips.stride_s=1", "clips.unit_s=2",
    "clips.frames_per_clip=2", "run.units_per_batch=1", "run.units_per_file=1", "run.decode_workers=1",
]  # fmt: skip
APART = {"run_id", "decode_s", "encode_s", "attempt"}
TABLES = ("clips", "segments", "videos", "failures")
WORKERS = ("ray::MapWorker", "ray::MapBatches", "ray::Map(", "ray::Write", "pipeline.media.guard")
_DEADLINE_S = 240.0

# Loaded by every Python process of the run: the n-th rename of the output's files kills who does it.
DIE_AT_RENAME = """
import os, signal
_replace, _count = os.replace, os.environ.get("SOAK_RENAMES")
def replace(source, target, **more):
    if _count and str(target).startswith(os.environ["SOAK_OUT"]) and "_lease" not in str(target):
        with open(_count, "ab") as file:
            file.write(b".")
        if os.path.getsize(_count) == int(os.environ["SOAK_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
    return _replace(source, target, **more)
os.replace = replace
"""


def make_lake(folder: Path) -> None:
    """Videos of some units each, one without sound, one that is none."""
    folder.mkdir()
    for k in range(4):
        flash_and_click(folder / f"v{k}.mp4", seconds=5 + k, acodec=None if k == 2 else "aac")
    (folder / "bad.mp4").write_bytes(b"no video")


def rows(out: Path) -> dict[str, list[str]]:
    """All rows of all tables as a plain reader of the directory sees them, sorted."""
    found = {}
    for table in TABLES:
        files = [f for f in (out / table).rglob("*.parquet") if not f.name.startswith("_")]
        every = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        kept = ({k: v for k, v in row.items() if k not in APART} for row in every)
        found[table] = sorted(json.dumps(row, sort_keys=True, default=str) for row in kept)
    return found


def run_command(lake: Path, out: Path | str) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "jobs",
        "run",
        str(lake),
        "--out",
        str(out),
        "--date",
        "2026-01-31",
    ]
    return command + [part for option in CONFIG for part in ("--set", option)]


def begin(lake: Path, out: Path, **more: str) -> subprocess.Popen[bytes]:
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*run_command(lake, out), "--wait", "120"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | more,
        )


def run_to_the_end(lake: Path, out: Path) -> float:
    started = time.monotonic()
    code = begin(lake, out).wait(_DEADLINE_S)
    if code not in (0, 3):  # 3 where the video that is none fails in this run and not in the one before
        raise AssertionError(f"exit {code}: {(out.parent / f'{out.name}.log').read_text()[-2000:]}")
    return time.monotonic() - started


def descendants(pid: int) -> dict[int, str]:
    """Processes that `pid` or its children began, with their command lines."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)], lines[int(entry.name)] = int(stat[1]), line
    found: dict[int, str] = {}
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier} - set(found)
        found |= {child: lines[child] for child in frontier}
    return found


def kill_one(driver: subprocess.Popen[bytes], victim: str, rng: random.Random) -> str:
    """Kill a process of the run; what was killed."""
    family = descendants(driver.pid)
    chosen = []
    if (
        victim == "worker"
    ):  # who decodes and encodes, where a run has come so far; else any of Ray's own
        ours = [p for p, line in family.items() if any(name in line for name in WORKERS)]
        chosen = ours or [p for p, line in family.items() if line.startswith("ray::")]
    if victim == "raylet":
        chosen = [p for p, line in family.items() if "/raylet/raylet " in line]
    pid = rng.choice(chosen) if chosen else driver.pid
    line = family[pid] if chosen else "driver"
    what = "decode process" if "media.guard" in line else line.split(" ")[0].rsplit("/", 1)[-1]
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "nobody: it had ended"
    return what


def end(driver: subprocess.Popen[bytes], family: dict[int, str]) -> None:
    """Wait for the driver; what it leaves behind is ended as a machine's death would end it."""
    try:
        driver.wait(_DEADLINE_S)
    except subprocess.TimeoutExpired as e:
        driver.kill()
        raise AssertionError("the run hung after a process of it was killed") from e
    finally:
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def one_round(folder: Path, lake: Path, seed: int, usual_s: float) -> str:
    """Kill a run at a random moment and finish it; what was killed and when."""
    rng = random.Random(seed)
    out = folder / f"round{seed}"
    victim = VICTIMS[seed % len(VICTIMS)]
    more: dict[str, str] = {}
    if victim == "rename":
        site = folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(DIE_AT_RENAME)
        counter = folder / f"renames{seed}"
        more = {"PYTHONPATH": f"{site}:{os.getcwd()}", "SOAK_RENAMES": str(counter)}
        more |= {"SOAK_OUT": str(out), "SOAK_AT": str(rng.randint(1, 60))}
    driver = begin(lake, out, **more)
    family: dict[int, str] = {}
    after = rng.uniform(0.15, 1.0) * usual_s
    started = time.monotonic()
    while driver.poll() is None and (victim == "rename" or time.monotonic() - started < after):
        time.sleep(0.1)
        if driver.poll() is None:
            family |= descendants(driver.pid)
    killed = f"at rename {more.get('SOAK_AT')}" if more else kill_one(driver, victim, rng)
    is_abandoned = rng.random() < 0.5  # half of the time what is left may go on for as long as it can
    end(driver, {} if is_abandoned and killed == "driver" else family)
    run_to_the_end(lake, out)
    return f"{killed} after {time.monotonic() - started:.0f} s"


def soak(folder: Path, n_rounds: int, first: int = 0) -> dict[str, Any]:
    """`n_rounds` rounds; raises AssertionError with what differs."""
    lake = folder / "lake"
    make_lake(lake)
    usual_s = run_to_the_end(lake, folder / "undisturbed")
    expected = rows(folder / "undisturbed")
    counts = {table: len(found) for table, found in expected.items()}
    assert counts["clips"] > 20
    assert counts["failures"] == 1
    killed: Counter[str] = Counter()
    for seed in range(first, first + n_rounds):
        what = one_round(folder, lake, seed, usual_s)
        found = rows(folder / f"round{seed}")
        for table in TABLES:
            assert found[table] == expected[table], f"round {seed} ({what}): {table} differs"
        killed[what.split(" after ")[0].split(" rename ")[0]] += 1
        print(f"round {seed}: killed {what}; rows equal", flush=True)
        shutil.rmtree(folder / f"round{seed}")
    return {"rounds": n_rounds, "killed": dict(killed), "usual_s": round(usual_s, 1), "rows": counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(Path(folder), arguments.rounds, arguments.first)))


if __name__ == "__main__":
    main()
