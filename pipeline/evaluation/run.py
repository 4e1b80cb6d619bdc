"""Measures the experiments of a config, one after the other; figures that still hold are read, not measured."""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from pipeline.bundles.spec import BundleSpec, find_bundle
from pipeline.config import CONFIG_DIR, ConfigError
from pipeline.evaluation.config import EvalConfig
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.records import Outcome, Report

_LIBRARY = Path(__file__).resolve().parents[1]


def measure(
    config: EvalConfig,
    tell: Callable[[str], None],
    only: Sequence[str] = (),
    *,
    fresh: bool = False,
) -> Report:
    """Outcomes of all experiments in the config's order. One that fails takes no other along.

    Args:
        only: names of the experiments to measure; of the others only what the work folder still holds is told.
        fresh: measure again what was measured before.

    Raises:
        ConfigError: `only` names no experiment.
        BundleError: the bundle is unknown or cannot be used.
    """
    unknown = [name for name in only if name not in config.experiments]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: expected some of {', '.join(config.experiments)}")
    spec = find_bundle(config.bundle)
    spec.check_files()
    outcomes = []
    for name, experiment in config.experiments.items():
        is_asked = not only or name in only
        found = _outcome(config, spec, name, experiment, tell, is_asked, fresh and is_asked)
        outcomes.append(found)
    return Report(bundle=spec.name, bundle_digest=spec.digest(), outcomes=tuple(outcomes))


def _outcome(
    config: EvalConfig,
    spec: BundleSpec,
    name: str,
    experiment: Experiment,
    tell: Callable[[str], None],
    is_asked: bool,
    fresh: bool,
) -> Outcome:
    kind = str(getattr(experiment, "kind", ""))
    paths = [config.shared / f for s in experiment.reads for f in config.sources[s].files]
    absent = [path for path in paths if not path.exists()]
    if absent:
        tell(f"{name}: not measured: {absent[0]} is absent")
        return Outcome(name=name, kind=kind, state="not measured", why=f"{absent[0]} is absent")
    digest = _digest(experiment, spec, paths)
    file = config.work / "figures" / f"{name}-{digest}.json"
    kept = None if fresh else _read(file)
    if kept is not None:
        tell(f"{name}: measured before")
        return kept
    if not is_asked:
        return Outcome(name=name, kind=kind, state="not asked", why="not asked for")
    lab = Lab(spec, config.shared, config.work, lambda line: tell(f"{name}: {line}"))
    tell(f"{name}: begun")
    began = time.perf_counter()
    try:
        measured = experiment.measure(lab)
    except Exception as e:
        tell(f"{name}: failed\n{traceback.format_exc()}")
        why = f"{type(e).__name__}: {e}"
        return Outcome(name=name, kind=kind, state="failed", why=why, digest=digest)
    took_s = time.perf_counter() - began
    tell(f"{name}: measured in {took_s:.0f} s")
    outcome = Outcome(
        name=name, kind=kind, state="measured", digest=digest, took_s=took_s, measured=measured
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(outcome.model_dump_json(indent=1), encoding="utf-8")
    os.replace(part, file)
    return outcome


def _read(file: Path) -> Outcome | None:
    """What was kept; None where nothing is, or what an older version wrote."""
    try:
        return Outcome.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def _digest(experiment: Experiment, spec: BundleSpec, paths: Sequence[Path]) -> str:
    """Of the settings, the bundle, this library with its recipes and weights, and the listing of the data."""
    files = [f for path in paths for f in ([path] if path.is_file() else sorted(path.rglob("*")))]
    listing = [(f.as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    told = [experiment.model_dump(mode="json"), spec.digest(), library_digest(), listing]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()


@cache
def library_digest() -> str:
    """Of everything that measures or is measured: sources, recipes and shipped weights. A figure does not
    outlive the code that it came from."""
    state = hashlib.blake2b(digest_size=8)
    for folder in (_LIBRARY, CONFIG_DIR / "train"):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                state.update(file.relative_to(folder).as_posix().encode())
                state.update(file.read_bytes())
    return state.hexdigest()
