"""`reeltable submit` and `reeltable schedule`: runs on a cluster, and every night.

Both take every option of `reeltable run`: what they do not know themselves is read as `run` would read it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.console import AsJson, Exit, err, fail, guarded, load, out, parsed_day, print_json
from pipeline.config import CONFIG_DIR, Config, find_config, holds_secret
from pipeline.sources import without_secrets

submit = typer.Typer(no_args_is_help=True, help="Runs as jobs of a Ray cluster.")
schedule = typer.Typer(
    no_args_is_help=True, help="Print what makes a scheduler run this every day, filled in."
)
Head = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="The cluster's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS, or RAY_ADDRESS where "
        "that is a URL. Its token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.",
    ),
]
RunArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT… --out DIR [OPTIONS]",
        help="As for reeltable run, whose options are all taken (reeltable run --help).",
    ),
]
ScheduleName = Annotated[str, typer.Option("--name", help="Of the schedule.")]
At = Annotated[str, typer.Option("--at", metavar="HH:MM", help="When, every day.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Submit to this cluster, which stands (http://HEAD:8265), in place of a run here.",
    ),
]
SubmissionId = Annotated[
    str, typer.Argument(metavar="ID", help="As submit run and submit list print it.")
]


def _schedule(
    arguments: list[str], name: str, at: str, address: str | None, program: list[str] | None = None
) -> Any:
    """The schedule of a run with `arguments`, which are checked as `run` would check them."""
    from jobs.schedule import Schedule, command_of

    _parsed(arguments)
    if program is None:
        here = Path(sys.executable).with_name("reeltable")
        program = [str(here)] if here.is_file() else [sys.executable, "-m", "jobs"]
    named = {argument.partition("=")[0] for argument in arguments}
    if not {"--catch-up", "--since"} & named and any("{date" in a for a in arguments):
        err.print("warning: without --catch-up a day that is missed stays missed")
    return guarded(lambda: Schedule(name, at, command_of(program, arguments, address), os.getcwd()))


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """What `reeltable run` reads in `arguments`; its config is loaded too, so that errors come now."""
    from jobs.cli import app

    command: Any = typer.main.get_command(app)
    given: dict[str, Any] = command.commands["run"].make_context("reeltable run", [*arguments]).params
    overrides = [*(given["overrides"] or ()), *(["sync.correct=true"] if given["correct_sync"] else ())]
    if holds_secret(given["on_finish"] or ""):
        what = "expected no user, password or query in a URL: it would end in files and logs"
        fail(f"--on-finish: {what}; REELTABLE_ON_FINISH of the cluster's nodes is for it", Exit.USAGE)
    for url in (*given["inputs"], given["out_dir"]):
        if without_secrets(url) != url:
            what = "a password or signature in a URL would end in files and logs"
            fail(f"{url}: {what}; credentials come from the environment", Exit.USAGE)
    return given | {"config": load(given["config_file"], overrides)}


@schedule.command("cron", context_settings={"ignore_unknown_options": True})
def schedule_cron(
    arguments: RunArguments, name: ScheduleName = "reeltable", at: At = "02:00", address: Cluster = None
) -> None:
    """Lines for crontab -e.

    Example:

      reeltable schedule cron 's3://lake/dt={date}/' --out s3://tables --date yesterday --catch-up
    """
    from jobs.schedule import cron

    sys.stdout.write(cron(_schedule(arguments, name, at, address)))


@schedule.command("systemd", context_settings={"ignore_unknown_options": True})
def schedule_systemd(
    arguments: RunArguments,
    name: ScheduleName = "reeltable",
    at: At = "02:00",
    address: Cluster = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", help="Write the two files there.")
    ] = None,
) -> None:
    """A service and its timer. It runs as you; where you are root, as the user reeltable.

    Example:

      reeltable schedule systemd /srv/videos --out /srv/tables --retries 2 --write /etc/systemd/system
    """
    from jobs.schedule import service_user, systemd

    for file, text in systemd(_schedule(arguments, name, at, address), service_user()).items():
        if write is None:
            sys.stdout.write(text)
        else:
            (write / file).write_text(text, encoding="utf-8")
            out.print(str(write / file), highlight=False)


@schedule.command("kubernetes", context_settings={"ignore_unknown_options": True})
def schedule_kubernetes(
    arguments: RunArguments,
    name: ScheduleName = "reeltable",
    at: At = "02:00",
    address: Cluster = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="CronJob: submits to the cluster of --address; RayCronJob (KubeRay 1.7, alpha): a cluster for "
            "each run; RayJob: one run, now. Default: CronJob with --address, else RayCronJob."
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(help="Of all containers.")] = None,
    shared_disk: Annotated[
        bool, typer.Option("--shared-disk", help="Every pod mounts the paths given at the same place.")
    ] = False,
) -> None:
    """An object for kubectl apply -f -; a config or a list of actions of your own goes with it as a ConfigMap.

    Examples:

      reeltable schedule kubernetes 's3://lake/dt={date}/' --out s3://tables --date yesterday --catch-up

      reeltable schedule kubernetes s3://lake/ --out s3://tables --address http://reeltable-head-svc:8265
    """
    from jobs.schedule import KINDS, kubernetes, workers_to_come

    kind = kind or ("CronJob" if address else "RayCronJob")
    if kind not in KINDS or (kind == "CronJob") is (address is None):
        what = f"expected one of {', '.join(KINDS)}, and --address with CronJob alone"
        fail(f"--kind {kind}: {what}", Exit.USAGE)
    given = _parsed(arguments)
    for path in (*given["inputs"], given["out_dir"]):
        if "://" not in path and not os.path.isabs(path):
            fail(f"{path}: means nothing in a pod; expected a URL or an absolute path", Exit.USAGE)
    config, arguments = _without_config(given, arguments, shared_disk)
    if address is None:
        arguments = [*arguments, *workers_to_come(given["config"])]
    made = _schedule(arguments, name, at, address, ["reeltable"])
    if address is not None and shared_disk:  # which submit asks too
        made = dataclasses.replace(made, command=(*made.command, "--shared-disk"))
    sys.stdout.write(kubernetes(made, kind, image, config))


def _without_config(
    given: dict[str, Any], arguments: list[str], is_disk_shared: bool
) -> tuple[Config | None, list[str]]:
    """The config that must travel, if files of this machine made it, and `arguments` less what it holds."""
    from jobs.schedule import without
    from pipeline.bundles.spec import find_bundle

    config: Config = guarded(lambda: find_bundle(given["config"].bundle).at_its_place(given["config"]))
    if os.path.isabs(config.bundle) and not is_disk_shared:
        what = "a bundle of this machine, which no pod may have; expected a shipped one"
        fail(f"{config.bundle}: {what}, or --shared-disk where every pod mounts it there", Exit.USAGE)
    file = given["config_file"]
    is_own = file is not None and not find_config(file).is_relative_to(CONFIG_DIR)
    keys = {override.partition("=")[0].partition(".")[0] for override in given["overrides"] or ()}
    if not is_own and not {"labels", "bundle"} & keys:
        return None, arguments
    return config, without(arguments, ("--config", "--set"), ("--correct-sync",))


@schedule.command("airflow", context_settings={"ignore_unknown_options": True})
def schedule_airflow(
    arguments: RunArguments, name: ScheduleName = "reeltable", at: At = "02:00", address: Cluster = None
) -> None:
    """A DAG for Airflow 3, with a run a day from today on: Airflow names the day and catches up itself.

    Example:

      reeltable schedule airflow 's3://lake/dt={date}/' --out s3://tables --address http://head:8265 > dag.py
    """
    from datetime import UTC, datetime

    from jobs.schedule import airflow

    sys.stdout.write(airflow(_schedule(arguments, name, at, address), datetime.now(UTC).date()))


@submit.command("run", context_settings={"ignore_unknown_options": True})
def submit_run(
    arguments: RunArguments,
    address: Head = None,
    name: Annotated[
        str | None, typer.Option(help="Of the job; default: by its output and what is asked for.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print what the job prints.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit and leave it.")] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Submit another attempt though one succeeded; so do --force, --retry-failures and --since.",
        ),
    ] = False,
    shared_disk: Annotated[
        bool, typer.Option("--shared-disk", help="Every node mounts the paths given at the same place.")
    ] = False,
    entrypoint_cpus: Annotated[
        float, typer.Option(min=0, help="CPUs held for the entrypoint; 0: it runs on the head.")
    ] = 0.0,
    entrypoint_memory_mb: Annotated[
        int, typer.Option("--entrypoint-memory", min=0, metavar="MB", help="Memory held for it.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Run on a cluster: this code and config travel there. One piece of work is one job: who submits it again
    is attached to it while it runs, and told so when it has succeeded; what failed is attempted again.

    Exit codes are those of reeltable run: 3 where units failed, by the run's record.

    Examples:

      reeltable submit run s3://lake/2026/ --out s3://tables --address http://head:8265 --follow

      reeltable submit run 's3://lake/dt={date}/' --out s3://tables --date yesterday --catch-up --retries 2
    """
    from jobs import submit as cluster

    request, retries = _request(
        arguments,
        name=name,
        is_disk_shared=shared_disk,
        entrypoint_cpus=entrypoint_cpus,
        entrypoint_memory_mb=entrypoint_memory_mb,
    )
    submission, job = _submitted(
        _where(address), request, retries, waits=not no_wait, follows=follow, is_again=again
    )
    runs = _runs_of(request.out, submission, job) if job is not None else []
    if as_json:
        print_json(cluster.as_json(submission, job, runs))
    elif job is None:
        out.print(submission.submission_id, highlight=False)
    if job is not None and job.status != "SUCCEEDED":
        code = Exit.USAGE if cluster.is_refused(job) else Exit.JOB_FAILED
        fail(f"{submission.submission_id} {job.status.lower()}: {cluster.summary(job)}", code)
    n_failed = sum(record["n_failed"] for record in runs)
    if n_failed:
        err.print(f"{n_failed} units failed; why stands in {request.out}/failures")
    raise typer.Exit(Exit.SOME_FAILED if n_failed else Exit.OK)


def _request(arguments: list[str], **more: Any) -> tuple[Any, int]:
    """What `submit run` was asked for, its options being those of `run`; and its retries."""
    from jobs.days import parse_day
    from jobs.submit import Request

    given = _parsed(arguments)
    if given["job_id"] is not None:
        fail("--job-id: a submitted job has its own; expected --name", Exit.USAGE)
    if given["since"] is not None and given["catch_up"]:
        fail("--since and --catch-up: expected one of them", Exit.USAGE)
    options: list[str] = []
    if given["since"] is not None:
        options += ["--since", guarded(lambda: parse_day(given["since"]))]
    for flag in ("catch_up", "retry_failures", "force"):
        options += [f"--{flag.replace('_', '-')}"] if given[flag] else []
    if given["wait_s"]:
        options += ["--wait", f"{given['wait_s']:g}"]
    if given["max_failed_share"] is not None:
        options += ["--max-failed-share", f"{given['max_failed_share']:g}"]
    if given["max_cost"] is not None:
        options += ["--max-cost", f"{given['max_cost']:g}"]
    if given["on_finish"]:
        options += ["--on-finish", given["on_finish"]]
    if given["log_format"].value != "text":
        options += ["--log-format", given["log_format"].value]
    request = Request(
        inputs=tuple(given["inputs"]),
        out=given["out_dir"],
        config=given["config"],
        date=parsed_day(given["day"]),
        options=tuple(options),
        **more,
    )
    return request, given["retries"]


def _client(address: str | None) -> tuple[Any, str]:
    from jobs.submit import connect

    where = _where(address)
    return guarded(lambda: connect(where)), where


def _where(address: str | None) -> str:
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    told = [address, *(v for v in map(os.environ.get, names) if v and v.startswith("http"))]
    where = next((a for a in told if a), None)
    if where is None:
        fail("no cluster is named; expected --address http://HEAD:8265", Exit.USAGE)
    return where


class _JobError(Exception):
    """Of a job that another attempt may mend."""

    def __init__(self, submission: Any, job: Any, why: str) -> None:
        super().__init__(f"failed: {why}")
        self.submission, self.job = submission, job


def _submitted(
    address: str, request: Any, retries: int, *, waits: bool, follows: bool, is_again: bool
) -> tuple[Any, Any]:
    """The submission, and the job's details once it has ended; without waiting None unless it had before."""
    from jobs import submit as cluster
    from jobs.retry import with_retries

    begun: list[Any] = []

    def attempt() -> tuple[Any, Any]:
        client = cluster.connect(address)
        # What was begun and succeeded while nobody answered is not done twice.
        wants_another = not begun and (is_again or request.asks_again)
        submission = _begun(client, address, request, wants_another, warns=not begun)
        begun.append(submission)
        if not waits and submission.how != "succeeded":
            return submission, None
        job = _awaited(client, address, submission, follows)
        if job.status == "FAILED" and not cluster.is_refused(job):
            raise _JobError(submission, job, cluster.summary(job))
        return submission, job

    def is_final(e: Exception) -> bool:
        may_pass = isinstance(e, (cluster.SubmitError, _JobError))
        return not may_pass or isinstance(e, cluster.TokenError)

    def tell(e: Exception, seconds: float) -> None:
        err.print(f"{e}; again in {seconds:.0f} s", markup=False)

    try:
        return guarded(lambda: with_retries(attempt, retries, tell, is_final))
    except _JobError as e:
        return e.submission, e.job


def _begun(client: Any, address: str, request: Any, is_again: bool, *, warns: bool) -> Any:
    """The submission, new or found, and said so."""
    from jobs import submit as cluster

    said = {"new": "submitted", "running": "attached to", "succeeded": "nothing submitted:"}
    submission, warnings = cluster.submit(client, address, request, is_again=is_again)
    for warning in warnings if warns else ():
        err.print(f"warning: {warning}")
    tail = " has succeeded before (--again: another attempt)" if submission.how == "succeeded" else ""
    err.print(f"{said[submission.how]} {submission.submission_id}{tail}")
    return submission


def _awaited(client: Any, address: str, submission: Any, follows: bool) -> Any:
    from jobs.submit import SubmitError, wait

    submission_id, has_ended = submission.submission_id, submission.how == "succeeded"

    def tell(text: str) -> None:
        err.print(text, end="")

    def on_status(status: str) -> None:
        if not has_ended:
            err.print(f"{submission_id}: {status.lower()}")

    on_logs = tell if follows and not has_ended else None
    try:
        return wait(client, address, submission_id, on_status, on_logs)
    except (SubmitError, KeyboardInterrupt):
        err.print(f"the job may go on; reeltable submit stop {submission_id} stops it")
        raise


def _runs_of(out_dir: str, submission: Any, job: Any) -> list[dict[str, Any]]:
    from jobs.submit import runs_of
    from pipeline.tables.store import TableError

    try:
        return runs_of(out_dir, submission.submission_id, job.start_time)
    except TableError as e:
        err.print(f"warning: whether units failed cannot be told: {without_secrets(str(e))}")
        return []


@submit.command("logs")
def submit_logs(
    submission_id: SubmissionId,
    address: Head = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """What a job has printed."""
    from jobs import submit as cluster

    def tell(text: str) -> None:
        out.print(text, end="", highlight=False)

    client, where = _client(address)
    if follow:
        guarded(lambda: cluster.follow(client, where, submission_id, tell))
    else:
        tell(guarded(lambda: cluster.logs(client, where, submission_id)))


@submit.command("stop")
def submit_stop(submission_id: SubmissionId, address: Head = None, as_json: AsJson = False) -> None:
    """Stop a job; what it has committed stays, and submitting it again goes on from there."""
    from jobs import submit as cluster

    client, where = _client(address)
    status = guarded(lambda: cluster.stop(client, where, submission_id))
    if as_json:
        print_json({"submission_id": submission_id, "status": status})
    else:
        out.print(f"{submission_id}: {status.lower()}", highlight=False)


@submit.command("list")
def submit_list(address: Head = None, as_json: AsJson = False) -> None:
    """The cluster's jobs, the newest first."""
    from datetime import UTC, datetime

    from jobs import submit as cluster

    client, where = _client(address)
    found = guarded(lambda: cluster.listed(client, where))
    if as_json:
        print_json(found)
        return
    for row in found:
        began, ended = row["start_time"], row["end_time"]
        at = datetime.fromtimestamp(began / 1000, UTC).isoformat(timespec="seconds") if began else ""
        took = f"  {(ended - began) / 1000:.0f} s" if began and ended else ""
        out.print(f"{row['submission_id']}  {row['status'].lower():9}  {at}{took}", highlight=False)
