"""`reeltable schedule` and `configs/cluster`: each file is what its scheduler reads, with nothing lost."""

from __future__ import annotations

import ast
import copy
import re
import shlex
import shutil
import subprocess
from datetime import date

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.cli import app
from jobs.schedule import (
    KINDS,
    TEMPLATES,
    Schedule,
    airflow,
    cron,
    kubernetes,
    ray_cluster,
    systemd,
    systemd_quoted,
)
from pipeline.config import CONFIG_DIR
from tests.jobs import kuberay
from tests.jobs.kuberay import round_trip

cli = CliRunner()
COMMAND = (
    "/opt/reeltable/bin/reeltable",
    "run",
    "s3://lake/dt={date}/",
    "--out",
    "s3://tables/reeltable",
)
NIGHTLY = ("--date", "yesterday", "--catch-up", "--wait", "3600", "--retries", "2")
WORKERS = shlex.split("--set run.device=cuda --set run.decode_workers=64 --set run.encode_workers=2")
SHIPPED = Schedule("reeltable", "02:00", (*COMMAND, *NIGHTLY), "/srv/reeltable")
ODD = '/videos of \'26/100%/$HOME/{date}/\\ "a" #1'


def call(*arguments):
    result = cli.invoke(app, ["schedule", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def cron_command(line):
    """What cron gives the shell: up to a bare per cent sign, with `\\%` for one."""
    *_, command = line.split(" ", 5)
    assert re.search(r"(?<!\\)%", command) is None
    return command.replace("\\%", "%")


def test_shipped_lines_and_units_are_what_the_command_prints():
    assert (TEMPLATES / "crontab").read_text() == cron(SHIPPED)
    for file, text in systemd(SHIPPED, "reeltable").items():
        assert (TEMPLATES / file).read_text() == text


def test_cron_runs_the_very_command_with_spaces_and_per_cent_signs(tmp_path):
    program = tmp_path / "told"
    program.write_text('#!/bin/sh\nfor a in "$@"; do printf "%s\\n" "$a"; done\npwd\n')
    program.chmod(0o755)
    folder = tmp_path / "a 50% folder"
    folder.mkdir()
    line = cron(Schedule("n", "23:05", (str(program), ODD, "--out", "t"), str(folder))).splitlines()[1]
    assert line.startswith("5 23 * * * ")
    said = subprocess.run(
        ["/bin/sh", "-c", cron_command(line)], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == [ODD, "--out", "t", str(folder)]


@pytest.mark.parametrize(("who", "user"), [("ann", "ann"), ("root", "reeltable")])
def test_systemd_never_runs_it_as_root(who, user, monkeypatch):
    monkeypatch.setenv("LOGNAME", who)
    code, stdout, stderr = call("systemd", "/srv/videos", "--out", "/srv/tables")
    assert code == 0, stderr
    assert f"User={user}" in stdout.splitlines()


def systemd_unquoted(line):
    """Arguments of ExecStart by the rules of systemd.service(5): quotes, C escapes, %% and $$."""
    return [
        part.replace("%%", "%").replace("$$", "$")
        for part in shlex.split(line)  # POSIX rules are the same for double quotes with \\ and \"
    ]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0`"), min_size=1))
def test_what_systemd_is_given_it_reads_back(text):
    assert systemd_unquoted(systemd_quoted(text)) == [text]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    folder = tmp_path / "a 50% folder"
    folder.mkdir()
    odd = Schedule("odd", "02:00", ("/bin/true", ODD), str(folder))
    for file, text in systemd(odd, "daemon").items():
        (tmp_path / file).write_text(text)
    units = [str(tmp_path / f"odd.{kind}") for kind in ("service", "timer")]
    said = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "odd." not in said.stderr
    calendar = ["systemd-analyze", "calendar", "*-*-* 02:00:00 UTC"]
    assert subprocess.run(calendar, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("file", ["cronjob.yaml", "networkpolicy.yaml"])
def test_core_objects_are_read_by_the_kubernetes_client_with_nothing_lost(file):
    for made in yaml.safe_load_all((TEMPLATES / file).read_text()):
        round_trip(made, f"V1{made['kind']}")


@pytest.mark.parametrize("file", ["rayjob.yaml", "raycronjob.yaml", "raycluster.yaml"])
def test_kuberays_objects_have_its_documented_fields(file):
    (made,) = yaml.safe_load_all((TEMPLATES / file).read_text())
    kuberay.check(made)
    groups = kuberay._found(made, "workerGroupSpecs")[0]["workerGroupSpecs"]
    gpus = {
        group["groupName"]: group["template"]["spec"]["containers"][0]["resources"]["limits"].get(
            "nvidia.com/gpu"
        )
        for group in groups
    }
    assert gpus == {"decode": None, "encode": "1"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backofLimit"), 1),
        (("spec", "activeDeadlineSeconds"), 0),
        (("spec", "suspend"), "false"),
        (("spec", "shutdownAfterJobFinishes"), False),
        (("spec", "submissionMode"), "Http"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "container"), []),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), 99),
    ],
)
def test_the_check_of_kuberays_objects_finds_what_is_wrong(path, value):
    made = yaml.safe_load((TEMPLATES / "rayjob.yaml").read_text())
    at = made
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    with pytest.raises(AssertionError):
        kuberay.check(made)


def test_the_three_kuberay_files_are_of_one_cluster():
    job, cron_job, cluster = (
        yaml.safe_load((TEMPLATES / f"{name}.yaml").read_text())
        for name in ("rayjob", "raycronjob", "raycluster")
    )
    assert cron_job["spec"]["jobTemplate"] == job["spec"]
    assert cluster == ray_cluster("reeltable")


def test_the_head_and_its_token_are_where_the_cron_job_looks():
    cron_job = yaml.safe_load((TEMPLATES / "cronjob.yaml").read_text())
    cluster = yaml.safe_load((TEMPLATES / "raycluster.yaml").read_text())
    pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    name = cluster["metadata"]["name"]
    assert f"http://{name}-head-svc:8265" in container["args"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
    allowed = yaml.safe_load((TEMPLATES / "networkpolicy.yaml").read_text())["spec"]["ingress"][1]
    assert allowed["from"][0]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]


def test_every_pod_has_the_rights_of_the_service_account():
    for file in ("rayjob.yaml", "raycronjob.yaml", "raycluster.yaml", "cronjob.yaml"):
        pods = kuberay._found(yaml.safe_load((TEMPLATES / file).read_text()), "containers")
        assert {pod["serviceAccountName"] for pod in pods} == {"reeltable"}, file


def test_prometheus_may_scrape_the_pods():
    *_, metrics = yaml.safe_load((TEMPLATES / "networkpolicy.yaml").read_text())["spec"]["ingress"]
    (where,) = metrics["from"]
    assert where["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert metrics["ports"] == [{"protocol": "TCP", "port": 8080}]


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kubernetes_prints_the_command_filled_in(kind, is_folder, tmp_path):
    mine = tmp_path if is_folder else tmp_path / "mine.yaml"
    file = tmp_path / "config.yaml" if is_folder else mine
    file.write_text("clips: {length_s: 2, stride_s: 2}\nlabels: {actions: [clapping]}\n")
    more = ["--address", "http://head:8265"] if kind == "CronJob" else []
    code, stdout, stderr = call(
        "kubernetes", "s3://lake/it's {date}/", "--out", "s3://t", "--config", mine, "--set",
        "clips.frames_per_clip=4", "--catch-up", "--kind", kind, "--name", "nightly", "--at", "03:30",
        "--image", "registry/reeltable:1", *more,
    )  # fmt: skip
    assert code == 0, stderr
    config_map, made = yaml.safe_load_all(stdout)
    round_trip(config_map, "V1ConfigMap")
    told = yaml.safe_load(config_map["data"]["config.yaml"])
    assert told["clips"]["length_s"] == 2
    assert told["clips"]["frames_per_clip"] == 4
    assert told["labels"]["actions"] == ["clapping"]
    assert made["kind"] == kind
    assert made["metadata"]["name"] == "nightly"
    if kind == "CronJob":
        round_trip(made, "V1CronJob")
        pod = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        command = [*pod["containers"][0]["command"], *pod["containers"][0]["args"]]
        begins, ends = ["submit", "run"], ["--address", "http://head:8265", "--follow"]
    else:
        kuberay.check(made)
        (job,) = kuberay._found(made, "entrypoint")
        pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        command = shlex.split(job["entrypoint"])
        begins, ends = ["run"], WORKERS
    config = ["--config", "/etc/reeltable/config.yaml"]
    job_id = [] if kind == "CronJob" else ["--job-id", "nightly"]
    inputs = ["s3://lake/it's {date}/", "--out", "s3://t", "--catch-up"]
    assert command == ["reeltable", *begins, *inputs, *ends, *config, *job_id]
    assert made["spec"].get("schedule") == (None if kind == "RayJob" else "30 3 * * *")
    mount = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert command[command.index("--config") + 1].startswith(mount)
    images = {
        container["image"]
        for found in kuberay._found(made, "containers")
        for container in found["containers"]
    }
    assert images == {"registry/reeltable:1"}


def entrypoint_of(stdout):
    (job,) = kuberay._found(list(yaml.safe_load_all(stdout)), "entrypoint")
    return shlex.split(job["entrypoint"])


def test_groups_that_grow_are_asked_for_workers_where_nobody_says_how_many(tmp_path):
    """A run counts what there is when it begins, so that a group would never grow."""
    (shipped,) = kuberay._found(yaml.safe_load((TEMPLATES / "rayjob.yaml").read_text()), "entrypoint")
    assert shlex.join(WORKERS) in shipped["entrypoint"]
    args = kuberay._found(yaml.safe_load((TEMPLATES / "cronjob.yaml").read_text()), "args")[0]["args"]
    assert shlex.join(WORKERS) in shlex.join(args)
    mine = tmp_path / "mine.yaml"
    mine.write_text("run: {decode_workers: 7}\n")
    run = ["kubernetes", "s3://lake/", "--out", "s3://t"]
    told = entrypoint_of(call(*run, "--config", mine, "--set", "run.encode_workers=3")[1])
    assert [part for part in told if part.startswith("run.")] == ["run.device=cuda"]
    told = entrypoint_of(call(*run, "--set", "run.encode_workers=3")[1])
    said = ["run.encode_workers=3", "run.device=cuda", "run.decode_workers=64"]
    assert [part for part in told if part.startswith("run.")] == said
    told = entrypoint_of(call(*run, "--set", "run.device=cpu")[1])
    assert [part for part in told if part.startswith("run.")] == ["run.device=cpu"]


def test_a_list_of_actions_that_an_option_names_is_carried(tmp_path):
    (tmp_path / "my_actions.txt").write_text("welding\n")
    actions = f"labels.actions={tmp_path}/my_actions.txt"
    code, stdout, stderr = call("kubernetes", "s3://lake/", "--out", "s3://t", "--set", actions)
    assert code == 0, stderr
    assert str(tmp_path) not in stdout
    config_map, _ = yaml.safe_load_all(stdout)
    assert yaml.safe_load(config_map["data"]["config.yaml"])["labels"]["actions"] == ["welding"]
    assert "/etc/reeltable/config.yaml" in entrypoint_of(stdout)


@pytest.mark.parametrize("how", ["option", "config"])
@pytest.mark.parametrize("kind", ["RayJob", "CronJob"])
def test_a_bundle_of_this_machine_is_refused_unless_pods_mount_it(kind, how, tmp_path, monkeypatch):
    mine = tmp_path / "bundles" / "mine"
    mine.mkdir(parents=True)
    shutil.copy(CONFIG_DIR.parent / "pipeline/bundles/embedded/bundle.yaml", mine)
    (mine / "config.yaml").write_text("bundle: .\n")
    monkeypatch.chdir(tmp_path)
    named = ["--set", "bundle=bundles/mine"] if how == "option" else ["--config", "bundles/mine"]
    more = ["--address", "http://head:8265"] if kind == "CronJob" else []
    run = ["kubernetes", "s3://lake/", "--out", "s3://t", *named, "--kind", kind, *more]
    code, stdout, stderr = call(*run)
    assert (code, stdout) == (2, "")
    assert f"{mine}: a bundle of this machine" in stderr
    code, stdout, stderr = call(*run, "--shared-disk")
    assert code == 0, stderr
    config_map, made = yaml.safe_load_all(stdout)
    assert yaml.safe_load(config_map["data"]["config.yaml"])["bundle"] == str(mine)
    args = [part for found in kuberay._found(made, "args") for part in found["args"]]
    assert ("--shared-disk" in args) == (kind == "CronJob")


@pytest.mark.parametrize(
    ("address", "secret"),
    [("http://lake-head-svc:8265", "lake"), ("http://lake-head-svc.ray.svc:8265", "lake"),
     ("http://head:8265", "reeltable")],
)  # fmt: skip
def test_the_cron_job_reads_the_token_of_the_cluster_that_it_submits_to(address, secret):
    run = ["kubernetes", "s3://lake/", "--out", "s3://t", "--name", "nightly", "--address", address]
    code, stdout, stderr = call(*run)
    assert code == 0, stderr
    (read,) = kuberay._found(yaml.safe_load(stdout), "secretKeyRef")
    assert read["secretKeyRef"] == {"name": secret, "key": "auth_token"}


def test_a_config_that_ships_is_named_and_not_carried():
    code, stdout, _ = call("kubernetes", "s3://lake/", "--out", "s3://t", "--config", "embedded")
    assert code == 0
    (made,) = yaml.safe_load_all(stdout)
    assert "--config embedded" in made["spec"]["jobTemplate"]["entrypoint"]


def test_templates_are_not_changed_by_filling_them():
    before = copy.deepcopy(ray_cluster("reeltable"))
    kubernetes(Schedule("other", "01:00", ("reeltable", "run"), "/"), "RayJob", "another:image")
    assert ray_cluster("reeltable") == before


def test_the_airflow_dag_is_filled_in_and_names_the_day_itself():
    text = airflow(Schedule("nightly", "02:30", (*COMMAND, ODD, *NIGHTLY), "/srv"), date(2026, 2, 1))
    values = {}
    calls = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign):
            values[node.targets[0].id] = ast.literal_eval(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            calls[node.func.id] = {keyword.arg for keyword in node.keywords}
    assert values == {
        "NAME": "nightly",
        "CRON": "30 2 * * *",
        "START": "2026-02-01",
        "FOLDER": "/srv",
        "COMMAND": [*COMMAND, ODD, "--wait", "3600", "--retries", "2"],
    }
    assert {"dag_id", "schedule", "start_date", "catchup", "max_active_runs"} <= calls["DAG"]
    assert {"task_id", "bash_command", "retries", "retry_exponential_backoff"} <= calls["BashOperator"]


def test_airflow_names_the_day_in_place_of_one_given_with_a_sign():
    nightly = (*COMMAND, "--date=2026-01-31", "--since=2026-01-01", "--wait=5")
    text = airflow(Schedule("nightly", "02:30", nightly, "/srv"), date(2026, 2, 1))
    assert repr([*COMMAND, "--wait=5"]) in text


def test_airflow_reads_the_dag_where_it_is_installed(tmp_path):
    pytest.importorskip("airflow", reason="Airflow is not installed")
    from airflow.dag_processing.dagbag import DagBag

    (tmp_path / "dag.py").write_text(airflow(SHIPPED, date(2026, 2, 1)))
    bag = DagBag(str(tmp_path), bundle_path=tmp_path, bundle_name="test")
    assert not bag.import_errors
    assert bag.dags["reeltable"].catchup


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cron", "s3://lake/", "--out", "s3://t", "--at", "25:00"], "expected hours and minutes"),
        (["cron", "s3://lake/", "--out", "s3://t", "--name", "My job"], "expected small letters"),
        (["cron", "s3://lake/", "--out", "s3://t", "--set", "clip.length_s=2"], "nearest valid one"),
        (["cron", "s3://lake/", "--out", "s3://t", "--catchup"], "No such option"),
        (["cron", "s3://lake/"], "Missing option"),
        (["cron", "https://me:pw@host/a.mp4", "--out", "t"], "would end in files and logs"),
        (["kubernetes", "videos/", "--out", "s3://t"], "videos/: means nothing in a pod"),
        (["kubernetes", "s3://l/", "--out", "s3://t", "--kind", "Pod"], "expected one of RayJob"),
        (["kubernetes", "s3://l/", "--out", "s3://t", "--kind", "CronJob"], "--address with CronJob"),
    ],
)
def test_bad_usage_is_told_before_anything_is_printed(arguments, said):
    code, stdout, stderr = call(*arguments)
    assert code == 2
    assert said in stderr
    assert "pw" not in stderr
    assert stdout == ""


PROGRAMS = {  # in the place of a cluster's own: they say what they are given, and all goes well
    "scontrol": "echo node1",
    "srun": 'echo "srun $SRUN_CPUS_PER_TASK $*" >> "$TOLD"',
    "ray": "grep '^srun' \"$TOLD\" | sed 's/.*/ 1 node_/'",  # a node for each that was begun
    "sleep": "exit 0",
    "reeltable": 'for a in "$@"; do echo "$a" >> "$TOLD"; done',
}


def test_the_slurm_script_takes_the_jobs_share_of_a_node_and_passes_options_on(tmp_path):
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"CPUS_PER_TASK": 16, "GPUS_ON_NODE": 1, "MEM_PER_NODE": 1000, "JOB_NUM_NODES": 2}
    slurm |= {"JOB_ID": 7, "JOB_NODELIST": "n", "SUBMIT_DIR": tmp_path}
    env = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    env |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "TOLD": str(tmp_path / "told")}
    more = ["--date", "yesterday", "--set", "labels.actions=[a b]"]
    script = ["bash", TEMPLATES / "slurm.sh", "s3://lake/dt={date}/", "s3://t", *more]
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "told").read_text().splitlines()
    starts = [line for line in told if line.startswith("srun 16 ")]
    assert len(starts) == 2
    for line in starts:
        assert line.endswith("--num-cpus=16 --num-gpus=1 --object-store-memory=314572800")
    run = [line for line in told if not line.startswith("srun ")]
    assert run[:4] == ["run", "s3://lake/dt={date}/", "--out", "s3://t"]
    assert run[-4:] == more
    assert not list(tmp_path.glob(".ray-token*"))


def test_ray_up_reads_its_file():
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((TEMPLATES / "ray-up.yaml").read_text())
    validate_config(config | {"cluster_synced_files": []})  # which `ray up` adds
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert commands.count("RAY_AUTH_MODE=token") == 2
    assert "--dashboard-host=127.0.0.1" in commands
    workers = [kind for name, kind in config["available_node_types"].items() if name != "head"]
    assert all("IamInstanceProfile" in kind["node_config"] for kind in workers), "which reads buckets"


def test_the_skypilot_task_has_its_documented_fields_and_no_secret_of_its_own():
    task = yaml.safe_load((TEMPLATES / "skypilot.yaml").read_text())
    known = {
        "name",
        "workdir",
        "num_nodes",
        "resources",
        "envs",
        "secrets",
        "file_mounts",
        "setup",
        "run",
    }
    assert set(task) <= known
    assert set(task["resources"]) <= {
        "accelerators",
        "cpus",
        "memory",
        "disk_size",
        "autostop",
        "infra",
    }
    assert all(value is None for value in task["secrets"].values())
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_workers_of_the_skypilot_task_end_when_the_head_is_gone(tmp_path):
    """SkyPilot's job, and what its nodes cost, ends when the script has ended on each of them."""
    run = yaml.safe_load((TEMPLATES / "skypilot.yaml").read_text())["run"]
    looks = tmp_path / "looks"
    programs = {  # one look fails while the head is busy; from the fourth on it is gone
        "ray": f'echo "ray $*" >> {tmp_path}/told; [ "$1" = start ] && exit 0\n'
        f'echo >> {looks}; n=$(wc -l < {looks}); [ "$n" -ne 2 ] && [ "$n" -lt 4 ]',
        "pkill": f'echo "pkill $*" >> {tmp_path}/told',
        "sleep": "exit 0",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    env |= {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
    done = subprocess.run(["bash", "-c", run], env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "told").read_text().splitlines()
    status = "ray status --address 10.0.0.1:6399"
    assert told == [
        "ray start --address=10.0.0.1:6399", *[status] * 6, "pkill -f /tmp/reeltable-ray/session_",
        "pkill -9 -f /tmp/reeltable-ray/session_",
    ]  # fmt: skip


def test_the_dockerfile_has_both_targets_and_runs_as_nobody_special():
    stages, users = {}, {}
    stage = None
    for line in (TEMPLATES / "Dockerfile").read_text().splitlines():
        if found := re.fullmatch(r"FROM (\S+) AS (\w+)", line):
            stage = found[2]
            stages[stage] = found[1]
        elif line.startswith("USER "):
            users[stage] = line.split()[1]
        copied = re.match(r"COPY (?!--from)(.*) \S+$", line)
        for name in copied[1].split() if copied else ():
            assert (TEMPLATES.parents[1] / name).exists(), name
            assert f"!{name}" in (TEMPLATES / "Dockerfile.dockerignore").read_text().splitlines()
    assert stages["cpu"] == stages["cuda"] == "base"
    assert users == {"cpu": "ray", "cuda": "ray"}
