"""A whole run against the ways in which people write it by hand, and what of it is overhead.

    make bench-run

peers      the same clips, the same network (X3D-S) and one machine: a sequential script with pytorchvideo's
           `EncodedVideo`, and a Ray Data job of `flat_map` and `map_batches`; clips a second, start included
overhead   of a run of 500 clips with the embedded bundle: wall × cores, less the CPU of decoding and encoding,
           less start; where it goes, by process
memory     of 100 clips and of 1,000: each role's largest process, objects between stages, spilled bytes
scaling    the same work on one CPU and on two, against one and two bare processes that only decode

Real clips are copied as often as it takes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.bundles.spec import find_bundle
from pipeline.config import CONFIG_DIR
from tests.benchmarks.sampler import Taken, timed
from tests.conftest import SHARED_MEDIA
from tests.pipeline.bundles.families.published import randomised
from tests.pipeline.bundles.families.test_clip_networks import hub_model

WAYS = ("sequential", "ray_data", "reeltable")
CLIP_S = 4.0
_IMPORTS = {
    "decode": "import pipeline.understand",
    "encode": "from pipeline.bundles.model import Model; from pipeline.bundles.spec import find_bundle; "
    "from pipeline.config import load_config; Model(find_bundle('embedded'), load_config())",
}


def lake_of(folder: Path, n_clips: int) -> tuple[Path, int]:
    """Copies of the real clips, at least `n_clips` clips of them; and how many clips that is."""
    from pipeline.media.probe import probe

    files = sorted(SHARED_MEDIA.glob("clips/*.*"))
    lengths = {file: probe(str(file)).duration_s or 0.0 for file in files}
    folder.mkdir()
    n = k = 0
    while n < n_clips:
        file = files[k % len(files)]
        shutil.copy(file, folder / f"{k:04}-{file.name}")
        n += max(1, round(lengths[file] / CLIP_S + 0.4))
        k += 1
    return folder, n


def x3d_bundle(folder: Path) -> tuple[Path, Path]:
    """A bundle of X3D-S alone with random weights, which no table is read for; and its weights."""
    folder.mkdir()
    weights = folder / "X3D_S.pyth"
    torch.save({"model_state": randomised(hub_model("x3d_s", 400)).state_dict()}, weights)
    spec = yaml.safe_load((CONFIG_DIR / "bundles" / "kinetics-x3d.yaml").read_text())
    for key in ("audio", "sounds_file"):
        spec.pop(key)
    spec["spaces"].pop("audioset")
    spec["pictures"]["rate_hz"] = 3.25  # 13 pictures of a clip: one look, as the peers take
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    spec["video"]["weights"] = {"file": weights.name, "sha256": digest}
    (folder / "bundle.yaml").write_text(yaml.safe_dump(spec | {"name": "x3d-alone"}))
    return folder, weights


def run_command(lake: Path, out: Path, *settings: str) -> list[str]:
    more = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "jobs", "run", str(lake), "--out", str(out), *more]


def record_of(out: Path) -> dict[str, Any]:
    (file,) = (out / "_runs").glob("*.json")
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def against_peers(folder: Path, n_clips: int, n_rounds: int) -> dict[str, Any]:
    """Clips a second of each way, start and end of the process included."""
    lake, n = lake_of(folder / "peers-lake", n_clips)
    bundle, weights = x3d_bundle(folder / "bundle")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for round_ in range(n_rounds):
        for way in WAYS:
            out = folder / f"{way}-{round_}"
            command = [
                sys.executable, "-m", "tests.benchmarks.run_peers", way, str(lake), str(weights), str(out)
            ]  # fmt: skip
            if way == "reeltable":
                command = run_command(lake, out, f"bundle={bundle}", "sync.window_s=0")
            seconds[way].append(timed(command).wall_s)
            print(f"round {round_}: {way} {n / seconds[way][-1]:.2f} clips/s", flush=True)
    rates = {way: n / statistics.median(taken) for way, taken in seconds.items()}
    start_s = statistics.median(
        r["start_s"] + r["plan_s"]
        for r in (record_of(folder / f"reeltable-{k}") for k in range(n_rounds))
    )
    return {
        "n_clips": n,
        "clips_per_s": {way: round(rate, 2) for way, rate in rates.items()},
        "start_s": round(start_s, 1),
        "ratio": {way: round(rates["reeltable"] / rates[way], 2) for way in WAYS[:-1]},
    }


def cpu_s_of(code: str) -> float:
    """CPU seconds of a Python that does nothing else."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def overhead(folder: Path, n_clips: int) -> dict[str, Any]:
    """Where wall × cores of a run with the embedded bundle goes."""
    lake, n = lake_of(folder / "overhead-lake", n_clips)
    out = folder / "overhead"
    taken = timed(run_command(lake, out))
    record, cores = record_of(out), len(os.sched_getaffinity(0))
    imports = {role: cpu_s_of(code) for role, code in _IMPORTS.items()}
    work = {role: taken.cpu_s[role] - imports[role] for role in imports}
    start_s = record["plan_s"] + record["start_s"] + taken.wall_s - record["wall_s"]
    whole = (taken.wall_s - start_s) * cores
    # Of the time after the start alone: decoding begins before it ends, the encoder's imports may end after it.
    before = taken.cpu_s_at(start_s)
    late_imports = max(0.0, imports["encode"] - before.get("encode", 0.0))
    after = work["decode"] + imports["decode"] - before.get("decode", 0.0)
    after += taken.cpu_s["encode"] - max(before.get("encode", 0.0), imports["encode"])
    later = {role: s - before.get(role, 0.0) for role, s in taken.cpu_s.items()}
    idle_after_s = whole - sum(later.values())
    return {
        "n_clips": n,
        "wall_s": round(taken.wall_s, 1),
        "start_s": round(start_s, 1),
        "import_cpu_s": {role: round(s, 1) for role, s in imports.items()},
        "decode_cpu_s": round(work["decode"], 1),
        "encode_cpu_s": round(work["encode"], 1),
        "other_cpu_s": _others(taken.cpu_s),
        "looks_s": round(taken.looks_s, 1),  # of this measurement, among what is idle
        "idle_s": round(taken.wall_s * cores - sum(taken.cpu_s.values()), 1),
        "after_start": {"other_cpu_s": _others(later), "idle_s": round(idle_after_s, 1)},
        "overhead_share": round(1 - sum(work.values()) / whole, 3),
        "overhead_share_after_start": round(1 - after / (whole - late_imports), 3),
        "memory": memory(taken),
    }


def _others(cpu_s: dict[str, float]) -> dict[str, float]:
    """Of those that neither decode nor encode."""
    return {role: round(s, 1) for role, s in cpu_s.items() if role not in _IMPORTS}


def memory(taken: Taken) -> dict[str, Any]:
    return {
        "peak_mb": {role: round(mb) for role, mb in sorted(taken.peak_mb.items())},
        "objects_peak_mb": round(taken.shared_peak_mb),
        "spilled_mb": round(taken.spilled_mb),
    }


def flat_memory(folder: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Memory of runs of several sizes."""
    found = {}
    for n_clips in sizes:
        lake, n = lake_of(folder / f"memory-lake-{n_clips}", n_clips)
        found[str(n)] = memory(timed(run_command(lake, folder / f"memory-{n_clips}")))
        print(f"{n} clips: {found[str(n)]}", flush=True)
        shutil.rmtree(lake)
    return found


def scaling(folder: Path, n_clips: int) -> dict[str, Any]:
    """What a second CPU gives a run, and what it gives decoding alone."""
    lake, n = lake_of(folder / "scaling-lake", n_clips)
    run_s, bare_s = {}, {}
    files = [str(file) for file in sorted(lake.iterdir())]
    for k in (1, 2):
        out = folder / f"scaling-{k}"
        taken = timed(run_command(lake, out), cpus=set(sorted(os.sched_getaffinity(0))[:k]))
        record = record_of(out)
        run_s[k] = record["wall_s"] - record["plan_s"] - record["start_s"]
        began = time.perf_counter()
        bare = [
            subprocess.Popen([sys.executable, "-m", "tests.benchmarks.run", "--decode", *part])
            for part in _shared_out(files, k)
        ]
        assert not any(process.wait() for process in bare)
        bare_s[k] = time.perf_counter() - began
        print(
            f"{k} CPUs: run {run_s[k]:.1f} s (whole {taken.wall_s:.1f}), decode alone {bare_s[k]:.1f} s"
        )
    gains = {"run": run_s[1] / run_s[2], "decode": bare_s[1] / bare_s[2]}
    return {
        "n_clips": n,
        "gain": {name: round(gain, 2) for name, gain in gains.items()},
        "of_bare": round(gains["run"] / gains["decode"], 2),
    }


def _shared_out(files: list[str], k: int) -> list[list[str]]:
    """`k` shares of about as many bytes."""
    shares: list[list[str]] = [[] for _ in range(k)]
    sizes = [0] * k
    for file in sorted(files, key=os.path.getsize, reverse=True):
        least = sizes.index(min(sizes))
        shares[least].append(file)
        sizes[least] += os.path.getsize(file)
    return shares


def decode_alone(files: list[str]) -> None:
    """Everything that a run does to these files before it encodes them, in this process."""
    from pipeline.config import load_config
    from pipeline.records import Unit
    from pipeline.understand import decode

    spec = find_bundle("embedded")
    config = spec.fitted(load_config())
    for file in files:
        decode(Unit(file, file, file, "", 0.0, None), config, spec.sample_rate_hz)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=500, help="of the peers and of the overhead")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000], help="for memory")
    parser.add_argument("--parts", nargs="*", default=["peers", "overhead", "memory", "scaling"])
    parser.add_argument("--decode", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.decode is not None:
        decode_alone(given.decode)
        return
    parts = {
        "peers": lambda f: against_peers(f, given.clips, given.rounds),
        "overhead": lambda f: overhead(f, given.clips),
        "memory": lambda f: flat_memory(f, tuple(given.sizes)),
        "scaling": lambda f: scaling(f, max(1, given.clips // 4)),
    }
    found = {}
    for name in given.parts:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = parts[name](Path(folder))
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    told = {"ratio": found.get("peers", {}).get("ratio"), "peers": list(WAYS[:-1])}
    busy = 1 - found["overhead"]["overhead_share"] if "overhead" in found else None
    print(json.dumps(told | {"limit": busy} | found))


if __name__ == "__main__":
    main()
