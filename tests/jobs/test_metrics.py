"""What Prometheus reads of a real run, and the dashboard over it."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from jobs.cli import app
from jobs.metrics import METRICS, PREFIX, RunMetrics
from jobs.record import Done
from tests.media_factory import flash_and_click
from tests.ray_head import Head

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "configs" / "cluster" / "grafana.json"
NAME = re.compile(rf"{PREFIX}(reeltable_\w+)")
# A unit is 2 clips of 12 pictures of 256 × 341 pixels: the store holds 12 of them, and they are 32.
OBJECT_STORE_MB = 80  # the least that Ray takes
SETTINGS = ["--set", "clips.unit_s=8", "--set", "clips.frames_per_clip=12"]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """The record of a run on a head of its own, and what that head's exporter says after it."""
    folder = tmp_path_factory.mktemp("metrics")
    lake, out = folder / "lake", folder / "t"
    lake.mkdir()
    for k in range(4):
        flash_and_click(lake / f"v{k}.mp4", seconds=60)
    (lake / "bad.mp4").write_bytes(b"no video")
    head = Head(object_store_mb=OBJECT_STORE_MB)
    try:
        run = ["submit", "run", str(lake), "--out", str(out), *SETTINGS]
        done = CliRunner().invoke(app, run, env=head.env)
        assert done.exit_code == 3, done.stderr
        (file,) = (out / "_runs").glob("*.json")
        return json.loads(file.read_text()), _scrape(head.metrics_url)
    finally:
        head.stop()


def _scrape(url):
    """Samples by name, as (tags, value), when the last of the run have come."""
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        found = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name].append((sample.labels, sample.value))
        if f"{PREFIX}reeltable_clips_total" in found or time.monotonic() > deadline:
            return found
        time.sleep(1)


def total(samples, name, **tags):
    found = samples[f"{PREFIX}{name}"]
    return sum(value for labels, value in found if tags.items() <= labels.items())


def test_what_is_scraped_agrees_with_the_runs_record(scraped):
    record, samples = scraped
    assert total(samples, "reeltable_units_total", state="done") == record["n_done"] == 32
    assert total(samples, "reeltable_units_total", state="failed", code="not_media") == 1
    assert total(samples, "reeltable_clips_total") == record["n_clips"]
    pictures = record["n_clips"] * 12 * 256 * 341 * 3
    # The rest is sound, and small pictures to see motion by.
    assert pictures < total(samples, "reeltable_decoded_bytes_total") < 1.4 * pictures
    assert total(samples, "reeltable_video_seconds_total") == pytest.approx(record["video_s"], rel=0.01)
    for stage, seconds in (("decoded", "decode_s"), ("encoded", "encode_s"), ("committed", "commit_s")):
        assert total(samples, "reeltable_stage_units_total", stage=stage) == record["n_units"]
        busy = total(samples, "reeltable_stage_seconds_total", stage=stage)
        assert busy == pytest.approx(record[seconds])
    assert total(samples, "reeltable_encode_cpu_seconds_total") == pytest.approx(record["encode_cpu_s"])
    # Flash and click are at the same instant: every unit that tells says so.
    assert total(samples, "reeltable_sync_offset_seconds_count") > 0
    assert total(samples, "reeltable_sync_offset_seconds_bucket", le="0.04") == total(
        samples, "reeltable_sync_offset_seconds_count"
    )


def test_a_run_spills_nothing_where_the_object_store_is_small(scraped):
    _, samples = scraped
    requests = samples["ray_spill_manager_request_total"]
    assert {labels["Type"] for labels, _ in requests} >= {"Spilled", "Restored"}
    assert sum(value for _, value in requests) == 0


def test_metrics_without_an_exporter_fail_nobody():
    metrics = RunMetrics("b", "r", 3)
    metrics.made = {}
    metrics.add(Done("committed", 2, 1.0, n_clips=5, offsets_s=(0.01,)), {"decoded": 2})


def test_the_dashboard_asks_for_metrics_that_there_are_with_tags_that_they_have():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set()
    for query in asked:
        for name, selector in re.findall(rf"{PREFIX}(reeltable_\w+)(\{{[^}}]*\}})?", query):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert base in METRICS, query
            assert (base != name) == (METRICS[base].kind == "histogram"), query
            tags = set(re.findall(r"(\w+)[=!]~?=?\"", selector))
            tags |= {t for by in re.findall(r"by \((\w+)\)", query) for t in [by] if t != "le"}
            assert tags <= set(METRICS[base].tags), query
            names.add(base)
        for counter in re.findall(rf"{PREFIX}(reeltable_\w+_total)", query):
            assert re.search(rf"(rate|max_over_time)\({PREFIX}{counter}", query), (
                "a counter is read as a rate, or by what it was before: increase() lacks its first value"
            )
    assert names == set(METRICS), "each metric is shown somewhere"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w+)", json.dumps(dashboard["panels"]))) <= variables


def test_names_follow_the_conventions_of_prometheus():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"reeltable_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        if metric.kind == "histogram":
            assert name.endswith("_seconds")
        assert metric.description.endswith(".")
