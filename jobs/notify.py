"""Who is told when a run ends: a URL gets its record by POST, a command on its standard input.

It is told once a run, or once a run has failed for good, with `"state": "failed"` and a `message`. That nobody
could be told is a warning. A URL may be a secret as a whole, as those of chat rooms are: of it only the host is
ever shown, and no record holds it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

from jobs.record import Progress, RunReport
from jobs.run import Options
from jobs.watch import Observer, Tell, reason
from pipeline.config import Config, ConfigError

VARIABLE = "REELTABLE_ON_FINISH"
_TRIES = 3
_ANSWER_S, _COMMAND_S = 5.0, 60.0  # that each try may take
_PAUSE_S = 1.0


class NotToldError(Exception):
    """One try that did not reach its target; the message holds no part of a URL."""


def notifiers(given: str | None, config: Config, options: Options, warn: Tell) -> list[Observer]:
    """Of the command line, else of the environment, else of the config; none where nobody is to be told.

    Raises:
        ConfigError: it is neither a URL nor a command.
    """
    target = given or os.environ.get(VARIABLE) or config.notify
    return [Notifier(target, options, warn)] if target else []


class Notifier(Observer):
    """Tells one target."""

    def __init__(self, target: str, options: Options, warn: Tell) -> None:
        self.target, self.options, self.warn = target, options, warn
        self.run_id = ""
        self.is_url = target.startswith(("http://", "https://"))
        try:
            self.command = [] if self.is_url else shlex.split(target)
            host = urlsplit(target).hostname if self.is_url else None
        except ValueError as e:
            raise ConfigError(f"--on-finish: {e}") from None
        if not host and (not self.command or "://" in self.command[0]):
            raise ConfigError("--on-finish: expected an http(s) URL or a command")
        self.shown = f"{urlsplit(target).scheme}://{host}" if host else self.command[0]

    def progress(self, progress: Progress) -> None:
        self.run_id = progress.run_id

    def ended(self, report: RunReport) -> None:
        self._tell(dataclasses.asdict(report))

    def gave_up(self, error: BaseException) -> None:
        origin = self.options.origin
        known = {"run_id": self.run_id or None, "dt": self.options.dt, "job_id": origin.job_id}
        told = {"state": "failed", "message": reason(error), "inputs": origin.inputs}
        self._tell(known | told)

    def _tell(self, record: dict[str, Any]) -> None:
        content = json.dumps(record, ensure_ascii=False, default=str).encode()
        problem = ""
        for k in range(_TRIES):
            time.sleep(_PAUSE_S * k)
            try:
                return _post(self.target, content) if self.is_url else _run(self.command, content)
            except NotToldError as e:
                problem = str(e)
        self.warn(f"warning: --on-finish {self.shown}: {problem}")
        return None


def _post(url: str, content: bytes) -> None:
    import requests

    try:
        answer = requests.post(
            url,
            data=content,
            headers={"Content-Type": "application/json"},
            timeout=_ANSWER_S,
            allow_redirects=False,  # it is told to nobody else
            stream=True,  # what it says is not read
        )
    except (requests.RequestException, ValueError) as e:  # whose message holds the URL
        raise NotToldError(type(e).__name__) from None
    with answer:
        if not 200 <= answer.status_code < 300:
            raise NotToldError(f"it answers {answer.status_code}")


def _run(command: list[str], content: bytes) -> None:
    try:
        done = subprocess.run(
            command,
            input=content,
            stdout=subprocess.DEVNULL,  # which is for the results of the run
            stderr=subprocess.PIPE,
            timeout=_COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotToldError(f"it took longer than {_COMMAND_S:g} s") from None
    except OSError as e:
        raise NotToldError(str(e.strerror)) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotToldError(f"it exits with {done.returncode}" + (f": {said[-1]}" if said else ""))
