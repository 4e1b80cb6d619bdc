"""A nightly run for the scheduler that is there: cron, systemd, Kubernetes or Airflow.

The files of `configs/cluster` are the templates. YAML is read, filled in as values and written again; a line of
another kind is quoted as its own reader unquotes it.
"""

from __future__ import annotations

import ast
import copy
import getpass
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml

from pipeline.config import CONFIG_DIR, Config, ConfigError

TEMPLATES = CONFIG_DIR / "cluster"
KINDS = ("RayJob", "RayCronJob", "CronJob")
_CONFIG_FILE = "/etc/reeltable/config.yaml"  # where a config of one's own is mounted
# What a run asks for where nodes come later: what it counts when it begins are the template's first nodes.
_WORKERS = {"device": "cuda", "decode_workers": 64, "encode_workers": 2}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")  # KubeRay adds to it what names its parts


@dataclass(frozen=True)
class Schedule:
    """What is done every day, and when."""

    name: str
    at: str  # 02:00; UTC where the scheduler can be told so, else by its machine's clock
    command: tuple[str, ...]  # what a shell is given: reeltable, run or submit, and the rest
    folder: str  # what relative paths are meant from

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", self.at):
            raise ConfigError(f"--at {self.at!r}: expected hours and minutes, such as 02:00")
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"--name {self.name!r}: expected small letters, digits and hyphens, 40 at most"
            )
        if any("\n" in part for part in (*self.command, self.folder)):
            raise ConfigError("a line break in an argument: no scheduler takes that")

    @property
    def cron(self) -> str:
        hours, minutes = self.at.split(":")
        return f"{int(minutes)} {int(hours)} * * *"


def cron(schedule: Schedule) -> str:
    """Lines for `crontab -e`."""
    command = f"cd {shlex.quote(schedule.folder)} && {shlex.join(schedule.command)}"
    return (
        f"# {schedule.name}: for crontab -e; {schedule.at} by the machine's clock, complaints go to MAILTO\n"
        # To cron a per cent sign is a line break, even in quotes.
        f"{schedule.cron} {command.replace('%', chr(92) + '%')}\n"
    )


def systemd(schedule: Schedule, user: str) -> dict[str, str]:
    """The service, which runs as `user`, and the timer, by file name."""
    command = " ".join(systemd_quoted(part) for part in schedule.command)
    service = f"""\
# /etc/systemd/system/{schedule.name}.service
[Unit]
Description=reeltable: {schedule.name}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
# Never root: videos are not to be trusted. The user must exist, read the videos and write the tables
User={user}
WorkingDirectory={schedule.folder.replace("%", "%%")}
# Tokens and credentials, if any: a file for root alone, such as RAY_AUTH_TOKEN_PATH=/etc/reeltable/token
EnvironmentFile=-/etc/reeltable/{schedule.name}.env
ExecStart={command}
# Single units that failed stand in the table failures; bad usage would fail again
SuccessExitStatus=3
RestartPreventExitStatus=2
Restart=on-failure
RestartSec=10min
TimeoutStopSec=60
Nice=10
NoNewPrivileges=yes
"""
    timer = f"""\
# /etc/systemd/system/{schedule.name}.timer, then: systemctl enable --now {schedule.name}.timer
[Unit]
Description=reeltable: {schedule.name} every day

[Timer]
OnCalendar=*-*-* {schedule.at}:00 UTC
# What was missed while the machine was off is done when it is on
Persistent=true
RandomizedDelaySec=5min

[Install]
WantedBy=timers.target
"""
    return {f"{schedule.name}.service": service, f"{schedule.name}.timer": timer}


def service_user() -> str:
    """Who asks; `reeltable` for root and for whoever has no name, as root decodes no videos of strangers."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "root"
    return "reeltable" if user == "root" else user


def systemd_quoted(part: str) -> str:
    """One argument of ExecStart as systemd reads it: no specifier, no variable, no escape."""
    escaped = part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if re.fullmatch(r"[\w./:=,@{}+%$-]+", escaped) else f'"{escaped}"'


def airflow(schedule: Schedule, today: date) -> str:
    """A DAG's file: the template with its first values set anew."""
    values = {
        "NAME": schedule.name,
        "CRON": schedule.cron,
        "START": today.isoformat(),
        "FOLDER": schedule.folder,
        # Airflow names the day, and catches up.
        "COMMAND": without(schedule.command, ("--date", "--since"), ("--catch-up",)),
    }
    text = (TEMPLATES / "airflow_dag.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in values and node.end_lineno:
            lines[node.lineno - 1 : node.end_lineno] = [f"{target.id} = {values.pop(target.id)!r}"]
    if values:
        raise AssertionError(f"the template lacks {', '.join(values)}")
    return "\n".join(lines) + "\n"


def without(arguments: Sequence[str], options: Sequence[str], flags: Sequence[str]) -> list[str]:
    """`arguments` less `options`, as `--option VALUE` or `--option=VALUE`, and less `flags`."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in options:
            next(rest, None)
        elif argument not in flags and not argument.startswith(tuple(f"{o}=" for o in options)):
            kept.append(argument)
    return kept


def workers_to_come(config: Config) -> list[str]:
    """`--set` of how many workers a run has on nodes that come as they are asked for, where `config` says
    nothing itself."""
    if config.run.device == "cpu":  # without GPUs the nodes that there are tell better
        return []
    missing = _WORKERS.keys() - config.run.model_fields_set
    return [p for k, v in _WORKERS.items() if k in missing for p in ("--set", f"run.{k}={v}")]


def kubernetes(
    schedule: Schedule, kind: str, image: str | None = None, config: Config | None = None
) -> str:
    """The object that runs `schedule`, one of `KINDS`, as YAML; with `config` a ConfigMap before it.

    Args:
        image: of the containers; the template's own by default.
        config: of one's own, which no image holds; it is mounted beside the command that reads it.
    """
    command = list(schedule.command)
    if config is not None:
        command += ["--config", _CONFIG_FILE]
    if kind == "CronJob":
        made, pod = _cron_job(schedule, command)
    else:
        made, pod = _ray_job(schedule, command, kind)
    for container in _containers(made):
        container["image"] = image or container["image"]
    documents = [made]
    if config is not None:
        name = f"{schedule.name}-config"
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        meta = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        documents.insert(0, meta | {"data": {"config.yaml": text}})
        pod["volumes"] = [*pod.get("volumes", []), {"name": "config", "configMap": {"name": name}}]
        mount = {"name": "config", "mountPath": "/etc/reeltable", "readOnly": True}
        first = pod["containers"][0]
        first["volumeMounts"] = [*first.get("volumeMounts", []), mount]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120)


def _cron_job(schedule: Schedule, command: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A CronJob whose pod runs `command`; and that pod.

    The token is in the Secret that KubeRay names like its cluster; for another address in the template's, which
    somebody makes.
    """
    made = _template("cronjob.yaml")
    made["metadata"]["name"] = schedule.name
    made["spec"]["schedule"] = schedule.cron
    pod = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    container |= {"command": command[:1], "args": command[1:]}
    cluster = re.match(r"https?://([a-z0-9-]+)-head-svc\b", command[command.index("--address") + 1])
    if cluster is not None:
        token = next(given for given in container["env"] if given["name"] == "RAY_AUTH_TOKEN")
        token["valueFrom"]["secretKeyRef"]["name"] = cluster[1]
    return made, pod


def _ray_job(
    schedule: Schedule, command: list[str], kind: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A RayJob that runs `command`, or a RayCronJob of it; and the head's pod, where it runs."""
    job = _template("rayjob.yaml")
    job["metadata"]["name"] = schedule.name
    job["spec"]["entrypoint"] = shlex.join([*command, "--job-id", schedule.name])
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    if kind == "RayJob":
        return job, pod
    spec = {
        "schedule": schedule.cron,
        "timeZone": "Etc/UTC",
        "suspend": False,
        "jobTemplate": job["spec"],
    }
    return job | {"kind": "RayCronJob", "spec": spec}, pod


def ray_cluster(name: str) -> dict[str, Any]:
    """A RayCluster that stands, of the nodes that a RayJob has."""
    job = _template("rayjob.yaml")
    spec = copy.deepcopy(job["spec"]["rayClusterSpec"])
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}, "spec": spec}


def _template(file: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((TEMPLATES / file).read_text(encoding="utf-8"))
    return value


def _containers(value: Any) -> list[dict[str, Any]]:
    """Every container anywhere in a nested `value`."""
    if isinstance(value, list):
        return [c for item in value for c in _containers(item)]
    if not isinstance(value, dict):
        return []
    own = value.get("containers", [])
    return [*own, *(c for key, item in value.items() if key != "containers" for c in _containers(item))]


def command_of(
    program: Sequence[str], arguments: Sequence[str], address: str | None
) -> tuple[str, ...]:
    """`reeltable run`, or, on a cluster that stands, `reeltable submit run`."""
    if address is None:
        return (*program, "run", *arguments)
    return (*program, "submit", "run", *arguments, "--address", address, "--follow")
