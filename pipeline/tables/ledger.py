"""What is done, from the commit records alone.

Records are many and small, so their texts are also kept together in a checkpoint. The listing of
`_commits/` decides: an entry of the checkpoint that has no file any more does not count, and a
file that the checkpoint does not know is read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from pipeline.tables.commit import COMMITS, CommitRecord, UnitEntry
from pipeline.tables.store import Store, TableError

CHECKPOINT = "_ledger/records.parquet"
_CHECKPOINT_LAG = 256  # records read one by one before they are put together
_CHECKPOINT_SCHEMA = pa.schema([("name", pa.string()), ("record", pa.large_string())])


@dataclass(frozen=True)
class Ledger:
    """The records that count, and how each unit ended: well, if it ever did; else as it failed last."""

    records: tuple[CommitRecord, ...] = ()
    replaced: tuple[CommitRecord, ...] = ()
    units: dict[str, UnitEntry] = field(default_factory=dict)  # by unit id, the one that counts
    n_uncheckpointed: int = 0

    @classmethod
    def of(cls, records: Iterable[CommitRecord], n_uncheckpointed: int = 0) -> Ledger:
        every = sorted(records, key=lambda record: (record.run_id, record.name))
        gone = {name for record in every for name in record.replaces}
        live = tuple(record for record in every if record.name not in gone)
        units: dict[str, UnitEntry] = {}
        for record in live:
            for entry in record.units:
                known = units.get(entry.unit_id)
                if known is None or _rank(entry) >= _rank(known):
                    units[entry.unit_id] = entry
        replaced = tuple(record for record in every if record.name in gone)
        return cls(live, replaced, units, n_uncheckpointed)

    @cached_property
    def newest(self) -> dict[str, tuple[str, str]]:
        """For each source its latest content, and the result digest under which that was understood last."""
        video: dict[str, tuple[str, str]] = {}  # source → its latest run, its video then
        for entry in self.units.values():
            seen = (entry.run_id, entry.video_id)  # run ids sort by time
            video[entry.source_id] = max(video.get(entry.source_id, seen), seen)
        last: dict[str, tuple[bool, str, str]] = {}
        for entry in self.units.values():
            if entry.video_id == video[entry.source_id][1]:
                ended = (entry.state != "failed", entry.run_id, entry.result_digest)
                last[entry.source_id] = max(last.get(entry.source_id, ended), ended)
        return {source: (video[source][1], digest) for source, (_, _, digest) in last.items()}

    @cached_property
    def planned(self) -> dict[tuple[str, str], float | None]:
        """By which duration each video was cut into units, by video and result digest."""
        return {(e.video_id, e.result_digest): e.planned_s for e in self.units.values()}

    def counts(self, entry: UnitEntry) -> bool:
        """Whether this is how the unit ended, and no later record says otherwise."""
        return self.units[entry.unit_id] is entry

    def is_newest(self, entry: UnitEntry) -> bool:
        return self.newest[entry.source_id] == (entry.video_id, entry.result_digest)

    def is_settled(self, unit_id: str, *, retry_failures: bool = False) -> bool:
        """Whether a run may pass the unit by."""
        entry = self.units.get(unit_id)
        return entry is not None and not (entry.state == "failed" and retry_failures)

    def ended_by(self, run_ids: Collection[str]) -> dict[str, str]:
        """How units ended in these runs, by unit id: also where an earlier run's end is the one that counts."""
        mine = [r for r in self.records if r.run_id in run_ids]
        return {e.unit_id: e.state for r in mine for e in r.units if e.run_id in run_ids}

    def count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.units.values())


def _rank(entry: UnitEntry) -> tuple[bool, str, int]:
    return entry.state != "failed", entry.run_id, entry.attempt


def read_ledger(store: Store) -> Ledger:
    """Read all commit records.

    Raises:
        TableError: a record is damaged or was written by something else.
    """
    names = store.names(COMMITS, ".json")
    texts = _checkpointed(store)
    unread = [name for name in names if name not in texts]
    values = [json.loads(texts[name]) for name in names if name in texts] + store.read_jsons(unread)
    ordered = [name for name in names if name in texts] + unread
    records = [
        CommitRecord.from_json(store.path(name), value, store)
        for name, value in zip(ordered, values, strict=True)
    ]
    return Ledger.of(records, len(unread))


def _checkpointed(store: Store) -> dict[str, str]:
    """Records' texts by file name; nothing where the checkpoint is missing or torn."""
    try:
        table = store.read_table(CHECKPOINT)
    except TableError:
        return {}
    return dict(zip(table["name"].to_pylist(), table["record"].to_pylist(), strict=True))


def write_checkpoint(store: Store, ledger: Ledger) -> None:
    """Put the records' texts together, where enough have come since the last time."""
    if ledger.n_uncheckpointed < _CHECKPOINT_LAG:
        return
    records: Sequence[CommitRecord] = [*ledger.records, *ledger.replaced]
    columns = {
        "name": [f"{COMMITS}/{record.name}.json" for record in records],
        "record": [json.dumps(record.to_json()) for record in records],
    }
    store.write_table(CHECKPOINT, pa.table(columns, schema=_CHECKPOINT_SCHEMA))
