"""What KubeRay's reference (1.7) documents of the objects that we write: fields, kinds of values, and rules.

Written from the reference's field tables for `ray.io/v1`; only what is named here may be used. Pods in them are
checked by the Kubernetes client's own models.
"""

from __future__ import annotations

import json
from typing import Any

from kubernetes.client import ApiClient

STRINGS = {str: str}
AUTOSCALER = {"idleTimeoutSeconds": int, "upscalingMode": ("Default", "Aggressive", "Conservative")}
HEAD = {"rayStartParams": STRINGS, "template": "V1PodTemplateSpec"}
WORKERS = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": STRINGS,
    "template": "V1PodTemplateSpec",
}
CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": ("token", "disabled"), "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": AUTOSCALER,
    "headGroupSpec": HEAD,
    "workerGroupSpecs": [WORKERS],
}
JOB = {
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    "entrypoint": str,
    "suspend": bool,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "rayClusterSpec": CLUSTER,
}
CRON_JOB = {"schedule": str, "timeZone": str, "suspend": bool, "jobTemplate": JOB}
SPECS = {"RayJob": JOB, "RayCronJob": CRON_JOB, "RayCluster": CLUSTER}


def check(made: dict[str, Any]) -> None:
    """Raise AssertionError for anything that the operator would drop or refuse."""
    assert set(made) == {"apiVersion", "kind", "metadata", "spec"}
    assert made["apiVersion"] == "ray.io/v1"
    round_trip(made["metadata"], "V1ObjectMeta")
    _fields(made["spec"], SPECS[made["kind"]], made["kind"])
    if made["kind"] == "RayCronJob":
        assert {"schedule", "jobTemplate"} <= set(made["spec"])
        assert len(made["spec"]["schedule"].split()) == 5
    for job in _found(made, "entrypoint"):
        assert job["activeDeadlineSeconds"] > 0
        assert job["backoffLimit"] >= 0
        assert job["shutdownAfterJobFinishes"], "a job's cluster would stay, and could not be suspended"
    for cluster in _found(made, "headGroupSpec"):
        names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
        assert len(set(names)) == len(names)
        for group in cluster["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def round_trip(value: Any, model: str) -> None:
    """Read `value` as the Kubernetes client's `model` and write it again: no field may be lost."""
    client = ApiClient()
    read = client.deserialize(json.dumps(value), model, "application/json")
    assert client.sanitize_for_serialization(read) == value


def _fields(value: Any, known: Any, where: str) -> None:
    if isinstance(known, str):
        round_trip(value, known)
    elif known is STRINGS:
        assert all(isinstance(v, str) for v in value.values()), f"{where}: expected strings"
    elif isinstance(known, dict):
        assert set(value) <= set(known), f"{where}: {sorted(set(value) - set(known))}"
        for name, item in value.items():
            _fields(item, known[name], f"{where}.{name}")
    elif isinstance(known, list):
        for item in value:
            _fields(item, known[0], f"{where}[]")
    elif isinstance(known, tuple):
        assert value in known, f"{where}: {value}"
    else:
        assert type(value) is known, f"{where}: {value!r}"


def _found(value: Any, name: str) -> list[dict[str, Any]]:
    """Every mapping in a nested `value` that has a key `name`."""
    if isinstance(value, list):
        return [found for item in value for found in _found(item, name)]
    if not isinstance(value, dict):
        return []
    return ([value] if name in value else []) + [f for v in value.values() for f in _found(v, name)]
