"""What runs inside Ray workers: the decode stage on CPUs and the encode stage beside the model."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from jobs.cost import planned_length_s
from jobs.offline import REQUESTS
from jobs.record import Done
from jobs.sink import with_clips
from pipeline.bundles.spec import find_bundle
from pipeline.config import Config
from pipeline.media.guard import Guard, Limits
from pipeline.records import ClipBatch, MediaError, Unit
from pipeline.transport import unpack
from pipeline.understand import Decoded, Provenance, encode

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A unit between the stages: what is known of it, and its clips as one buffer (null where it failed).
DECODED = pa.schema([("decoded", pa.binary()), ("batch", pa.large_binary())])
UNIT = pa.schema([("unit", pa.string())])
DECODE = "pipeline.understand:decode_packed"
# Of decoded units that go on together: a long one alone, short ones at once, some five clips by default.
_BLOCK_BYTES = 16 * 2**20
_LAST_UNITS = 16  # at least, that are decoded in the order of their lengths


def unit_table(units: list[Unit]) -> pa.Table:
    """Units as rows that go into the pipeline."""
    texts = pa.array((json.dumps(dataclasses.asdict(u), default=str) for u in units), pa.string())
    return pa.table({"unit": texts}, schema=UNIT)


class DecodeStage:
    """Decodes units in a guarded child process; a fault of the child is the unit's failure."""

    def __init__(self, config: Config, sample_rate_hz: int, watcher: ray.actor.ActorHandle) -> None:
        self.config, self.sample_rate_hz, self.watcher = config, sample_rate_hz, watcher
        run = config.run
        limits = Limits(run.decode_deadline_s, run.decode_memory_mb, run.decode_files_per_process)
        self.guard = Guard(DECODE, limits)

    def __call__(self, rows: pa.Table) -> pa.Table:
        out: dict[str, list[Any]] = {"decoded": [], "batch": []}
        for text in rows.column("unit").to_pylist():
            decoded, buffer = self._decode(Unit(**json.loads(text)))
            out["decoded"].append(ray.cloudpickle.dumps(decoded))
            out["batch"].append(as_binary(buffer))
            n_bytes = len(memoryview(buffer)) if buffer is not None else 0
            self.watcher.add.remote(Done("decoded", 1, decoded.decode_s, n_bytes=n_bytes))
        return pa.table(
            [pa.array(out["decoded"], pa.binary()), pa.chunked_array(out["batch"])], schema=DECODED
        )

    def _decode(self, unit: Unit) -> tuple[Decoded, Buffer | None]:
        started = time.perf_counter()
        try:
            return self.guard.call(unit, self.config, self.sample_rate_hz)
        except MediaError as e:
            failure = dataclasses.replace(e.failure, message=f"{unit.uri}: {e.failure.message}")
            seconds = time.perf_counter() - started
            return Decoded(unit, failure=failure, decode_s=seconds), None


def as_binary(buffer: Buffer | None) -> pa.LargeBinaryArray:
    """One value, or one null, without a copy of what may be a minute of pictures."""
    if buffer is None:
        return pa.nulls(1, pa.large_binary())
    whole = pa.py_buffer(buffer)
    ends = pa.py_buffer(np.array([0, whole.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, whole])


def decoded(
    units: list[Unit],
    config: Config,
    sample_rate_hz: int,
    workers: tuple[int, float],
    watcher: Any,
    stage: type[DecodeStage] = DecodeStage,
) -> ray.data.Dataset:
    """Units as a lazy Ray Data set of `DECODED` rows, some small units to a task.

    Args:
        workers: how many decode, and the CPUs that Ray keeps for each.
    """
    table = unit_table(short_ones_last(units))
    n_decoders, cpus = workers
    share = max(1, min(16, len(table) // (n_decoders * 8)))
    blocks = [table.slice(i, share) for i in range(0, len(table), share)]
    ray.data.DataContext.get_current().target_max_block_size = _BLOCK_BYTES
    return ray.data.from_arrow(blocks).map_batches(
        stage,
        fn_constructor_args=(config, sample_rate_hz, watcher),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(n_decoders, len(blocks))),
        num_cpus=cpus,
        label_selector=config.run.decode_labels or None,
        **restarts(config),
    )


def short_ones_last(units: list[Unit]) -> list[Unit]:
    """In their order, but the shortest at the end, long to short, so that all workers are done at about one
    time. Were all sorted so, those that take most room would lie there together."""
    # One that no header tells may be long.
    lengths_s = [inf if (s := planned_length_s(unit)) is None else s for unit in units]
    by_length = sorted(range(len(units)), key=lambda k: -lengths_s[k])
    n_first = max(0, len(units) - max(_LAST_UNITS, len(units) // 8))
    return [units[k] for k in sorted(by_length[:n_first]) + by_length[n_first:]]


def restarts(config: Config) -> dict[str, Any]:
    """A worker that dies is begun again, but not for ever."""
    most = config.run.max_attempts
    return {"max_restarts": most, "max_task_retries": most}


class EncodeStage:
    """Holds the model and encodes the units of a batch together.

    Args:
        n_calls: that Ray makes at once. Several compute with one thread each: threads that share every product
            wait for each other thousands of times a second, and all for the one whose core decodes meanwhile.
    """

    def __init__(
        self,
        config: Config,
        provenance: Provenance,
        device: str,
        watcher: ray.actor.ActorHandle,
        n_calls: int = 1,
    ) -> None:
        import torch

        from pipeline.bundles.accelerate import keep_memory
        from pipeline.bundles.families.offline import OfflineCaptioner
        from pipeline.bundles.model import Model

        self.offline = OfflineCaptioner
        keep_memory()
        # Ray allots less, and decode seldom fills the rest.
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        started = time.perf_counter()
        self.model = Model(find_bundle(config.bundle), config, device)
        self.cpu_clock = time.process_time
        if n_calls > 1:
            torch.set_num_threads(1)  # of each thread that is yet to come
            self.cpu_clock = time.thread_time
        self.provenance, self.watcher = provenance, watcher
        watcher.add.remote(Done("loaded", 1, time.perf_counter() - started))

    def __call__(self, rows: pa.Table) -> pa.Table:
        started, cpu_started = time.perf_counter(), self.cpu_clock()
        units = []
        for known, buffer in zip(rows.column("decoded"), rows.column("batch"), strict=True):
            decoded: Decoded = ray.cloudpickle.loads(known.as_py())
            batch = unpack(buffer.as_buffer()) if buffer.is_valid else None
            units.append(dataclasses.replace(decoded, batch=batch))
        done = encode(units, self.model, self.provenance)
        rows = with_clips([d.unit for d in done], [d.clips for d in done])
        if isinstance(self.model.captioner, self.offline):
            asked = [self._requests(d, self.model.captioner) for d in units]
            rows = rows.append_column(REQUESTS, pa.array(asked, pa.list_(pa.string())))
        seconds, cpu_s = time.perf_counter() - started, self.cpu_clock() - cpu_started
        if self.cpu_clock is time.thread_time:
            seconds = cpu_s  # calls at once wait for cores too; together they were busy no longer
        video_s = sum(_video_s(decoded.batch) for decoded in units)
        self.watcher.add.remote(Done("encoded", len(done), seconds, cpu_s, video_s))
        return rows

    def _requests(self, decoded: Decoded, captioner: Any) -> list[str | None]:
        if decoded.batch is None:
            return []
        return [json.dumps(r) if r is not None else None for r in captioner.requests(decoded.batch)]


def _video_s(batch: ClipBatch | None) -> float:
    """Seconds of video that a unit's clips cover, which may overlap."""
    return float(batch.end_s.max() - batch.start_s.min()) if batch is not None and len(batch) else 0.0
