"""Logical days: what `{date}` stands for, which days were missed, and what a scheduled run does about them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from jobs import retry
from jobs.cli import app
from jobs.days import days_until, fill, missed_days, parse_day
from jobs.plan import result_digest_of
from jobs.retry import pause_s, with_retries
from pipeline.config import ConfigError
from pipeline.sources import ListingError
from pipeline.tables.store import Store, TableError

cli = CliRunner()
LAKE = "s3://lake/dt={date}/"


def test_a_date_is_filled_in_and_other_braces_are_left_alone():
    given = [LAKE, "s3://lake/{date:%Y/%m/%d}/*.mp4", "/videos/{a,b}.mp4"]
    assert fill(given, "2026-01-31") == [
        "s3://lake/dt=2026-01-31/",
        "s3://lake/2026/01/31/*.mp4",
        "/videos/{a,b}.mp4",
    ]


def test_a_day_may_be_said_in_words():
    today = datetime.now(UTC).date()
    assert parse_day("today") == today.isoformat()
    assert parse_day("yesterday") == (today - timedelta(days=1)).isoformat()
    with pytest.raises(ConfigError, match=r"'31\.1\.': expected a date such as 2026-01-31"):
        parse_day("31.1.")


def test_days_are_in_order_and_over_the_end_of_a_month():
    assert days_until("2026-03-01", [LAKE], "2026-02-27") == ("2026-02-27", "2026-02-28", "2026-03-01")
    with pytest.raises(ConfigError, match="later than"):
        days_until("2026-03-01", [LAKE], "2026-03-02")
    with pytest.raises(ConfigError, match=r"expected a \{date\}"):
        days_until("2026-03-01", ["s3://lake/"], "2026-02-27")


def record(store, day, inputs=(LAKE,), digest="d"):
    told = {"dt": day, "inputs": list(inputs), "result_digest": digest}
    store.write_json(f"_runs/{day}-{digest}.json", told)


def test_missed_days_are_those_after_the_last_that_is_recorded(store):
    nothing = missed_days(store, "2026-02-03", [LAKE], "d")
    assert (nothing.days, nothing.is_proven) == (("2026-02-03",), False)
    record(store, "2026-01-29")
    record(store, "2026-01-31")
    record(store, "2026-02-02", digest="other settings")
    record(store, "2026-02-02", inputs=["s3://other/dt={date}/"], digest="d2")
    found = missed_days(store, "2026-02-03", [LAKE], "d")
    assert (found.days, found.is_proven) == (("2026-02-01", "2026-02-02", "2026-02-03"), True)
    record(store, "2026-02-03")
    assert missed_days(store, "2026-02-03", [LAKE], "d").days == (
        "2026-02-01",
        "2026-02-02",
        "2026-02-03",
    )


@pytest.fixture
def dated(tmp_path, monkeypatch):
    """A lake with videos on the 1st and 3rd, and a run that only notes what it was given."""
    for day in ("2026-02-01", "2026-02-03"):
        folder = tmp_path / "lake" / f"dt={day}"
        folder.mkdir(parents=True)
        (folder / "v.mp4").write_bytes(day.encode())
    ran = []

    def run(listing, out, config, options, **_):
        dt, origin = options.dt, options.origin
        ran.append((dt, [source.uri for source in listing.sources]))
        if dt == "2026-02-03" and "broken" in origin.inputs[0]:
            raise TableError("no space left")
        told = {"dt": dt, "inputs": list(origin.inputs), "result_digest": result_digest_of(config)}
        Store(out).write_json(f"_runs/{dt}.json", told)
        return Report(dt)

    monkeypatch.setattr("jobs.run.run", run)
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    monkeypatch.setattr("jobs.cli._print_report", lambda *_: None)
    return tmp_path, ran


def Report(dt):  # noqa: N802 (stands for jobs.record.RunReport)
    from jobs.record import RunReport

    zero = dict.fromkeys(RunReport.__dataclass_fields__, 0)
    failed = {"n_failed": 1, "n_units": 1} if dt == "2026-02-01" else {"n_done": 1, "n_units": 1}
    return RunReport(**(zero | {"run_id": dt, "dt": dt} | failed))


def call(*arguments):
    result = cli.invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_since_runs_each_day_once_in_order_and_a_day_without_videos_is_told(dated):
    folder, ran = dated
    inputs = ["run", f"{folder}/lake/dt={{date}}/", "--out", folder / "t"]
    code, _, stderr = call(*inputs, "--since", "2026-02-01", "--date", "2026-02-03")
    assert code == 3  # a unit of the 1st failed
    assert [day for day, _ in ran] == ["2026-02-01", "2026-02-03"]
    assert ran[0][1] == [f"{folder}/lake/dt=2026-02-01/v.mp4"]
    assert "dt=2026-02-02/: no such file or directory" in stderr


def test_catching_up_begins_after_the_last_day_done(dated):
    folder, ran = dated
    inputs = ["run", f"{folder}/lake/dt={{date}}/", "--out", folder / "t", "--catch-up"]
    assert call(*inputs, "--date", "2026-02-01", "--job-id", "nightly")[0] == 0  # not 3: see --job-id
    code, stdout, _ = call(*inputs, "--date", "2026-02-03", "--json")
    assert code == 0
    assert [day for day, _ in ran] == ["2026-02-01", "2026-02-03"]
    assert [report["dt"] for report in json.loads(stdout)] == ["2026-02-03"]
    # A night on which nothing came is no failure once the inputs are known to be right …
    code, _, stderr = call(*inputs, "--date", "2026-02-04")
    assert code == 0
    assert "dt=2026-02-04" in stderr
    # … and bad usage before that.
    other = ["run", f"{folder}/lale/dt={{date}}/", "--out", folder / "t", "--catch-up"]
    assert call(*other, "--date", "2026-02-04")[0] == 2


def test_a_lake_that_cannot_be_looked_at_is_a_failure_and_no_empty_day(dated, monkeypatch):
    folder, ran = dated
    inputs = [
        "run",
        f"{folder}/lake/dt={{date}}/",
        "--out",
        folder / "t",
        "--catch-up",
        "--retries",
        "1",
    ]
    assert call(*inputs, "--date", "2026-02-01", "--job-id", "nightly")[0] == 0

    def refuse(given):
        tries.append(given)
        raise ListingError("s3://lake: cannot be listed: Access Denied")

    tries = []
    monkeypatch.setattr("jobs.cli.list_sources", refuse)
    told = folder / "told.json"
    code, _, stderr = call(*inputs, "--date", "2026-02-03", "--on-finish", f"tee {told}")
    assert code == 1
    assert len(tries) == 2
    assert stderr.splitlines()[-1] == "error: s3://lake: cannot be listed: Access Denied"
    assert "Access Denied" in told.read_text(), "who is to hear of failures hears of it"
    assert len(ran) == 1


def test_what_may_be_spent_is_of_all_days_together(dated, monkeypatch):
    folder, _ = dated
    left = []

    def run(listing, out, config, options, **_):  # noqa: ARG001
        left.append(options.max_cost)
        return replace(Report(options.dt), planned_cost=3.0)

    monkeypatch.setattr("jobs.run.run", run)
    inputs = ["run", f"{folder}/lake/dt={{date}}/", "--out", folder / "t", "--max-cost", "5"]
    call(*inputs, "--since", "2026-02-01", "--date", "2026-02-03")
    assert left == [5.0, 2.0]


def test_too_many_failures_stay_a_failure_however_often_it_is_begun_again(dated, monkeypatch):
    folder, _ = dated
    nothing_left = replace(
        Report("2026-02-03"),
        n_units=10,
        n_done=0,
        n_done_before=2,
        n_failed_before=8,
        state="nothing_to_do",
    )
    monkeypatch.setattr("jobs.run.run", lambda *_, **__: nothing_left)
    inputs = ["run", folder / "lake", "--out", folder / "t"]
    code, _, stderr = call(*inputs, "--max-failed-share", "0.5")
    assert code == 1
    assert "error: 80% of the units failed, now or before; --max-failed-share is 50%" in stderr
    assert call(*inputs, "--max-failed-share", "0.9")[0] == 0
    assert call(*inputs)[0] == 0


def test_a_day_that_fails_holds_up_the_ones_after_it(dated):
    folder, ran = dated
    (folder / "lake").rename(folder / "broken")
    later = folder / "broken" / "dt=2026-02-04"
    later.mkdir()
    (later / "v.mp4").write_bytes(b"4")
    inputs = ["run", f"{folder}/broken/dt={{date}}/", "--out", folder / "t", "--retries", "2"]
    code, _, stderr = call(*inputs, "--since", "2026-02-01", "--date", "2026-02-04")
    assert code == 1
    assert [day for day, _ in ran] == ["2026-02-01"] + 3 * ["2026-02-03"]
    assert stderr.count("failed: no space left; again in ") == 2


def test_pauses_double_up_to_ten_minutes_and_differ_between_jobs():
    rng = random.Random(0)
    pauses = [pause_s(attempt, rng) for attempt in range(1, 12)]
    for attempt, seconds in enumerate(pauses, 1):
        longest = min(600, 10 * 2 ** (attempt - 1))
        assert longest / 2 <= seconds <= longest
    assert len({pause_s(1) for _ in range(8)}) > 1


def test_what_would_come_again_is_not_tried_again():
    tries = []

    def work():
        tries.append(1)
        raise ConfigError("bad")

    with pytest.raises(ConfigError):
        with_retries(work, 5, lambda *_: None, lambda e: isinstance(e, ConfigError))
    assert len(tries) == 1
