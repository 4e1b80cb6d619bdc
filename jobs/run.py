"""The main job: plan → decode on CPUs → encode beside the model → commit → publish."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs.cost import check_cost, estimate
from jobs.plan import Plan, make_plan
from jobs.record import RUNS, Failed, Origin, Progress, Report, RunReport, committed_of, versions
from pipeline.bundles.kinds import is_stateless
from pipeline.bundles.spec import BundleSpec, find_bundle
from pipeline.config import Config, ConfigError
from pipeline.sources import Listing
from pipeline.tables.commit import recover
from pipeline.tables.lease import check_held, lease
from pipeline.tables.ledger import Ledger, read_ledger
from pipeline.tables.publish import is_published, publish
from pipeline.tables.read import embedding_dim
from pipeline.tables.store import Store, TableError
from pipeline.understand import Provenance

if TYPE_CHECKING:
    from jobs.watcher import Counts

_WRITE_CPUS = 0.25  # left to the tasks that write
_POLL_S = 0.5
_LEAST_ROOM_BYTES = 256 * 2**20
_IDLE_WORKERS = 1  # process that waits for the next task
_LAST_WORD_S = 5.0  # of a watcher whose cluster has failed
_MOST_CALLS = 8  # of an encoder at once


@dataclass(frozen=True)
class Options:
    """How a run is asked for; nothing of it changes a row but the day under which it stands."""

    dt: str  # the logical date of new rows, 2026-01-31
    address: str | None = (
        None  # of a Ray cluster to join; else RAY_ADDRESS, else a local Ray that stops again
    )
    retry_failures: bool = False  # take units that failed before again
    force: bool = False  # take every unit again; what it gives replaces what is there
    wait_s: float = 0.0  # for another job that writes to the output
    max_cost: float | None = None  # a plan that costs more is refused
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class _Spent:
    """What the stages of an attempt took, summed over workers."""

    start_s: float
    counts: Counts
    device: str  # of the encoders
    n_cpus: float  # of the cluster
    n_gpus: float


@dataclass(frozen=True)
class _Job:
    """A run that has begun."""

    store: Store
    config: Config
    options: Options
    run_id: str
    started_at: datetime
    on_progress: Report
    began: float | None = None  # by `perf_counter`, when the first attempt had the output to itself
    earlier: tuple[str, ...] = ()  # ids of its attempts before, which lost a node or a worker
    spent: list[_Spent] = field(default_factory=list)  # of each attempt that came to work

    @property
    def run_ids(self) -> tuple[str, ...]:
        return (*self.earlier, self.run_id)


def run(
    listing: Listing,
    out: str,
    config: Config,
    options: Options,
    *,
    on_progress: Report = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> RunReport:
    """Do what is missing of `listing` and publish the tables under `out`. Where Ray loses what cannot be begun
    anew, what is left is done in another attempt, up to `run.max_attempts` in all.

    Args:
        on_wait: is told what is waited for: another job, or what comes in place of what was lost.

    Raises:
        BundleError, TableError: the model or the output cannot be used; nothing is lost.
        CostError: it would cost more than it may; nothing was done.
    """
    # What cannot be used leaves no trace.
    bundle = find_bundle(config.bundle)
    config = bundle.at_its_place(bundle.fitted(config))
    _check_captioner(bundle, config)
    if config.clips.mode == "shots":
        from pipeline.sync.shots import check_detector

        check_detector()
    job = _job(Store(out), config, options, on_progress)
    while True:
        try:
            # A lease of its own for each attempt, so that no task of one before can write any more.
            with lease(job.store, "run", job.run_id, wait_s=options.wait_s, on_wait=on_wait):
                job = replace(job, began=job.began or time.perf_counter())
                return _run(job, listing)
        except Exception as e:
            if len(job.run_ids) >= config.run.max_attempts or not _is_loss(e):
                raise
            on_wait(f"other workers: {type(e).__name__} in {job.run_id}; what is left is done anew")
            again = _job(job.store, config, options, on_progress)
            job = replace(
                again,
                began=job.began,
                started_at=job.started_at,
                spent=job.spent,
                earlier=job.run_ids,
            )


def _job(store: Store, config: Config, options: Options, on_progress: Report) -> _Job:
    started_at = datetime.now(UTC)
    run_id = f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"

    def told(progress: Progress) -> None:
        on_progress(replace(progress, run_id=run_id))

    return _Job(store, config, options, run_id, started_at, told)


def _is_loss(error: Exception) -> bool:
    """Whether a worker, a node or what lay there is gone, more often than Ray begins it anew by itself."""
    if "ray" not in sys.modules:
        return False
    import ray.exceptions as of_ray

    losses = (
        of_ray.RayActorError,
        of_ray.WorkerCrashedError,
        of_ray.NodeDiedError,
        of_ray.ObjectLostError,
        of_ray.RaySystemError,
    )
    return isinstance(error, losses)


def _check_captioner(bundle: BundleSpec, config: Config) -> None:
    captions = config.captions
    if bundle.calls_out and not (captions.url and captions.model):
        what = f"bundle {bundle.name} asks a model behind an endpoint"
        raise ConfigError(f"{what}; expected captions.url=http://host:port/v1 and captions.model=NAME")
    if bundle.captioner_is_chosen and not captions.model:
        what = f"bundle {bundle.name} runs a model of your choice"
        raise ConfigError(f"{what}; expected captions.model=NAME, on the hub or a folder")


def _run(job: _Job, listing: Listing) -> RunReport:
    started = time.perf_counter()
    store, config, options = job.store, job.config, job.options
    ledger = read_ledger(store)
    recover(store, ledger.records, ledger.replaced)
    bundle = find_bundle(config.bundle)
    if config.run.allow_network:
        from pipeline.bundles.fetch import fetch

        fetch(bundle)
    _check_dim(store, ledger, bundle)
    job.on_progress(Progress("planning", len(listing.sources)))
    plan = make_plan(
        listing,
        config,
        ledger,
        retry_failures=options.retry_failures,
        force=options.force,
        settled_by=job.earlier,
    )
    cost = None
    if options.max_cost is not None:
        takes = estimate(plan, config, store)
        check_cost(takes, options.max_cost)
        cost = takes.cost
    plan_s = time.perf_counter() - started
    if plan.todo:
        plan.bundle.check_files()
        _execute(plan, job)
    if plan.todo or not is_published(store, ledger):
        job.on_progress(Progress("publishing", len(plan.todo)))
        check_held(store, job.run_id)  # a machine that stood still may have lost it
        ledger = publish(store, options.dt)
    report = replace(_report(job, plan, ledger, plan_s), planned_cost=cost)
    if plan.todo or job.earlier:
        check_held(store, job.run_id)
        store.write_json(f"{RUNS}/{job.run_id}.json", asdict(report))
    return report


def _check_dim(store: Store, ledger: Ledger, bundle: BundleSpec) -> None:
    there = embedding_dim(store, ledger)
    if there not in (None, bundle.dim):
        raise TableError(
            f"{store.root}: its embeddings have {there} numbers, those of bundle {bundle.name} {bundle.dim}; "
            "expected another --out, as one column cannot hold both"
        )


def _execute(plan: Plan, job: _Job) -> None:
    """Run the plan on Ray; what it spends stands in `job.spent`, also where it fails."""
    started = time.perf_counter()
    config, n_units = job.config, len(plan.todo)
    provenance = Provenance(plan.bundle.name, plan.bundle.digest(), plan.result_digest, job.run_id)
    job.on_progress(Progress("starting", n_units))
    with _ray(job.options.address):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from jobs.sink import TableSink
        from jobs.watcher import Watcher

        # On this node, because any other may die and take what was counted with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        watcher = Watcher.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
            (provenance.bundle, job.run_id, n_units)
        )
        start_s = time.perf_counter() - started
        device = "cuda" if _uses_gpu(config) else "cpu"
        there = ray.cluster_resources()
        sizes = (float(there.get("CPU", 0)), float(there.get("GPU", 0)))

        def note(timeout_s: float | None) -> None:
            counts, failures = ray.get(watcher.read.remote(), timeout=timeout_s)
            job.on_progress(_progress(n_units, counts, failures))
            load_s = counts.seconds.get("loaded", 0.0) / max(1, counts.units.get("loaded", 0))
            job.spent.append(_Spent(start_s + load_s, counts, device, *sizes))

        try:
            with _unwrapped(), _watched(watcher, n_units, job.on_progress):
                data = _pipeline(plan, config, provenance, watcher)
                per_file = max(config.run.units_per_file, -(-n_units // config.run.max_files))
                sink = TableSink(job.store.root, job.options.dt, job.run_id, per_file, watcher)
                # It asks for no CPU: where a node is lost, decoders that begin anew take all that are left, and
                # wait for what they decoded to be written.
                data.write_datasink(sink, ray_remote_args={"num_cpus": 0})
        except Exception:
            with suppress(Exception):  # the first trouble is what is told
                note(_LAST_WORD_S)
            raise
        note(None)


def _progress(total: int, counts: Counts, failures: tuple[Failed, ...]) -> Progress:
    n = counts.units
    return Progress(
        phase="running",
        total=total,
        decoded=n.get("decoded", 0),
        encoded=n.get("encoded", 0),
        committed=n.get("committed", 0),
        failed=counts.n_failed,
        video_s=counts.video_s,
        failures=failures,
    )


def _uses_gpu(config: Config) -> bool:
    """Whether the encoders run on GPUs of the cluster that is joined."""
    import ray

    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if config.run.device == "cuda" and not has_gpu:
        raise ConfigError("run.device is cuda, but Ray finds no GPU here; expected auto or cpu")
    return config.run.device == "cuda" or (config.run.device == "auto" and has_gpu)


def _pipeline(
    plan: Plan,
    config: Config,
    provenance: Provenance,
    watcher: Any,
    stages: tuple[Any, Any] | None = None,
) -> Any:
    """Units → decoded → encoded, as a lazy Ray Data set; `stages` are what workers run, if not the usual."""
    import ray

    from jobs import offline
    from jobs.stages import DecodeStage, EncodeStage, decoded, restarts

    cluster = ray.cluster_resources()
    n_cpus, n_gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    uses_gpu = _uses_gpu(config)
    part = plan.bundle.captioner(config)
    is_offline = part is not None and part.kind == offline.KIND
    spoken_for = offline.n_gpus(part) if part is not None and is_offline else 0
    n_encoders = encoders(ray.nodes(), n_gpus - spoken_for if uses_gpu else 0, len(plan.todo), config)
    config = config.model_copy(
        update={"run": config.run.model_copy(update={"encode_workers": n_encoders})}
    )
    if part is not None and is_offline:
        need = spoken_for + (n_encoders * config.run.encode_gpus if uses_gpu else 0)
        if n_gpus < need:
            what = f"captions by {part.kind} and the encoders take {need:g} GPUs, Ray finds {n_gpus:g}"
            raise ConfigError(f"{what}; expected more, or run.device=cpu for the encoders")
    if not config.run.decode_workers:
        n_cpus = _cpus_that_decode(n_cpus, ray.nodes(), config.run.decode_labels)
    workers = decoders(n_cpus, uses_gpu, config)
    n_calls = 1 if uses_gpu else _calls_at_once(plan.bundle, ray.nodes())
    # Blocks that a decoder may be ahead of what is taken from it. With a GPU decoders are the slow side and
    # wait for nobody; without one they wait, and Ray begins no task of theirs where those find no room.
    ahead = 2 if uses_gpu else 1
    context = ray.data.DataContext.get_current()
    context._max_num_blocks_in_streaming_gen_buffer = ahead
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=_room_bytes(config, n_calls, ahead * workers[0])
    )
    decode_stage, encode_stage = stages or (DecodeStage, EncodeStage)
    rate_hz = plan.bundle.sample_rate_hz
    clips = decoded(list(plan.todo), config, rate_hz, workers, watcher, decode_stage)
    # Different stages ask for different resources, so that Ray never runs one inside the other.
    encoded = clips.map_batches(
        encode_stage,
        fn_constructor_args=(config, provenance, "cuda" if uses_gpu else "cpu", watcher, n_calls),
        batch_size=config.run.units_per_batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=n_encoders,
            enable_true_multi_threading=True,
            max_concurrent_calls_per_actor=n_calls,
            max_tasks_in_flight_per_actor=n_calls + 1,  # what waits there is room that decoders lack
        ),
        **_encoder_resources(config, uses_gpu),
        **restarts(config),
    )
    if part is None or not is_offline:
        return encoded
    from pipeline.bundles.families import load_part  # brings torch, which only this needs here

    return offline.with_captions(encoded, load_part(part, plan.bundle.directory), part)


def _encoder_resources(config: Config, uses_gpu: bool) -> dict[str, Any]:
    """What Ray reserves for one encoder. With a GPU no CPU: it would be one more than decoders leave, and the
    encoder would never begin."""
    run = config.run
    return {"num_cpus": 0, "num_gpus": run.encode_gpus} if uses_gpu else {"num_cpus": run.encode_cpus}


def encoders(nodes: list[dict[str, Any]], n_gpus: float, n_units: int, config: Config) -> int:
    """How many workers encode `n_units`: as many as GPUs carry, or as there are nodes, of large ones more, as
    one worker has calls for some of their CPUs only; no more than have a batch each.

    Args:
        n_gpus: that may encode; 0: CPUs do.
    """
    run = config.run
    if run.encode_workers:
        return run.encode_workers
    cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    by_cpus = sum(max(1, int(n // (2 * _MOST_CALLS))) for n in cpus if n >= 1)
    most = int(n_gpus / run.encode_gpus) if n_gpus else by_cpus
    return max(1, min(most, -(-n_units // run.units_per_batch)))


def decoders(n_cpus: float, uses_gpu: bool, config: Config) -> tuple[int, float]:
    """How many workers decode, and the CPUs that each holds: as many as the CPUs carry beside the encoders;
    without a GPU encoding needs half of them. A whole CPU each, unless there is less than one.

    Raises:
        ConfigError: encoders take all CPUs, so that nothing would ever be decoded.
    """
    run = config.run
    if not n_cpus:  # nodes will come
        return run.decode_workers or 1, 1.0
    n_encoders = run.encode_workers or 1
    taken = _WRITE_CPUS + (0.0 if uses_gpu else n_encoders * run.encode_cpus)
    spare = n_cpus - taken
    if spare <= 0:
        what = f"encoders and writer take {taken:g} CPUs, Ray has {n_cpus:g}, so none is left to decode"
        raise ConfigError(f"{what}; expected less of run.encode_workers or run.encode_cpus")
    most = run.decode_workers or max(1, int(spare if uses_gpu else min(spare, n_cpus / 2)))
    return most, min(1.0, spare)


def _calls_at_once(bundle: BundleSpec, nodes: list[dict[str, Any]]) -> int:
    """How many calls one encoder without a GPU takes at once: as many as the smallest node has CPUs, up to
    where they would wait for Python; one where its networks are not known to allow more."""
    cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    least = min((n for n in cpus if n >= 1), default=1.0)
    return min(_MOST_CALLS, int(least)) if is_stateless(bundle) else 1


def _room_bytes(config: Config, n_calls: int, n_ahead: int) -> int:
    """Of decoded units that may wait, so that a long run takes no more memory than a short one; Ray lets a
    stage fill a third of it. With less encoders waited for decoders, and more gave nothing.

    Args:
        n_ahead: blocks that decoders may be ahead, all together.
    """
    clips, run = config.clips, config.run
    n_pictures = clips.unit_s / clips.stride_s * clips.frames_per_clip
    unit_bytes = n_pictures * clips.short_side_px**2 * 16 / 9 * 3
    n_encode = (run.encode_workers or 1) * (max(run.units_per_batch, n_calls) + 1)
    return max(_LEAST_ROOM_BYTES, round(1.5 * (n_encode + n_ahead + 1) * unit_bytes))


def _cpus_that_decode(n_cpus: float, nodes: list[dict[str, Any]], labels: dict[str, str]) -> float:
    """CPUs of the cluster, or of its nodes with `labels` where decoding is for them alone."""
    if not labels:
        return n_cpus
    found = [n for n in nodes if n["Alive"] and labels.items() <= n["Labels"].items()]
    if not found:
        told = ", ".join(f"{k}={v}" for k, v in labels.items())
        raise ConfigError(
            f"run.decode_labels: no node has {told}; expected one, or run.decode_workers where nodes come later"
        )
    return float(sum(node["Resources"].get("CPU", 0) for node in found))


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A connection to the cluster that is named, or a local Ray for as long as the work takes."""
    # Ray's own complaints about its internals are not for the person who runs a job.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Actors leave less than a CPU, for which Ray keeps no idle process: each task that writes would begin a new
    # one. It has its say only where Ray is begun here.
    os.environ.setdefault("RAY_num_workers_soft_limit", str(_IDLE_WORKERS))
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    on_term = signal.getsignal(signal.SIGTERM)
    with _silent_stderr():
        ray.init(
            address=address or "local",
            num_cpus=None if address else len(os.sched_getaffinity(0)),
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray puts its own in place
    # The named parameters that Ray asks for instead do not cover restarts yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    context = ray.data.DataContext.get_current().copy()  # what is set is set for this work alone
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):  # an error comes as an exception, and once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context):
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
            counts, failures = ray.get(watcher.read.remote())
            on_progress(_progress(total, counts, failures))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _report(job: _Job, plan: Plan, ledger: Ledger, plan_s: float) -> RunReport:
    last = job.spent[-1] if job.spent else None

    def seconds(stage: str) -> float:
        return sum(spent.counts.seconds.get(stage, 0.0) for spent in job.spent)

    earlier = list(ledger.ended_by(job.earlier).values())
    n_failed = earlier.count("failed")  # by this run, though its plan found them there
    return RunReport(
        run_id=job.run_id,
        dt=job.options.dt,
        state="succeeded" if plan.todo or job.earlier else "nothing_to_do",
        n_videos=len(plan.sources),
        n_units=plan.n_units,
        n_failed_before=plan.n_failed_before - n_failed,
        n_done_before=plan.n_done_before - (len(earlier) - n_failed),
        **committed_of(job.store, ledger, job.run_ids),
        attempts=job.run_ids,
        wall_s=time.perf_counter() - (job.began or 0.0),
        plan_s=plan_s,
        start_s=sum(spent.start_s for spent in job.spent),
        decode_s=seconds("decoded"),
        encode_s=seconds("encoded"),
        commit_s=seconds("committed"),
        encode_cpu_s=sum(spent.counts.cpu_s.get("encoded", 0.0) for spent in job.spent),
        device=last.device if last else None,
        n_cpus=last.n_cpus if last else 0.0,
        n_gpus=last.n_gpus if last else 0.0,
        bundle=plan.bundle.name,
        bundle_digest=plan.bundle.digest(),
        result_digest=plan.result_digest,
        config=job.config.model_dump(mode="json", exclude={"notify"}),  # which may hold a secret
        started_at=job.started_at.isoformat(),
        versions=versions(),
        inputs=job.options.origin.inputs,
        job_id=job.options.origin.job_id,
    )
