"""Decoding in a process that can be killed: a file that hangs or crashes a decoder costs one row.

The child is started anew (never forked), decodes one unit at a time, hands the clips back in memory that both
see and is used again; after a fault it is replaced. It dies with its parent, and what it held is gone with it.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import recv_handle, send_handle
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipeline.records import MediaError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_POLL_S = 0.1
_PDEATHSIG = 1  # prctl(2)
_CLOEXEC = 1  # memfd_create(2)


@dataclass(frozen=True)
class Limits:
    """What a decode process may take."""

    deadline_s: float
    memory_mb: int
    calls_per_process: int = 500  # decoders leak: after so many files the child is replaced


class Guard:
    """Runs `module:function` calls in a child process, one at a time.

    The function takes picklable arguments and returns `(facts, payload)`: a small picklable value and
    pieces that make up a buffer when laid end to end, or None.
    """

    def __init__(self, function: str, limits: Limits) -> None:
        self.function, self.limits = function, limits
        self._n_calls = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: multiprocessing.connection.Connection | None = None

    def call(self, *arguments: Any) -> tuple[Any, mmap.mmap | None]:
        """The function's answer; its buffer is read-only, and free when nothing refers to it any more.

        A process that dies may have been killed by somebody who wanted its memory, or by what files
        before this one left in it: a second one, new, is asked before the file is blamed.

        Raises:
            MediaError: stage decode, with the code `deadline`, `memory` or `crashed`; or what the
                function itself raised as such.
        """
        if self._n_calls >= self.limits.calls_per_process:
            self.close()
        try:
            answer, payload = self._ask(arguments)
        except (EOFError, OSError):
            self.close()
            try:
                answer, payload = self._ask(arguments)
            except (EOFError, OSError) as e:
                cause = _cause(self.close())
                raise MediaError("decode", "crashed", f"the decoder died twice ({cause})") from e
        if isinstance(answer, BaseException):
            raise answer
        return answer, payload

    def _ask(self, arguments: tuple[Any, ...]) -> tuple[Any, mmap.mmap | None]:
        pipe = self._start()
        self._n_calls += 1
        pipe.send(arguments)
        self._wait(pipe)
        answer, size = pipe.recv()
        return answer, _take(pipe, size) if size else None

    def _wait(self, pipe: multiprocessing.connection.Connection) -> None:
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
            pipe.send((e, 0))
            continue
        if payload:
            _give(pipe, answer, payload)
        else:
            pipe.send((answer, 0))
        del answer, payload, arguments  # the next one may need the room


def _resolve(function: str) -> Callable[..., tuple[Any, Sequence[Buffer] | None]]:
    module, _, name = function.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)


def _give(pipe: multiprocessing.connection.Connection, answer: Any, pieces: Sequence[Buffer]) -> None:
    """Write the pieces into memory that has no name, and only then say so and lend it."""
    with _nameless() as shared:
        for piece in pieces:
            shared.write(piece)
        shared.flush()
        pipe.send((answer, shared.tell()))
        send_handle(pipe, shared.fileno(), os.getppid())


def _nameless() -> BinaryIO:
    """Memory as a file: by the C library, since not every build of Python passes that call on; a file without a
    name where the system refuses it."""
    make = getattr(ctypes.CDLL(None), "memfd_create", None)
    fd = make(b"reeltable", _CLOEXEC) if make else -1
    return open(fd, "wb") if fd >= 0 else cast(BinaryIO, tempfile.TemporaryFile())


def _take(pipe: multiprocessing.connection.Connection, size: int) -> mmap.mmap:
    try:
        fd = recv_handle(pipe)
    except RuntimeError as e:  # this process has as many files open as it may
        raise OSError(str(e)) from e
    try:
        return mmap.mmap(fd, size, prot=mmap.PROT_READ)
    finally:
        os.close(fd)


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
