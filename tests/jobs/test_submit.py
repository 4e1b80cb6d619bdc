"""Runs as jobs of a real Ray head, started here with its own token and ports."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from jobs import submit as cluster
from jobs.cli import app
from jobs.cli_cluster import _request
from jobs.plan import result_digest_of
from jobs.submit import Request, SubmitError, TokenError
from pipeline.config import ConfigError, load_config
from pipeline.sources import InputError
from pipeline.tables.lease import lease
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.ray_head import Head
from tests.soak.tables import CONFIG

pytestmark = pytest.mark.timeout(900)
SETTINGS = [part for option in CONFIG for part in ("--set", option)]
DAY = ["--date", "2026-01-31"]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "sEcReT-of-the-environment",
    "AWS_SESSION_TOKEN": "sEcReT-of-the-session",
    "REELTABLE_VLM_KEY": "sEcReT-of-the-endpoint",
}


@pytest.fixture(scope="module")
def head():
    head = Head()
    yield head
    head.stop()


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submit") / "lake"
    folder.mkdir()
    flash_and_click(folder / "v.mp4", seconds=3)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


def reeltable(head, *arguments, **env):
    """The command in this process, which has loaded Ray already; what it does happens on the head."""
    found = CliRunner().invoke(
        app, [str(a) for a in arguments], env=head.env | SECRETS | env, catch_exceptions=False
    )
    return Done(found.exit_code, found.stdout, found.stderr)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def submit(head, lake, out, *more, **env):
    return reeltable(head, "submit", "run", lake, "--out", out, *DAY, *SETTINGS, *more, **env)


@pytest.fixture(scope="module")
def first(head, lake, tmp_path_factory):
    """The first submission of a piece of work, followed to its end."""
    out = tmp_path_factory.mktemp("tables") / "t"
    return out, submit(head, lake, out, "--name", "nightly", "--follow")


def id_of(done):
    return re.search(r"[a-z0-9-]+-2026-01-31-[0-9a-f]{16}-\d+", done.stderr)[0]


def listed(head):
    jobs = json.loads(reeltable(head, "submit", "list", "--json").stdout)
    return {job["submission_id"]: job["status"] for job in jobs}


def test_a_new_job_runs_to_its_end_and_the_code_travels(first, head, lake):
    out, done = first
    digest = result_digest_of(load_config(overrides=CONFIG))
    assert done.returncode == 3, done.stderr  # by the run's record: bad.mp4 failed
    assert f"submitted nightly-2026-01-31-{digest}-1" in done.stderr
    assert "decoding and encoding" in done.stderr, "--follow prints what the job prints"
    assert "1 units failed; why stands in" in done.stderr
    assert listed(head)[id_of(done)] == "SUCCEEDED", "no scheduler repeats a job for one bad file"
    (record,) = [json.loads(f.read_text()) for f in (out / "_runs").glob("*.json")]
    assert (record["job_id"], record["inputs"]) == (id_of(done), [str(lake)])
    assert record["config"]["labels"]["actions"] == ["clapping", "dancing"]
    assert sorted(pd.read_parquet(out / "clips").start_s) == [0, 1, 2]
    assert pd.read_parquet(out / "failures").code.tolist() == ["not_media"]


def test_one_that_succeeded_is_left_alone_and_said_so(first, head, lake):
    out, done = first
    before = listed(head)
    again = submit(head, lake, out, "--name", "nightly", "--json")
    assert again.returncode == 3
    assert f"nothing submitted: {id_of(done)} has succeeded before" in again.stderr
    assert json.loads(again.stdout)["how"] == "succeeded"
    assert listed(head) == before
    other = submit(head, lake / "v.mp4", out, "--name", "nightly")
    assert other.returncode == 2
    assert "a job with other inputs or another output; expected another --name" in other.stderr


@pytest.mark.parametrize("what", ["connect", "submit", "wait"])
def test_retries_are_for_a_head_that_does_not_answer_too(first, head, lake, monkeypatch, what):
    out, done = first
    errors, real = [SubmitError("nobody answers")], getattr(cluster, what)

    def fails_once(*args, **kwargs):
        if errors:
            raise errors.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(cluster, what, fails_once)
    monkeypatch.setattr("jobs.retry.pause_s", lambda _: 0.0)
    again = submit(head, lake, out, "--name", "nightly", "--retries", "1")
    assert again.returncode == 3, again.stderr
    assert again.stderr.count("nobody answers; again in 0 s") == 1
    assert f"nothing submitted: {id_of(done)}" in again.stderr


def test_a_refused_token_is_not_tried_again(head, lake, tmp_path, monkeypatch):
    n_tries = []

    def refuse(address):
        n_tries.append(address)
        raise TokenError("it refuses the token")

    monkeypatch.setattr(cluster, "connect", refuse)
    done = submit(head, lake, tmp_path, "--retries", "3")
    assert done.returncode == 1
    assert len(n_tries) == 1


def test_who_asks_for_what_a_success_has_left_begins_another_attempt(first, head, lake):
    out, done = first
    with lease(Store(str(out)), "run", "of-a-person"):
        asked = ("--name", "nightly", "--retry-failures", "--wait", "600")
        new = submit(head, lake, out, *asked, "--no-wait", "--json")
        told = json.loads(new.stdout)
        assert (told["how"], told["attempt"]) == ("new", 2)
        assert told["submission_id"] == f"{id_of(done)[:-1]}2"
        reeltable(head, "submit", "stop", told["submission_id"])
    assert request(options=("--force",)).asks_again
    assert request(options=("--since", "2026-01-01")).asks_again
    assert not request(options=("--catch-up",)).asks_again


def test_one_that_runs_is_attached_to_stopped_and_then_attempted_again(first, head, lake):
    out, _ = first
    store = Store(str(out))
    with lease(store, "run", "of-a-person"):
        new = submit(head, lake, out, "--name", "held", "--no-wait", "--wait", "600")
        assert new.returncode == 0, new.stderr
        submission_id = new.stdout.strip()
        deadline = time.monotonic() + 120
        while (
            "waiting for run of-a-person" not in reeltable(head, "submit", "logs", submission_id).stdout
        ):
            assert time.monotonic() < deadline
        attached = submit(head, lake, out, "--name", "held", "--no-wait", "--wait", "600")
        assert f"attached to {submission_id}" in attached.stderr
        assert "warning: held-" not in attached.stderr
        other = submit(head, lake, out, "--name", "held", "--no-wait", "--wait", "700", "--json")
        assert json.loads(other.stdout)["how"] == "running"
        assert f"warning: {submission_id}: was submitted with other options" in other.stderr
        stopped = reeltable(head, "submit", "stop", submission_id, "--json")
        assert json.loads(stopped.stdout) == {"submission_id": submission_id, "status": "STOPPED"}
    again = submit(head, lake, out, "--name", "held")
    assert again.returncode == 0, again.stderr  # nothing was left to do
    assert f"submitted {submission_id[:-1]}2" in again.stderr
    assert listed(head)[submission_id] == "STOPPED"


def test_one_that_failed_says_why_and_is_attempted_again(first, head, lake):
    out, _ = first
    store = Store(str(out))
    with lease(store, "run", "of-a-person"):
        failed = submit(head, lake, out, "--name", "refused")
        assert failed.returncode == 1
        assert "another job writes here: run of-a-person" in failed.stderr
    again = submit(head, lake, out, "--name", "refused")
    assert again.returncode == 0, again.stderr
    assert id_of(failed).endswith("-1")
    assert id_of(again) == f"{id_of(failed)[:-1]}2"


def test_one_that_nobody_knows_the_cost_of_is_refused_and_not_tried_again(head, lake, tmp_path):
    done = submit(head, lake, tmp_path / "t", "--name", "dear", "--max-cost", "5", "--retries", "3")
    assert done.returncode == 2, done.stderr
    assert "failed: error: --max-cost 5: what it would cost is not known" in done.stderr
    assert [name for name in listed(head) if name.startswith("dear-")] == [id_of(done)]


def test_options_of_a_run_travel_with_it():
    run = ["s3://lake", "--out", "s3://t", "--max-cost", "5.5", "--log-format", "json"]
    asked, n_retries = _request([*run, "--on-finish", "mail -s done me", "--retries", "2"], name=None)
    assert shlex.join(asked.options) == "--max-cost 5.5 --on-finish 'mail -s done me' --log-format json"
    assert n_retries == 2


def test_a_wrong_token_no_token_and_nobody_there_are_told_apart(head):
    wrong = reeltable(head, "submit", "list", RAY_AUTH_TOKEN="wrong")
    missing = reeltable(head, "submit", "list", RAY_AUTH_TOKEN="", HOME="/nonexistent")
    nobody = reeltable(head, "submit", "list", "--address", "http://me:pw@127.0.0.1:9")
    assert [done.returncode for done in (wrong, missing, nobody)] == [1, 1, 1]
    assert f"{head.address}: it refuses the token; expected" in wrong.stderr
    assert f"{head.address}: it wants a token and none was found" in missing.stderr
    assert nobody.stderr.startswith("error: http://127.0.0.1:9: no Ray head answers there")
    assert "pw" not in nobody.stderr
    no_job = reeltable(head, "submit", "logs", "no-such-job")
    assert no_job.returncode == 1
    assert "Traceback" not in no_job.stderr
    followed = reeltable(head, "submit", "logs", "no-such-job", "--follow")
    assert (followed.returncode, followed.stderr) == (1, no_job.stderr)


class Streams:
    """A client whose stream of a job's log breaks once."""

    def __init__(self):
        self.n_streams = 0

    def get_job_info(self, _):
        return SimpleNamespace(status="SUCCEEDED" if self.n_streams > 1 else "RUNNING")

    async def tail_job_logs(self, _):
        self.n_streams += 1
        yield "one\n"
        if self.n_streams == 1:
            raise aiohttp.ClientPayloadError
        yield "two\n"


def test_a_stream_of_logs_that_breaks_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(cluster, "pause_s", lambda _: 0.0)
    told = []
    job = cluster.wait(Streams(), "http://head:8265", "a-job", lambda _: None, told.append)
    assert job.status == "SUCCEEDED"
    assert told == ["one\n", "two\n"]


def test_what_an_earlier_job_of_the_same_id_recorded_does_not_count(tmp_path):
    (tmp_path / "_runs").mkdir()
    for day in ("30", "31"):
        record = {"job_id": "nightly-1", "started_at": f"2026-01-{day}T02:00:00+00:00"}
        (tmp_path / "_runs" / f"{day}.json").write_text(json.dumps(record))
    began_ms = 1_769_824_830_000  # 02:00:30 of the 31st, by a clock that is fast
    (own,) = cluster.runs_of(str(tmp_path), "nightly-1", began_ms)
    assert own["started_at"].startswith("2026-01-31")
    assert len(cluster.runs_of(str(tmp_path), "nightly-1")) == 2


def test_no_secret_is_in_ids_logs_records_tables_or_what_the_cluster_shows(first, head, monkeypatch):
    """Of the submitter's environment, and of the token; the head's own log files are looked at too."""
    out, done = first
    shown = reeltable(head, "submit", "list", "--json").stdout + done.stderr + done.stdout
    shown += reeltable(head, "submit", "logs", id_of(done)).stdout
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    jobs = cluster.connect(head.address).list_jobs()
    shown += "".join(job.model_dump_json() for job in jobs)
    files = [f for f in out.rglob("*") if f.is_file()]
    files += [f for f in (head.folder / "session_latest" / "logs").rglob("*") if f.is_file()]
    files += [
        f for f in (head.folder / "session_latest" / "runtime_resources").rglob("*") if f.is_file()
    ]
    assert any(f.name.startswith("job-driver-nightly") for f in files)
    assert any("config.yaml" in f.name for f in files), "the package that travelled is looked at"
    for secret in (*SECRETS.values(), head.token):
        assert secret not in shown
        for file in files:
            assert secret.encode() not in file.read_bytes(), file


def request(**more):
    given = {"inputs": ("s3://lake/",), "out": "s3://tables", "config": load_config()}
    return Request(**(given | {"date": "2026-01-31"} | more))


def test_a_name_is_by_the_output_and_what_is_asked_for():
    assert re.fullmatch(r"tables-[0-9a-f]{6}", cluster._name(request()))
    assert cluster._name(request(out="s3://tables/")) == cluster._name(request(out="s3://tables/"))
    assert cluster._name(request()) != cluster._name(request(inputs=("s3://lake2/",)))
    assert cluster._name(request(name="nightly")) == "nightly"
    with pytest.raises(ConfigError, match="small letters"):
        cluster._name(request(name="Every night"))


def test_paths_of_this_machine_are_refused_where_the_cluster_is_another():
    with pytest.raises(
        ConfigError, match=r"/videos: a path of this machine; the nodes of head may not see"
    ):
        cluster._entrypoint(request(inputs=("/videos",)), "http://head:8265")
    command, warnings = cluster._entrypoint(
        request(inputs=("/videos",), is_disk_shared=True), "http://head:8265"
    )
    assert "/videos" in command
    assert warnings == []
    _, warnings = cluster._entrypoint(request(out="tables"), "http://localhost:8265")
    (warning,) = warnings
    assert warning.startswith(f"{os.path.abspath('tables')}: a path of this machine")


def test_a_manifest_of_videos_in_buckets_travels_and_one_of_paths_does_not(tmp_path):
    there, here = tmp_path / "there.csv", tmp_path / "here.csv"
    there.write_text("uri,camera\ns3://lake/a.mp4,north\n")
    here.write_text("uri\na.mp4\n")
    asked = request(inputs=(str(there),))
    command, _ = cluster._entrypoint(asked, "http://head:8265")
    with cluster._package(asked) as folder:
        place = Path(folder, next(part for part in command if part.endswith(".csv")))
        assert place.read_text() == there.read_text()
        config = yaml.safe_load(Path(folder, "reeltable_job/config.yaml").read_text())
        assert load_config(Path(folder, "reeltable_job/config.yaml")) == asked.config
        assert config["bundle"] == "embedded"
        assert Path(folder, "pipeline/understand.py").is_file()
        assert not list(Path(folder).rglob("__pycache__"))
    with pytest.raises(ConfigError, match="a path of this machine"):
        cluster._entrypoint(request(inputs=(str(here),)), "http://head:8265")


@pytest.mark.parametrize(
    "uri", ["https://me:sEcReT@host/a.mp4", "https://host/a.mp4?X-Amz-Signature=sEcReT&v=1"]
)
def test_a_secret_in_a_url_never_travels(uri, tmp_path):
    manifest = tmp_path / "m.txt"
    manifest.write_text(f"s3://lake/b.mp4\n{uri}\n")
    for asked in (request(inputs=(uri,)), request(out=uri), request(inputs=(str(manifest),))):
        with pytest.raises(InputError, match="password or signature") as error:
            cluster._entrypoint(asked, "http://head:8265")
        assert "sEcReT" not in str(error.value)
        assert "https://host/a.mp4" in str(error.value)
