"""Measured accuracy: of a bundle over labelled videos, each decoded under the same guard as in a run; of the
kinds of fusion over talking heads."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bundles.spec import find_bundle
from pipeline.config import Config, ConfigError, read_as
from pipeline.evaluation.labelled import Accuracy, Answer, Examiner, Example, accuracy, measured
from pipeline.evaluation.records import Measured, Outcome, Report
from pipeline.media.guard import Guard, Limits
from pipeline.records import MediaError, Unit
from pipeline.sources import InputError, canonical_uri, manifest_rows, near_manifest
from pipeline.transport import unpack
from pipeline.understand import Decoded

if TYPE_CHECKING:  # training is for its own command only
    from pipeline.training.fusion import Comparison

_DECODE = "pipeline.understand:decode_packed"
_PROBE = "pipeline.media.probe:probe_guarded"
_TOLD_EVERY = 20


def evaluate_manifest(
    manifest: str,
    config: Config,
    n_temporal: int,
    n_spatial: int,
    tell: Callable[[str], None],
    space: str | None = None,
) -> tuple[Accuracy, Measured | None, list[Answer]]:
    """Accuracy over a manifest's rows, all figures where a row could be read, and each answer.

    Raises:
        InputError: no manifest, a row without a label, or with a time that is no number.
        BundleError: the bundle cannot be used, or has no such vocabulary or class.
    """
    examples = _read(manifest)
    spec = find_bundle(config.bundle)
    examiner = Examiner(
        spec,
        config,
        examples,
        n_temporal=n_temporal,
        n_spatial=n_spatial,
        space=space,
        device=_device(config),
    )
    limits = Limits(config.run.decode_deadline_s, config.run.decode_memory_mb)
    decoder, prober = Guard(_DECODE, limits), Guard(_PROBE, limits)

    def decoded(unit: Unit, fitted: Config, rate_hz: int) -> Decoded:
        try:
            found, buffer = decoder.call(unit, fitted, rate_hz)
        except MediaError as e:
            return Decoded(unit, failure=e.failure)
        batch = unpack(buffer) if buffer is not None else None
        return dataclasses.replace(found, batch=batch)

    answers = []
    try:
        for answer in examiner.answers(examples, decoded, lambda *asked: prober.call(*asked)[0]):
            answers.append(answer)
            if len(answers) % _TOLD_EVERY == 0:
                tell(f"{len(answers)}/{len(examples)} videos")
    finally:
        decoder.close()
        prober.close()
    found = accuracy(answers, examiner)
    return found, measured(answers, examiner) if found.n else None, answers


def write_accuracy(found: Accuracy, figures: Measured, manifest: str, folder: Path) -> list[Path]:
    """A card, JSON and plots of what a manifest came to; what was written."""
    from pipeline.evaluation.card import write

    name = Path(manifest).stem
    outcome = Outcome(name=name, kind="manifest", state="measured", measured=figures)
    report = Report(bundle=found.bundle, bundle_digest=found.bundle_digest, outcomes=(outcome,))
    template = (
        f"# {found.bundle} on {name}\n\nBundle {found.bundle} ({found.bundle_digest}), vocabulary "
        f"{found.space}, {found.views} views.\n\n<!-- measured: {name} -->\n"
    )
    return write(template, report, {}, folder, name)


def evaluate_config(
    file: str,
    overrides: Sequence[str],
    tell: Callable[[str], None],
    *,
    only: Sequence[str] = (),
    fresh: bool = False,
    out: Path | None = None,
) -> tuple[Report, list[Path]]:
    """Measure the experiments of a config; what was found, and the files of the card.

    No card is written where an experiment was not asked for and is not known from before, or where nothing at
    all could be measured: it would say less than the one that is there.

    Raises:
        ConfigError: the config or its card cannot be used, or a package for plots is missing.
        BundleError: the bundle cannot be used.
    """
    from pipeline.evaluation.card import check_names, write
    from pipeline.evaluation.config import load_eval_config
    from pipeline.evaluation.run import measure

    config = load_eval_config(file, overrides)
    prose = Path(file).parent / config.card
    if not prose.is_file():
        raise ConfigError(f"{file}: card: {prose} is not there; expected Markdown")
    template = prose.read_text(encoding="utf-8")
    check_names(template, config.experiments)
    report = measure(config, tell, only, fresh=fresh)
    left = [outcome.name for outcome in report.outcomes if outcome.state == "not asked"]
    if left:
        tell(f"no card is written: not measured yet: {', '.join(left)}")
        return report, []
    if not any(outcome.measured for outcome in report.outcomes):
        return report, []
    return report, write(template, report, config.sources, out or config.out, Path(file).stem)


def evaluate_fusion(
    fusion: str, data: str, work: str, tell: Callable[[str], None]
) -> tuple[Comparison, str]:
    """Train and measure kinds of fusion and each sense alone; the comparison, and its tables.

    Args:
        fusion: `all`, or some of late, early, bottleneck with commas between.
        work: keeps what was read and trained.

    Raises:
        InputError: an unknown kind of fusion, or data that are not there.
    """
    from pipeline.fusion import FUSIONS
    from pipeline.training.fusion import RECIPE, REFERENCES, Recipe, compare, tables

    kinds = tuple(FUSIONS) if fusion == "all" else tuple(fusion.split(","))
    unknown = sorted(set(kinds) - set(FUSIONS))
    if unknown:
        raise InputError(f"--fusion {fusion}: expected all, or some of {', '.join(FUSIONS)}")
    recipe = read_as(Recipe, RECIPE).model_copy(update={"models": (*kinds, *REFERENCES)})
    try:
        found = compare(Path(data), Path(work), recipe, tell)
    except FileNotFoundError as e:
        raise InputError(str(e)) from e
    return found, tables(found)


def _device(config: Config) -> str:
    import torch

    wants = config.run.device
    return "cuda" if wants == "cuda" or (wants == "auto" and torch.cuda.is_available()) else "cpu"


def _read(manifest: str) -> list[Example]:
    """Every row, also where several are spans of one video."""
    suffix = posixpath.splitext(manifest)[1].lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"{manifest}: expected a .csv or .parquet with columns uri and label")
    beside = posixpath.dirname(manifest)
    examples = []
    for row in manifest_rows(manifest, suffix):
        uri = str(row.pop("uri")).strip()
        if "://" not in uri or uri.startswith("file://"):
            uri = canonical_uri(near_manifest(uri.removeprefix("file://"), beside))
        examples.append(_example(uri, row))
    return examples


def _example(uri: str, columns: dict[str, Any]) -> Example:
    if not columns.get("label"):
        raise InputError(f"{uri}: expected a label in the manifest's column label")
    try:
        end_s = columns.get("end_s")
        return Example(
            uri,
            str(columns["label"]),
            float(columns.get("start_s") or 0.0),
            None if end_s in (None, "") else float(end_s),
        )
    except (TypeError, ValueError) as e:
        raise InputError(f"{uri}: start_s and end_s must be seconds: {e}") from e
