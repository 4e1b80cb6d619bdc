"""Who is told when a run ends, and what they never see."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from jobs import notify
from jobs.cli import app
from jobs.notify import Notifier, notifiers
from jobs.run import Options
from pipeline.config import ConfigError, load_config
from tests.http_server import LoopbackServer

KEEP = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"


class Hook(LoopbackServer):
    """Keeps what is posted; answers with the next of `answers`, then with 200."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.posted, self.paths = list(answers), [], []

    def answer(self, request):
        size = int(request.headers["Content-Length"])
        self.posted.append(json.loads(request.rfile.read(size)))
        self.paths.append(request.path)
        request.send_response(self.answers.pop(0) if self.answers else 200)
        request.send_header("Location", "/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(notify, "_PAUSE_S", 0.0)


@pytest.fixture
def told():
    """A notifier of a target, and the warnings that it gives."""
    warnings = []
    return lambda target: Notifier(target, Options("2026-01-31"), warnings.append), warnings


def call(*arguments, **env):
    return CliRunner().invoke(app, [str(a) for a in arguments], env=env)


def test_a_url_is_posted_to_until_it_takes_it(told):
    make, warnings = told
    hook = Hook(500, 302)
    make(f"{hook.url}/T/sEcReT").gave_up(RuntimeError("no space left\nat all"))
    hook.close()
    assert hook.paths == ["/T/sEcReT"] * 3, "a redirect is not followed"
    assert hook.posted[-1]["state"] == "failed"
    assert hook.posted[-1]["message"] == "no space left"
    assert warnings == []


def test_one_that_cannot_be_told_is_a_warning_without_its_url(told):
    make, warnings = told
    hook = Hook(*[500] * 9)
    for target in (f"{hook.url}/T/sEcReT?token=sEcReT", "http://me:sEcReT@127.0.0.1:9/T/sEcReT"):
        make(target).gave_up(RuntimeError("x"))
    hook.close()
    assert len(hook.posted) == 3
    assert warnings == [
        "warning: --on-finish http://127.0.0.1: it answers 500",
        "warning: --on-finish http://127.0.0.1: ConnectionError",
    ]


def test_a_command_reads_it_and_no_shell_does(told, tmp_path):
    make, warnings = told
    kept = tmp_path / "a b.json"
    make(f"{sys.executable} -c '{KEEP}' '{kept}' ; touch {tmp_path}/by_a_shell").gave_up(
        ValueError("x")
    )
    assert json.loads(kept.read_text())["message"] == "x"
    assert not (tmp_path / "by_a_shell").exists()
    make("/no/such/command").gave_up(ValueError("x"))
    make(f"{sys.executable} -c 'import sys; sys.exit(\"full\")'").gave_up(ValueError("x"))
    assert warnings == [
        "warning: --on-finish /no/such/command: No such file or directory",
        f"warning: --on-finish {sys.executable}: it exits with 1: full",
    ]


def test_a_command_that_hangs_is_ended(told, monkeypatch):
    make, warnings = told
    monkeypatch.setattr(notify, "_COMMAND_S", 0.2)
    make("sleep 60").gave_up(ValueError("x"))
    assert warnings == ["warning: --on-finish sleep: it took longer than 0.2 s"]


def test_the_command_line_comes_before_the_environment_and_that_before_the_config(monkeypatch):
    config = load_config(overrides=["notify=of_the_config"])
    options = Options("2026-01-31")

    def target(given):
        return [found.target for found in notifiers(given, config, options, print)]

    assert target(None) == ["of_the_config"]
    monkeypatch.setenv("REELTABLE_ON_FINISH", "of_the_environment")
    assert target(None) == ["of_the_environment"]
    assert target("of_the_line") == ["of_the_line"]
    for wrong in ("ftp://host/x", "'unclosed", "http://"):
        with pytest.raises(ConfigError, match="--on-finish"):
            notifiers(wrong, config, options, print)


@pytest.mark.parametrize(
    "target",
    ["https://me:sEcReT@h.example/x", "https://h.example/x?k=sEcReT", "curl https://a:sEcReT@h/"],
)
def test_a_secret_in_a_url_stands_in_no_config_and_is_not_submitted(tmp_path, video_file, target):
    in_config = call("run", video_file, "--out", tmp_path / "t", "--set", f"notify={target}")
    run = ["run", "s3://lake/v.mp4", "--out", "s3://t", "--on-finish", target]
    submitted = call("submit", *run, "--address", "http://127.0.0.1:9")
    scheduled = call("schedule", "cron", *run[1:])
    for done in (in_config, submitted, scheduled):
        assert done.exit_code == 2
        assert "sEcReT" not in done.stdout + done.stderr
        assert "REELTABLE_ON_FINISH" in done.stderr


def test_a_run_that_fails_as_a_whole_or_finds_nothing_is_told(tmp_path, video_file):
    kept = tmp_path / "kept.json"
    command = f"{sys.executable} -c '{KEEP}' '{kept}'"
    (tmp_path / "empty").mkdir()
    (tmp_path / "in_the_way").write_text("a file")
    for inputs, out, said in (
        (tmp_path / "empty", tmp_path / "t", "a directory without videos"),
        (video_file, tmp_path / "in_the_way", "in_the_way"),
    ):
        kept.unlink(missing_ok=True)
        done = call("run", inputs, "--out", out, "--date", "2026-01-31", "--on-finish", command)
        assert done.exit_code in (1, 2)
        told = json.loads(kept.read_text())
        assert (told["state"], told["dt"], told["inputs"]) == ("failed", "2026-01-31", [str(inputs)])
        assert said in told["message"]
