"""What a catalogue is told of a run, over HTTP, by the client of OpenLineage itself."""

from __future__ import annotations

import json
import os
import threading

import pytest

from jobs import lineage
from jobs.lineage import dataset_name, is_configured, lineage_of
from jobs.record import Origin, Progress, RunReport
from jobs.run import Options
from tests.http_server import LoopbackServer

pytest.importorskip("openlineage.client", reason="pip install 'reeltable[lineage]'")
INPUTS = ("s3://lake/dt={date}/", "/videos/*.mp4", *(f"/v/{k}.mp4" for k in range(500)))
OPTIONS = Options("2026-01-31", origin=Origin(INPUTS, "nightly-1"))


class Catalogue(LoopbackServer):
    """Keeps the events that it is sent."""

    def __init__(self):
        super().__init__()
        self.events, self.keys, self.status = [], [], 201
        self.go_on = threading.Event()
        self.go_on.set()

    def answer(self, request):
        size = int(request.headers["Content-Length"])
        self.events.append(json.loads(request.rfile.read(size)))
        self.keys.append(request.headers.get("Authorization"))
        self.go_on.wait(20)
        request.send_response(self.status)
        request.send_header("Content-Length", "0")
        request.end_headers()


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No setting but the test's own; the client adds some of its own to the environment."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("OPENLINEAGE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def catalogue(monkeypatch):
    catalogue = Catalogue()
    monkeypatch.setenv("OPENLINEAGE_URL", catalogue.url)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "night")
    yield catalogue
    catalogue.close()


def report(**more):
    zero = dict.fromkeys(RunReport.__dataclass_fields__, 0)
    return RunReport(
        **(zero | {"bundle": "embedded", "result_digest": "d", "n_clips": 5, "n_failed": 1} | more)
    )


def run(*what, out="s3://tables/main"):
    """A run that is told of `what` in turn; the warnings."""
    warnings = []
    (observer,) = lineage_of(out, OPTIONS, warnings.append)
    for told in what:
        if isinstance(told, Progress):
            observer.progress(told)
        elif isinstance(told, RunReport):
            observer.ended(told)
        else:
            observer.failed(told)
    return warnings


def begun(run_id="20260131T000000Z-abcdef"):
    return [Progress("planning", run_id=run_id), Progress("running", 3, run_id=run_id)]


def test_a_run_is_told_by_its_start_and_its_end_with_what_it_reads_and_writes(catalogue, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "sEcReT")
    assert run(*begun(), report()) == []
    start, end = catalogue.events
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"]
    assert start["job"] == end["job"]
    assert (end["job"]["namespace"], end["job"]["name"]) == ("night", "reeltable:s3://tables/main")
    inputs = [(d["namespace"], d["name"]) for d in start["inputs"]]
    assert inputs[:3] == [("s3://lake", "dt=2026-01-31"), ("file", "/videos"), ("file", "/v/0.mp4")]
    assert len(inputs) == 100, "bounded, whatever a run is given"
    outputs = {d["name"]: d for d in end["outputs"]}
    assert list(outputs) == [f"main/{t}" for t in ("clips", "segments", "videos", "failures")]
    clips = outputs["main/clips"]
    assert clips["namespace"] == "s3://tables"
    assert clips["outputFacets"]["outputStatistics"]["rowCount"] == 5
    types = {f["name"]: f["type"] for f in clips["facets"]["schema"]["fields"]}
    assert (types["caption"], types["embedding"]) == ("string", "list<float>")
    facets = end["run"]["facets"]
    assert facets["nominalTime"]["nominalStartTime"] == "2026-01-31T00:00:00+00:00"
    tags = {tag["key"]: tag["value"] for tag in facets["tags"]["tags"]}
    assert tags["run_id"] == "20260131T000000Z-abcdef"
    assert (tags["job_id"], tags["bundle"], tags["n_failed"]) == ("nightly-1", "embedded", "1")
    assert catalogue.keys == ["Bearer sEcReT"] * 2
    assert "sEcReT" not in json.dumps(catalogue.events)


def test_a_failure_is_told_with_its_reason_and_the_next_attempt_is_another_run(catalogue):
    error = RuntimeError("https://me:sEcReT@host/x: no space left")
    assert run(*begun("a"), error, *begun("b"), report()) == []
    states = [event["eventType"] for event in catalogue.events]
    assert states == ["START", "FAIL", "START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in catalogue.events}) == 2
    said = catalogue.events[1]["run"]["facets"]["errorMessage"]["message"]
    assert said == "https://host/x: no space left"


def test_an_attempt_that_lost_its_workers_does_not_run_for_ever(catalogue):
    assert run(*begun("a"), *begun("b"), report()) == []
    states = [(event["eventType"], event["run"]["runId"]) for event in catalogue.events]
    a, b = states[0][1], states[2][1]
    assert states == [("START", a), ("FAIL", a), ("START", b), ("COMPLETE", b)]
    said = catalogue.events[1]["run"]["facets"]["errorMessage"]["message"]
    assert said == "workers were lost; done anew as b"


def test_one_that_never_began_is_not_told(catalogue):
    assert run(RuntimeError("another job writes here")) == []
    assert catalogue.events == []


def test_nothing_is_sent_where_nothing_is_configured(catalogue, monkeypatch):
    assert is_configured()
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert lineage_of("t", OPTIONS, print) == []
    monkeypatch.delenv("OPENLINEAGE_DISABLED")
    monkeypatch.delenv("OPENLINEAGE_URL")
    assert lineage_of("t", OPTIONS, print) == []
    assert catalogue.events == []


def test_the_clients_own_file_is_read(catalogue, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENLINEAGE_URL")
    transport = {"type": "http", "url": catalogue.url, "endpoint": "elsewhere"}
    (tmp_path / "openlineage.yml").write_text(json.dumps({"transport": transport}))
    assert run(*begun(), report()) == []
    assert len(catalogue.events) == 2


def test_a_catalogue_that_fails_is_one_warning(catalogue):
    catalogue.status = 400
    assert run(*begun(), report()) == ["warning: OpenLineage: it could not be told: HTTPError"]


def test_one_that_does_not_answer_holds_up_a_run_for_a_moment_only(catalogue, monkeypatch):
    monkeypatch.setattr(lineage, "_LAST_WAIT_S", 0.2)
    catalogue.go_on.clear()
    warnings = run(*begun(), report())
    assert not catalogue.go_on.is_set(), "the run has ended while the catalogue still thinks"
    catalogue.go_on.set()
    assert warnings == ["warning: OpenLineage: it has not answered within 0.2 s"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("s3://me:pw@lake/a/b/", ("s3://lake", "a/b")),
        ("s3://lake", ("s3://lake", "/")),
        ("gs://lake/2026/*/x.mp4", ("gs://lake", "2026")),
        ("https://host/v.mp4?sig=pw", ("https://host", "v.mp4")),
        ("/videos/a.mp4", ("file", "/videos/a.mp4")),
    ],
)
def test_datasets_are_named_as_the_standard_names_them(given, named):
    assert dataset_name(given) == named
