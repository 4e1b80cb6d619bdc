"""What planning and resuming cost when a lake is large.

    make bench-tables

`plan`: a manifest with `duration_s`, cut into units, nothing of it done. `resume`: many commit records of eight
units read, with and without the ledger's checkpoint. Each measurement is a process of its own; sizes double, to
show whether costs are linear. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.plan import make_plan
from pipeline.config import load_config
from pipeline.records import short_hash
from pipeline.sources import list_sources
from pipeline.tables.commit import COMMITS, CommitRecord, UnitEntry
from pipeline.tables.ledger import Ledger, read_ledger, write_checkpoint
from pipeline.tables.store import Store

UNITS_A_VIDEO = 10
UNITS_A_RECORD = 8


def make_manifest(path: Path, n_units: int) -> Path:
    n = n_units // UNITS_A_VIDEO
    columns = {
        "uri": [f"/lake/camera{k % 100}/{k}.mp4" for k in range(n)],
        "duration_s": [60.0 * UNITS_A_VIDEO] * n,
        "floor": [k % 7 for k in range(n)],
    }
    pq.write_table(pa.table(columns), path)
    return path


def make_records(root: Path, n_records: int) -> None:
    """Commit records as runs would have left them; their table files are not looked at."""
    (root / COMMITS).mkdir(parents=True)
    for k in range(n_records):
        units = tuple(
            UnitEntry(short_hash(k, i), short_hash(k), short_hash(k, "v"), "done", 1, "d", "r", 480.0)
            for i in range(UNITS_A_RECORD)
        )
        name = short_hash("record", k)
        file = f"clips/dt=2026-01-31/{name}.parquet"
        record = CommitRecord(
            name, "r", "2026-01-31", (file,), f"_units/dt=2026-01-31/{name}.parquet", units, 120
        )
        (root / COMMITS / f"{name}.json").write_text(json.dumps(record.to_json(), indent=1))


def measured(what: str, *arguments: str) -> dict[str, float]:
    """Seconds and peak memory of one measurement in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.tables", "--one", what, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def one(what: str, where: str) -> None:
    started = time.perf_counter()
    if what == "plan":
        plan = make_plan(list_sources([where]), load_config(), Ledger())
        n = len(plan.todo)
    else:
        store = Store(where)
        ledger = read_ledger(store)
        n = len(ledger.units)
        if what == "checkpoint":
            write_checkpoint(store, ledger)
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"n": n, "s": round(seconds, 2), "peak_mb": round(peak_mb)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    result: dict[str, list[dict[str, float]]] = {"plan": [], "resume": [], "resume_checkpointed": []}
    with tempfile.TemporaryDirectory() as folder:
        for part in (4, 2, 1):
            manifest = make_manifest(Path(folder) / f"{part}.parquet", arguments.units // part)
            result["plan"].append(measured("plan", str(manifest)))
            print("plan", result["plan"][-1], flush=True)
        for part in (4, 2, 1):
            root = Path(folder) / f"out{part}"
            make_records(root, arguments.records // part)
            result["resume"].append(measured("resume", str(root)))
            measured("checkpoint", str(root))
            result["resume_checkpointed"].append(measured("resume", str(root)))
            print("resume", result["resume"][-1], result["resume_checkpointed"][-1], flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
