"""Damaged files under the guard: every one is accounted for, none outlives its deadline.

Run by `make soak-media`; a slice of it runs in the tests. Files are synthesised in every container, then
bent: bits flipped, bytes overwritten, cut short, spliced from two, sizes and counts in headers blown up.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import load_config
from pipeline.media.guard import Guard, Limits
from pipeline.records import MediaError, Unit
from pipeline.transport import unpack
from tests.media_factory import flash_and_click

DEADLINE_S = 20.0
FORMATS = {
    "a.mp4": {},
    "b.mp4": {"vcodec": "libx265"},
    "f.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mov": {"acodec": "pcm_s16le"},
    "a.mkv": {"acodec": "libopus"},
    "v.webm": {"vcodec": "libvpx-vp9", "acodec": "libopus"},
    "a.ts": {},
    "m.mpg": {"vcodec": "mpeg2video", "acodec": "mp2"},
    "m.avi": {"vcodec": "mpeg4", "acodec": "libmp3lame"},
    "a.flv": {"rate_hz": 44_100},
    "a.3gp": {},
}


@dataclass(frozen=True)
class Outcome:
    """How a run over mutants ended."""

    counts: dict[str, int]  # ok, partial, or the failure's code
    n_files: int
    longest_s: float
    peak_child_mb: float
    seconds: float


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """One kind of damage, chosen by `rng`."""
    data = bytearray(content)
    kind = rng.randrange(6)
    if kind == 0:  # single bits
        for _ in range(rng.randint(1, 40)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # a stretch of noise
        at = rng.randrange(len(data))
        data[at : at + rng.randint(1, 2000)] = rng.randbytes(min(2000, len(data) - at))
    elif kind == 2:  # cut short
        data = data[: rng.randrange(len(data))]
    elif kind == 3:  # one file's head on another's body
        at = rng.randrange(min(len(data), len(other)))
        data = data[:at] + other[at:]
    elif kind == 4:  # counts and sizes in the header blown up
        head = min(len(data) - 4, 4000)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(head) if rng.random() < 0.5 else len(data) - 4 - rng.randrange(head)
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"])
    else:  # a piece left out
        at = rng.randrange(len(data))
        del data[at : at + rng.randint(1, 3000)]
    return bytes(data)


def mutants(folder: Path, n: int, seed: int) -> Iterator[Path]:
    """Damaged files one by one; each replaces the one before it."""
    rng = random.Random(seed)
    sources = {}
    for name, options in FORMATS.items():
        sources[name] = flash_and_click(folder / name, seconds=2.0, **options).read_bytes()
    names = list(sources)
    for i in range(n):
        name = names[i % len(names)]
        path = folder / f"mutant{Path(name).suffix}"
        path.write_bytes(mutate(sources[name], sources[rng.choice(names)], rng))
        yield path


def soak(folder: Path, n: int, seed: int = 0, report_every: int = 0) -> Outcome:
    """Decode `n` damaged files under one guard.

    Raises:
        AssertionError: a file outlived its deadline by more than 2 s, or gave neither clips nor a failure.
    """
    config = load_config()
    guard = Guard("pipeline.understand:decode_packed", Limits(DEADLINE_S, 1500))
    counts: Counter[str] = Counter()
    started, longest = time.monotonic(), 0.0
    try:
        for i, path in enumerate(mutants(folder, n, seed)):
            began = time.monotonic()
            counts[_end_of(guard, path, config)] += 1
            took = time.monotonic() - began
            longest = max(longest, took)
            assert took < DEADLINE_S + 2, f"{path}: {took:.1f} s"
            if report_every and i % report_every == report_every - 1:
                print(f"{i + 1} files, {dict(counts)}, longest {longest:.1f} s", flush=True)
    finally:
        guard.close()
    assert sum(counts.values()) == n
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Outcome(
        dict(counts), n, round(longest, 2), round(peak), round(time.monotonic() - started, 1)
    )


def _end_of(guard: Guard, path: Path, config) -> str:
    unit = Unit("u", "v", str(path), "1", 0.0, None)
    try:
        decoded, buffer = guard.call(unit, config, 16_000)
    except MediaError as e:
        return e.failure.code
    if decoded.failure is not None:
        assert str(path) in decoded.failure.message
        return decoded.failure.code
    batch = unpack(buffer)
    assert len(batch) > 0
    return "partial" if decoded.sync.damaged_s else "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = soak(Path(folder), arguments.files, arguments.seed, report_every=500)
    print(json.dumps(outcome.__dict__))


if __name__ == "__main__":
    main()
