"""The whole way on one page: a unit of a video in, rows of the tables out. Read this file first.

    decode     unit → Decoded      opens the file, places frames and samples on one clock, cuts clips
    encode     Decoded → rows      encoders, fusion, heads, for several units at once
    understand unit → rows         both, for a notebook

Neither raises for a bad input: what went wrong is a row of `failures`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.config import ClipConfig, Config
from pipeline.media.levels import sound_levels_db
from pipeline.media.probe import probe
from pipeline.records import (
    ClipBatch,
    ClipResult,
    Failure,
    MediaError,
    MediaInfo,
    SyncReport,
    Unit,
    short_hash,
)
from pipeline.sync.align import read_clips
from pipeline.tables.schema import UNITS, clips_schema
from pipeline.transport import pack

if TYPE_CHECKING:  # torch is for the encode side only
    from typing_extensions import Buffer

    from pipeline.bundles.model import Model


_UNSPACED = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")  # Chinese and Japanese
SAMPLE_RATE_HZ = 16_000  # of the sound where no model asks for another


@dataclass(frozen=True)
class Decoded:
    """A unit after decoding: clips, or why there are none."""

    unit: Unit
    batch: ClipBatch | None = None
    failure: Failure | None = None
    info: MediaInfo | None = None
    sync: SyncReport | None = None
    decode_s: float = 0.0


@dataclass(frozen=True)
class UnitRows:
    """A unit after all: its row of `_units` and its rows of `clips`."""

    unit: dict[str, Any]
    clips: pa.Table


@dataclass(frozen=True)
class Provenance:
    """What made a row."""

    bundle: str
    bundle_digest: str
    result_digest: str
    run_id: str


def decode(unit: Unit, config: Config, sample_rate_hz: int) -> Decoded:
    """Decode a unit into aligned clips; a file that cannot be used gives a failure."""
    started = time.perf_counter()
    info = None
    try:
        info = probe(unit.uri, config.audio.track, config.limits)
        batch, sync = read_clips(unit, info, config, sample_rate_hz)
        if unit.is_first and not (batch.has_video | batch.has_audio).any():
            what = "no picture or sound could be decoded; the streams are damaged"
            raise MediaError("decode", "undecodable", f"{unit.uri}: {what}")
        decoded = Decoded(unit, batch, None, info, sync)
    except MediaError as e:
        decoded = Decoded(unit, None, e.failure, info)
    except Exception as e:  # a decoder's surprise is this file's failure and no other's
        decoded = Decoded(unit, None, surprise("decode", unit.uri, e), info)
    return dataclasses.replace(decoded, decode_s=time.perf_counter() - started)


def decode_packed(
    unit: Unit, config: Config, sample_rate_hz: int
) -> tuple[Decoded, list[Buffer] | None]:
    """`decode` for the other side of a process border: the clips travel as one buffer, in pieces here."""
    decoded = decode(unit, config, sample_rate_hz)
    if decoded.batch is None:
        return decoded, None
    return dataclasses.replace(decoded, batch=None), pack(decoded.batch)


def examine(uri: str, config: Config) -> tuple[Decoded, None]:
    """Facts of a file and how its streams agree in its first unit, for a person who wonders."""
    clips = config.clips.model_copy(update={"mode": "stride"})  # where cuts are is another question
    config = config.model_copy(update={"clips": clips})
    unit = Unit("", "", uri, "", 0.0, clips.unit_s)
    return dataclasses.replace(decode(unit, config, SAMPLE_RATE_HZ), batch=None), None


def encode(decoded: Sequence[Decoded], model: Model, provenance: Provenance) -> list[UnitRows]:
    """What the model says of several units; each unit's rows carry its own id."""
    started = time.perf_counter()
    usable = [d for d in decoded if d.batch is not None]
    results, failures = _understood(usable, model)
    share_s = (time.perf_counter() - started) / max(1, len(usable))
    rows = []
    for d in decoded:
        unit_id = d.unit.unit_id
        failure = d.failure or failures.get(unit_id)
        clips = clips_schema(model.dim).empty_table()
        if failure is None and d.batch is not None:
            clips = clip_rows(d, results[unit_id], provenance, model)
        encode_s = share_s if d.batch is not None else 0.0
        rows.append(UnitRows(unit_row(d, failure, len(clips), encode_s, provenance), clips))
    return rows


def understand(unit: Unit, config: Config, model: Model, provenance: Provenance) -> UnitRows:
    """The whole way for one unit."""
    return encode([decode(unit, config, model.sample_rate_hz)], model, provenance)[0]


def _understood(
    usable: Sequence[Decoded], model: Model
) -> tuple[dict[str, list[ClipResult]], dict[str, Failure]]:
    """Results by unit id. Where the units together fail, each is tried alone, so that one cannot
    take the others along."""
    try:
        batches = [d.batch for d in usable if d.batch is not None]
        found = model.understand(batches)
        return {d.unit.unit_id: r for d, r in zip(usable, found, strict=True)}, {}
    except Exception as e:
        if len(usable) == 1:
            return {}, {usable[0].unit.unit_id: surprise("encode", usable[0].unit.uri, e)}
    results: dict[str, list[ClipResult]] = {}
    failures: dict[str, Failure] = {}
    for d in usable:
        result, failure = _understood([d], model)
        results |= result
        failures |= failure
    return results, failures


def surprise(stage: str, uri: str, error: Exception) -> Failure:
    """A failure for an exception that no code foresaw, with the place it came from."""
    if isinstance(error, MediaError):
        return error.failure
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{place.filename.rsplit('/', 1)[-1]}:{place.lineno}"
    return Failure(stage, "unexpected", f"{uri}: {type(error).__name__}: {error} (at {where})")


def clip_rows(
    decoded: Decoded,
    results: Sequence[ClipResult],
    provenance: Provenance,
    model: Model,
) -> pa.Table:
    """Rows of `clips` for one unit."""
    batch = decoded.batch
    assert batch is not None  # rows are made of what was decoded
    sync = decoded.sync or SyncReport()
    of_unit = {"sync_offset_ms": sync.offset_ms, "sync_confidence": sync.offset_confidence}
    rows = [
        _clip_row(decoded.unit, batch, i, result)
        | of_unit
        | {"clip_index": _clip_index(float(batch.start_s[i]), model.config.clips)}
        | dataclasses.asdict(provenance)
        for i, result in zip(range(len(batch)), results, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=clips_schema(model.dim))


def _clip_index(start_s: float, clips: ClipConfig) -> int:
    """Which stride it is; where clips begin at cuts, the millisecond: no unit counts another's clips."""
    return round(start_s / clips.stride_s) if clips.mode == "stride" else math.floor(start_s * 1000)


def _cuts_of(batch: ClipBatch, i: int) -> list[float] | None:
    """The cuts in a clip, [start, end); None where nobody looked or there is nothing to see."""
    if batch.cut_s is None or not batch.has_video[i]:
        return None
    return [] if np.isnan(batch.cut_s[i]) else [float(batch.cut_s[i])]


def _levels_of(batch: ClipBatch, i: int) -> list[float | None]:
    first, end = (int(n) for n in batch.audio_valid[i])
    length_s = float(batch.end_s[i] - batch.start_s[i])
    return sound_levels_db(batch.samples[i], (first, end), batch.sample_rate_hz, length_s)


def _clip_row(unit: Unit, batch: ClipBatch, i: int, result: ClipResult) -> dict[str, Any]:
    start_s = float(batch.start_s[i])
    has_audio, has_video = bool(batch.has_audio[i]), bool(batch.has_video[i])
    words = result.words
    return {
        "clip_id": short_hash(unit.unit_id, start_s),
        "video_id": unit.video_id,
        "unit_id": unit.unit_id,
        "uri": unit.uri,
        "start_s": start_s,
        "end_s": float(batch.end_s[i]),
        "start_pts": int(batch.start_pts[i]),
        "time_base": batch.time_base,
        "n_frames": int(batch.frame_valid[i].sum()),
        "frame_error_ms": _number(batch.frame_error_ms[i]),
        "is_padded": bool(batch.is_padded[i]),
        "status": "partial" if batch.is_damaged[i] else "ok",
        "cut_s": _cuts_of(batch, i),
        "has_video": has_video,
        "has_audio": has_audio,
        "audio_coverage": float(batch.audio_coverage[i]) if has_audio else None,
        "sound_level_db": _levels_of(batch, i) if has_audio else None,
        "av_skew_ms": _number(batch.av_skew_ms[i]),
        "labels": [dataclasses.asdict(label) for label in result.labels],
        "top_label": result.top.label if result.top else None,
        "top_score": result.top.score if result.top else None,
        "caption": result.caption,
        "caption_score": result.caption_score,
        "caption_problem": result.caption_problem,
        "transcript": None if words is None else joined([word.word for word in words]),
        "words": None if words is None else [dataclasses.asdict(word) for word in words],
        "embedding": None if result.embedding is None else result.embedding.tolist(),
        "video_weight": result.video_weight if has_video else None,
        "audio_weight": result.audio_weight if has_audio else None,
    }


def joined(words: Sequence[str]) -> str:
    """Words as one text, with spaces but between letters of scripts that have none."""
    text = ""
    for word in words:
        text += (
            word if not text or (_UNSPACED.match(word) and _UNSPACED.match(text[-1])) else f" {word}"
        )
    return text


def unit_row(
    decoded: Decoded,
    failure: Failure | None,
    n_clips: int,
    encode_s: float,
    provenance: Provenance,
) -> dict[str, Any]:
    """The unit's row of `_units`."""
    unit = decoded.unit
    state = "failed" if failure else "done" if n_clips else "empty"
    row: dict[str, Any] = dict.fromkeys(UNITS.names)
    row |= {
        "unit_id": unit.unit_id,
        "video_id": unit.video_id,
        "uri": unit.uri,
        "version": unit.version,
        "start_s": unit.start_s,
        "end_s": unit.end_s,
        "attempt": unit.attempt,
        "state": state,
        "status": _unit_status(decoded),
        "n_clips": n_clips,
        "size_bytes": unit.size_bytes,
        "attributes": json.dumps(unit.attributes, default=str),
        "planned_s": unit.planned_s,
        "decode_s": decoded.decode_s,
        "encode_s": encode_s,
        "bundle": provenance.bundle,
        "result_digest": provenance.result_digest,
        "run_id": provenance.run_id,
    }
    if failure:
        row |= dataclasses.asdict(failure)
    return row | media_facts(decoded.info, decoded.sync)


def _unit_status(decoded: Decoded) -> str | None:
    if decoded.batch is None:
        return None
    return "partial" if decoded.sync and decoded.sync.damaged_s else "ok"


def media_facts(info: MediaInfo | None, sync: SyncReport | None) -> dict[str, Any]:
    """Stream facts under their column names."""
    facts: dict[str, Any] = {}
    if info is not None:
        facts |= {"container": info.container, "duration_s": info.duration_s}
        if info.video:
            v = info.video
            facts |= {"video_codec": v.codec, "width": v.width, "height": v.height, "fps": v.fps}
            facts |= {"rotation_deg": v.rotation_deg, "is_mirrored": v.is_mirrored}
        if info.audio:
            a = info.audio
            facts |= {"audio_codec": a.codec, "audio_rate_hz": a.rate_hz, "audio_channels": a.channels}
    if sync is not None:
        facts |= {"is_vfr": sync.is_vfr, "gap_s": sync.gap_s, "n_decode_errors": sync.n_decode_errors}
        facts |= {"drift_ppm": sync.drift_ppm, "sync_offset_ms": sync.offset_ms}
        facts |= {"sync_confidence": sync.offset_confidence}
        facts["damaged_s"] = [{"start_s": a, "end_s": b} for a, b in sync.damaged_s]
        facts |= {"video_start_s": sync.video_start_s, "audio_start_s": sync.audio_start_s}
        if sync.video_start_s is not None and sync.audio_start_s is not None:
            facts["av_skew_ms"] = (sync.audio_start_s - sync.video_start_s) * 1000
    return facts


def _number(value: np.floating[Any]) -> float | None:
    """NaN is how arrays say that there is nothing to say; tables say null."""
    return None if np.isnan(value) else float(value)
