"""`reeltable`: the command line. Results on stdout, progress and complaints on stderr.

Exit codes: 0 all done; 3 done, with failures new in this run; 2 bad usage or config; 1 the job failed.
Heavy imports wait until a command needs them, so that `--help` and a run with nothing to do are quick.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeVar, overload

import typer
from rich.markup import escape
from rich.table import Table

from jobs.cli_browse import browse
from jobs.cli_cluster import schedule, submit
from jobs.cli_options import (
    Deadline,
    LogFormat,
    LogFormatOption,
    MaxCost,
    OnFinish,
    SizeCluster,
    VideoHours,
)
from jobs.cli_report import report
from jobs.console import AsJson, Exit, err, out
from jobs.console import fail as _fail
from jobs.console import guarded as _guarded
from jobs.console import load as _load
from jobs.console import parsed_day as _day
from jobs.console import print_json as _print_json
from pipeline import __version__
from pipeline.config import Config, ConfigError, read_values
from pipeline.sources import InputError, Listing, ListingError, list_sources, without_secrets

T = TypeVar("T")
_MOST_FAILURES = 10


app = typer.Typer(
    name="reeltable",
    help="Turn a lake of videos into Parquet tables: what happens in every clip (labels), said in a "
    "sentence (caption), searchable (embedding), with sound and picture on one clock.",
    epilog="Examples:\n\n"
    "reeltable demo\n\n"
    "reeltable run videos/ --out tables\n\n"
    'reeltable sql tables "select top_label, count(*) from clips group by all"\n\n'
    "reeltable COMMAND --help has more of each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(no_args_is_help=True, help="Bundles: the models that a run can use.")
_RUN, _LOOK, _KEEP, _LEARN, _CLUSTER = "Run", "Look", "Keep", "Models and training", "Cluster"
app.add_typer(models, name="models", rich_help_panel=_LEARN)
app.add_typer(submit, name="submit", rich_help_panel=_CLUSTER)
app.add_typer(schedule, name="schedule", rich_help_panel=_CLUSTER)
app.command(rich_help_panel=_LOOK)(browse)
app.command(rich_help_panel=_LOOK)(report)

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT…",
        help="Videos: files, directories, globs, URLs (s3://…), or manifests (.txt, .csv, .parquet "
        "with a column uri).",
    ),
]
OutDir = Annotated[str, typer.Option("--out", help="Where the tables are: a directory or a URL.")]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config", help="A YAML file, a trained bundle's folder, or the name of a shipped config."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as clips.length_s=2."),
]
Day = Annotated[
    str | None,
    typer.Option(
        "--date",
        help="Logical date of new rows, 2026-01-31, today or yesterday; default: today, UTC. It stands for "
        "{date} in an INPUT.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="DATE",
        help="A run for each day from this one to --date, in order: INPUT names its day with {date}, or "
        "{date:%Y/%m/%d}.",
    ),
]
CatchUp = Annotated[
    bool,
    typer.Option("--catch-up", help="--since the day after the last one that a run has done."),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Try a job that fails as a whole so often again, after longer pauses."
    ),
]
JobId = Annotated[
    str | None,
    typer.Option(
        "--job-id",
        metavar="ID",
        help="Run as this job of a scheduler: the run's record names it, and failed units alone exit with 0, "
        "so that no scheduler repeats a job for one bad file.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster to join; default: RAY_ADDRESS, else a local Ray."),
]
RetryFailures = Annotated[
    bool, typer.Option("--retry-failures", help="Take units that failed in an earlier run again.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Take every unit again; the new rows replace the old ones.")
]
WaitS = Annotated[
    float,
    typer.Option(
        "--wait", min=0, metavar="SECONDS", help="Wait so long for another job that writes here."
    ),
]
Directory = Annotated[str, typer.Argument(metavar="DIR", help="Where the tables are.")]
CorrectSync = Annotated[
    bool,
    typer.Option(
        "--correct-sync", help="Move sound that the content shows to be early or late (sync.correct)."
    ),
]
MaxFailedShare = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Exit with 1 where more than this share of the units failed, in this run or before.",
    ),
]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(f"reeltable {__version__}", highlight=False)
        raise typer.Exit(Exit.OK)


@app.command(rich_help_panel=_RUN)
def run(
    context: typer.Context,
    inputs: Inputs,
    out_dir: OutDir,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    day: Day = None,
    since: Since = None,
    catch_up: CatchUp = False,
    address: Address = None,
    retry_failures: RetryFailures = False,
    force: Force = False,
    wait_s: WaitS = 0.0,
    retries: Retries = 0,
    correct_sync: CorrectSync = False,
    max_failed_share: MaxFailedShare = None,
    max_cost: MaxCost = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    on_finish: OnFinish = None,
    job_id: JobId = None,
    as_json: AsJson = False,
) -> None:
    """Plan, decode, encode and write the tables; what is done already is left alone.

    Examples:

      reeltable run videos/ --out tables

      reeltable run s3://lake/2026/ --out s3://tables --config embedded --set clips.length_s=2

      reeltable run 's3://lake/dt={date}/' --out s3://tables --date yesterday --catch-up --retries 3
    """
    if log_format is LogFormat.JSON:
        from jobs.logs import json_lines

        context.with_resource(json_lines())
    config = _load(config_file, [*(overrides or ()), *(["sync.correct=true"] if correct_sync else ())])
    from jobs.days import as_recorded, fill
    from jobs.record import Origin
    from jobs.run import Options

    days = _days(inputs, out_dir, config, _day(day), since, catch_up)
    options = Options(
        dt="",
        address=address,
        retry_failures=retry_failures,
        force=force,
        wait_s=wait_s,
        max_cost=max_cost,
        origin=Origin(tuple(as_recorded(inputs)), job_id),
    )
    reports = []
    is_one = since is None and not catch_up
    for dt in days.days:
        options = dataclasses.replace(options, dt=dt)
        told = _told(out_dir, on_finish, config, options)
        listing = _list(
            fill(inputs, dt), may_be_empty=not is_one, on_error=told.gave_up, retries=retries
        )
        if listing is not None:
            if not is_one:
                err.print(f"{dt}:")
            how = {"log_format": log_format, "retries": retries, "told": told}
            reports.append(_run(listing, out_dir, config, options, **how))
            if options.max_cost is not None:  # of all days together
                left = max(0.0, options.max_cost - (reports[-1].planned_cost or 0.0))
                options = dataclasses.replace(options, max_cost=left)
            if not as_json:
                _print_report(reports[-1], out_dir)
    if as_json:
        told = [dataclasses.asdict(report) for report in reports]
        _print_json(told[0] if is_one else told)
    if not reports and not days.is_proven:
        _fail(f"no video on {days.days[0]} to {days.days[-1]}; see the warnings", Exit.USAGE)
    ends = {_exit_code(report, max_failed_share) for report in reports}
    code = next((c for c in (Exit.JOB_FAILED, Exit.SOME_FAILED) if c in ends), Exit.OK)
    raise typer.Exit(Exit.OK if job_id and code is Exit.SOME_FAILED else code)


def _days(
    inputs: list[str], out_dir: str, config: Config, last: str, since: str | None, catch_up: bool
) -> Any:
    from jobs.days import Days, days_until, missed_days, parse_day, recorded_days
    from jobs.plan import result_digest_of
    from pipeline.tables.store import Store

    def found() -> Days:
        if since is None and not catch_up:
            return Days((last,), False)
        if since is not None and catch_up:
            raise ConfigError("--since and --catch-up: expected one of them")
        digest = result_digest_of(config)
        if catch_up:
            return missed_days(Store(out_dir), last, inputs, digest)
        days = days_until(last, inputs, parse_day(str(since)))
        return Days(days, bool(recorded_days(Store(out_dir), inputs, digest)))

    days: Days = _guarded(found)
    if len(days.days) > 1:
        err.print(f"{len(days.days)} days, {days.days[0]} to {days.days[-1]}")
    return days


def _told(out_dir: str, on_finish: str | None, config: Config, options: Any) -> Any:
    """Who hears of a run beside the person who looks at it."""
    from jobs.lineage import lineage_of
    from jobs.notify import notifiers
    from jobs.watch import Observers

    observers = _guarded(lambda: notifiers(on_finish, config, options, err.print))
    return Observers([*lineage_of(out_dir, options, err.print), *observers], err.print)


def _run(
    listing: Listing,
    out_dir: str,
    config: Config,
    options: Any,
    *,
    told: Any = None,
    log_format: LogFormat = LogFormat.TEXT,
    retries: int = 0,
) -> Any:
    from jobs.logs import JsonLog
    from jobs.progress import progress_printer
    from jobs.watch import Observers, run_observed

    is_text = log_format is LogFormat.TEXT
    with progress_printer(err) if is_text else nullcontext(JsonLog()) as shown:
        observer = Observers([shown, *([told] if told else [])], err.print)
        return _guarded(
            lambda: run_observed(listing, out_dir, config, options, observer, err.print, retries)
        )


def _exit_code(report: Any, max_failed_share: float | None) -> Exit:
    n_ended = report.n_done + report.n_empty + report.n_failed
    n_begun = report.n_units - report.n_done_before - report.n_failed_before
    if n_ended < n_begun:
        err.print(f"error: of {n_begun} units begun only {n_ended} are in the tables; run again")
        return Exit.JOB_FAILED
    # Those before count too: whoever begins a failed job again would be told that all is well.
    share = (report.n_failed + report.n_failed_before) / max(1, report.n_units)
    if max_failed_share is not None and share > max_failed_share:
        told = f"{share:.0%} of the units failed, now or before"
        err.print(f"error: {told}; --max-failed-share is {max_failed_share:.0%}")
        return Exit.JOB_FAILED
    return Exit.SOME_FAILED if report.n_failed else Exit.OK


def _print_report(report: Any, out_dir: str) -> None:
    if report.state == "nothing_to_do":
        before = f", {report.n_failed_before} failed before (--retry-failures takes them again)"
        out.print(
            f"Nothing to do: all {report.n_units} units of {report.n_videos} videos are in {out_dir}"
            + (before if report.n_failed_before else ""),
            highlight=False,
        )
        return
    out.print(
        f"{report.n_clips} clips of {report.n_videos} videos in {out_dir} "
        f"({report.n_done} units done, {report.n_empty} empty, {report.n_failed} failed"
        + (f", {report.n_done_before} done before" if report.n_done_before else "")
        + ")",
        highlight=False,
    )
    out.print(
        f"{report.wall_s:.1f} s for {report.video_s:.1f} s of video: plan {report.plan_s:.1f} s, start "
        f"{report.start_s:.1f} s; over all workers decode {report.decode_s:.1f} s, encode "
        f"{report.encode_s:.1f} s, commit {report.commit_s:.2f} s",
        highlight=False,
    )
    if report.n_failed:
        from jobs.status import failures_of
        from pipeline.remedies import remedy

        # A log has told each already.
        told = failures_of(out_dir, report.attempts) if err.instead is None else []
        for _, message in told[:_MOST_FAILURES]:
            err.print(f"failed: {message}")
        for code in dict.fromkeys(code for code, _ in told):
            err.print(f"{code}: {remedy(code).partition('. ')[0].rstrip('.')}.")
        out.print(f"Why units failed stands in {out_dir}/failures", highlight=False)


@app.command(rich_help_panel=_RUN)
def plan(
    inputs: Inputs,
    out_dir: OutDir,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    retry_failures: RetryFailures = False,
    max_cost: MaxCost = None,
    size_cluster: SizeCluster = False,
    deadline: Deadline = "24h",
    video_hours: VideoHours = None,
    as_json: AsJson = False,
) -> None:
    """List the units of work that a run would do and what they take; decode nothing, write nothing.

    Examples:

      reeltable plan videos/ --out tables --set prices.cpu_hour=0.04 --max-cost 20

      reeltable plan videos/ --out tables --config tuned.yaml --size-cluster --deadline 6h
    """
    from jobs.cost import check_cost, described, described_size, estimate, sized
    from jobs.plan import make_plan
    from pipeline.tables.ledger import read_ledger
    from pipeline.tables.store import Store

    config = _load(config_file, overrides)
    listing = _list(inputs)
    made = _guarded(
        lambda: make_plan(listing, config, read_ledger(Store(out_dir)), retry_failures=retry_failures)
    )
    takes = _guarded(lambda: estimate(made, config, Store(out_dir)))
    size = None
    if size_cluster:
        size = _guarded(lambda: sized(takes, config, deadline, video_hours))
    if as_json:
        _print_json(
            {
                "takes": dataclasses.asdict(takes),
                "cluster": dataclasses.asdict(size) if size else None,
                "bundle": made.bundle.name,
                "result_digest": made.result_digest,
                "n_videos": len(made.sources),
                "n_units": made.n_units,
                "n_done_before": made.n_done_before,
                "n_failed_before": made.n_failed_before,
                "todo": [dataclasses.asdict(unit) for unit in made.todo],
            }
        )
    else:
        _print_plan(made, [*described(takes), *(described_size(size) if size else ())])
    if max_cost is not None:
        _guarded(lambda: check_cost(takes, max_cost))


def _print_plan(made: Any, takes: list[str]) -> None:
    table = Table("unit", "start s", "end s", "attempt", "uri", box=None)
    for unit in made.todo:
        end = "end" if unit.end_s is None else f"{unit.end_s:g}"
        table.add_row(unit.unit_id, f"{unit.start_s:g}", end, str(unit.attempt), unit.uri)
    out.print(table)
    out.print(
        f"{len(made.todo)} of {made.n_units} units to do, of {len(made.sources)} videos "
        f"({made.n_done_before} done before, {made.n_failed_before} failed before)",
        highlight=False,
    )
    for line in takes:
        out.print(line, highlight=False)


@app.command(rich_help_panel=_LOOK)
def status(directory: Directory, as_json: AsJson = False) -> None:
    """What is in the tables of DIR: done, failed, and how fast the last run was."""
    from jobs.status import read_status
    from pipeline.remedies import remedy

    found = _guarded(lambda: read_status(directory))
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    out.print(
        f"{found.n_clips} clips of {found.n_videos} videos; {found.n_done} units done, "
        f"{found.n_empty} empty, {found.n_failed} failed",
        highlight=False,
    )
    for code, count in sorted(found.failures_by_code.items()):
        out.print(f"  {count} × {code}: {remedy(code)}", highlight=False)
    if found.last_run is not None:
        last = found.last_run
        rate = f", {found.video_s_per_s:.1f} s of video a second" if found.video_s_per_s else ""
        out.print(f"last run {last['run_id']}: {last['wall_s']:.1f} s{rate}", highlight=False)


@app.command(rich_help_panel=_LOOK)
def probe(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A path or URL.")],
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Container facts of one file, and how sound and picture agree in its first minute."""
    from pipeline.media.guard import Guard, Limits
    from pipeline.records import MediaError
    from pipeline.understand import media_facts

    config = _load(config_file, overrides)
    guard = Guard(
        "pipeline.understand:examine",
        Limits(config.run.decode_deadline_s, config.run.decode_memory_mb),
    )
    try:
        found, _ = guard.call(file, config)
    except MediaError as e:
        _fail(f"{file}: {e.failure.message}".replace(f"{file}: {file}", file), Exit.JOB_FAILED)
    finally:
        guard.close()
    if found.info is None:
        _fail(found.failure.message, Exit.JOB_FAILED)
    facts = media_facts(found.info, found.sync) | {"origin_s": float(found.info.origin_s)}
    for stream, name in ((found.info.video, "video"), (found.info.audio, "audio")):
        if stream is not None:
            facts[f"{name}_time_base"] = str(stream.time_base)
    if as_json:
        _print_json({"uri": file} | facts)
    else:
        table = Table(box=None, show_header=False)
        for name, value in ({"uri": file} | facts).items():
            table.add_row(name, _fact(value))
        out.print(table)
    if found.failure is not None:
        _fail(found.failure.message, Exit.JOB_FAILED)


def _fact(value: Any) -> str:
    if value is None:
        return "not told"
    if isinstance(value, list):  # damaged spans
        return ", ".join(f"{span['start_s']:g}–{span['end_s']:g} s" for span in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


@app.command(rich_help_panel=_RUN)
def demo(
    out_dir: OutDir = "demo_out",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the main job on real sample videos, offline, and show the first rows."""
    from jobs.demo import first_rows, sample_videos
    from jobs.run import Options

    videos = _guarded(sample_videos)
    report = _run(_list(videos), out_dir, _load(None, overrides), Options(_day(None)))
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        _print_report(report, out_dir)
        out.print(f"\nThe tables are in {os.path.abspath(out_dir)}. The first rows of clips/:\n")
        for line in first_rows(out_dir):
            out.print(line, highlight=False, markup=False)
    raise typer.Exit(_exit_code(report, None))


@app.command(rich_help_panel=_LOOK)
def sql(
    directory: Directory,
    question: Annotated[str, typer.Argument(metavar="SQL", help="A select over the four tables.")],
    all_results: Annotated[
        bool, typer.Option("--all", help="Also rows that newer settings have replaced.")
    ] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask the tables of DIR in SQL: clips, videos, segments and failures are views of one snapshot.

    Example:

      reeltable sql tables "select top_label, count(*) as n from clips group by all order by n desc"
    """
    from pipeline.tables.read import query

    found = _guarded(lambda: query(directory, question, all_results=all_results))
    if as_json:
        _print_json(found.to_pylist())
    elif as_csv:
        sys.stdout.write(found.to_pandas().to_csv(index=False))
    else:
        table = Table(*found.column_names, box=None)
        for row in found.to_pylist():
            table.add_row(*(escape("" if v is None else str(v)) for v in row.values()))
        out.print(table)


@app.command(rich_help_panel=_KEEP)
def compact(
    directory: Directory,
    target_mb: Annotated[float, typer.Option(min=0.001, help="Size of a merged file.")] = 128.0,
    wait_s: WaitS = 0.0,
    as_json: AsJson = False,
) -> None:
    """Merge small files; the replaced ones leave the table and wait for vacuum."""
    from pipeline.tables.maintain import compact as merge

    target = int(target_mb * 2**20)
    done = _held("compact", directory, wait_s, lambda s, check: merge(s, _day(None), target, check))
    if as_json:
        _print_json(dataclasses.asdict(done))
        return
    out.print(
        f"{done.n_files_before} files of clips became {done.n_files_after} "
        f"({done.n_bytes / 2**20:.1f} MB merged); reeltable vacuum {directory} deletes the old ones",
        highlight=False,
    )


@app.command(rich_help_panel=_KEEP)
def vacuum(
    directory: Directory,
    grace_h: Annotated[
        float, typer.Option("--grace-hours", min=0, help="Keep what was replaced later than that.")
    ] = 24.0,
    wait_s: WaitS = 0.0,
    as_json: AsJson = False,
) -> None:
    """Delete what compaction and later runs have replaced."""
    from datetime import timedelta

    from pipeline.tables.maintain import vacuum as clean

    done = _held(
        "vacuum", directory, wait_s, lambda s, check: clean(s, timedelta(hours=grace_h), check)
    )
    if as_json:
        _print_json(dataclasses.asdict(done))
        return
    out.print(
        f"deleted {done.n_files} files ({done.n_bytes / 2**20:.1f} MB); {done.n_kept} replaced within "
        f"the last {grace_h:g} h are kept",
        highlight=False,
    )


@app.command(rich_help_panel=_KEEP)
def forget(
    directory: Directory,
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO…", help="Their video_id, or their path or URL.")
    ],
    wait_s: WaitS = 0.0,
    as_json: AsJson = False,
) -> None:
    """Remove videos from all tables and all history, at once and for good.

    The files themselves stay where they are; a later run over them adds them again.
    """
    from pipeline.tables.maintain import forget as remove

    done = _held("forget", directory, wait_s, lambda s, check: remove(s, videos, _day(None), check))
    if as_json:
        _print_json(dataclasses.asdict(done))
        return
    out.print(
        f"removed {done.n_clips} clips and {done.n_units} units of {', '.join(done.uris)} "
        f"(video_id {', '.join(done.video_ids)}); {done.n_files_rewritten} files were written anew",
        highlight=False,
    )


def _held(
    purpose: str, directory: str, wait_s: float, work: Callable[[Any, Callable[[], None]], T]
) -> T:
    """Do `work` on an output that is there, as its only writer; it can check that it still is."""
    import uuid

    from pipeline.tables.lease import check_held, lease
    from pipeline.tables.store import Store, TableError

    def under_lease() -> T:
        store = Store(directory)
        if not store.names("_commits", ".json"):
            raise TableError(f"{directory}: no tables here")
        token = f"{purpose}-{uuid.uuid4().hex[:6]}"
        with lease(
            store, purpose, token, wait_s=wait_s, on_wait=lambda o: err.print(f"waiting for {o}")
        ):
            return work(store, lambda: check_held(store, token))

    return _guarded(under_lease)


@models.command("list")
def models_list(as_json: AsJson = False) -> None:
    """The bundles that ship with reeltable."""
    from pipeline.bundles.spec import bundle_names, find_bundle

    specs = _guarded(lambda: [find_bundle(name) for name in bundle_names()])
    if as_json:
        _print_json([{"name": s.name, "version": s.version, "is_here": s.is_here} for s in specs])
        return
    for spec in specs:
        state = "here" if spec.is_here else f"reeltable models fetch {spec.name}"
        out.print(f"{spec.name} {spec.version} ({state}): {spec.summary}", highlight=False)


@models.command("show")
def models_show(name: str, as_json: AsJson = False) -> None:
    """What a bundle is made of: encoders, vocabularies, licences, measured accuracy."""
    from pipeline.bundles.spec import find_bundle

    spec = _guarded(lambda: find_bundle(name))
    shown = spec.model_dump(mode="json") | {"digest": _guarded(spec.digest)}
    if as_json:
        _print_json(shown)
        return
    import yaml

    out.print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), highlight=False)


@app.command(rich_help_panel=_LEARN)
def evaluate(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG|MANIFEST",
            help="A .yaml of experiments; or labelled videos, a .csv or .parquet with columns uri and label; "
            "start_s, end_s if need be. Several labels of one video: with | between.",
        ),
    ] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="With a CONFIG: this experiment; may be repeated."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="With a CONFIG: measure again what was measured before.")
    ] = False,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where card, JSON and plots go; default: as the CONFIG says, or nowhere."
        ),
    ] = None,
    views: Annotated[
        str,
        typer.Option(
            help="With a MANIFEST: looks of a video network, temporal x spatial, as papers do it."
        ),
    ] = "10x3",
    space: Annotated[
        str | None,
        typer.Option(
            help="With a MANIFEST: the vocabulary of its labels; default: the one that has them all."
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            help="Train and compare fusions instead: all, or late, early, bottleneck (several with commas)."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --fusion: a folder with grid/, esc10/ and esc10.csv.")
    ] = None,
    work: Annotated[
        str, typer.Option(help="With --fusion: keeps what was read and trained; resumes from there.")
    ] = "checkpoints/fusion",
    as_json: AsJson = False,
) -> None:
    """What a bundle is worth: the experiments of a CONFIG as a model card, or accuracy over labelled videos.

    A CONFIG names experiments; what still holds from before is not measured again. A MANIFEST names videos
    with their labels; told is how often the bundle is right by sight, by sound and by both. With --fusion:
    late, early and bottleneck fusion and each sense alone, trained on the same talking heads, side by side.

    Examples:

      reeltable evaluate configs/eval/embedded.yaml --only esc10

      reeltable evaluate kinetics_val.csv --set bundle=kinetics-x3d --views 10x3 --out accuracy

      reeltable evaluate --fusion all --data ../shared/data
    """
    if fusion is not None:
        _compare_fusions(fusion, data, work, as_json)
    elif target is None:
        _fail("expected a CONFIG, a MANIFEST, or --fusion with --data", Exit.USAGE)
    elif target.lower().endswith((".yaml", ".yml")):
        _evaluate_config(target, overrides or [], only or [], fresh, out_dir, as_json)
    else:
        config = _load(config_file, overrides)
        _evaluate_manifest(target, config, views, space, out_dir, as_json)


def _evaluate_config(
    file: str, overrides: list[str], only: list[str], fresh: bool, out_dir: Path | None, as_json: bool
) -> None:
    from jobs.evaluate import evaluate_config

    report, files = _guarded(
        lambda: evaluate_config(file, overrides, err.print, only=only, fresh=fresh, out=out_dir)
    )
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        for outcome in report.outcomes:
            _print_outcome(outcome)
        for written in files:
            if written.suffix != ".png":
                out.print(f"written: {written}", highlight=False)
    states = [outcome.state for outcome in report.outcomes]
    if "failed" in states or not ({"measured"} & set(states)):
        raise typer.Exit(Exit.JOB_FAILED)
    if "not measured" in states:
        raise typer.Exit(Exit.SOME_FAILED)


def _print_outcome(outcome: Any) -> None:
    if outcome.state == "not asked":
        return
    if outcome.measured is None:
        out.print(f"{outcome.name}: {outcome.state}: {outcome.why}", highlight=False)
        return
    out.print(f"{outcome.name}:", highlight=False)
    _print_figures(outcome.measured.figures)
    from pipeline.evaluation.card import tables

    for table in tables(outcome.measured):
        out.print(f"\n{table}\n", highlight=False)


def _print_figures(figures: Any) -> None:
    for figure in figures:
        interval = f" ({figure.interval})" if figure.interval else ""
        n = "" if figure.n is None else f", n {figure.n:,}"
        out.print(f"  {figure.told}: {figure.shown}{interval}{n}", highlight=False)


def _evaluate_manifest(
    manifest: str, config: Config, views: str, space: str | None, out_dir: Path | None, as_json: bool
) -> None:
    from jobs.evaluate import evaluate_manifest, write_accuracy

    temporal, _, spatial = views.partition("x")
    if not (temporal.isdigit() and spatial.isdigit() and int(temporal) and int(spatial)):
        _fail(f"--views {views!r}: expected temporal x spatial, such as 10x3", Exit.USAGE)
    n_views = (int(temporal), int(spatial))
    found, figures, answers = _guarded(
        lambda: evaluate_manifest(manifest, config, *n_views, err.print, space)
    )
    written = []
    if figures is not None and out_dir is not None:
        written = _guarded(lambda: write_accuracy(found, figures, manifest, out_dir))
    if as_json:
        told = [{k: v for k, v in vars(answer).items() if k != "scores"} for answer in answers]
        shown_figures = figures.model_dump(mode="json") if figures else None
        _print_json({"accuracy": vars(found), "measured": shown_figures, "answers": told})
    else:
        for answer in answers:
            if answer.problem:
                err.print(f"not read: {answer.problem}")
        shown = (
            "no video could be read"
            if found.top1 is None
            else f"top-1 {found.top1:.2%}, top-5 {found.top5:.2%}"
        )
        out.print(
            f"{found.bundle} on {found.space}: {shown} of {found.n} videos, {found.views} views"
            + (f"; {found.n_unreadable} not read" if found.n_unreadable else ""),
            highlight=False,
        )
        _print_figures(figures.figures if figures else ())
        for file in written:
            out.print(f"written: {file}", highlight=False)
    if found.n_unreadable:
        raise typer.Exit(Exit.SOME_FAILED if found.n else Exit.JOB_FAILED)


@app.command(rich_help_panel=_LEARN)
def tune(
    inputs: Inputs,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write the config with what was found into this file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find by trial how many looks, workers and units at once suit this machine.

    Example:

      reeltable tune videos/ --write tuned.yaml && reeltable run videos/ --out tables --config tuned.yaml
    """
    import torch
    import yaml

    from jobs.tune import tune as measured

    config = _load(config_file, overrides)
    listing = _list(inputs)
    device = config.run.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tell = (lambda _: None) if as_json else err.print
    found = _guarded(lambda: measured(listing, config, device, tell))
    if write is not None:
        values = read_values(config_file, overrides or ())
        values["run"] = (values.get("run") or {}) | found.settings
        values["clips"] = (values.get("clips") or {}) | {"reader": found.reader}
        values["rates"] = (values.get("rates") or {}) | found.rates
        write.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    found_best = {
        "run": found.settings,
        "clips": {"reader": found.reader},
        "rates": found.rates,
    }
    out.print(yaml.safe_dump(found_best, sort_keys=False).rstrip(), highlight=False)
    err.print(
        f"measured on {found.video_s:.0f} s of video, {found.device}: a second of it takes "
        f"{found.decode_s_per_video_s:.3f} s to decode and {found.encode_s_per_video_s:.3f} s to encode"
        + (f"; written to {write}" if write else "")
    )


@app.command(rich_help_panel=_LEARN)
def train(
    config_file: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file; configs/train has an example.")
    ],
    overrides: Overrides = None,
    out_dir: Annotated[
        str | None, typer.Option("--out", help="Directory of the bundle; default: out, bundles/NAME.")
    ] = None,
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the manifest and say what would be trained.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn your own labels from a manifest of labelled videos; a bundle comes of it, for a run to use.

    What is decoded is kept, and a training that was stopped goes on from its last checkpoint.

    Examples:

      reeltable train configs/train/finetune_example.yaml --set manifest=my_labels.csv

      reeltable run videos/ --out tables --config bundles/my_labels/config.yaml
    """
    from jobs.train import TrainingError, outlook, prepare
    from jobs.train import train as train_bundle
    from pipeline.training.settings import load_train_config

    more = [*(overrides or ()), *([f"out={json.dumps(out_dir)}"] if out_dir else ())]
    work = _guarded(lambda: prepare(load_train_config(config_file, more)))
    if dry_run:
        _print_outlook(_guarded(lambda: outlook(work)), as_json)
        return
    try:
        found = _guarded(lambda: train_bundle(work, address, err.print))
    except TrainingError as e:
        _fail(str(e), Exit.JOB_FAILED)
    if as_json:
        _print_json(dataclasses.asdict(found))
    else:
        for space, figure in found.measured.items():
            out.print(f"{space}: {figure}", highlight=False)
        out.print(
            f"bundle {found.name} in {found.bundle}, after {found.n_steps} steps on {found.n_train} videos; "
            f"reeltable run videos/ --out tables --config {found.config}",
            highlight=False,
        )
    if found.failed:
        raise typer.Exit(Exit.SOME_FAILED)


def _print_outlook(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(plan)
        return
    for space, counts in plan["spans"].items():
        told = ", ".join(f"{label} ({n})" for label, n in counts.items())
        out.print(f"{space}: {told}", highlight=False)
    tested = f", {plan['n_tested']} only measured" if plan["n_tested"] else ""
    out.print(
        f"{plan['n_videos']} videos: {plan['n_train']} to learn from, {plan['n_held_out']} held out{tested}; "
        f"{plan['n_units']} units, {plan['n_to_decode']} still to decode; bundle {plan['name']} on top of "
        f"{plan['base']} would be {plan['bundle']}",
        highlight=False,
    )


def _compare_fusions(fusion: str, data: str | None, work: str, as_json: bool) -> None:
    from jobs.evaluate import evaluate_fusion

    if data is None:
        _fail("--fusion: expected --data, a folder with grid/, esc10/ and esc10.csv", Exit.USAGE)
    found, table = _guarded(lambda: evaluate_fusion(fusion, data, work, err.print))
    if as_json:
        _print_json(dataclasses.asdict(found))
    else:
        out.print(table, highlight=False)


@models.command("fetch")
def models_fetch(
    name: str,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Copy from this folder; nothing is asked of the network."),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="Ask URL/host/path instead of each publisher; also REELTABLE_MIRROR. HF_ENDPOINT: hub."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a bundle's weights; what has come of a file is gone on from, and every sum is checked."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from pipeline.bundles.fetch import fetch
    from pipeline.bundles.spec import find_bundle

    spec = _guarded(lambda: find_bundle(name))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(file: str, here: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file)
            bar.update(tasks[file], completed=here, total=total)

        found = _guarded(
            lambda: fetch(spec, source=source, mirror=mirror, on_progress=show), Exit.JOB_FAILED
        )
    if as_json:
        _print_json([dataclasses.asdict(file) for file in found])
        return
    for file in found:
        out.print(
            f"{file.state:10} {file.size_bytes:>13,} bytes  {file.sha256[:12]}  {file.file}",
            highlight=False,
        )
    out.print(f"{spec.name}: {len(found)} files in {spec.directory}", highlight=False)


@models.command("verify")
def models_verify(
    name: str,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the answer as what is expected from now on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Load a bundle strictly and compare its answer to a fixed input with the stored one."""
    from pipeline.bundles.spec import find_bundle
    from pipeline.bundles.verify import verify

    spec = _guarded(lambda: find_bundle(name))
    found = _guarded(lambda: verify(spec, record=record), Exit.JOB_FAILED)
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    told = {
        "equal": "equals the stored one",
        "none stored": "none is stored to compare with (--record keeps it)",
    }
    fast = (
        "" if found.fast_cosine is None else f"; fast way: cosine {found.fast_cosine:.4f} to the exact"
    )
    said = f"loaded strictly; answer: {told[found.golden]}{fast}"
    out.print(f"{found.bundle} {found.digest}: {said}", highlight=False)


@overload
def _list(inputs: list[str]) -> Listing: ...
@overload
def _list(
    inputs: list[str],
    *,
    may_be_empty: bool,
    on_error: Callable[[Exception], None],
    retries: int = 0,
) -> Listing | None: ...
def _list(
    inputs: list[str],
    *,
    may_be_empty: bool = False,
    on_error: Callable[[Exception], None] = lambda _: None,
    retries: int = 0,
) -> Listing | None:
    """What `inputs` name, or None where that may be nothing; what cannot be looked at is not nothing."""
    from jobs.retry import with_retries

    def again(e: Exception, pause_s: float) -> None:
        err.print(f"failed: {e}; again in {pause_s:.0f} s")

    try:
        listing = with_retries(
            lambda: list_sources(inputs), retries, again, lambda e: not isinstance(e, ListingError)
        )
    except (InputError, ListingError) as e:
        is_empty = isinstance(e, InputError)
        if not (may_be_empty and is_empty):
            on_error(e)
            _fail(str(e), Exit.USAGE if is_empty else Exit.JOB_FAILED)
        err.print(f"warning: {without_secrets(str(e))}")
        return None
    for problem in listing.problems:
        err.print(f"warning: {problem}")
    return listing


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the command."""
    # A scheduler's stop is a person's Ctrl-C: the lease is given back and Ray is shut down.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except SystemExit as e:
        if "ray" not in sys.modules:
            raise
        # Ray's native threads race the interpreter's end: a run that had done all was aborted by
        # SIGABRT behind its last line. Everything is written and Ray is shut down: leave at once.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(e.code if isinstance(e.code, int) else Exit.OK if e.code is None else Exit.JOB_FAILED)
