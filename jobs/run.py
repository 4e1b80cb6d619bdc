"""The main job: plan → decode on CPUs → encode beside the model → commit → publish."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobs.plan import Plan, make_plan
from pipeline.bundles.spec import BundleSpec, find_bundle
from pipeline.config import Config, ConfigError
from pipeline.sources import Listing
from pipeline.tables.commit import recover
from pipeline.tables.lease import lease
from pipeline.tables.ledger import Ledger, read_ledger
from pipeline.tables.publish import is_published, publish
from pipeline.tables.read import embedding_dim
from pipeline.tables.store import Store, TableError
from pipeline.understand import Provenance

RUNS = "_runs"
_PACKAGES = ("torch", "torchvision", "torchaudio", "ray", "av", "decord2", "pyarrow", "reeltable")
_WRITE_CPUS = 0.25
_POLL_S = 0.5


@dataclass(frozen=True)
class RunReport:
    """What a run did; written to `_runs/<run_id>.json`."""

    run_id: str
    dt: str
    state: str  # succeeded, or nothing_to_do
    n_videos: int
    n_units: int
    n_done: int
    n_empty: int
    n_failed: int  # new in this run
    n_failed_before: int
    n_done_before: int
    n_clips: int
    wall_s: float
    plan_s: float
    start_s: float  # Ray and the model
    decode_s: float  # sums over workers
    encode_s: float
    commit_s: float
    video_s: float  # hours of video are what cost is counted in
    bundle: str
    bundle_digest: str
    result_digest: str
    config: dict[str, Any]
    started_at: str
    versions: dict[str, str]
    inputs: tuple[str, ...] = ()
    job_id: str | None = None
    n_cpus: float = 0.0  # of the cluster, as Ray counts them; 0: not recorded
    n_gpus: float = 0.0


@dataclass(frozen=True)
class Origin:
    """On whose behalf a run is made, for its record."""

    inputs: tuple[str, ...] = ()  # as they were asked for, without secrets; a `{date}` is not filled in
    job_id: str | None = None  # the cluster job or scheduler's run that this is


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    phase: str  # planning, starting, running, publishing
    total: int = 0
    decoded: int = 0
    encoded: int = 0
    committed: int = 0
    failed: int = 0


Report = Callable[[Progress], None]


def run(
    listing: Listing,
    out: str,
    config: Config,
    *,
    dt: str,
    address: str | None = None,
    retry_failures: bool = False,
    force: bool = False,
    wait_s: float = 0.0,
    origin: Origin | None = None,
    on_progress: Report = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> RunReport:
    """Do what is missing of `listing` and publish the tables under `out`.

    Args:
        dt: the logical date under which new rows stand, 2026-01-31.
        address: of a Ray cluster to join; else `RAY_ADDRESS`, else a local Ray that stops again.
        retry_failures: take units that failed before again.
        force: take every unit again; what it gives replaces what is there.
        wait_s: for another job that writes to `out`; `on_wait` is told which.

    Raises:
        BundleError, TableError: the model or the output cannot be used; nothing is lost.
    """
    started_at = datetime.now(UTC)
    run_id = f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    # What cannot be used leaves no trace.
    bundle = find_bundle(config.bundle)
    config = bundle.at_its_place(bundle.fitted(config))
    _check_captioner(bundle, config)
    if config.clips.mode == "shots":
        from pipeline.sync.shots import check_detector

        check_detector()
    store = Store(out)
    with lease(store, "run", run_id, wait_s=wait_s, on_wait=on_wait):
        return _run(
            store,
            listing,
            config,
            dt,
            address,
            (retry_failures, force),
            on_progress,
            run_id,
            started_at,
            origin or Origin(),
        )


def _check_captioner(bundle: BundleSpec, config: Config) -> None:
    captions = config.captions
    if bundle.calls_out and not (captions.url and captions.model):
        what = f"bundle {bundle.name} asks a model behind an endpoint"
        raise ConfigError(f"{what}; expected captions.url=http://host:port/v1 and captions.model=NAME")
    if bundle.captioner_is_chosen and not captions.model:
        what = f"bundle {bundle.name} runs a model of your choice"
        raise ConfigError(f"{what}; expected captions.model=NAME, on the hub or a folder")


def _run(
    store: Store,
    listing: Listing,
    config: Config,
    dt: str,
    address: str | None,
    again: tuple[bool, bool],
    on_progress: Report,
    run_id: str,
    started_at: datetime,
    origin: Origin,
) -> RunReport:
    started = time.perf_counter()
    ledger = read_ledger(store)
    recover(store, ledger.records, ledger.replaced)
    bundle = find_bundle(config.bundle)
    if config.run.allow_network:
        from pipeline.bundles.fetch import fetch

        fetch(bundle)
    _check_dim(store, ledger, bundle)
    on_progress(Progress("planning", len(listing.sources)))
    retry_failures, force = again
    plan = make_plan(listing, config, ledger, retry_failures=retry_failures, force=force)
    plan_s = time.perf_counter() - started
    provenance = Provenance(plan.bundle.name, plan.bundle.digest(), plan.result_digest, run_id)
    seconds: dict[str, float] = {}
    if plan.todo:
        plan.bundle.check_files()
        seconds = _execute(plan, store.root, config, provenance, dt, address, on_progress)
    if plan.todo or not is_published(store, ledger):
        on_progress(Progress("publishing", len(plan.todo)))
        ledger = publish(store, dt)
    report = _report(
        store, ledger, plan, provenance, config, dt, seconds, plan_s, started, started_at.isoformat()
    )
    report = replace(report, inputs=origin.inputs, job_id=origin.job_id)
    if plan.todo:
        store.write_json(f"{RUNS}/{run_id}.json", asdict(report))
    return report


def _check_dim(store: Store, ledger: Ledger, bundle: BundleSpec) -> None:
    there = embedding_dim(store, ledger)
    if there not in (None, bundle.dim):
        raise TableError(
            f"{store.root}: its embeddings have {there} numbers, those of bundle {bundle.name} {bundle.dim}; "
            "expected another --out, as one column cannot hold both"
        )


def _execute(
    plan: Plan,
    out: str,
    config: Config,
    provenance: Provenance,
    dt: str,
    address: str | None,
    on_progress: Report,
) -> dict[str, float]:
    """Run the plan on Ray; seconds spent by stage, summed over workers, and the `cpus` and `gpus` there are."""
    started = time.perf_counter()
    on_progress(Progress("starting", len(plan.todo)))
    with _ray(address):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from jobs.sink import TableSink
        from jobs.stages import Watcher

        # On this node, because any other may die and take what was counted with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        watcher = Watcher.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        start_s = time.perf_counter() - started
        with _unwrapped(), _watched(watcher, len(plan.todo), on_progress):
            data = _pipeline(plan, config, provenance, watcher)
            n_units = max(config.run.units_per_file, -(-len(plan.todo) // config.run.max_files))
            sink = TableSink(out, dt, provenance.run_id, n_units, watcher)
            data.write_datasink(sink, ray_remote_args={"num_cpus": _WRITE_CPUS})
        units, seconds, n_failed = ray.get(watcher.read.remote())
        committed = units.get("committed", 0)
        on_progress(Progress("running", len(plan.todo), committed, committed, committed, n_failed))
        there = ray.cluster_resources()
        machine = {"cpus": there.get("CPU", 0.0), "gpus": there.get("GPU", 0.0)}
        return seconds | machine | {"start": start_s + seconds.get("loaded", 0.0)}


def _pipeline(plan: Plan, config: Config, provenance: Provenance, watcher: Any) -> Any:
    """Units → decoded → encoded, as a lazy Ray Data set."""
    import ray

    from jobs import offline
    from jobs.stages import EncodeStage, decoded, restarts
    from pipeline.bundles.families import load_part

    cluster = ray.cluster_resources()
    n_cpus, n_gpus = cluster.get("CPU", 1), cluster.get("GPU", 0)
    uses_gpu = config.run.device == "cuda" or (config.run.device == "auto" and n_gpus > 0)
    if uses_gpu and not n_gpus:
        raise ConfigError("run.device is cuda, but Ray finds no GPU here; expected auto or cpu")
    n_encoders = config.run.encode_workers
    part = plan.bundle.captioner(config)
    if part is not None and part.kind == offline.KIND:
        need = offline.n_gpus(part) + (n_encoders * config.run.encode_gpus if uses_gpu else 0)
        if n_gpus < need:
            what = f"captions by {part.kind} and the encoders take {need:g} GPUs, Ray finds {n_gpus:g}"
            raise ConfigError(f"{what}; expected more, or run.device=cpu for the encoders")
    n_decoders = config.run.decode_workers or _decode_workers(n_cpus, n_encoders, uses_gpu, config)
    clips = decoded(list(plan.todo), config, plan.bundle.sample_rate_hz, n_decoders, watcher)
    # Different stages ask for different resources, so that Ray never runs one inside the other.
    encoded = clips.map_batches(
        EncodeStage,
        fn_constructor_args=(config, provenance, "cuda" if uses_gpu else "cpu", watcher),
        batch_size=config.run.units_per_batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=n_encoders),
        **_encoder_resources(config, uses_gpu),
        **restarts(config),
    )
    if part is None or part.kind != offline.KIND:
        return encoded
    return offline.with_captions(encoded, load_part(part, plan.bundle.directory), part)


def _encoder_resources(config: Config, uses_gpu: bool) -> dict[str, Any]:
    """What Ray reserves for one encoder. With a GPU no CPU: it would be one more than decoders leave, and the
    encoder would never begin."""
    run = config.run
    return {"num_cpus": 0, "num_gpus": run.encode_gpus} if uses_gpu else {"num_cpus": run.encode_cpus}


def _decode_workers(n_cpus: float, n_encoders: int, uses_gpu: bool, config: Config) -> int:
    """As many as the CPUs carry beside the encoders; without a GPU the encoders need half of them."""
    spare = n_cpus - _WRITE_CPUS - (0 if uses_gpu else n_encoders * config.run.encode_cpus)
    return max(1, int(spare if uses_gpu else min(spare, n_cpus / 2)))


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A connection to the cluster that is named, or a local Ray for as long as the work takes."""
    # Ray's own complaints about its internals are not for the person who runs a job.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    on_term = signal.getsignal(signal.SIGTERM)
    with _silent_stderr():
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray puts its own in place
    # The named parameters that Ray asks for instead do not cover restarts yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):  # an error comes as an exception, and once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _unwrapped() -> Iterator[None]:
    """What a task said of the output, without Ray's account of how it came to hear of it."""
    try:
        yield
    except Exception as e:
        error: BaseException | None = e
        while error is not None:
            if isinstance(error, TableError):
                raise TableError(str(error.args[0])) from None
            error = getattr(error, "cause", None) or error.__cause__
        raise


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep the native part of Ray from announcing its log level; errors come as exceptions."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@contextmanager
def _watched(watcher: Any, total: int, on_progress: Report) -> Iterator[None]:
    """Report progress from a thread while the work runs."""
    import ray

    stopped = threading.Event()

    def poll() -> None:
        while not stopped.wait(_POLL_S):
            units, _, n_failed = ray.get(watcher.read.remote())
            decoded, encoded, committed = (units.get(s, 0) for s in ("decoded", "encoded", "committed"))
            on_progress(Progress("running", total, decoded, encoded, committed, n_failed))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _report(
    store: Store,
    ledger: Ledger,
    plan: Plan,
    provenance: Provenance,
    config: Config,
    dt: str,
    seconds: dict[str, float],
    plan_s: float,
    started: float,
    started_at: str,
) -> RunReport:
    mine = [r for r in ledger.records if r.run_id == provenance.run_id]
    states = [e.state for r in mine for e in r.units if e.run_id == provenance.run_id]
    videos_s = 0.0
    for record in mine:
        for file in record.files:
            spans = store.read_table(file, columns=["start_s", "end_s"]).to_pydict()
            videos_s += sum(spans["end_s"]) - sum(spans["start_s"])
    return RunReport(
        run_id=provenance.run_id,
        dt=dt,
        state="succeeded" if plan.todo else "nothing_to_do",
        n_videos=len(plan.sources),
        n_units=plan.n_units,
        n_done=states.count("done"),
        n_empty=states.count("empty"),
        n_failed=states.count("failed"),
        n_failed_before=plan.n_failed_before,
        n_done_before=plan.n_done_before,
        n_clips=sum(r.n_clips for r in mine),
        wall_s=time.perf_counter() - started,
        plan_s=plan_s,
        start_s=seconds.get("start", 0.0),
        decode_s=seconds.get("decoded", 0.0),
        encode_s=seconds.get("encoded", 0.0),
        commit_s=seconds.get("committed", 0.0),
        video_s=videos_s,
        bundle=provenance.bundle,
        bundle_digest=provenance.bundle_digest,
        result_digest=provenance.result_digest,
        config=config.model_dump(mode="json"),
        started_at=started_at,
        versions=_versions(),
        n_cpus=seconds.get("cpus", 0.0),
        n_gpus=seconds.get("gpus", 0.0),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
