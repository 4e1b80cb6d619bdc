"""What is to be done: sources cut into units on the clip grid, less what the ledger says is done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from pipeline.bundles.spec import BundleSpec, find_bundle
from pipeline.config import Config, ConfigError
from pipeline.media.clock import to_fraction
from pipeline.media.guard import Guard, Limits
from pipeline.records import MediaError, Source, Unit, short_hash
from pipeline.sources import Listing
from pipeline.tables.ledger import Ledger

_LEAST_BYTES_PER_S = 50
_PROBES_AT_ONCE = 4  # processes that read headers
PROBE = "pipeline.media.probe:probe_guarded"


@dataclass(frozen=True)
class Plan:
    """The work of a run."""

    bundle: BundleSpec
    result_digest: str
    sources: tuple[Source, ...]
    todo: tuple[Unit, ...]
    n_units: int  # of all sources, done ones too
    n_failed_before: int  # settled by an earlier failure

    @property
    def n_done_before(self) -> int:
        return self.n_units - len(self.todo) - self.n_failed_before


def make_plan(
    listing: Listing,
    config: Config,
    ledger: Ledger,
    *,
    retry_failures: bool = False,
    force: bool = False,
    settled_by: Sequence[str] = (),
) -> Plan:
    """Cut all sources into units and leave out what is settled; with `force`, nothing.

    Args:
        settled_by: ids of runs; what they ended stays so, failed or not, whatever else is asked for.

    Raises:
        BundleError: the config names a bundle that cannot be used.
    """
    bundle = find_bundle(config.bundle)
    config = bundle.fitted(config)
    unknown = sorted(set(config.labels.min_score) - set(bundle.spaces))
    if unknown:
        raise ConfigError(
            f"labels.min_score: {bundle.name} has no vocabulary {unknown[0]!r}; it has: "
            + ", ".join(sorted(bundle.spaces))
        )
    digest = config.result_digest(bundle.digest())
    ended = ledger.ended_by(settled_by)
    todo: list[Unit] = []
    n_units = n_failed = 0
    for source, duration_s in _with_durations(listing.sources, config, ledger, digest):
        for unit in cut_units(source, duration_s, config, digest):
            n_units += 1
            if unit.unit_id in ended:
                n_failed += ended[unit.unit_id] == "failed"
            elif force or not ledger.is_settled(unit.unit_id, retry_failures=retry_failures):
                todo.append(_with_attempt(unit, ledger))
            else:
                n_failed += ledger.units[unit.unit_id].state == "failed"
    return Plan(bundle, digest, listing.sources, tuple(todo), n_units, n_failed)


def result_digest_of(config: Config) -> str:
    """The result digest of a run with `config`.

    Raises:
        BundleError: the config names a bundle that cannot be used.
    """
    bundle = find_bundle(config.bundle)
    return bundle.fitted(config).result_digest(bundle.digest())


def cut_units(
    source: Source, duration_s: float | None, config: Config, result_digest: str
) -> Iterator[Unit]:
    """Units of `clips.unit_s`; the last one, or the only one, is open towards the file's end."""
    length, tail = to_fraction(config.clips.unit_s), to_fraction(config.clips.min_tail_s)
    n = 1
    if duration_s is not None and duration_s > 0:
        n = max(1, math.ceil((to_fraction(duration_s) - tail) / length))
    for k in range(n):
        start_s, end_s = float(k * length), None if k == n - 1 else float((k + 1) * length)
        yield Unit(
            unit_id=short_hash(source.video_id, start_s, end_s, result_digest),
            video_id=source.video_id,
            uri=source.uri,
            version=source.version,
            start_s=start_s,
            end_s=end_s,
            planned_s=duration_s,
            size_bytes=source.size_bytes,
            attributes=source.attributes,
        )


def _with_durations(
    sources: Iterable[Source], config: Config, ledger: Ledger, result_digest: str
) -> Iterator[tuple[Source, float | None]]:
    """Durations as they were planned by before, else from the manifest, else from headers.

    None where there is none to be had. What is in the table keeps its cut, whatever a manifest says now.

    Headers are read in guarded processes: a file that hangs or kills its reader costs no plan.
    """
    sources = list(sources)

    def is_planned(source: Source) -> bool:
        return (source.video_id, result_digest) in ledger.planned

    limits = Limits(config.run.decode_deadline_s, config.run.decode_memory_mb)
    unknown = [source for source in sources if not is_planned(source) and source.duration_s is None]
    guards: SimpleQueue[Guard] = SimpleQueue()
    for _ in range(min(_PROBES_AT_ONCE, len(unknown))):
        guards.put(Guard(PROBE, limits))

    def duration_s(source: Source) -> float | None:
        if is_planned(source):
            return ledger.planned[source.video_id, result_digest]
        if source.duration_s is not None:
            return source.duration_s
        guard = guards.get()
        try:
            info, _ = guard.call(source.uri, config.audio.track, config.limits)
            return _plausible(info.duration_s, source.size_bytes)
        except MediaError:
            return None  # the unit will fail with the same error, as a row
        finally:
            guards.put(guard)

    try:
        with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
            yield from zip(sources, pool.map(duration_s, sources), strict=True)
    finally:
        while not guards.empty():
            guards.get().close()


def _plausible(duration_s: float | None, size_bytes: int | None) -> float | None:
    """A header's duration, unless so few bytes cannot be so long: then the headers are damaged."""
    if duration_s is None or size_bytes is None:
        return duration_s
    return duration_s if size_bytes >= duration_s * _LEAST_BYTES_PER_S else None


def _with_attempt(unit: Unit, ledger: Ledger) -> Unit:
    known = ledger.units.get(unit.unit_id)
    if known is None or known.state != "failed":
        return unit
    return dataclasses.replace(unit, attempt=known.attempt + 1)
