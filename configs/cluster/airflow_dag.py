"""Every night a run for the day before, for Airflow 3; `reeltable schedule airflow` fills in the first lines.

A day that was missed is caught up by Airflow, one after the other. The token of the cluster, if there is
one, and the credentials of the buckets are the worker's own: in its environment, not here.
"""

from __future__ import annotations

import shlex
from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.timetables.interval import CronDataIntervalTimetable

NAME = "reeltable"
CRON = "0 2 * * *"
START = "2026-01-31"
FOLDER = "/srv/reeltable"
COMMAND = [
    "reeltable",
    "submit",
    "run",
    "s3://lake/dt={date}/",
    "--out",
    "s3://tables/reeltable",
    "--address",
    "http://head:8265",
    "--follow",
]

with DAG(
    dag_id=NAME,
    schedule=CronDataIntervalTimetable(CRON, timezone="UTC"),
    start_date=pendulum.parse(START, tz="UTC"),
    catchup=True,
    max_active_runs=1,  # in order, and never two at once
    tags=["reeltable"],
) as dag:
    # 3 says that single units failed; why stands in the table `failures`, and the same again helps nobody.
    BashOperator(
        task_id="run",
        bash_command="{% raw %}" + shlex.join(COMMAND) + "{% endraw %} --date {{ ds }} || [ $? -eq 3 ]",
        cwd=FOLDER,
        append_env=True,
        retries=2,
        retry_delay=timedelta(minutes=5),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(hours=1),
        execution_timeout=timedelta(hours=12),
    )
