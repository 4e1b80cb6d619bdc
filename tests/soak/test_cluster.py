"""A slice of `make soak-cluster`: a node lost and one won in the middle of a run, and a head lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(1500)
def test_a_run_that_lost_a_node_and_a_job_that_lost_its_head_end_with_equal_tables():
    command = [
        sys.executable,
        "-m",
        "tests.soak.cluster",
        "--videos",
        "3",
        "--nodes",
        "1",
        "--heads",
        "1",
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["rows"]["clips"] == 36
    assert (outcome["rounds"], outcome["heads"]) == (1, 1)
