"""The main job with other bundles than the embedded one, on a real, local Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import av
import numpy as np

from pipeline.tables import query, read
from tests.media_factory import flash_and_click
from tests.pipeline.bundles.test_bundles import clip_clap


def reeltable(*arguments, **environment):
    command = [sys.executable, "-m", "jobs", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )


def grey_video(path, grey, seconds=4):
    """A film of one grey level."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        picture = np.full((240, 320, 3), grey, np.uint8)
        for _ in range(seconds * 10):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_an_endpoints_captions_come_into_the_table_each_on_its_own_clip(endpoint, tmp_path):
    lake, out = tmp_path / "lake", tmp_path / "out"
    lake.mkdir()
    for i in range(1, 6):
        grey_video(lake / f"{i}.mp4", 20 * i)
    endpoint.faults = {3: [(404, {})] * 9}
    endpoint.delays_s = {1: 0.6, 2: 0.3}
    arguments = [
        "run",
        lake,
        "--out",
        out,
        "--set",
        "bundle=vlm-endpoint",
        "--set",
        "labels.actions=[a]",
    ]
    refused = reeltable(*arguments)
    assert refused.returncode == 2
    assert "expected captions.url=http://host:port/v1 and captions.model=NAME" in refused.stderr
    assert not out.exists()
    arguments += [
        "--set",
        f"captions.url={endpoint.url}",
        "--set",
        "clips.length_s=2",
        "--set",
        "clips.stride_s=2",
    ]
    done = reeltable(*arguments, "--set", "captions.model=tiny", REELTABLE_VLM_KEY="secret")
    assert done.returncode == 0, done.stderr
    rows = query(str(out), "select uri, caption, caption_problem, caption_score from clips").to_pylist()
    assert len(rows) == 10
    for row in rows:
        i = int(row["uri"].rsplit("/", 1)[1].removesuffix(".mp4"))
        if i == 3:
            assert row["caption"] is None
            assert row["caption_problem"].startswith("endpoint: HTTP 404")
        else:
            assert row["caption"] == f"Grey {i}."
            assert row["caption_problem"] is None
    assert {token for *_, token in endpoint.requests} == {"Bearer secret"}
    assert "secret" not in "".join(p.read_text() for p in (out / "_runs").glob("*.json"))
    other = reeltable("plan", *arguments[1:], "--set", "captions.model=other", "--json")
    assert len(json.loads(other.stdout)["todo"]) == 5  # another model, other results


def test_embeddings_of_another_length_are_kept_out_of_a_table(tmp_path):
    bundle = tmp_path / "mine"
    bundle.mkdir()
    clip_clap(bundle)
    flash_and_click(tmp_path / "a.mp4", seconds=5)
    out = tmp_path / "out"
    arguments = ["run", tmp_path / "a.mp4", "--out", out, "--set", "labels.actions=[run, fall]"]
    done = reeltable(*arguments, "--set", f"bundle={bundle}")
    assert done.returncode == 0, done.stderr
    clips = read(str(out), "clips", to="arrow")
    assert clips.schema.field("embedding").type.list_size == 32
    assert clips["embedding"].null_count == 0
    assert set(clips["bundle"].to_pylist()) == {"clip-clap"}
    other = reeltable(*arguments)
    assert other.returncode == 1
    assert "its embeddings have 32 numbers, those of bundle embedded 384" in other.stderr
    assert len(read(str(out), "clips")) == 2
