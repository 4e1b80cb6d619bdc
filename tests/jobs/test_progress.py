"""How fast a run goes, and how that is said on a terminal, in lines and in a program's log."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jobs import logs
from jobs.console import err
from jobs.progress import Lines, Pace, Speed, described, left, progress_printer
from jobs.record import Failed, Progress
from jobs.watch import Observer, Observers, reason

RUNNING = Progress("running", 40, 15, 12, 8, video_s=720.0, run_id="r")


def at(pace, now_s, encoded, total=1000, run_id="r"):
    return pace.at(
        Progress("running", total, encoded, encoded, video_s=60.0 * encoded, run_id=run_id), now_s
    )


@settings(deadline=None)
@given(st.floats(0.05, 50), st.integers(2, 300))
def test_a_steady_run_is_told_its_true_speed_and_time_left(unit_s, n):
    pace = Pace()
    for k in range(1, n + 1):
        speed = at(pace, 1000 + k * unit_s, k)
    assert speed.times_real_time == pytest.approx(60 / unit_s)
    assert speed.left_s == pytest.approx((1000 - n) * unit_s)


def test_loading_the_model_slows_nobody_and_old_speed_is_forgotten():
    pace = Pace()
    assert pace.at(Progress("running", 1000, run_id="r"), 0.0) == Speed()
    assert at(pace, 600.0, 2) == Speed()  # ten minutes of loading
    assert at(pace, 601.0, 3).times_real_time == pytest.approx(60)
    for k in range(1, 400):  # from now on half as fast
        speed = at(pace, 601.0 + 2 * k, 3 + k)
    assert speed.times_real_time == pytest.approx(30)


def test_a_run_that_stands_still_gets_slower_and_a_new_attempt_begins_anew():
    pace = Pace()
    at(pace, 0.0, 1), at(pace, 1.0, 2)
    speeds = [at(pace, now, 2).times_real_time for now in (2.0, 10.0, 100.0)]
    assert speeds == sorted(speeds, reverse=True)
    assert at(pace, 101.0, 1, run_id="another") == Speed()


def test_a_line_says_where_a_run_stands_how_fast_it_goes_and_how_long_it_takes():
    line = described(RUNNING, Speed(3.14, 118.0), " 12/40 units")
    assert line == "decoding and encoding 12/40 units, 3.14 × real time, 2 min left, decode ahead by 3"
    assert described(Progress("starting", 40), Speed()) == "starting Ray"
    assert (
        described(Progress("running", 40, 3, 3, failed=2), Speed()) == "decoding and encoding, 2 failed"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(8, "8 s"), (118, "2 min"), (11_400, "3 h 10 min"), (400_000, "4 days")]
)
def test_time_left_is_said_as_a_person_says_it(seconds, said):
    assert left(seconds) == said


def test_a_bar_fits_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setattr(Pace, "at", lambda *_: Speed(5.954, 118.0))
    text = io.StringIO()
    with progress_printer(
        Console(file=text, force_terminal=True, width=80, color_system=None)
    ) as shown:
        shown.progress(Progress("running", 40, 15, 12, 8, 1))
        shown.bar.refresh()
    assert re.search(
        r"encoding ━\S* +12/40 1 failed, 5.95 × real time, 2 min left, decode ahead by 3",
        text.getvalue(),
    )


def test_lines_come_when_the_phase_changes_and_not_each_half_second():
    text = io.StringIO()
    lines = Lines(Console(file=text, soft_wrap=True))
    for progress in (Progress("planning", 3), Progress("starting", 40), RUNNING, RUNNING, RUNNING):
        lines.progress(progress)
    assert text.getvalue().splitlines() == [
        "reading headers", "starting Ray", "decoding and encoding 12/40 units, decode ahead by 3",
    ]  # fmt: skip


def test_a_log_for_a_program_is_an_object_a_line_and_holds_no_secret(capsys):
    secret = "https://me:sEcReT@host/v.mp4?X-Amz-Signature=sEcReT"
    log = logs.JsonLog()
    with logs.json_lines():
        err.print(f"warning: {secret}: not a video")
        err.print("error: no space left")
        log.progress(Progress("starting", 40, run_id="r"))
        failed = Failed("u", secret, "decode", "not_media", f"{secret}: torn\nin two lines")
        log.progress(Progress("running", 40, 15, 12, 8, 1, run_id="r", failures=(failed,)))
        err.print("waiting for workers")
        log.failed(RuntimeError(f"cannot write {secret}"))
    told = capsys.readouterr().err
    assert "sEcReT" not in told
    events = [json.loads(line) for line in told.splitlines()]
    assert [(e["event"], e["level"]) for e in events] == [
        ("message", "warning"), ("message", "error"), ("phase", "info"), ("unit_failed", "warning"),
        ("phase", "info"), ("message", "info"), ("run_failed", "error"),
    ]  # fmt: skip
    assert all(e["run_id"] == "r" for e in events[2:])
    assert (events[3]["unit_id"], events[3]["stage"], events[3]["code"]) == ("u", "decode", "not_media")
    err.print("plain again")
    assert capsys.readouterr().err == "plain again\n"


def test_an_observer_that_fails_is_a_warning_and_the_others_hear_all():
    class Broken(Observer):
        def progress(self, progress):
            raise OSError(f"https://me:sEcReT@host: {progress.phase}: disk full")

    class Notes(Observer):
        heard = None

        def progress(self, progress):
            self.heard = progress

    notes, warnings = Notes(), []
    Observers([Broken(), notes], warnings.append).progress(RUNNING)
    assert notes.heard is RUNNING
    assert warnings == ["warning: Broken: OSError: https://host: running: disk full"]


def test_a_reason_is_one_line():
    assert reason(KeyboardInterrupt()) == "stopped"
    assert reason(RuntimeError("a\nb")) == "a"
    assert reason(ValueError()) == "ValueError"
