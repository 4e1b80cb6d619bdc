"""Decoding in a process that can be killed: a file that hangs or crashes a decoder costs one row.

The child is started anew (never forked), decodes one unit at a time, hands the clips back through
shared memory and is used again; after a fault it is replaced. It dies with its parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from pipeline.records import MediaError

_POLL_S = 0.1
_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Limits:
    """What a decode process may take."""

    deadline_s: float
    memory_mb: int
    calls_per_process: int = 500  # decoders leak: after so many files the child is replaced


class Guard:
    """Runs `module:function` calls in a child process, one at a time.

    The function takes picklable arguments and returns `(facts, payload)`: a small picklable value and
    a buffer or None.
    """

    def __init__(self, function: str, limits: Limits) -> None:
        self.function, self.limits = function, limits
        self._n_calls = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: multiprocessing.connection.Connection | None = None

    def call(self, *arguments: Any) -> tuple[Any, bytes | None]:
        """The function's answer.

        A process that dies may have been killed by somebody who wanted its memory, or by what files
        before this one left in it: a second one, new, is asked before the file is blamed.

        Raises:
            MediaError: stage decode, with the code `deadline`, `memory` or `crashed`; or what the
                function itself raised as such.
        """
        if self._n_calls >= self.limits.calls_per_process:
            self.close()
        try:
            answer, shared, size = self._ask(arguments)
        except (EOFError, OSError):
            self.close()
            try:
                answer, shared, size = self._ask(arguments)
            except (EOFError, OSError) as e:
                cause = _cause(self.close())
                raise MediaError("decode", "crashed", f"the decoder died twice ({cause})") from e
        if isinstance(answer, BaseException):
            raise answer
        return answer, _take(shared, size) if shared else None

    def _ask(self, arguments: tuple[Any, ...]) -> Any:
        pipe = self._start()
        self._n_calls += 1
        pipe.send(arguments)
        return self._wait(pipe)

    def _wait(self, pipe: multiprocessing.connection.Connection) -> Any:
        started = time.monotonic()
        while not pipe.poll(_POLL_S):
            if time.monotonic() - started > self.limits.deadline_s:
                self.close()
                limit = f"{self.limits.deadline_s:g} s (run.decode_deadline_s)"
                raise MediaError("decode", "deadline", f"decoding took longer than {limit}")
            if self._child is not None and _resident_mb(self._child.pid) > self.limits.memory_mb:
                self.close()
                limit = f"{self.limits.memory_mb} MB (run.decode_memory_mb)"
                raise MediaError("decode", "memory", f"decoding took more memory than {limit}")
        return pipe.recv()

    def _start(self) -> multiprocessing.connection.Connection:
        if self._pipe is not None and self._child is not None and self._child.poll() is None:
            return self._pipe
        self.close()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _CHILD, str(theirs.fileno()), self.function]
        path = os.pathsep.join([p for p in sys.path if p])
        # One process has one core: many threads of many decoders only get into each other's way.
        env = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": path}
        self._child = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        self._pipe = multiprocessing.connection.Connection(ours.detach())
        return self._pipe

    def close(self) -> int | None:
        """End the child; its exit code, negative for a signal, None where there was none."""
        self._n_calls = 0
        pipe, child = self._pipe, self._child
        self._pipe = self._child = None
        if pipe is not None:
            pipe.close()
        if child is None:
            return None
        try:
            return child.wait(timeout=_POLL_S)  # one that died by itself tells why
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
        finally:
            _discard(child.pid)


# A terminal's Ctrl-C reaches the child too: its parent decides what that means, and ends it.
_CHILD = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from pipeline.media.guard import serve; serve(int(sys.argv[1]), sys.argv[2])"
)


def serve(fd: int, function: str) -> None:
    """The child's life: answer calls until the parent is gone."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    work = _resolve(function)
    pipe = multiprocessing.connection.Connection(fd)
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer, payload = work(*arguments)
        except MediaError as e:
            pipe.send((e, None, 0))
            continue
        pipe.send((answer, *_give(payload)))


def _resolve(function: str) -> Callable[..., tuple[Any, bytes | None]]:
    module, _, name = function.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)


def _give(payload: bytes | None) -> tuple[str | None, int]:
    if not payload:
        return None, 0
    shared = SharedMemory(_block_name(os.getpid()), create=True, size=len(payload))
    assert shared.buf is not None
    shared.buf[: len(payload)] = payload
    shared.close()
    _forget(shared)
    return shared.name, len(payload)


def _take(name: str, size: int) -> bytes:
    shared = SharedMemory(name=name)
    assert shared.buf is not None
    try:
        return bytes(shared.buf[:size])
    finally:
        shared.close()
        shared.unlink()


def _block_name(pid: int) -> str:
    """A child hands over one block at a time, under a name that its parent can guess."""
    return f"reeltable-{pid}"


def _discard(pid: int) -> None:
    """Give back a block that a child left behind when it died."""
    try:
        shared = SharedMemory(_block_name(pid))
    except FileNotFoundError:
        return
    shared.close()
    shared.unlink()


def _forget(shared: SharedMemory) -> None:
    """Leave the block to the parent: the child's own clean-up must not remove it."""
    from multiprocessing import resource_tracker

    resource_tracker.unregister(f"/{shared.name.lstrip('/')}", "shared_memory")


def _resident_mb(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError, ValueError):
        return 0.0


def _cause(code: int | None) -> str:
    if code is None:
        return "no exit code"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
