"""Clusters that lose nodes while a run goes on: the rows at the end are those of a run that nothing disturbed.

    make soak-cluster

    a node     of three on this machine dies by SIGKILL in the middle of a run and another joins: the run ends;
               in a last round all CPUs are taken, one that decodes dies and none joins
    the head   dies with its whole cluster; the job is submitted again to a new one and goes on where it stopped

All rows of all tables are compared, run ids and times aside. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.media_factory import flash_and_click
from tests.ray_head import PATIENCE, Head
from tests.soak.tables import TABLES, descendants, rows, run_command

T = TypeVar("T")
_DEADLINE_S = 900.0
STAGES = ("DecodeStage", "EncodeStage", "Write")
# Decoders and encoder hold all CPUs of three nodes, so that on two some wait for ever.
_FULL = ("run.decode_workers=2", "run.encode_workers=1", "run.encode_cpus=1")


def make_lake(folder: Path, n_videos: int) -> None:
    """Videos of six units each, one without sound, and one that is none."""
    folder.mkdir()
    for k in range(n_videos):
        flash_and_click(folder / f"v{k}.mp4", seconds=12, acodec=None if k == 1 else "aac")
    (folder / "bad.mp4").write_bytes(b"no video")


def n_commits(out: Path) -> int:
    return len(list((out / "_commits").glob("*.json"))) if (out / "_commits").is_dir() else 0


def compare(out: Path, expected: dict[str, list[str]], what: str) -> None:
    found = rows(out)
    for table in TABLES:
        assert found[table] == expected[table], f"{what}: {table} differs"


def patiently(start: Callable[[], T], n_tries: int = 4) -> T:
    """What `start` gives: Ray gives a node 30 s to begin, and a busy machine may need more than one try."""
    for n_left in reversed(range(n_tries)):
        try:
            return start()
        except Exception as e:
            if not n_left or "timed out during startup" not in str(e):
                raise
    raise AssertionError("not reached")


class Nodes:
    """Three nodes of a cluster with a token of its own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": str(self.folder)}
        self.cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(2):
            self.add()

    def add(self) -> None:
        patiently(lambda: self.cluster.add_node(num_cpus=1, num_gpus=0, wait=True))

    def stages(self) -> dict[Any, str]:
        """What each node but the head runs of the work."""
        found = {}
        for node in self.cluster.worker_nodes:
            (raylet,) = node.all_processes["raylet"]
            lines = " ".join(descendants(raylet.process.pid).values())
            found[node] = " ".join(stage for stage in STAGES if stage in lines)
        return found

    def wait_for(self, wanted: str, run: subprocess.Popen[bytes]) -> None:
        """Until a node but the head is at it, and for a moment more, so that it has begun its work."""
        started = time.monotonic()
        while not any(wanted in stage for stage in self.stages().values()):
            assert run.poll() is None, f"the run ended before any node came to {wanted}"
            assert time.monotonic() - started < _DEADLINE_S
            time.sleep(0.1)
        time.sleep(2)

    def kill(self, rng: random.Random, wanted: str) -> str:
        """Kill a node, if there is one that does `wanted`; what it was doing."""
        doing = self.stages()
        node = rng.choice([n for n, stage in doing.items() if wanted in stage] or list(doing))
        (raylet,) = node.all_processes["raylet"]
        for pid in [raylet.process.pid, *descendants(raylet.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.cluster.remove_node(node, allow_graceful=False)
        return doing[node] or "idle"

    def close(self) -> None:
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(nodes: Nodes, lake: Path, out: Path, settings: Sequence[str]) -> subprocess.Popen[bytes]:
    with (out.parent / f"{out.name}.log").open("ab") as log:
        command = [*run_command(lake, out), "--address", nodes.cluster.address, "--wait", "120"]
        command += [part for setting in settings for part in ("--set", setting)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(run: subprocess.Popen[bytes], out: Path) -> None:
    try:
        code = run.wait(_DEADLINE_S)
    finally:
        run.kill()
    said = (out.parent / f"{out.name}.log").read_text()
    assert code == 3, f"exit {code}: {said[-3000:]}"  # of bad.mp4


def wait_for_commits(run: subprocess.Popen[bytes] | None, out: Path, n: int) -> None:
    started = time.monotonic()
    while n_commits(out) < n:
        assert run is None or run.poll() is None, "the run ended before it was to be disturbed"
        assert time.monotonic() - started < _DEADLINE_S
        time.sleep(0.1)


def lose_nodes(folder: Path, n_videos: int, n_rounds: int) -> dict[str, Any]:
    """Rounds in each of which a node dies in the middle of a run and another joins."""
    lake = folder / "lake"
    make_lake(lake, n_videos)
    nodes, killed = Nodes(), Counter()
    try:
        quiet = folder / "quiet"
        finish(begin(nodes, lake, quiet, ()), quiet)
        expected = rows(quiet)
        for round_ in range(n_rounds + 1):
            rng, is_last = random.Random(round_), round_ == n_rounds
            out = folder / f"round{round_}"
            run = begin(nodes, lake, out, _FULL if is_last else ())
            try:
                if is_last:
                    nodes.wait_for(STAGES[0], run)
                else:
                    wait_for_commits(run, out, rng.randint(1, max(1, n_commits(quiet) // 2)))
                what = nodes.kill(rng, STAGES[0 if is_last else round_ % len(STAGES)])
                if is_last:
                    assert STAGES[0] in what, (
                        f"the node that died did {what}, where {STAGES[0]} was wanted"
                    )
                else:
                    nodes.add()
            except BaseException:
                run.kill()
                raise
            finish(run, out)
            compare(out, expected, f"round {round_} ({what})")
            killed[what] += 1
            told = "; none joined" if is_last else ""
            print(f"round {round_}: killed a node with {what}{told}; rows equal", flush=True)
    finally:
        nodes.close()
    return {
        "rounds": n_rounds + 1,
        "killed": dict(killed),
        "rows": {t: len(v) for t, v in expected.items()},
    }


def submit(head: Head, lake: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = run_command(lake, out)
    command[3:4] = ["submit", "run"]
    return subprocess.run(
        [*command, *more],
        capture_output=True,
        text=True,
        env=head.env,
        timeout=_DEADLINE_S,
        check=False,
    )


def lose_the_head(folder: Path, expected: dict[str, list[str]], n_rounds: int) -> None:
    """Rounds in each of which the head dies with all it has, and the job is submitted to another."""
    lake = folder / "lake"
    for round_ in range(n_rounds):
        out = folder / f"head{round_}"
        head = Head()
        try:
            first = submit(head, lake, out, "--no-wait")
            assert first.returncode == 0, first.stderr
            wait_for_commits(None, out, random.Random(round_).randint(1, 8))
        finally:
            head.kill()
            head.stop()
        n_before = n_commits(out)
        head = Head()
        try:
            second = submit(head, lake, out)
        finally:
            head.stop()
        # 0 where bad.mp4 had failed before the head died, else 3
        assert second.returncode in (0, 3), second.stderr
        assert first.stdout.strip() in second.stderr, "a new cluster's first attempt has the same name"
        compare(out, expected, f"the head after {n_before} commits")
        print(f"killed the head after {n_before} commits; rows equal", flush=True)


def soak(folder: Path, n_videos: int, n_nodes: int, n_heads: int) -> dict[str, Any]:
    """`n_nodes` rounds that lose a node and `n_heads` that lose the head; raises with what differs."""
    outcome = lose_nodes(folder, n_videos, n_nodes)
    lose_the_head(folder, rows(folder / "quiet"), n_heads)
    return outcome | {"heads": n_heads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--heads", type=int, default=6)
    given = parser.parse_args()
    if os.environ.get("RAY_AUTH_TOKEN") is None:  # a token for this alone, before Ray is loaded
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)} | PATIENCE
        command = [sys.executable, "-m", "tests.soak.cluster", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env=os.environ | token, check=False).returncode)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(Path(folder), given.videos, given.nodes, given.heads)))


if __name__ == "__main__":
    main()
