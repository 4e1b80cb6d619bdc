"""What every command shares: where it speaks, how it ends, and errors that are one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from pipeline.config import Config, ConfigError, load_config
from pipeline.sources import InputError, ListingError, without_secrets

T = TypeVar("T")


class Stderr(Console):
    """Prints text, or gives it to `instead`, where a program listens."""

    instead: Callable[[str], None] | None = None

    def print(self, *objects: Any, **options: Any) -> None:
        if self.instead is None:
            super().print(*objects, **options)
        else:
            self.instead(" ".join(map(str, objects)))


out = Console(soft_wrap=True, markup=False)
err = Stderr(stderr=True, soft_wrap=True, highlight=False, markup=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value for a program to read.")]


class Exit(IntEnum):
    """What the shell or a scheduler is told."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    SOME_FAILED = 3


def load(config_file: str | None, overrides: list[str] | None) -> Config:
    try:
        return load_config(config_file, overrides or ())
    except ConfigError as e:
        fail(str(e), Exit.USAGE)


def parsed_day(day: str | None) -> str:
    from jobs.days import parse_day

    try:
        return parse_day(day or "today")
    except ConfigError as e:
        fail(f"--date {e}", Exit.USAGE)


def guarded(work: Callable[[], T], bundle_exit: Exit = Exit.USAGE) -> T:
    """Do `work`; what a person can mend is one line, not a traceback."""
    from pipeline.bundles.spec import BundleError
    from pipeline.tables.store import TableError

    try:
        return work()
    except BundleError as e:
        fail(str(e), bundle_exit)
    except (InputError, ConfigError) as e:
        fail(str(e), Exit.USAGE)
    except (TableError, ListingError, ConnectionError) as e:
        fail(str(e), Exit.JOB_FAILED)
    except KeyboardInterrupt:
        fail(
            "stopped; what is committed stays, and the same command goes on from there", Exit.JOB_FAILED
        )


def fail(message: str, code: Exit) -> NoReturn:
    err.print(f"error: {without_secrets(message)}", markup=False)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
