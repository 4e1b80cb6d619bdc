"""Seconds of video decoded per CPU-second into the pictures that clips need: ours and its peers.

Run by `make bench-decode`. Every measurement is a process of its own that decodes one file once; sides
take turns, and the median of the rounds counts. The last line is one JSON object:

    ratio   ours over the best peer, by case (exact, tolerant, sparse); the worst over the files
    limit   what decoding every frame costs over what ours costs, exact; above 1 is less than a full decode
    peers   source seconds per CPU-second of every side, by case and file
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import av

from pipeline.config import Config, load_config
from pipeline.media.probe import probe
from pipeline.records import Unit
from pipeline.sync.align import read_clips
from tests.benchmarks.footage import FPS, footage

GOP = 120
SECONDS = 32
FILES = {
    "h264_720p": {"codec": "libx264", "width": 1280, "height": 720},
    "h264_1080p": {"codec": "libx264", "width": 1920, "height": 1080},
    "hevc_720p": {"codec": "libx265", "width": 1280, "height": 720},
}
CASES = {
    "exact": [],
    "tolerant": [f"clips.max_frame_error_ms={1000 / FPS:.3f}"],
    "sparse": ["clips.frames_per_clip=4", f"clips.max_frame_error_ms={1000 * GOP / FPS / 2:.3f}"],
}
SIDES = ("ours", "pyav", "decord", "torchcodec", "decode_all", "ffmpeg")


def instants_s(config: Config, seconds: float) -> list[float]:
    """When a plain reader of the same clips looks."""
    step = config.clips.length_s / config.clips.frames_per_clip
    return [(k + 0.5) * step for k in range(int(seconds / step))]


def ours(path: str, config: Config) -> None:
    read_clips(Unit("u", "v", path, "1", 0.0, None), probe(path), config, 16_000)


def plain_pyav(path: str, config: Config) -> None:
    """As its documentation reads frames: decode on, convert what is wanted."""
    wanted = instants_s(config, SECONDS)
    pictures = []
    with av.open(path) as container:
        for frame in container.decode(video=0):
            if len(pictures) < len(wanted) and frame.time >= wanted[len(pictures)] - 0.5 / FPS:
                pictures.append(frame.to_ndarray(format="rgb24", width=456, height=256))


def plain_decord(path: str, config: Config) -> None:
    import decord

    reader = decord.VideoReader(path, width=456, height=256)
    times = reader.get_avg_fps()
    frames = [min(len(reader) - 1, int(t * times)) for t in instants_s(config, SECONDS)]
    reader.get_batch(frames).asnumpy()


def plain_torchcodec(path: str, config: Config) -> None:
    import torch
    from torchcodec.decoders import VideoDecoder

    frames = VideoDecoder(path).get_frames_played_at(instants_s(config, SECONDS)).data
    torch.nn.functional.interpolate(frames.float(), size=(256, 456), mode="bilinear", antialias=True)


def decode_all(path: str, _config: Config) -> None:
    """Every frame, one thread, nothing converted: what decoding alone costs."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for _ in container.decode(stream):
            pass


WORK = {
    "ours": ours,
    "pyav": plain_pyav,
    "decord": plain_decord,
    "torchcodec": plain_torchcodec,
    "decode_all": decode_all,
}


def cpu_s(side: str, path: Path, case: str) -> float | None:
    """CPU seconds of one process, its start taken off; None where the side is absent."""
    if side == "ffmpeg":
        if shutil.which("ffmpeg") is None:
            return None
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-f", "null", "-"]
    else:
        command = [sys.executable, "-m", "tests.benchmarks.decode", "--one", side, str(path), case]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    if side != "ffmpeg":
        return float(done.stdout.strip().splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one(side: str, path: str, case: str) -> None:
    """One measurement, in its own process: CPU seconds of the work without the imports."""
    config = load_config(overrides=CASES[case])
    if side == "decord":
        importlib.import_module("decord")
    if side == "torchcodec":
        importlib.import_module("torchcodec.decoders")
    before = resource.getrusage(resource.RUSAGE_SELF)
    WORK[side](path, config)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def peak_memory_mb(path: Path, starts_s: list[float]) -> float:
    """Peak of a process that decodes some units of a file."""
    code = (
        "import sys, resource\n"
        "from pipeline.config import load_config\n"
        "from pipeline.records import Unit\n"
        "from pipeline.understand import decode\n"
        "for s in map(float, sys.argv[2:]):\n"
        "    d = decode(Unit('u', 'v', sys.argv[1], '1', s, s + 60), load_config(), 16000)\n"
        "    assert d.failure is None, d.failure\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(path), *map(str, starts_s)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def loop(source: Path, target: Path, times: int) -> Path:
    """The same packets again and again, one after the other."""
    with av.open(str(target), "w") as out:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                length = int(SECONDS / video.time_base)
                for packet in container.demux(video):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    out.mux(packet)
                offset += length
    return target


def measure(folder: Path, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Source seconds per CPU-second by case, file and side."""
    speeds: dict[str, dict[str, dict[str, float]]] = {}
    paths = {
        name: footage(folder / f"{name}.mp4", seconds=SECONDS, gop=GOP, **options)
        for name, options in FILES.items()
    }
    for case in CASES:
        for name, path in paths.items():
            taken: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(rounds):
                for side in SIDES:
                    seconds = cpu_s(side, path, case)
                    if seconds:
                        taken[side].append(seconds)
            found = {s: round(SECONDS / statistics.median(t), 1) for s, t in taken.items() if t}
            speeds.setdefault(case, {})[name] = found
            shown = ", ".join(f"{side} {speed}" for side, speed in found.items())
            print(f"{case:<9}{name:<11} source seconds per CPU-second: {shown}", flush=True)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "FILE", "CASE"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    for side, needs in (("torchcodec", "torchcodec"), ("decord", "decord")):
        if importlib.util.find_spec(needs) is None:
            print(f"{side} is skipped: not installed")
    if shutil.which("ffmpeg") is None:
        print("ffmpeg -f null is skipped: no ffmpeg on the PATH; decode_all is the same work by PyAV")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds = measure(folder, arguments.rounds)
        short = loop(folder / "h264_720p.mp4", folder / "short.mp4", 4)
        long = loop(folder / "h264_720p.mp4", folder / "long.mp4", 225)
        memory = {
            "two_minutes": round(peak_memory_mb(short, [0, 60])),
            "two_hours": round(peak_memory_mb(long, [0, 60, 3600, 7080])),
        }
    peers = ("pyav", "decord", "torchcodec")
    ratio = {
        case: round(min(f["ours"] / max(f[p] for p in peers if p in f) for f in files.values()), 2)
        for case, files in speeds.items()
    }
    full = [f["ours"] / f["decode_all"] for f in speeds["exact"].values()]
    print(
        json.dumps(
            {"ratio": ratio, "limit": round(min(full), 2), "peers": speeds, "peak_memory_mb": memory}
        )
    )


if __name__ == "__main__":
    main()
