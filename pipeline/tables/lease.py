"""One writer at a time: a lease in the output, with its owner and a heartbeat.

The lease is a file that can only be made where there is none. Its owner counts up its beat; a lease
whose beat stands still for `TTL_S`, or whose owner's process is gone from this machine, is taken over.
No clocks are compared: whoever waits measures with its own. An owner that finds another's lease in the place
of its own stops, and so do its tasks, which look before they commit.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.tables.store import MissingError, Store, TableError

LEASE = "_lease.json"
TTL_S = 60.0
BEAT_S = 10.0
_LOOK_S = 1.0


@dataclass(frozen=True)
class Lease:
    """Who writes."""

    token: str  # of one hold; run ids are used
    purpose: str  # run, compact, …
    host: str
    pid: int
    process_start: str | None  # tells a reused process id
    user: str
    since: str
    beat: int = 0

    def describe(self) -> str:
        where = f"{self.host.partition('/')[0]} (process {self.pid})"
        return f"{self.purpose} {self.token} of {self.user} on {where} since {self.since}"


class LeaseLostError(TableError):
    """Another has taken over; nothing more may be written."""


@contextmanager
def lease(
    store: Store,
    purpose: str,
    token: str,
    *,
    wait_s: float = 0.0,
    on_wait: Callable[[str], None] = lambda _: None,
    ttl_s: float = TTL_S,
) -> Iterator[None]:
    """Hold the output's lease.

    Args:
        wait_s: how long to wait for an owner that lives, before giving up.
        on_wait: is told once whom one waits for.

    Raises:
        TableError: another holds it; the message names the owner.
    """
    mine = _mine(purpose, token)
    _acquire(store, mine, wait_s, on_wait, ttl_s)
    stopped = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, mine, stopped), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stopped.set()
        beating.join()
        if _is_mine(_read(store), token):
            store.remove(LEASE)


def check_held(store: Store, token: str) -> None:
    """Raise LeaseLostError unless the lease is held under `token`."""
    held = _read(store)
    if not _is_mine(held, token):
        by = held.describe() if held else "nobody: it was removed"
        raise LeaseLostError(f"{store.path(LEASE)}: the lease of {token} is now held by {by}")


def _mine(purpose: str, token: str) -> Lease:
    host, pid = _machine(), os.getpid()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        user = str(os.getuid())
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Lease(token, purpose, host, pid, _process_start(pid), user, since)


def _machine() -> str:
    """Where process ids mean the same: the host as it was begun and, in containers, their own numbering. Of two
    hosts of one name each has its own boot id, and all of them number processes alike at first."""
    try:
        numbering = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        numbering = boot = "-"
    return f"{socket.gethostname()}/{boot}/{numbering}"


def _acquire(
    store: Store, mine: Lease, wait_s: float, on_wait: Callable[[str], None], ttl_s: float
) -> None:
    started = seen_at = time.monotonic()
    seen: Lease | None = None
    told = is_alive = False
    while not store.create(LEASE, _encoded(mine)):
        held = _read(store)
        now = time.monotonic()
        if held is None:
            continue
        if seen is None or (held.token, held.beat) != (seen.token, seen.beat):
            is_alive = seen is not None and held.token == seen.token
            seen, seen_at = held, now
        if _is_dead(held) or now - seen_at > ttl_s:
            _take_over(store, held)
            continue
        # An owner on another machine may be dead: it is told apart by a beat that moves, or stands still.
        if now - started > wait_s and (is_alive or held.host == mine.host):
            raise TableError(f"{store.path(LEASE)}: another job writes here: {held.describe()}")
        if not told:
            on_wait(held.describe())
            told = True
        time.sleep(_LOOK_S)


def _take_over(store: Store, dead: Lease) -> None:
    """Remove a dead owner's lease, unless somebody was quicker."""
    held = _read(store)
    if held is not None and (held.token, held.beat) == (dead.token, dead.beat):
        store.remove(LEASE)


def _beat(store: Store, mine: Lease, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_S):
        try:
            if not _is_mine(_read(store), mine.token):
                return  # lost; whoever commits next finds out
            mine = replace(mine, beat=mine.beat + 1)
            store.write(LEASE, _encoded(mine))
        except TableError:
            continue  # the next beat may get through


def _read(store: Store) -> Lease | None:
    try:
        value: dict[str, Any] = store.read_json(LEASE)
        return Lease(**value)
    except MissingError:
        return None
    except TypeError as e:
        raise TableError(f"{store.path(LEASE)}: not a lease of this version: {e}") from e


def _is_mine(held: Lease | None, token: str) -> bool:
    return held is not None and held.token == token


def _is_dead(held: Lease) -> bool:
    """Whether the owner's process was on this machine and is gone."""
    if held.host != _machine():
        return False
    return held.process_start is not None and _process_start(held.pid) != held.process_start


def _process_start(pid: int) -> str | None:
    """When a process of this machine began, in ticks since boot; None where it is not there or zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _encoded(held: Lease) -> bytes:
    return json.dumps(asdict(held)).encode()
