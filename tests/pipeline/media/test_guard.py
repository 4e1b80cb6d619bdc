"""A decoder that hangs, dies or eats memory costs one call and no more."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
import pytest

from pipeline.media.guard import Guard, Limits, _give, _take
from pipeline.records import MediaError


def work(what, *arguments):
    """The test decoder: does to its process what the test asks for."""
    if what == "sleep":
        time.sleep(600)
    elif what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "die once" and not os.path.exists(arguments[0]):
        open(arguments[0], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(7)
    elif what == "eat":
        hoard = []
        while True:
            hoard.append(b"x" * (64 << 20))
    elif what == "refuse":
        raise MediaError("decode", "refused", "not this one")
    return (os.getpid(), *arguments), [b"x" * 1_000_000, b"x" * 2_000_000]


@pytest.fixture
def guard():
    guard = Guard("tests.pipeline.media.test_guard:work", Limits(deadline_s=3.0, memory_mb=600))
    yield guard
    guard.close()


def test_the_answer_and_its_buffer_come_back_and_the_process_is_used_again(guard):
    (first, *rest), payload = guard.call("work", 1, "two")
    assert rest == [1, "two"]
    assert bytes(payload) == b"x" * 3_000_000
    assert first != os.getpid()
    assert guard.call("work")[0][0] == first


@pytest.mark.parametrize(
    ("fault", "code"),
    [("sleep", "deadline"), ("die", "crashed"), ("exit", "crashed"), ("eat", "memory")],
)
def test_a_fault_is_a_failure_within_the_deadline_and_the_next_call_works(guard, fault, code):
    guard.call("work")
    started = time.monotonic()
    with pytest.raises(MediaError) as error:
        guard.call(fault)
    assert time.monotonic() - started < 3.0 + 2.0
    assert error.value.failure.code == code
    assert guard.call("work", "after")[0][1] == "after"


def test_a_process_that_was_killed_is_no_fault_of_the_file(guard, tmp_path):
    (_, marker), payload = guard.call("die once", str(tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert marker == str(tmp_path / "died")
    assert len(payload) == 3_000_000


def test_a_refusal_is_passed_on_and_keeps_the_process(guard):
    pid = guard.call("work")[0][0]
    with pytest.raises(MediaError, match="not this one"):
        guard.call("refuse")
    assert guard.call("work")[0][0] == pid


def test_a_buffer_outlives_its_process(guard):
    _, payload = guard.call("work")
    guard.close()
    assert bytes(payload[-3:]) == b"xxx"


def test_where_memory_without_a_name_is_refused_a_file_without_one_does(monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.media.guard.ctypes.CDLL", lambda _: object())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ours, theirs = socket.socketpair()
    ours, theirs = Connection(ours.detach()), Connection(theirs.detach())
    _give(theirs, "facts", [b"abc", b"", np.arange(3, dtype=np.uint8).data])
    answer, size = ours.recv()
    assert (answer, bytes(_take(ours, size))) == ("facts", b"abc\0\1\2")
    assert list(tmp_path.iterdir()) == []


def test_a_process_with_as_many_files_as_it_may_have_is_one_files_failure(guard):
    guard.call("work")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open, hard))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(MediaError, match="died twice"):
            guard.call("work")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)
    assert guard.call("work", "after")[0][1] == "after"


def test_no_child_outlives_its_guard(guard):
    pid = guard.call("work")[0][0]
    guard.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_is_replaced_after_so_many_files():
    guard = Guard("tests.pipeline.media.test_guard:work", Limits(3.0, 600, calls_per_process=2))
    try:
        pids = [guard.call("work")[0][0] for _ in range(5)]
    finally:
        guard.close()
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
