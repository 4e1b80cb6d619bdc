"""What a plan takes and costs, and how large a cluster a deadline asks for. Arithmetic alone: no Ray, no torch.

    hours of video × what a second of it took when it was measured × the prices of the config

Nothing is guessed: without a measurement, or a price, it says what is not known and how it becomes known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.plan import Plan
from jobs.record import RUNS
from pipeline.config import ClusterConfig, Config, ConfigError, PriceConfig
from pipeline.records import Unit
from pipeline.tables.store import Store

_MOST_RECORDS = 50  # of runs that are looked at for a measurement
_HOUR_S = 3600.0
_ROUNDING = 1e-9
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?"
)


class CostError(ConfigError):
    """A plan that costs more than it may, or nobody knows how much; the message says which and why."""


@dataclass(frozen=True)
class Rates:
    """What a second of video takes."""

    decode_cpu_s: float  # CPU-seconds
    encode_cpu_s: float  # CPU-seconds of the encoder
    encode_gpu_s: float  # GPU-seconds; 0: it runs on CPUs
    measured: str  # by whom and on how much

    @property
    def cpu_s(self) -> float:
        return self.decode_cpu_s + self.encode_cpu_s

    @property
    def cpus_per_gpu(self) -> float | None:
        """CPUs that keep one GPU busy; None without one."""
        return self.cpu_s / self.encode_gpu_s if self.encode_gpu_s else None


@dataclass(frozen=True)
class Estimate:
    """What a plan takes. None: not known, and `unknown` says what is missing."""

    video_h: float
    n_unknown_length: int  # units whose length no header tells: not counted
    rates: Rates | None
    cpu_h: float | None
    gpu_h: float | None
    cost: float | None
    currency: str | None
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind, and what share of their time they work."""

    n_nodes: int
    cpu_utilisation: float
    gpu_utilisation: float | None  # None: they have none
    price_hour: float | None  # of one node


@dataclass(frozen=True)
class Size:
    """A cluster that does a piece of work by its deadline."""

    video_h: float
    deadline_h: float
    start_h: float  # assumed until a node works
    finish_h: float  # when all is done
    cpu_nodes: Pool
    gpu_nodes: Pool
    cpus_per_gpu: float | None
    cost: float | None
    currency: str | None


def estimate(plan: Plan, config: Config, store: Store) -> Estimate:
    """What the units that are left to do take, by the newest measurement there is."""
    video_s = sum(s for s in map(planned_length_s, plan.todo) if s is not None)
    n_unknown = sum(planned_length_s(unit) is None for unit in plan.todo)
    rates = _configured(config, plan) or _recorded(config, plan, store)
    if not plan.todo:
        return Estimate(0.0, 0, rates, 0.0, 0.0, 0.0, config.prices.currency, ())
    unknown = [] if rates else [_how_to_measure(plan)]
    if plan.bundle.calls_out or plan.bundle.captioner_is_chosen:
        unknown.append("what the model takes that writes the captions, beside the encoders")
    return estimated(video_s, rates, config.prices, n_unknown, unknown)


def estimated(
    video_s: float,
    rates: Rates | None,
    prices: PriceConfig,
    n_unknown_length: int = 0,
    unknown: Sequence[str] = (),
) -> Estimate:
    """`video_s` seconds of video at `rates` and `prices`, where nothing else is `unknown`."""
    unknown = list(unknown)
    cpu_h = gpu_h = cost = None
    if rates is not None:
        video_h = video_s / _HOUR_S
        cpu_h, gpu_h = video_h * rates.cpu_s, video_h * rates.encode_gpu_s
        if prices.cpu_hour is None:
            unknown.append("no price of a CPU (prices.cpu_hour)")
        if gpu_h and prices.gpu_hour is None:
            unknown.append("no price of a GPU (prices.gpu_hour)")
        if not unknown:
            cost = cpu_h * (prices.cpu_hour or 0.0) + gpu_h * (prices.gpu_hour or 0.0)
    return Estimate(
        video_s / _HOUR_S, n_unknown_length, rates, cpu_h, gpu_h, cost, prices.currency, tuple(unknown)
    )


def check_cost(found: Estimate, most: float) -> None:
    """Raise unless the estimate is known and no more than `most`.

    Raises:
        CostError: it is more, or is not known.
    """
    if found.cost is None:
        raise CostError(
            f"--max-cost {most:g}: what it would cost is not known: {'; '.join(found.unknown)}"
        )
    if found.cost > most:
        cost = money(found.cost, found.currency)
        raise CostError(f"--max-cost {most:g}: {_hours(found.video_h)} of video would cost {cost}")


def planned_length_s(unit: Unit) -> float | None:
    """Seconds of video in a unit; None where no header tells."""
    end_s = unit.end_s if unit.end_s is not None else unit.planned_s
    return None if end_s is None else max(0.0, end_s - unit.start_s)


def _configured(config: Config, plan: Plan) -> Rates | None:
    given = config.rates
    if given.decode_s_per_video_s is None or given.encode_s_per_video_s is None:
        return None
    if given.bundle not in (None, plan.bundle.name):
        return None
    return _rates(
        given.decode_s_per_video_s,
        given.encode_s_per_video_s,
        given.encode_cpu_s_per_video_s or 0.0,
        given.device,
        config.run.encode_gpus,
        f"rates of the config, on {given.device}",
    )


def _recorded(config: Config, plan: Plan, store: Store) -> Rates | None:
    """Of the newest run with this bundle; one with the same settings before one with others."""
    fallback = None
    for name in reversed(store.names(RUNS, ".json")[-_MOST_RECORDS:]):
        record = store.read_json(name)
        if not _tells(record, config, plan):
            continue
        if record["result_digest"] == plan.result_digest:
            return _of_record(record, "")
        fallback = fallback or _of_record(record, ", with other settings")
    return fallback


def _tells(record: dict[str, Any], config: Config, plan: Plan) -> bool:
    device = record.get("device")
    is_same = record["bundle"] == plan.bundle.name and config.run.device in ("auto", device)
    return bool(device and is_same and record["video_s"] > 0 and record["encode_s"] > 0)


def _of_record(record: dict[str, Any], apart: str) -> Rates:
    clips = record["config"]["clips"]
    # Clips that overlap show a second of video more than once.
    times_seen = clips["length_s"] / clips["stride_s"] if clips["mode"] == "stride" else 1.0
    video_s = record["video_s"] / times_seen
    told = f"run {record['run_id']}, {_hours(video_s / _HOUR_S)} of video on {record['device']}{apart}"
    return _rates(
        record["decode_s"] / video_s,
        record["encode_s"] / video_s,
        record["encode_cpu_s"] / video_s,
        record["device"],
        record["config"]["run"]["encode_gpus"],
        told,
    )


def _rates(
    decode_s: float,
    encode_s: float,
    encode_cpu_s: float,
    device: str,
    encode_gpus: float,
    measured: str,
) -> Rates:
    return Rates(decode_s, encode_cpu_s, encode_s * encode_gpus if device == "cuda" else 0.0, measured)


def _how_to_measure(plan: Plan) -> str:
    what = f"how long {plan.bundle.name} takes was not measured"
    return f"{what}; reeltable tune INPUT --write FILE measures it, and so does a first run"


def size_cluster(
    video_s: float, rates: Rates, cluster: ClusterConfig, prices: PriceConfig, deadline_s: float
) -> Size:
    """The fewest nodes that are done within `deadline_s`, starting included.

    CPU nodes decode and GPU nodes encode; where one kind is not to be had, the other does both. It assumes that
    all work all the time, which the last units of a run do not.

    Raises:
        ConfigError: the config has no such nodes, or the deadline is over before they work.
    """
    work_s = deadline_s - cluster.start_s
    if work_s <= 0:
        what = f"is over before nodes work, which takes {cluster.start_s:g} s (cluster.start_s)"
        raise ConfigError(f"--deadline: {_hours(deadline_s / _HOUR_S)} {what}")
    if rates.encode_gpu_s and cluster.gpu_node is None:
        raise ConfigError(
            f"{rates.measured}; expected cluster.gpu_node, such as {{gpus: 1, cpus: 16}}, for the encoders"
        )
    if not rates.encode_gpu_s and cluster.cpu_node is None:
        raise ConfigError(f"{rates.measured}; expected cluster.cpu_node, such as {{cpus: 16}}")
    needs = _needs(video_s, rates, cluster)
    n_cpu, n_gpu = (_n_nodes(need, work_s) for need in needs)
    busy_s = max(_longest(need, n) for need, n in zip(needs, (n_cpu, n_gpu), strict=True))
    finish_h = (cluster.start_s + busy_s) / _HOUR_S
    pools = (
        Pool(
            n_cpu,
            *_utilisation(needs[0], n_cpu, busy_s),
            price_hour=_price_of(cluster.cpu_node, prices),
        ),
        Pool(
            n_gpu,
            *_utilisation(needs[1], n_gpu, busy_s),
            price_hour=_price_of(cluster.gpu_node, prices),
        ),
    )
    costs = [_cost(pool, finish_h) for pool in pools]
    return Size(
        video_s / _HOUR_S,
        deadline_s / _HOUR_S,
        cluster.start_s / _HOUR_S,
        finish_h,
        *pools,
        rates.cpus_per_gpu,
        None if None in costs else sum(c for c in costs if c is not None),
        prices.currency,
    )


def sized(found: Estimate, config: Config, deadline: str, video_hours: float | None) -> Size:
    """The cluster for what was estimated, or for other hours of video.

    Raises:
        ConfigError: nothing was measured, or as `size_cluster`.
    """
    deadline_s = parse_duration_s(deadline)
    if found.rates is None:
        what = found.unknown[0] if found.unknown else "nothing is left to do, and nothing was measured"
        raise ConfigError(f"--size-cluster: {what}")
    hours = found.video_h if video_hours is None else video_hours
    return size_cluster(hours * _HOUR_S, found.rates, config.cluster, config.prices, deadline_s)


@dataclass(frozen=True)
class _Need:
    """Seconds of one node that its CPUs, and its GPUs, have to work."""

    cpu_s: float
    gpu_s: float | None


def _needs(video_s: float, rates: Rates, cluster: ClusterConfig) -> tuple[_Need, _Need]:
    """What CPU nodes and what GPU nodes have to do."""
    cpu_node, gpu_node = cluster.cpu_node, cluster.gpu_node
    if not rates.encode_gpu_s:
        assert cpu_node is not None
        return _Need(video_s * rates.cpu_s / cpu_node.cpus, None), _Need(0.0, None)
    assert gpu_node is not None
    here = rates.encode_cpu_s if cpu_node else rates.cpu_s
    gpu = _Need(video_s * here / gpu_node.cpus, video_s * rates.encode_gpu_s / gpu_node.gpus)
    if cpu_node is None:
        return _Need(0.0, None), gpu
    return _Need(video_s * rates.decode_cpu_s / cpu_node.cpus, None), gpu


def _n_nodes(need: _Need, work_s: float) -> int:
    return math.ceil(max(need.cpu_s, need.gpu_s or 0.0) / work_s * (1 - _ROUNDING))


def _longest(need: _Need, n_nodes: int) -> float:
    return max(need.cpu_s, need.gpu_s or 0.0) / n_nodes if n_nodes else 0.0


def _utilisation(need: _Need, n_nodes: int, busy_s: float) -> tuple[float, float | None]:
    if not n_nodes or not busy_s:
        return 0.0, None
    gpu = None if need.gpu_s is None else need.gpu_s / n_nodes / busy_s
    return need.cpu_s / n_nodes / busy_s, gpu


def _price_of(node: Any, prices: PriceConfig) -> float | None:
    """Of an hour of a node: its own, or that of its CPUs and GPUs."""
    if node is None or node.price_hour is not None:
        return None if node is None else float(node.price_hour)
    n_gpus = getattr(node, "gpus", 0)
    if prices.cpu_hour is None or (n_gpus and prices.gpu_hour is None):
        return None
    return node.cpus * prices.cpu_hour + n_gpus * (prices.gpu_hour or 0.0)


def _cost(pool: Pool, hours: float) -> float | None:
    if not pool.n_nodes:
        return 0.0
    return None if pool.price_hour is None else pool.n_nodes * pool.price_hour * hours


def parse_duration_s(text: str) -> float:
    """Seconds of `6h`, `90m`, `1d12h` or `45s`.

    Raises:
        ConfigError: it is none of them.
    """
    found = _DURATION.fullmatch(text.replace(" ", ""))
    parts = [float(part or 0) for part in found.groups()] if found else []
    seconds = sum(part * s for part, s in zip(parts, (86_400, 3600, 60, 1), strict=False))
    if seconds <= 0:
        raise ConfigError(f"--deadline {text!r}: expected a time such as 6h, 90m or 1d12h")
    return seconds


def described(found: Estimate) -> list[str]:
    """The estimate in lines that a person reads."""
    n_unknown = found.n_unknown_length
    units = "1 unit" if n_unknown == 1 else f"{n_unknown} units"
    rest = f" (and {units} whose length no header tells)" if n_unknown else ""
    told = f"{_hours(found.video_h)} of video{rest}"
    if found.rates is None:
        return [told, *(f"not known: {what}" for what in found.unknown)]
    gpu = f"{_hours(found.gpu_h)} of GPU and " if found.gpu_h else ""
    cost = f", {money(found.cost, found.currency)}" if found.cost is not None else ""
    lines = [f"{told}: {gpu}{_hours(found.cpu_h)} of CPU{cost}", f"measured: {found.rates.measured}"]
    return lines + [f"not known: {what}" for what in found.unknown]


def described_size(size: Size) -> list[str]:
    """The cluster in lines that a person reads."""
    cost = f", {money(size.cost, size.currency)}" if size.cost is not None else ""
    done = f"done after {_hours(size.finish_h)}{cost}"
    lines = [f"{_hours(size.video_h)} of video in {_hours(size.deadline_h)}: {done}"]
    for pool, kind, does in (
        (size.cpu_nodes, "CPU", "decode" if size.gpu_nodes.n_nodes else "decode and encode"),
        (size.gpu_nodes, "GPU", "encode" if size.cpu_nodes.n_nodes else "decode and encode"),
    ):
        if pool.n_nodes:
            gpu = f"GPUs {pool.gpu_utilisation:.0%} busy, " if pool.gpu_utilisation is not None else ""
            price = f", {money(pool.price_hour, size.currency)} an hour each" if pool.price_hour else ""
            nodes = f"{pool.n_nodes} {kind} node{'s' if pool.n_nodes > 1 else ''}"
            lines.append(f"{nodes} to {does}: {gpu}CPUs {pool.cpu_utilisation:.0%} busy{price}")
    if size.cpus_per_gpu is not None:
        lines.append(f"{size.cpus_per_gpu:.1f} CPUs keep one GPU busy")
    start = f"nodes work after {_hours(size.start_h)} (cluster.start_s)"
    lines.append(f"assumed: {start}, and all of them to the end")
    return lines


def money(amount: float | None, currency: str | None) -> str:
    """An amount; of less than a hundredth its first two digits."""
    amount = amount or 0.0
    text = f"{amount:,.2f}" if amount >= 0.01 or not amount else f"{amount:.2g}"
    return f"{text} {currency}" if currency else text


def _hours(hours: float | None) -> str:
    """A time as a person says it."""
    seconds = (hours or 0.0) * _HOUR_S
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / _HOUR_S:,.1f} h" if seconds < 100 * _HOUR_S else f"{seconds / _HOUR_S:,.0f} h"
