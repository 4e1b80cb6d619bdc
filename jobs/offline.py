"""Captions in vLLM's own batches, by `ray.data.llm`: a stage between the encoders and the tables.

    unit ─asked→ a row for each clip ─engine→ answered rows ─together→ unit, whole again

A unit leaves whole or not at all: one whose answers do not all come is not committed, and the next run takes
it.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.sink import CLIPS_COLUMN
from pipeline.bundles.spec import PartSpec

if TYPE_CHECKING:  # torch is for workers that encode
    from pipeline.bundles.families.offline import OfflineCaptioner

REQUESTS = "requests"  # a column beside the unit's: what is asked about each clip, JSON; null: nothing
KIND = "vllm"
_PACKAGE = (
    "vllm==0.29.0"  # what this Ray is made for; it pins another torch than ours, so it lives apart
)
_NOTHING = [
    {"type": "text", "text": "."}
]  # a unit with nothing to ask still travels through the engine
_UNIT, _PLACE, _N, _ASKED, _WHOLE = "of_unit", "place", "n_asked", "asked", "whole"
_ASKED_SCHEMA = pa.schema(
    [
        (_UNIT, pa.string()),
        (_PLACE, pa.int64()),  # of the clip in its unit; −1: nothing was asked
        (_N, pa.int64()),  # rows of this unit
        (_ASKED, pa.string()),
        (_WHOLE, pa.large_binary()),  # the unit's row, in the first of its rows alone
    ]
)


def n_gpus(part: PartSpec) -> int:
    """GPUs that the engines of `part` take."""
    return int(part.options.get("engines", 1)) * int(part.options.get("gpus_per_engine", 1))


def with_captions(encoded: Any, captioner: OfflineCaptioner, part: PartSpec) -> Any:
    """Encoded units (a Ray data set with `REQUESTS`) with the captions of `part`'s engine."""
    return _through(encoded, engine(captioner, part), captioner)


def engine(captioner: OfflineCaptioner, part: PartSpec) -> Any:
    """What `ray.data.llm` is told about the engine."""
    from ray.data.llm import vLLMEngineProcessorConfig

    options = part.options
    is_here = importlib.util.find_spec("vllm") is not None
    return vLLMEngineProcessorConfig(
        model_source=captioner.model,
        batch_size=int(options.get("clips_per_batch", 64)),
        concurrency=int(options.get("engines", 1)),
        should_continue_on_error=True,  # a clip that cannot be captioned costs nobody else's caption
        prepare_multimodal_stage=True,
        tokenize_stage=False,  # the engine's own: pictures and text are tokenised together
        detokenize_stage=False,
        runtime_env=None if is_here else {"pip": [_PACKAGE]},
        engine_kwargs={
            "max_model_len": int(options.get("max_model_len", 4096)),
            "tensor_parallel_size": int(options.get("gpus_per_engine", 1)),
            "limit_mm_per_prompt": {"image": captioner.sampling.n_frames},
        },
    )


def _through(encoded: Any, config: Any, captioner: OfflineCaptioner) -> Any:
    """Units through a processor of `ray.data.llm`, whichever it is, and together again."""
    import ray
    from ray.data.llm import build_processor

    ask = build_processor(config, preprocess=_Question(captioner), postprocess=_answered)
    answered = ask(encoded.map_batches(asked, batch_format="pyarrow", zero_copy_batch=True))
    return answered.map_batches(
        Together,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),  # the one place where a unit's rows meet
        num_cpus=0.1,
    )


def asked(rows: pa.Table) -> pa.Table:
    """A row for each clip that something is asked about; one for a unit without such a clip."""
    out: list[dict[str, Any]] = []
    units = rows.drop_columns([REQUESTS])
    for i, unit_id in enumerate(rows.column("unit_id").to_pylist()):
        requests = rows.column(REQUESTS)[i].as_py() or []
        places = [place for place, text in enumerate(requests) if text is not None] or [-1]
        for k, place in enumerate(places):
            text = requests[place] if place >= 0 else json.dumps(_NOTHING)
            whole = _packed(units.slice(i, 1)) if k == 0 else None
            values = (unit_id, place, len(places), text, whole)
            out.append(dict(zip(_ASKED_SCHEMA.names, values, strict=True)))
    return pa.Table.from_pylist(out, schema=_ASKED_SCHEMA)


@dataclass(frozen=True)
class _Question:
    """A row as the engine, or a server, takes it."""

    captioner: OfflineCaptioner

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": json.loads(row[_ASKED])}]
        most = self.captioner.most_tokens if row[_PLACE] >= 0 else 1
        sampling = {"temperature": 0.0, "max_tokens": most}
        payload = {"model": self.captioner.model, "messages": messages, **sampling}
        return {"messages": messages, "sampling_params": sampling, "payload": payload}


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    """The answer beside what it is the answer to; the engine's own columns end here."""
    said = row.get("generated_text")
    if said is None:
        choices = (row.get("http_response") or {}).get("choices") or [{}]
        said = (choices[0].get("message") or {}).get("content")
    return {name: row[name] for name in (_UNIT, _PLACE, _N, _WHOLE)} | {"said": said}


@dataclass
class _Waiting:
    """A unit some of whose answers have come."""

    whole: bytes | None = None
    captions: dict[int, tuple[str | None, str | None]] = field(default_factory=dict)


class Together:
    """Puts units together again from answered rows, in whatever order these come."""

    def __init__(self) -> None:
        self.waiting: dict[str, _Waiting] = {}

    def __call__(self, rows: pa.Table) -> pa.Table:
        done: list[pa.Table] = []
        for row in rows.to_pylist():
            unit = self.waiting.setdefault(row[_UNIT], _Waiting())
            unit.whole = unit.whole if row[_WHOLE] is None else row[_WHOLE]
            unit.captions[row[_PLACE]] = _caption(row.get("said"), row.get("__inference_error__"))
            if len(unit.captions) == row[_N] and unit.whole is not None:
                done.append(_captioned(_unpacked(unit.whole), unit.captions))
                del self.waiting[row[_UNIT]]
        return pa.concat_tables(done) if done else pa.table({})


def _caption(said: object, error: str | None) -> tuple[str | None, str | None]:
    """The sentence, or why there is none."""
    from pipeline.bundles.families.chat import sentence, short

    if error:
        return None, f"{KIND}: {short(error)}"
    if not isinstance(said, str) or not said.strip():
        return None, f"{KIND}: malformed answer: no text"
    return sentence(said), None


def _captioned(unit: pa.Table, captions: dict[int, tuple[str | None, str | None]]) -> pa.Table:
    """The unit's row with `captions`, by place, in its rows of `clips`."""
    at = unit.schema.get_field_index(CLIPS_COLUMN)
    clips = pa.ipc.open_stream(unit.column(at)[0].as_buffer()).read_all()
    for name, which in (("caption", 0), ("caption_problem", 1)):
        values = clips.column(name).to_pylist()
        for place, caption in captions.items():
            if place >= 0:
                values[place] = caption[which]
        column = clips.schema.get_field_index(name)
        clips = clips.set_column(column, clips.schema.field(column), pa.array(values, pa.string()))
    buffer = pa.array([_packed(clips)], pa.large_binary())
    return unit.set_column(at, unit.schema.field(at), buffer)


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(buffer: bytes) -> pa.Table:
    return pa.ipc.open_stream(buffer).read_all()
