"""OpenLineage: what a run reads and writes, told to a catalogue where the standard settings name one.

    OPENLINEAGE_URL, OPENLINEAGE_API_KEY     or openlineage.yml, here or named by OPENLINEAGE_CONFIG

START when a run has begun, COMPLETE or FAIL when it ends. A thread of its own sends them, so that a catalogue
that does not answer holds up nothing but the end, and that not for long. Without settings nothing is sent and
nothing loaded.
"""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from jobs.days import fill
from jobs.record import Progress, RunReport
from jobs.run import Options
from jobs.watch import Observer, Tell, reason
from pipeline import __version__
from pipeline.sources import without_secrets
from pipeline.tables.schema import FAILURES, SEGMENTS, VIDEOS, clips_schema

_MOST_INPUTS = 100
_LAST_WAIT_S = 10.0  # for a catalogue, at the end of a run
_CLIPS_DIM = 1  # how many numbers an embedding has does not show in its type
_TABLES = {
    "clips": clips_schema(_CLIPS_DIM),
    "segments": SEGMENTS,
    "videos": VIDEOS,
    "failures": FAILURES,
}
_GLOB = "*?["


def is_configured() -> bool:
    """Whether the standard settings name a catalogue."""
    env = os.environ
    if env.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    named = env.get("OPENLINEAGE_CONFIG")
    files = [Path(named)] if named else []
    files += [Path("openlineage.yml"), Path.home() / ".openlineage" / "openlineage.yml"]
    is_in_env = bool(env.get("OPENLINEAGE_URL")) or any(
        name.startswith("OPENLINEAGE__TRANSPORT") for name in env
    )
    return is_in_env or any(file.is_file() for file in files)


def lineage_of(out: str, options: Options, warn: Tell) -> list[Observer]:
    """Who tells the catalogue; nobody where none is configured or, with a warning, its client is missing."""
    if not is_configured():
        return []
    try:
        return [Lineage(out, options, warn)]
    except ImportError:
        warn("warning: OpenLineage is configured and not installed: pip install 'reeltable[lineage]'")
    except Exception as e:
        warn(f"warning: OpenLineage: its settings cannot be used: {_kind(e)}")
    return []


class Lineage(Observer):
    """Tells the catalogue of one output's runs."""

    def __init__(self, out: str, options: Options, warn: Tell) -> None:
        from openlineage.client import OpenLineageClient

        if not os.environ.get("OPENLINEAGE_CLIENT_LOGGING"):
            logging.getLogger("openlineage").setLevel(logging.CRITICAL)  # a warning of ours says it
        self.client = OpenLineageClient()
        self.out, self.options, self.warn = out, options, warn
        self.run_id, self.uuid = "", ""
        self.events: Queue[Any] = Queue()
        self.has_warned = False
        threading.Thread(target=self._send, daemon=True).start()

    def progress(self, progress: Progress) -> None:
        if progress.run_id == self.run_id:
            return
        from openlineage.client.uuid import generate_new_uuid

        if self.run_id:  # an attempt whose workers were lost
            self._tell(
                "FAIL", {}, error=RuntimeError(f"workers were lost; done anew as {progress.run_id}")
            )
        self.run_id, self.uuid = progress.run_id, str(generate_new_uuid())
        self._tell("START", {})

    def ended(self, report: RunReport) -> None:
        told = {name: str(getattr(report, name)) for name in ("bundle", "result_digest", "n_failed")}
        self._tell("COMPLETE", told, n_clips=report.n_clips)
        self._finish()

    def failed(self, error: BaseException) -> None:
        if self.run_id:  # else it never began
            self._tell("FAIL", {}, error=error)
            self._finish()
            self.run_id = ""

    def _tell(
        self,
        state: str,
        tags: dict[str, str],
        n_clips: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        from openlineage.client import event_v2 as ol

        self.events.put(
            ol.RunEvent(
                eventType=ol.RunState[state],
                eventTime=datetime.now(UTC).isoformat(),
                run=ol.Run(runId=self.uuid, facets=self._run_facets(tags, error)),
                job=ol.Job(
                    namespace=os.environ.get("OPENLINEAGE_NAMESPACE", "default"),
                    name=f"reeltable:{without_secrets(self.out)}",
                    facets=_job_facets(),
                ),
                inputs=[ol.InputDataset(*name) for name in self._inputs()],
                outputs=[_output(self.out, table, n_clips) for table in _TABLES],
                producer=f"reeltable://run/{__version__}",
            )
        )

    def _inputs(self) -> list[tuple[str, str]]:
        given = fill(self.options.origin.inputs, self.options.dt)
        return list(dict.fromkeys(map(dataset_name, given)))[:_MOST_INPUTS]

    def _run_facets(self, tags: dict[str, str], error: BaseException | None) -> dict[str, Any]:
        from openlineage.client.facet_v2 import error_message_run, nominal_time_run, tags_run

        day = datetime.fromisoformat(self.options.dt).replace(tzinfo=UTC)
        next_day = day + timedelta(days=1)
        known = {"run_id": self.run_id, "job_id": self.options.origin.job_id} | tags
        facets: dict[str, Any] = {
            "nominalTime": nominal_time_run.NominalTimeRunFacet(day.isoformat(), next_day.isoformat()),
            "tags": tags_run.TagsRunFacet(
                [tags_run.TagsRunFacetFields(k, v, "reeltable") for k, v in known.items() if v]
            ),
        }
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(reason(error), "python")
        return facets

    def _send(self) -> None:
        while True:
            event = self.events.get()
            try:
                if isinstance(event, threading.Event):
                    event.set()
                else:
                    self.client.emit(event)
            except Exception as e:
                self._warn_once(f"it could not be told: {_kind(e)}")

    def _finish(self) -> None:
        """Wait until all is sent, but not for ever."""
        sent = threading.Event()
        self.events.put(sent)
        if not sent.wait(_LAST_WAIT_S):
            self._warn_once(f"it has not answered within {_LAST_WAIT_S:g} s")

    def _warn_once(self, what: str) -> None:
        if not self.has_warned:
            self.has_warned = True
            self.warn(f"warning: OpenLineage: {what}")


def dataset_name(given: str) -> tuple[str, str]:
    """Namespace and name of an input or output, as OpenLineage names datasets: a glob is its folder."""
    path = without_secrets(given).removeprefix("file://")
    parts = path.split("/")
    at = next((k for k, part in enumerate(parts) if any(c in part for c in _GLOB)), None)
    if at is not None and not path.startswith(("http://", "https://")):
        path = "/".join(parts[:at])
    if "://" not in path:
        return "file", os.path.abspath(path)
    url = urlsplit(path)
    return f"{url.scheme}://{url.netloc}", url.path.strip("/") or "/"


def _output(out: str, table: str, n_clips: int | None) -> Any:
    from openlineage.client import event_v2 as ol
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics
    from openlineage.client.facet_v2 import schema_dataset

    namespace, name = dataset_name(out)
    fields = [
        schema_dataset.SchemaDatasetFacetFields(field.name, _type(field.type))
        for field in _TABLES[table]
    ]
    counted = table == "clips" and n_clips is not None
    return ol.OutputDataset(
        namespace=namespace,
        name=f"{name.rstrip('/')}/{table}",
        facets={"schema": schema_dataset.SchemaDatasetFacet(fields)},
        outputFacets={
            "outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=n_clips)
        }
        if counted
        else {},
    )


def _type(kind: pa.DataType) -> str:
    return "list<float>" if pa.types.is_fixed_size_list(kind) else str(kind)


def _job_facets() -> dict[str, Any]:
    from openlineage.client.facet_v2 import job_type_job

    return {"jobType": job_type_job.JobTypeJobFacet("BATCH", "REELTABLE", jobType="JOB")}


def _kind(error: BaseException) -> str:
    """What went wrong, without the address, which may hold a secret."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__
