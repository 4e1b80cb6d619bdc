"""Keeping a table in shape: small files merged, what was replaced deleted, a video forgotten.

All of it under the output's lease. `check` is called before each step that writes or deletes, and raises where
the lease is another's by now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from pipeline.records import short_hash
from pipeline.sources import canonical_uri
from pipeline.tables.commit import COMMITS, SUPERSEDED, CommitRecord, recover
from pipeline.tables.ledger import CHECKPOINT, Ledger, read_ledger
from pipeline.tables.publish import mark_published, publish, rederive, rewrite
from pipeline.tables.store import Store, TableError

REPORT = "report"  # the page of an output, and the previews beside it
TARGET_BYTES = 128 * 2**20
Check = Callable[[], None]


@dataclass(frozen=True)
class Compacted:
    """What merging did."""

    n_files_before: int
    n_files_after: int
    n_bytes: int


@dataclass(frozen=True)
class Vacuumed:
    """What was deleted for good."""

    n_files: int
    n_bytes: int
    n_kept: int  # replaced, but within the grace period


@dataclass(frozen=True)
class Forgotten:
    """What was removed of some videos."""

    video_ids: tuple[str, ...]  # all versions of their files
    uris: tuple[str, ...]
    n_units: int
    n_clips: int
    n_files_rewritten: int


def compact(
    store: Store, dt: str, target_bytes: int = TARGET_BYTES, check: Check = lambda: None
) -> Compacted:
    """Merge small files, date by date, to about `target_bytes` each."""
    ledger = read_ledger(store)
    check()
    recover(store, ledger.records, ledger.replaced)
    check()
    ledger = publish(store, dt)
    before = sum(len(record.files) for record in ledger.records)
    n_bytes = 0
    for group, size in _groups(store, ledger, target_bytes):
        kept = {e.unit_id for record in group for e in record.units if ledger.counts(e)}
        check()
        rewrite(store, group, kept)
        n_bytes += size
    ledger = read_ledger(store)
    check()
    mark_published(store, ledger)  # the same rows in other files: nothing is derived anew
    return Compacted(before, sum(len(record.files) for record in ledger.records), n_bytes)


def _groups(
    store: Store, ledger: Ledger, target_bytes: int
) -> Iterator[tuple[list[CommitRecord], int]]:
    """Records of one date that together make a file; one that is large enough is left alone."""
    by_date: dict[str, list[tuple[CommitRecord, int]]] = defaultdict(list)
    for record in ledger.records:
        size = sum(store.size(file) for file in record.files)
        if size < target_bytes / 2:
            by_date[record.dt].append((record, size))
    for small in by_date.values():
        group: list[CommitRecord] = []
        total = 0
        for record, size in small:
            group.append(record)
            total += size
            if total >= target_bytes:
                yield group, total
                group, total = [], 0
        if len(group) > 1:
            yield group, total


def vacuum(store: Store, grace: timedelta, check: Check = lambda: None) -> Vacuumed:
    """Delete what was replaced longer ago than `grace`; nobody can still be reading it."""
    ledger = read_ledger(store)
    check()
    recover(store, ledger.records, ledger.replaced)
    latest = datetime.now(UTC) - grace
    replaced_at = {
        name: datetime.fromisoformat(record.written_at)
        for record in [*ledger.records, *ledger.replaced]
        for name in record.replaces
    }
    n_files = n_bytes = n_kept = 0
    # The oldest first: a record that says what it replaced goes after those.
    for record in sorted(ledger.replaced, key=lambda record: replaced_at[record.name]):
        if replaced_at[record.name] > latest:
            n_kept += 1
            continue
        files = [f"{SUPERSEDED}/{file}" for file in record.files] + [record.units_file]
        n_bytes += sum(store.size(file) for file in files)
        n_files += len(files) + 1
        check()
        _delete(store, record, files)
    return Vacuumed(n_files, n_bytes, n_kept)


def _delete(store: Store, record: CommitRecord, files: list[str]) -> None:
    """Files first: a record without files says nothing, files without a record would be nobody's."""
    for file in files:
        store.remove(file)
    store.remove(f"{COMMITS}/{record.name}.json")


def forget(store: Store, names: Collection[str], dt: str, check: Check = lambda: None) -> Forgotten:
    """Remove videos from all tables and all history, for good and at once.

    Args:
        names: video ids or URIs; every version that the table ever held of their files goes.

    Raises:
        TableError: a name that the table does not know; nothing is removed then.
    """
    ledger = read_ledger(store)
    check()
    recover(store, ledger.records, ledger.replaced)
    every = [*ledger.records, *ledger.replaced]
    sources = _sources(store, every, names)
    touched = [r for r in every if any(e.source_id in sources for e in r.units)]
    uris, n_clips = set(), 0
    for record in touched:
        units = store.read_table(record.units_file)
        mine = units.filter(_of_sources(units, sources))
        uris.update(mine["uri"].to_pylist())
        n_clips += sum(mine["n_clips"].to_pylist()) if record in ledger.records else 0
    gone = [e for record in touched for e in record.units if e.source_id in sources]
    for record in touched:
        if record in ledger.records:
            kept = {e.unit_id for e in record.units if e.source_id not in sources}
            check()
            rewrite(store, [record], kept, _replaced_by(record, ledger))
    for record in touched:
        check()
        _delete(
            store,
            record,
            [*record.files, *(f"{SUPERSEDED}/{f}" for f in record.files), record.units_file],
        )
    check()
    store.remove(CHECKPOINT)  # it holds the old records' texts
    after = read_ledger(store)
    check()
    rederive(store, after, sources, dt, gone={entry.video_id for entry in gone})
    mark_published(store, after)
    for name in store.names(REPORT):  # it shows what is gone now
        store.remove(name)
    return Forgotten(
        tuple(sorted({entry.video_id for entry in gone})),
        tuple(sorted(uris)),
        len({entry.unit_id for entry in gone}),
        n_clips,
        sum(record in ledger.records for record in touched),
    )


def _replaced_by(record: CommitRecord, ledger: Ledger) -> list[CommitRecord]:
    """All that a record took the place of, and that is still there."""
    by_name = {old.name: old for old in ledger.replaced}
    found, names = [], list(record.replaces)
    while names:
        old = by_name.get(names.pop())
        if old is not None:
            found.append(old)
            names += old.replaces
    return found


def _sources(store: Store, records: list[CommitRecord], names: Collection[str]) -> set[str]:
    """The sources that are meant by video ids, or by URIs or paths as a person writes them."""
    of_video = {e.video_id: e.source_id for record in records for e in record.units}
    known = set(of_video.values())
    found, unknown = set(), []
    for name in names:
        of_uri = short_hash(canonical_uri(name))
        source = of_video.get(name) or (of_uri if of_uri in known else None)
        if source is None:
            unknown.append(name)
        else:
            found.add(source)
    if unknown:
        raise TableError(
            f"{store.root}: no video {unknown[0]!r} here; expected a video_id or a uri of videos"
        )
    return found


def _of_sources(units: pa.Table, sources: set[str]) -> pa.Array:
    return pa.array([short_hash(uri) in sources for uri in units["uri"].to_pylist()], pa.bool_())
