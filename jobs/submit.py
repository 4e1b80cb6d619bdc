"""A run as a job of a Ray cluster: the code and the config travel, and one piece of work is one job.

    NAME-2026-01-31-RESULTDIGEST-1     its first attempt
    NAME-2026-01-31-RESULTDIGEST-2     after the first failed or was stopped

Who submits a job that runs is attached to it; one that succeeded is left alone. What is done is done in any
case: an attempt begins where the tables end, so it does not matter if a cluster has forgotten its jobs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

import jobs
from jobs.days import as_recorded, read_runs
from jobs.plan import result_digest_of
from jobs.retry import pause_s
from pipeline.bundles.spec import find_bundle
from pipeline.config import Config, ConfigError
from pipeline.records import short_hash
from pipeline.sources import MANIFEST_SUFFIXES, InputError, manifest_rows, without_secrets
from pipeline.tables.store import Store, TableError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_CARGO = "reeltable_job"  # a folder beside the code: the config, and manifests
_POLL_S = 1.0
_AWAY_S = 120.0  # a head that does not answer for so long is gone
_CLOCK_S = 60.0  # by which the clocks of a head and a node may differ
_ANOTHER = ("--force", "--retry-failures", "--since")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SubmitError(ConnectionError):
    """A cluster that cannot be reached or refuses; the message names its address."""


class TokenError(SubmitError):
    """The cluster wants another token."""


@dataclass(frozen=True)
class Request:
    """A run, and how it is to be submitted."""

    inputs: tuple[str, ...]
    out: str
    config: Config
    date: str
    options: tuple[str, ...] = ()  # more options of `reeltable run`
    name: str | None = None  # default: of the output's folder and what is asked for
    is_disk_shared: bool = False  # paths mean the same on every node of the cluster
    entrypoint_cpus: float = 0.0  # 0: the entrypoint runs on the head
    entrypoint_memory_mb: int = 0

    @property
    def asks_again(self) -> bool:
        """Whether its options ask for work that a run which succeeded has left."""
        return any(option in self.options for option in _ANOTHER)


@dataclass(frozen=True)
class Submission:
    """A job of the cluster."""

    submission_id: str
    attempt: int
    how: str  # new, running (attached), or succeeded (nothing was done)


def connect(address: str) -> Any:
    """A client of the cluster's Jobs API at `address`, such as http://head:8265.

    Its token is RAY_AUTH_TOKEN, or in the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Raises:
        ConfigError: that is no such address.
        SubmitError: nobody answers there.
        TokenError: the token is missing or wrong.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(
            f"{without_secrets(address)}: expected http://HEAD:8265, the dashboard's address"
        )
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with _told(address), _nowhere_else(address):
        return JobSubmissionClient(address, headers=headers)


@contextmanager
def _nowhere_else(address: str) -> Iterator[None]:
    """Ray's client would rather go where these variables point than where it is told."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = address
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _token() -> str | None:
    if os.environ.get("RAY_AUTH_MODE", "token") == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given) if given else Path.home() / ".ray" / "auth_token"
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError as e:
        if given:
            raise TokenError(f"RAY_AUTH_TOKEN_PATH={file}: cannot be read: {e.strerror}") from e
        return None


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of the client as one that names the cluster and no secret."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    where = without_secrets(address)
    try:
        yield
    except AuthenticationError:
        # Ray's client sends a token that its process used before, where it is given none.
        is_missing = _token() is None
        what = "it wants a token and none was found" if is_missing else "it refuses the token"
        raise TokenError(
            f"{where}: {what}; expected the cluster's own in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH "
            "or in ~/.ray/auth_token (on the head: ray get-auth-token)"
        ) from None
    except (ConnectionError, requests.RequestException, aiohttp.ClientError) as e:
        if isinstance(e, SubmitError):
            raise
        raise SubmitError(f"{where}: no Ray head answers there ({type(e).__name__})") from None
    except RuntimeError as e:
        raise SubmitError(without_secrets(f"{where}: {e}")) from None


def submit(
    client: Any, address: str, request: Request, *, is_again: bool = False
) -> tuple[Submission, list[str]]:
    """Begin the job, or find the one that was begun before; and what is to be warned of.

    Args:
        is_again: begin another attempt though one succeeded.

    Raises:
        ConfigError, InputError: the cluster could not read what it is asked to.
        SubmitError: the cluster refuses.
    """
    command, warnings = _entrypoint(request, address)
    base = f"{_name(request)}-{request.date}-{result_digest_of(request.config)}"
    what = short_hash(*as_recorded(request.inputs), *as_recorded([request.out]))
    options = short_hash(*request.options)
    with _told(address):
        before = _attempts(client, base)
        last = max(before, default=0)
        if last:
            job = before[last]
            if (job.metadata or {}).get("what") != what:
                raise ConfigError(
                    f"{base}-{last} is a job with other inputs or another output; expected another --name"
                )
            if job.status not in ENDED:
                return _attached(job, last, options, warnings)
            if job.status == "SUCCEEDED" and not is_again:
                return Submission(f"{base}-{last}", last, "succeeded"), warnings
        new = Submission(f"{base}-{last + 1}", last + 1, "new")
        asked: dict[str, Any] = {
            "entrypoint": shlex.join([*command, "--job-id", new.submission_id]),
            "submission_id": new.submission_id,
            "metadata": {"what": what, "attempt": str(new.attempt), "options": options},
            "entrypoint_num_cpus": request.entrypoint_cpus or None,
            "entrypoint_memory": request.entrypoint_memory_mb * 2**20 or None,
        }
        try:
            with _package(request) as folder:
                _begin(client, asked | {"runtime_env": {"working_dir": folder}})
        except RuntimeError:
            first = _attempts(client, base).get(new.attempt)  # another was faster
            if first is None:
                raise
            return _attached(first, new.attempt, options, warnings)
    return new, warnings


def _attached(
    job: Any, attempt: int, options: str, warnings: list[str]
) -> tuple[Submission, list[str]]:
    if (job.metadata or {}).get("options", options) != options:
        what = "was submitted with other options, and goes on with those"
        warnings = [*warnings, f"{job.submission_id}: {what}"]
    return Submission(job.submission_id, attempt, "running"), warnings


def _begin(client: Any, asked: dict[str, Any]) -> None:
    """Submit; a head that has only just begun is waited for."""
    started, n_tries = time.monotonic(), 0
    while True:
        try:
            client.submit_job(**asked)
            return
        except RuntimeError as e:
            if "No available agent" not in str(e) or time.monotonic() - started > _AWAY_S:
                raise
            n_tries += 1
            time.sleep(min(10.0, pause_s(n_tries) / 10))


def _attempts(client: Any, base: str) -> dict[int, Any]:
    found = {}
    for job in client.list_jobs():
        prefix, _, attempt = (job.submission_id or "").rpartition("-")
        if prefix == base and attempt.isdigit():
            found[int(attempt)] = job
    return found


def _name(request: Request) -> str:
    def slug(text: str) -> str:
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

    if request.name:
        if slug(request.name) != request.name:
            raise ConfigError(f"--name {request.name!r}: expected small letters, digits and hyphens")
        return request.name
    asked = short_hash(*as_recorded(request.inputs), *as_recorded([request.out]))[:6]
    return f"{slug(request.out.rstrip('/').rpartition('/')[2]) or 'run'}-{asked}"


def _entrypoint(request: Request, address: str) -> tuple[list[str], list[str]]:
    """The command that the cluster runs in the folder that travels, and warnings."""
    for given in (*request.inputs, request.out):
        if without_secrets(given) != given:
            raise InputError(
                f"{without_secrets(given)}: a password or signature in a URL would stand in the job's "
                "entrypoint for all to see; credentials come from the environment of the cluster's nodes"
            )
    bundle = find_bundle(request.config.bundle).at_its_place(request.config).bundle
    inputs = [_traveller(k, given) or _absolute(given) for k, given in enumerate(request.inputs)]
    local = [p for p in (*inputs, _absolute(request.out), bundle) if os.path.isabs(p)]
    warnings = _checked_paths(local, request, address)
    command = ["python", "-m", "jobs", "run", *inputs, "--out", _absolute(request.out)]
    command += ["--config", f"{_CARGO}/config.yaml", "--date", request.date, *request.options]
    return command, warnings


def _absolute(given: str) -> str:
    return given if "://" in given else os.path.abspath(given)


def _checked_paths(local: list[str], request: Request, address: str) -> list[str]:
    """Warnings of paths that only this machine may know; elsewhere they are refused."""
    if not local or request.is_disk_shared:
        return []
    host = urlsplit(address).hostname
    if host in _LOOPBACK:
        return [f"{p}: a path of this machine; the cluster's nodes must see it too" for p in local]
    raise ConfigError(
        f"{local[0]}: a path of this machine; the nodes of {host} may not see it; expected a URL such as "
        "s3://…, or --shared-disk where every node mounts it at the same place"
    )


def _traveller(k: int, given: str) -> str | None:
    """Where a manifest on this machine, of videos in buckets, lies in the folder that travels."""
    suffix = os.path.splitext(given)[1].lower()
    if suffix not in MANIFEST_SUFFIXES or "://" in given or not os.path.isfile(given):
        return None
    uris = [str(row["uri"]) for row in manifest_rows(given, suffix)]
    for uri in uris:
        if without_secrets(uri) != uri:
            raise InputError(
                f"{given}: {without_secrets(uri)}: a password or signature would be copied to every node; "
                "credentials come from the environment of the cluster's nodes"
            )
    return f"{_CARGO}/inputs/{k}{suffix}" if uris and all("://" in uri for uri in uris) else None


@contextmanager
def _package(request: Request) -> Iterator[str]:
    """A folder with the code that runs here, the config, and the manifests that travel."""
    source = Path(jobs.__file__).parent.parent
    with tempfile.TemporaryDirectory(prefix="reeltable-") as folder:
        for package in ("pipeline", "jobs", "configs"):
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source / package, Path(folder, package), ignore=ignored)
        cargo = Path(folder, _CARGO, "inputs")
        cargo.mkdir(parents=True)
        config = find_bundle(request.config.bundle).at_its_place(request.config)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        cargo.with_name("config.yaml").write_text(text, encoding="utf-8")
        for k, given in enumerate(request.inputs):
            if place := _traveller(k, given):
                shutil.copyfile(given, Path(folder, place))
        yield folder


def wait(
    client: Any,
    address: str,
    submission_id: str,
    on_status: Callable[[str], None],
    on_logs: Callable[[str], None] | None = None,
) -> Any:
    """Wait until the job has ended; its details.

    Args:
        on_status: is told each new status.
        on_logs: is given what the job prints, as it comes; None: nobody listens.

    Raises:
        SubmitError: the head is gone. What the job committed stays.
    """
    status, failures, lost_at = "", 0, 0.0
    log = None if on_logs is None else _Log(on_logs)
    while True:
        try:
            with _told(address):
                job = client.get_job_info(submission_id)
                if job.status not in ENDED:
                    failures = 0  # it answers, though its stream may break every minute
                if log is not None and job.status != "PENDING":
                    log.follow(client, submission_id)
                    job = client.get_job_info(submission_id)
        except TokenError:
            raise
        except SubmitError:
            lost_at = lost_at if failures else time.monotonic()
            if time.monotonic() - lost_at > _AWAY_S:
                raise
            failures += 1
            time.sleep(min(10.0, pause_s(failures) / 10))
            continue
        failures = 0
        if job.status != status:
            status = str(job.status)
            on_status(status)
        if status in ENDED:
            return job
        time.sleep(_POLL_S)


@dataclass
class _Log:
    """What a job prints, given on once: after a stream that broke, what is new."""

    on_logs: Callable[[str], None]
    n_told: int = 0  # characters

    def follow(self, client: Any, submission_id: str) -> None:
        """Give on what comes until the job ends."""
        asyncio.run(self._follow(client, submission_id))

    async def _follow(self, client: Any, submission_id: str) -> None:
        n_seen = 0
        async for text in client.tail_job_logs(submission_id):
            new = text[max(0, self.n_told - n_seen) :]
            n_seen += len(text)
            if new:
                self.n_told = n_seen
                self.on_logs(new)


def logs(client: Any, address: str, submission_id: str) -> str:
    """What the job has printed."""
    with _told(address):
        return str(client.get_job_logs(submission_id))


def follow(client: Any, address: str, submission_id: str, on_logs: Callable[[str], None]) -> None:
    """Give `on_logs` what the job prints until it ends."""
    with _told(address):
        client.get_job_info(submission_id)  # says of an unknown one what a stream does not
        _Log(on_logs).follow(client, submission_id)


def stop(client: Any, address: str, submission_id: str) -> str:
    """Stop a job and wait until it has stopped; its last status."""
    with _told(address):
        client.stop_job(submission_id)
    return str(wait(client, address, submission_id, lambda _: None).status)


def listed(client: Any, address: str) -> list[dict[str, Any]]:
    """The cluster's submitted jobs, the newest first."""
    with _told(address):
        found = [job for job in client.list_jobs() if job.submission_id]
    names = ("submission_id", "status", "start_time", "end_time", "entrypoint")
    rows = [{name: getattr(job, name) for name in names} for job in found]
    for row in rows:
        row["status"], row["entrypoint"] = str(row["status"]), without_secrets(row["entrypoint"])
    return sorted(rows, key=lambda row: row["start_time"] or 0, reverse=True)


def runs_of(out: str, submission_id: str, began_ms: int | None = None) -> list[dict[str, Any]]:
    """The records that the job's runs left in `_runs/`; none where there was nothing to do.

    Args:
        began_ms: when the job began, since 1970; what runs left before is of another job with this id, as a
            head that was built anew counts from 1 again. None: not known.

    Raises:
        TableError: the output cannot be read from here.
    """
    store = Store(out)
    if store.is_local and not os.path.isdir(store.root):
        raise TableError(f"{store.root}: not to be seen from here")
    mine = [record for record in read_runs(store) if record.get("job_id") == submission_id]
    if not began_ms:
        return mine
    since = began_ms / 1000 - _CLOCK_S
    return [r for r in mine if datetime.fromisoformat(r["started_at"]).timestamp() >= since]


def is_refused(job: Any) -> bool:
    """Whether the run would not begin: bad usage or config, or too dear. Another attempt would end alike."""
    return job.status == "FAILED" and getattr(job, "driver_exit_code", None) == 2


def summary(job: Any) -> str:
    """Why a job did not succeed, in its own last words."""
    lines = [line for line in (job.message or "").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "Error"))]
    return without_secrets((errors or lines or ["no reason was given"])[-1])


def as_json(submission: Submission, job: Any, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a program is told of a submission."""
    told = {"submission_id": submission.submission_id, "attempt": submission.attempt}
    status = None if job is None else str(job.status)
    return told | {"how": submission.how, "status": status, "runs": json.loads(json.dumps(runs))}
