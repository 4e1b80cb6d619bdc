"""Which logical days a run is for: a `{date}` in its inputs, and the days that were missed.

    s3://lake/dt={date}/            → s3://lake/dt=2026-01-31/
    s3://lake/{date:%Y/%m/%d}/      → s3://lake/2026/01/31/

A day is done when a run of the same inputs and settings left its record in `_runs/`, which it does at its
very end. A day whose run died, or never began, has none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from jobs.record import RUNS
from pipeline.config import ConfigError
from pipeline.sources import without_secrets
from pipeline.tables.store import Store

_DATE = re.compile(r"\{date(?::([^{}]*))?\}")
_WORDS = {"today": 0, "yesterday": 1}


@dataclass(frozen=True)
class Days:
    """The days of a run, in order."""

    days: tuple[str, ...]
    is_proven: bool  # a run of these inputs and settings did a day before: the inputs' form is right


def parse_day(text: str) -> str:
    """A logical date as 2026-01-31, from that or from `today` and `yesterday` (UTC).

    Raises:
        ConfigError: it is none of them.
    """
    if text in _WORDS:
        return (datetime.now(UTC).date() - timedelta(days=_WORDS[text])).isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ConfigError(
            f"{text!r}: expected a date such as 2026-01-31, or today, or yesterday"
        ) from None


def fill(inputs: Sequence[str], day: str) -> list[str]:
    """`inputs` with `day` in place of each `{date}`; what stands behind a colon is strftime's format."""
    value = date.fromisoformat(day)
    return [_DATE.sub(lambda found: value.strftime(found[1] or "%Y-%m-%d"), given) for given in inputs]


def as_recorded(inputs: Sequence[str]) -> list[str]:
    """`inputs` as a run's record keeps them: paths absolute, URLs without secrets, `{date}` unfilled."""
    return [without_secrets(g) if "://" in g else os.path.abspath(g) for g in inputs]


def days_until(last: str, inputs: Sequence[str], since: str | None) -> tuple[str, ...]:
    """Every day from `since` to `last`, both included; `last` alone without `since`.

    Raises:
        ConfigError: there is no such day, or no input tells the days apart.
    """
    if since is None:
        return (last,)
    if not any(_DATE.search(given) for given in inputs):
        raise ConfigError(
            f"no input of {', '.join(as_recorded(inputs))} names its day; expected a {{date}} in one, such as "
            "s3://lake/dt={date}/"
        )
    first, end = date.fromisoformat(since), date.fromisoformat(last)
    if first > end:
        raise ConfigError(f"--since {since} is later than --date {last}")
    return tuple((first + timedelta(days=k)).isoformat() for k in range((end - first).days + 1))


def missed_days(store: Store, last: str, inputs: Sequence[str], result_digest: str) -> Days:
    """The days after the latest one that is recorded as done, up to `last`; `last` alone where none is.

    Raises:
        ConfigError: no input tells the days apart.
    """
    done = recorded_days(store, inputs, result_digest)
    after = max((day for day in done if day < last), default=None)
    since = last if after is None else (date.fromisoformat(after) + timedelta(days=1)).isoformat()
    return Days(days_until(last, inputs, since), bool(done))


def recorded_days(store: Store, inputs: Sequence[str], result_digest: str) -> set[str]:
    """Days of runs with these inputs and settings that came to their end."""
    mine = as_recorded(inputs)
    return {
        record["dt"]
        for record in read_runs(store)
        if record.get("inputs") == mine and record["result_digest"] == result_digest
    }


def read_runs(store: Store) -> list[dict[str, Any]]:
    """The records of all runs, the oldest first."""
    return store.read_jsons(store.names(RUNS, ".json"))
