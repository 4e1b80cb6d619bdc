"""Films whose cuts are known: shots of drifting clouds, or pieces of real clips, cut hard or dissolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS = 192, 108, 25
Shot = np.ndarray  # (T, H, W, 3) uint8
# Parts of single shots in ../shared/media/clips, in seconds.
PIECES = (
    ("actnet_v_GGSY1Qvo990.mp4", 0, 17.5),
    ("cosmos_test_video_30s.mp4", 3.9, 6.0),
    ("cosmos_test_video_30s.mp4", 22.0, 23.7),
    ("grid_bbaf2n.mpg", 0, 2.9),
    ("k400_flipping_a_pancake.mkv", 0, 9.8),
    ("k400_mmaction_demo.mp4", 0, 7.8),
    ("msvd_WTf5EgVY5uU_124_128.avi", 0, 3.9),
    ("skv_bigbuckbunny.mp4", 0, 5.2),
    ("skv_bikes.mp4", 3.1, 5.3),
    ("skv_bikes.mp4", 5.6, 7.3),
    ("skv_bikes.mp4", 7.6, 9.5),
    ("skv_carphone_pristine.mp4", 0, 3.9),
    ("ucf101_v_Biking_g05_c02.avi", 0, 4.2),
    ("vggsound_3qesirWAGt4_dog.mp4", 0, 9.5),
)


@dataclass(frozen=True)
class Join:
    """Where two shots meet: pictures [first, end) show both; of a hard cut both are the new shot's first."""

    first: int
    end: int

    def distance(self, picture: int) -> int:
        """Pictures by which a cut before `picture` lies outside."""
        return max(0, self.first - picture, picture - self.end)


def clouds(rng: np.random.Generator, n: int) -> Shot:
    """A camera that pans over clouds of colour, with something round that crosses the picture."""
    coarse = rng.uniform(0, 255, (5, 9, 3)).astype(np.float32)
    big = np.kron(coarse, np.ones((40, 40, 1), np.float32))
    for axis in (0, 1):
        for _ in range(2):  # twice a box is nearly a bell
            sums = np.cumsum(big, axis=axis)
            big = (np.roll(sums, -20, axis) - np.roll(sums, 20, axis)) / 40
    big = big[40:-40, 40:-40]
    grain = rng.normal(0, 6, (*big.shape[:2], 1)).astype(np.float32)
    big = np.clip(big + grain, 0, 255)
    pan, start = rng.uniform(-0.4, 0.4), rng.uniform(10, big.shape[1] - WIDTH - 10)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centre, speed, colour = rng.uniform(0, WIDTH), rng.uniform(-2, 2), rng.uniform(0, 255, 3)
    shot = np.empty((n, HEIGHT, WIDTH, 3), np.uint8)
    for i in range(n):
        left = int(np.clip(start + pan * i, 0, big.shape[1] - WIDTH))
        picture = big[:HEIGHT, left : left + WIDTH].copy()
        picture[(y - HEIGHT / 2) ** 2 + (x - centre - speed * i) ** 2 < 22**2] = colour
        shot[i] = picture
    return shot


def pieces(clips: Path) -> list[Shot]:
    """Single shots of real footage."""
    shots = []
    for name, start_s, end_s in PIECES:
        with av.open(str(clips / name)) as container:
            stream = container.streams.video[0]
            until = takewhile(lambda f, end_s=end_s: f.time < end_s, container.decode(stream))
            frames = (f for f in until if f.time >= start_s)
            shots.append(np.stack([f.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray() for f in frames]))
    return shots


def shots_of_pieces(rng: np.random.Generator, clips: Path, count: int) -> list[Shot]:
    """`count` shots of 1.6 to 3.2 s, none beside another of the same piece; some are mirrored."""
    every, shots, last = pieces(clips), [], -1
    for _ in range(count):
        which = int(rng.choice([i for i in range(len(every)) if i != last]))
        piece, last = every[which], which
        n = min(len(piece), int(rng.integers(40, 80)))
        first = int(rng.integers(0, len(piece) - n + 1))
        shot = piece[first : first + n]
        shots.append(shot[:, :, ::-1] if rng.random() < 0.5 else shot)
    return shots


def join(shots: Sequence[Shot], dissolves: Sequence[int]) -> tuple[Shot, list[Join]]:
    """One film; `dissolves`: over how many pictures each two meet, 0 for a hard cut."""
    film, joins = [*shots[0]], []
    for shot, n in zip(shots[1:], dissolves, strict=True):
        joins.append(Join(len(film) - n, len(film)))
        for k in range(n):
            share = (k + 1) / (n + 1)
            mixed = film[len(film) - n + k] * (1 - share) + shot[k] * share
            film[len(film) - n + k] = np.round(mixed).astype(np.uint8)
        film += [*shot[n:]]
    return np.stack(film), joins


def write_film(
    path: Path,
    film: Shot,
    *,
    times: Sequence[float] | None = None,
    rotate: int = 0,
    gop: int = 50,
    sound_s: float = 0.0,
) -> Path:
    """H.264; `times`: the start of each picture in seconds, default `FPS` a second; `sound_s`: of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = film.shape[2], film.shape[1], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        stream.options = {"preset": "veryfast", "g": str(gop)}
        if rotate:
            stream.set_display_rotation(rotate)
        sound = container.add_stream("aac", rate=16_000, layout="mono") if sound_s else None
        for i, picture in enumerate(film):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = round((times[i] if times is not None else i / FPS) * 90_000)
            frame.time_base = Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for first in range(0, round(sound_s * 16_000), 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts, silence.time_base = 16_000, first, Fraction(1, 16_000)
            container.mux(sound.encode(silence))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def matched(found: Sequence[int], joins: Sequence[Join], within: int = 2) -> int:
    """How many joins have a cut of their own within some pictures."""
    left, n = list(found), 0
    for one in joins:
        near = [f for f in left if one.distance(f) <= within]
        if near:
            left.remove(near[0])
            n += 1
    return n
