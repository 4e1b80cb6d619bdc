"""What is done, from the commit records alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.tables.commit import COMMITS, CommitRecord
from pipeline.tables.store import Store, TableError


@dataclass(frozen=True)
class Ledger:
    """Unit ids by how they ended; what was ever done is done, whatever failed since."""

    records: tuple[CommitRecord, ...] = ()
    done: frozenset[str] = frozenset()
    empty: frozenset[str] = frozenset()
    failed: dict[str, int] = field(default_factory=dict)  # unit id → attempts so far

    def is_settled(self, unit_id: str, *, retry_failures: bool = False) -> bool:
        """Whether a run may pass the unit by."""
        if unit_id in self.done or unit_id in self.empty:
            return True
        return unit_id in self.failed and not retry_failures


def read_ledger(store: Store) -> Ledger:
    """Read all commit records.

    Raises:
        TableError: a record is damaged or was written by something else.
    """
    records = []
    for name, value in store.records(COMMITS):
        try:
            records.append(CommitRecord.from_json(value))
        except TypeError as e:
            raise TableError(f"{store.path(name)}: not a commit record of this version: {e}") from e
    done = frozenset(unit for record in records for unit in record.done)
    empty = frozenset(unit for record in records for unit in record.empty)
    attempts = Counter(unit for record in records for unit in record.failed)
    failed = {unit: n for unit, n in attempts.items() if unit not in done and unit not in empty}
    return Ledger(tuple(records), done, empty, failed)
