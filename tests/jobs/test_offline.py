"""Captions in batches behind the encoders: every answer on its own clip, every unit whole."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import offline
from jobs.sink import CLIPS_COLUMN, with_clips
from pipeline.bundles.families import load_part
from pipeline.bundles.spec import find_bundle
from pipeline.config import ConfigError, load_config
from pipeline.records import ClipBatch
from pipeline.tables.schema import UNITS, clips_schema


def encoded(units):
    """Units as the encoders leave them: `units` is a list of lists of what is asked about each clip."""
    rows, tables = [], []
    for u, requests in enumerate(units):
        rows.append(dict.fromkeys(UNITS.names) | {"unit_id": f"u{u}", "state": "done"})
        clips = [
            dict.fromkeys(clips_schema(4).names)
            | {"clip_id": f"u{u}c{c}", "labels": [], "caption_problem": "not asked"}
            for c in range(len(requests))
        ]
        tables.append(pa.Table.from_pylist(clips, schema=clips_schema(4)))
    table = with_clips(rows, tables)
    return table.append_column(offline.REQUESTS, pa.array(units, pa.list_(pa.string())))


def clips_of(table):
    """clip_id → (caption, problem), over all units."""
    found = {}
    for buffer in table.column(CLIPS_COLUMN):
        clips = pa.ipc.open_stream(buffer.as_buffer()).read_all()
        for row in clips.to_pylist():
            found[row["clip_id"]] = (row["caption"], row["caption_problem"])
    return found


def answers(rows):
    """Each row answered with what it asked, as the engine's postprocessing leaves it."""
    kept = rows.drop_columns(["asked"])
    return kept.append_column("said", rows.column("asked")).to_pylist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(0, 99)), max_size=4), min_size=1, max_size=5),
    st.integers(0, 1000),
)
def test_units_come_together_whole_in_whatever_order_answers_come(units, seed):
    units = [
        [None if r is None else f"clip {u}.{c} {r}" for c, r in enumerate(unit)]
        for u, unit in enumerate(units)
    ]
    before = encoded(units)
    rows = answers(offline.asked(before))
    random.Random(seed).shuffle(rows)
    together = offline.Together()
    out = [together(pa.Table.from_pylist(rows[i : i + 3])) for i in range(0, len(rows), 3)]
    out = [table for table in out if len(table)]
    after = pa.concat_tables(out)
    assert sorted(after.column("unit_id").to_pylist()) == [f"u{u}" for u in range(len(units))]
    assert after.schema == before.drop_columns([offline.REQUESTS]).schema
    found = clips_of(after)
    for u, unit in enumerate(units):
        for c, request in enumerate(unit):
            expected = (None, "not asked") if request is None else (request, None)
            assert found[f"u{u}c{c}"] == expected
    assert not together.waiting


def test_an_answer_that_fails_is_a_null_with_its_reason():
    rows = answers(offline.asked(encoded([["a", "b"]])))
    rows[1] |= {"said": None, "__inference_error__": "ValueError: too long\nfor the model"}
    rows[0] |= {"said": "  ", "__inference_error__": ""}
    found = clips_of(offline.Together()(pa.Table.from_pylist(rows)))
    assert found["u0c0"] == (None, "vllm: malformed answer: no text")
    assert found["u0c1"] == (None, "vllm: ValueError: too long for the model")


def test_a_unit_with_an_answer_missing_does_not_leave():
    rows = answers(offline.asked(encoded([["a", "b"], ["c"]])))
    out = offline.Together()(pa.Table.from_pylist(rows[1:]))
    assert out.column("unit_id").to_pylist() == ["u1"]


@pytest.fixture
def captioner():
    part = find_bundle("vlm-offline").captioner(load_config(None, ["captions.model=any"]))
    return load_part(part, find_bundle("vlm-offline").directory)


def test_the_whole_way_through_ray_data_llm_with_a_server_in_the_engines_place(endpoint, captioner):
    import ray
    from ray.data.llm import HttpRequestProcessorConfig

    greys = [[20, 100, 60], [], [140], [180, 220]]
    units = []
    for unit in greys:
        frames = np.stack(
            [np.full((4, 32, 32, 3), g, np.uint8) for g in unit] or [np.zeros((4, 32, 32, 3))]
        )
        batch = ClipBatch.__new__(ClipBatch)
        object.__setattr__(batch, "frames", frames)
        object.__setattr__(batch, "frame_valid", np.ones(frames.shape[:2], bool))
        units.append([json.dumps(r) for r in captioner.requests(batch)] if unit else [])
    endpoint.delays_s = {1: 0.3}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        table = encoded(units)
        data = ray.data.from_arrow([table.slice(i, 1) for i in range(len(table))])
        config = HttpRequestProcessorConfig(
            url=f"{endpoint.url}/chat/completions", batch_size=2, qps=50
        )
        out = offline._through(data, config, captioner)
        found = clips_of(pa.concat_tables(ray.get(out.to_arrow_refs())))
    finally:
        ray.shutdown()
    said = {
        f"u{u}c{c}": (f"Grey {round(g / 20)}.", None)
        for u, unit in enumerate(greys)
        for c, g in enumerate(unit)
    }
    assert found == said


def test_the_engine_is_told_what_the_bundle_and_the_config_say(captioner):
    part = find_bundle("vlm-offline").captions
    config = offline.engine(captioner, part)
    assert config.model_source == "any"
    assert config.should_continue_on_error
    assert config.engine_kwargs["limit_mm_per_prompt"] == {"image": 4}


def test_the_engine_lives_in_an_environment_of_its_own_where_it_is_not_installed(captioner):
    config = offline.engine(captioner, find_bundle("vlm-offline").captions)
    assert config.runtime_env == {"pip": ["vllm==0.29.0"]}


def test_a_run_without_a_model_or_a_gpu_for_it_is_refused(tmp_path, video_file):
    from jobs.run import Options, run
    from pipeline.sources import list_sources

    listing = list_sources([str(video_file)])
    with pytest.raises(ConfigError, match=r"captions\.model=NAME"):
        run(
            listing,
            str(tmp_path / "out"),
            load_config(None, ["bundle=vlm-offline"]),
            Options("2026-01-01"),
        )
    assert not (tmp_path / "out").exists()
    named = load_config(None, ["bundle=vlm-offline", "captions.model=any", "run.device=cpu"])
    with pytest.raises(ConfigError, match="take 1 GPUs, Ray finds 0"):
        run(listing, str(tmp_path / "out"), named, Options("2026-01-01"))
