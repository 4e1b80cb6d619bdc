"""Where throughput stops following the nodes: a run's job graph on 1, 4 and 16 logical nodes of one machine.

    make bench-nodes

A unit of a real video is decoded and encoded once, for its times and its size. Then the stages of a run
sleep for those times and pass buffers of that size, from node to node through their object stores, and
commit. So what is measured is all that is between the stages: Ray's scheduling, its copies, the sink. A
logical node has two CPUs, an object store and processes of its own; memory and cores it shares with the
others. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.plan import Plan
from jobs.record import Done
from jobs.sink import TableSink, with_clips
from jobs.stages import DecodeStage
from jobs.watcher import Watcher
from pipeline.bundles.spec import find_bundle
from pipeline.config import load_config
from pipeline.records import Unit, short_hash
from pipeline.tables.lease import lease
from pipeline.tables.schema import clips_schema
from pipeline.tables.store import Store
from pipeline.transport import unpack
from pipeline.understand import Decoded, Provenance, decode_packed, unit_row
from tests.benchmarks.sampler import cpu_s_of_machine
from tests.conftest import SHARED_MEDIA
from tests.ray_head import PATIENCE
from tests.soak.cluster import patiently

CPUS_A_NODE = 2
STORE_MB = 2000  # of a node
RUN = "nodes"
_SLEEP, _SIZE = "BENCH_SLEEP_S", "BENCH_BYTES"


class SleepingDecode(DecodeStage):
    """Takes as long as decoding and gives as much, without a decoder."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sleep_s = float(os.environ[_SLEEP].split(",")[0])
        self.buffer = bytes(int(os.environ[_SIZE]))

    def _decode(self, unit: Unit) -> tuple[Decoded, bytes | None]:
        time.sleep(self.sleep_s)
        return Decoded(unit, decode_s=self.sleep_s), self.buffer


class SleepingEncode:
    """Takes as long as encoding, and gives units without clips."""

    def __init__(self, *arguments: Any) -> None:
        _, self.provenance, _, self.watcher, _ = arguments
        self.cpu = threading.Lock()  # calls at once share the processor, so together they take no less
        self.sleep_s = float(os.environ[_SLEEP].split(",")[1])

    def __call__(self, rows: pa.Table) -> pa.Table:
        import ray

        units = [ray.cloudpickle.loads(known.as_py()) for known in rows.column("decoded")]
        for buffer in rows.column("batch"):
            assert memoryview(buffer.as_buffer()).nbytes == int(os.environ[_SIZE])
            with self.cpu:
                time.sleep(self.sleep_s)
        done = [unit_row(d, None, 0, self.sleep_s, self.provenance) for d in units]
        self.watcher.add.remote(Done("encoded", len(units), len(units) * self.sleep_s))
        return with_clips(done, [clips_schema(1).empty_table() for _ in units])


def measured_unit() -> tuple[float, float, int]:
    """Seconds to decode and to encode a unit of a real video with the embedded bundle, and its bytes."""
    from pipeline.bundles.model import Model

    spec = find_bundle("embedded")
    config = spec.fitted(load_config())
    file = str(SHARED_MEDIA / "clips" / "cosmos_test_video_30s.mp4")
    unit = Unit("u", "v", file, "", 0.0, None)
    decode_packed(unit, config, spec.sample_rate_hz)
    began = time.perf_counter()
    _, buffer = decode_packed(unit, config, spec.sample_rate_hz)
    decode_s = time.perf_counter() - began
    assert buffer is not None
    whole = b"".join(buffer)
    model, batch = Model(spec, config), unpack(whole)
    model.understand([batch])
    began = time.perf_counter()
    model.understand([batch])
    return decode_s, time.perf_counter() - began, len(whole)


def plan_of(n_units: int) -> Plan:
    spec = find_bundle("embedded")
    units = tuple(
        Unit(short_hash(k), f"v{k}", f"v{k}.mp4", "", 0.0, None, planned_s=30.0) for k in range(n_units)
    )
    return Plan(spec, "r", (), units, n_units, 0)


def throughput(n_nodes: int, units_a_node: int, folder: Path) -> dict[str, Any]:
    """Units a second between the first fifth and the last of what is encoded, on `n_nodes` logical nodes."""
    import ray
    from ray.cluster_utils import Cluster

    from jobs.run import _pipeline

    node = {
        "num_cpus": CPUS_A_NODE,
        "num_gpus": 0,
        "include_dashboard": False,
        "object_store_memory": STORE_MB * 2**20,
    }
    head = node | {"temp_dir": str(folder / "ray")}
    # Where Ray notes the head; on a new machine it makes no folder for that.
    Path("/tmp/ray").mkdir(exist_ok=True)
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        for _ in range(n_nodes - 1):
            patiently(lambda: cluster.add_node(**node, wait=True))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        config = load_config(overrides=[f"run.encode_workers={n_nodes}"])
        watcher = Watcher.options(num_cpus=0).remote()
        plan, store = plan_of(n_nodes * units_a_node), Store(str(folder / "out"))
        curve: list[tuple[float, int]] = []
        stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(0.2):
                counts, _ = ray.get(watcher.read.remote())
                curve.append((time.perf_counter(), counts.units.get("encoded", 0)))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        cpu_s, began = cpu_s_of_machine(), time.perf_counter()
        with lease(store, "run", RUN):
            data = _pipeline(
                plan, config, Provenance("b", "b", "r", RUN), watcher, (SleepingDecode, SleepingEncode)
            )
            sink = TableSink(str(folder / "out"), "2026-01-31", RUN, config.run.units_per_file, watcher)
            data.write_datasink(sink, ray_remote_args={"num_cpus": 0})
        took_s = time.perf_counter() - began
        cores_busy = (cpu_s_of_machine() - cpu_s) / took_s
        stopped.set()
        thread.join()
        ray.shutdown()
    finally:
        cluster.shutdown()
    spilled = sum(f.stat().st_size for f in folder.glob("ray/session_*/ray_spilled_objects*/*"))
    return {
        "nodes": n_nodes,
        "units": len(plan.todo),
        "units_per_s": round(_rate(curve, len(plan.todo)), 3),
        "whole_s": round(took_s, 1),
        "cores_busy": round(cores_busy, 2),
        "spilled_mb": round(spilled / 2**20),
    }


def _rate(curve: list[tuple[float, int]], n_units: int) -> float:
    low, high = n_units // 5, n_units - n_units // 5
    first = next((t, n) for t, n in curve if n >= low)
    last = next((t, n) for t, n in curve if n >= high)
    return (last[1] - first[1]) / (last[0] - first[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--units", type=int, default=24, help="a node")
    given = parser.parse_args()
    if os.environ.get("RAY_AUTH_TOKEN") is None:  # a token for this alone, before Ray is loaded
        decode_s, encode_s, size = measured_unit()
        print(
            f"a unit of 30 s: decode {decode_s:.2f} s, encode {encode_s:.2f} s, {size / 2**20:.1f} MB"
        )
        env = {_SLEEP: f"{decode_s},{encode_s}", _SIZE: str(size), "RAY_AUTH_MODE": "token"}
        env |= {"RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"} | PATIENCE
        command = [sys.executable, "-m", "tests.benchmarks.nodes", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env=os.environ | env, check=False).returncode)
    found = []
    decode_s, encode_s = map(float, os.environ[_SLEEP].split(","))
    for n_nodes in given.nodes:
        folder = Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))
        try:
            found.append(throughput(n_nodes, given.units, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        ideal = n_nodes / max(decode_s, encode_s)
        found[-1]["of_ideal"] = round(found[-1]["units_per_s"] / ideal, 3)
        print(json.dumps(found[-1]), flush=True)
    # Of what each count of nodes could give at best: one node's own figure is too rough to divide by.
    ratio = {str(f["nodes"]): f["of_ideal"] for f in found}
    unit = {"decode_s": decode_s, "encode_s": encode_s, "bytes": int(os.environ[_SIZE])}
    print(
        json.dumps(
            {
                "ratio": ratio,
                "peers": [],
                "limit": found[-1]["of_ideal"],
                "unit": unit,
                "by_nodes": found,
            }
        )
    )


if __name__ == "__main__":
    main()
