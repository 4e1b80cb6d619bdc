"""One writer at a time, and a dead one does not hold up the next."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time

import pytest

from pipeline.tables import lease as leases
from pipeline.tables.lease import LEASE, LeaseLostError, check_held, lease
from pipeline.tables.store import Store, TableError


def test_the_second_is_refused_and_told_who_is_first(store):
    with (
        lease(store, "run", "first"),
        pytest.raises(TableError, match=r"run first of .* \(process \d+\)"),
        lease(store, "compact", "second"),
    ):
        pass
    with lease(store, "compact", "second"):
        check_held(store, "second")
    assert not store.exists(LEASE)


def test_the_second_waits_where_it_may(store):
    entered, waited = threading.Event(), []

    def hold():
        with lease(store, "run", "first"):
            entered.set()
            time.sleep(1.5)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with lease(store, "run", "second", wait_s=30, on_wait=waited.append):
        check_held(store, "second")
    thread.join()
    (owner,) = waited
    assert "run first" in owner


def _die(root):
    held = lease(Store(root), "run", "dead")
    held.__enter__()
    os._exit(9)


def test_a_dead_owners_lease_is_taken_over_at_once(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=_die, args=(str(tmp_path),))
    child.start()
    child.join()
    store = Store(str(tmp_path))
    assert store.exists(LEASE)
    started = time.monotonic()
    with lease(store, "run", "next"):
        check_held(store, "next")
    assert time.monotonic() - started < 5


def test_an_owner_elsewhere_is_dead_when_its_beat_stands_still(store):
    elsewhere = leases._mine("run", "far").__dict__ | {"host": "another/1"}
    store.write_json(LEASE, elsewhere)
    started = time.monotonic()
    with lease(store, "run", "near", ttl_s=2.0):
        assert time.monotonic() - started >= 2
        check_held(store, "near")


def test_an_owner_elsewhere_that_beats_is_not_disturbed(store):
    elsewhere = leases._mine("run", "far").__dict__ | {"host": "another/1"}
    stopped = threading.Event()

    def beat():
        n = 0
        while not stopped.wait(0.3):
            n += 1
            store.write_json(LEASE, elsewhere | {"beat": n})

    store.write_json(LEASE, elsewhere)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(TableError, match="run far"), lease(store, "run", "near", ttl_s=2.0):
            pass
    finally:
        stopped.set()
        thread.join()


def test_an_owner_elsewhere_is_known_to_live_at_its_first_beat(store):
    elsewhere = leases._mine("run", "far").__dict__ | {"host": "another/1"}
    store.write_json(LEASE, elsewhere)
    beating = threading.Timer(0.5, lambda: store.write_json(LEASE, elsewhere | {"beat": 1}))
    beating.start()
    started = time.monotonic()
    with pytest.raises(TableError, match="run far"), lease(store, "run", "near", ttl_s=60.0):
        pass
    beating.join()
    assert time.monotonic() - started < 10


def test_a_dead_owner_elsewhere_is_never_taken_for_a_live_one(store, monkeypatch):
    """Reads that take long once put a look between the end of patience and the end of the lease."""
    store.write_json(LEASE, leases._mine("run", "far").__dict__ | {"host": "another/1"})
    read = leases._read

    def slow(where):
        time.sleep(0.4)
        return read(where)

    monkeypatch.setattr(leases, "_read", slow)
    monkeypatch.setattr(leases, "_LOOK_S", 0.1)
    with lease(store, "run", "near", ttl_s=1.0):
        check_held(store, "near")


def test_a_host_of_the_same_name_is_another_machine():
    name, boot, numbering = leases._machine().split("/")
    assert len(boot) == 36
    theirs = leases._mine("run", "far").__dict__ | {
        "host": f"{name}/another/{numbering}",
        "pid": 2**22 + 1,
    }
    assert not leases._is_dead(leases.Lease(**theirs)), "its process is not one of ours that is gone"
    assert leases._is_dead(leases.Lease(**theirs | {"host": leases._machine()}))


def test_whoever_lost_the_lease_may_not_write(store):
    with lease(store, "run", "old"):
        store.write_json(LEASE, leases._mine("run", "new").__dict__)
        with pytest.raises(LeaseLostError, match="run new"):
            check_held(store, "old")
    assert json.loads(store.fs.cat_file(store.path(LEASE)))["token"] == "new", "not ours to remove"


def test_of_many_at_once_one_gets_it(tmp_path):
    store, got = Store(str(tmp_path)), []

    def take(i):
        try:
            with lease(store, "run", str(i)):
                got.append(i)
                time.sleep(1)
        except TableError:
            pass

    threads = [threading.Thread(target=take, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_of_many_at_once_one_makes_the_file(store):
    made = []
    start = threading.Barrier(8)

    def make(i):
        start.wait()
        made.append(store.create("one", str(i).encode()))

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if "memory" not in store.root:  # which has no such put
        assert made.count(True) == 1
    assert not store.create("one", b"later")
