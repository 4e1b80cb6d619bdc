"""Stills and excerpts on demand: made once, in guarded processes, kept in a folder of bounded size."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import AudioConfig, LimitConfig
from pipeline.media.guard import Guard, Limits
from pipeline.media.preview import Previewer
from pipeline.records import Failure, MediaError, MediaInfo, short_hash

T = TypeVar("T")
MOST_BYTES = 256 * 2**20
_AGAIN_AFTER_S = 60.0  # it may have been the network's fault, or a busy moment's
_MOST_FACTS = 10_000  # videos whose headers, and clips whose refusals, are remembered
_STILL_PX = 216  # of the short side: sharp on a page's cards
_STILL_LIMITS = Limits(deadline_s=20.0, memory_mb=2048)
_EXCERPT_LIMITS = Limits(deadline_s=60.0, memory_mb=2048)
_PROBE_LIMITS = Limits(deadline_s=20.0, memory_mb=1024)


class Workshop:
    """Makes what a browser is shown of a video; every method may be called from any thread.

    Stills, excerpts and headers each have a process of their own, so that none waits for another kind.

    Raises (every method):
        MediaError: the file cannot be read, or has nothing there; for a minute it is not tried again.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reeltable-browse-")
        self._kept = Kept(Path(self._folder.name), most_bytes)
        self._refused = _Remembered[tuple[float, Failure]](_MOST_FACTS)
        self._facts = _Remembered[MediaInfo](_MOST_FACTS)
        self._stills = _Bench("stills", lambda: Previewer(_STILL_LIMITS))
        self._excerpts = _Bench("excerpts", lambda: Previewer(_EXCERPT_LIMITS))
        self._probes = _Bench(
            "probes", lambda: Guard("pipeline.media.probe:probe_guarded", _PROBE_LIMITS)
        )

    def still(self, clip_id: str, uri: str, at_s: float) -> bytes:
        """A JPEG of the clip's picture at that second."""
        return self._made("still", clip_id, self._stills, lambda p: p.still(uri, at_s, _STILL_PX))

    def excerpt(self, clip_id: str, uri: str, start_s: float, end_s: float) -> bytes:
        """A small MP4 of the clip."""
        return self._made("excerpt", clip_id, self._excerpts, lambda p: p.excerpt(uri, start_s, end_s))

    def facts(self, video_id: str, uri: str) -> MediaInfo:
        """What the file's headers say."""
        track, limits = AudioConfig().track, LimitConfig()

        def probe(guard: Any) -> MediaInfo:
            if (known := self._facts.get(video_id)) is not None:
                return known
            info: MediaInfo
            info, _ = guard.call(uri, track, limits)
            self._facts.put(video_id, info)
            return info

        return self._tried(f"facts-{video_id}", lambda: self._probes.do(probe))

    def close(self) -> None:
        """Remove what was kept; processes end with this one."""
        self._folder.cleanup()

    def _made(self, kind: str, clip_id: str, bench: _Bench, make: Callable[[Any], bytes]) -> bytes:
        name = short_hash(kind, clip_id)

        def once(tool: Any) -> bytes:
            # Asked for twice at once it is made once: who comes second finds it here.
            known = self._kept.get(name)
            if known is None:
                known = make(tool)
                self._kept.put(name, known)
            return known

        return self._kept.get(name) or self._tried(name, lambda: bench.do(once))

    def _tried(self, name: str, work: Callable[[], T]) -> T:
        at_s, refusal = self._refused.get(name, (0.0, None))
        if refusal is not None and time.monotonic() - at_s < _AGAIN_AFTER_S:
            raise MediaError(refusal.stage, refusal.code, refusal.message)
        try:
            return work()
        except MediaError as e:
            self._refused.put(name, (time.monotonic(), e.failure))
            raise


class Kept:
    """Files of a folder, together never more than so many bytes; what was not asked for longest goes first."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
            return (self._folder / name).read_bytes()

    def put(self, name: str, content: bytes) -> None:
        with self._lock:
            if len(content) > self._most_bytes:
                return
            self._sizes.pop(name, None)
            while sum(self._sizes.values()) + len(content) > self._most_bytes:
                oldest, _ = self._sizes.popitem(last=False)
                (self._folder / oldest).unlink()
            (self._folder / name).write_bytes(content)
            self._sizes[name] = len(content)


class _Remembered(OrderedDict[str, T]):
    """So many values, the newest."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._lock = most, threading.Lock()

    def put(self, name: str, value: T) -> None:
        with self._lock:
            self[name] = value
            while len(self) > self._most:
                self.popitem(last=False)


class _Bench:
    """One tool on one thread, which serves one after the other.

    A guard's process dies with the thread that started it, so that this cannot be a pool's. A daemon: who ends
    the server does not wait for an excerpt that nobody will see.
    """

    def __init__(self, name: str, make_tool: Callable[[], Any]) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[Any], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, args=(make_tool,), name=name, daemon=True).start()

    def do(self, work: Callable[[Any], T]) -> T:
        future: Future[T] = Future()
        self._queue.put((future, work))
        return future.result()

    def _serve(self, make_tool: Callable[[], Any]) -> None:
        tool = make_tool()
        while True:
            future, work = self._queue.get()
            try:
                future.set_result(work(tool))
            except BaseException as e:  # told to whoever asked
                future.set_exception(e)
            del future, work  # not to be held, with all that they hold, until the next
