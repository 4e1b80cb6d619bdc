"""Measured accuracy of a bundle over labelled videos, each decoded under the same guard as in a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pipeline.bundles.spec import find_bundle
from pipeline.config import Config
from pipeline.evaluation import Accuracy, Answer, Example, accuracy, evaluate
from pipeline.media.guard import Guard, Limits
from pipeline.records import MediaError, Unit
from pipeline.sources import InputError, Listing
from pipeline.transport import unpack
from pipeline.understand import Decoded

_DECODE = "pipeline.understand:decode_packed"
_TOLD_EVERY = 20


def evaluate_manifest(
    listing: Listing,
    config: Config,
    n_temporal: int,
    n_spatial: int,
    tell: Callable[[str], None],
) -> tuple[Accuracy, list[Answer]]:
    """Accuracy over a manifest's videos, and each answer.

    Raises:
        InputError: a row without a label, or with a time that is no number.
        BundleError: the bundle cannot be used.
    """
    examples = [_example(source.uri, source.attributes) for source in listing.sources]
    spec = find_bundle(config.bundle)
    run = config.run
    guard = Guard(_DECODE, Limits(run.decode_deadline_s, run.decode_memory_mb))

    def decoded(unit: Unit, fitted: Config, rate_hz: int) -> Decoded:
        try:
            found, buffer = guard.call(unit, fitted, rate_hz)
        except MediaError as e:
            return Decoded(unit, failure=e.failure)
        batch = unpack(buffer) if buffer is not None else None
        return dataclasses.replace(found, batch=batch)

    answers = []
    try:
        for answer in evaluate(
            spec, config, examples, n_temporal=n_temporal, n_spatial=n_spatial, decode_unit=decoded
        ):
            answers.append(answer)
            if len(answers) % _TOLD_EVERY == 0:
                tell(f"{len(answers)}/{len(examples)} videos")
    finally:
        guard.close()
    return accuracy(answers, spec, n_temporal, n_spatial), answers


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
