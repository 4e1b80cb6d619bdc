"""Options of the command line: what a run may cost, how large a cluster it takes, and who is told of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        min=0,
        metavar="AMOUNT",
        help="Refuse, with 2, what would cost more in the money of prices, all days together, or nobody knows "
        "how much. Videos whose length no header tells are not counted.",
    ),
]


OnFinish = Annotated[
    str | None,
    typer.Option(
        "--on-finish",
        metavar="URL|COMMAND",
        help="Tell when a run ends: a URL gets its record by POST, a command on stdin. One with a secret in it "
        "belongs in REELTABLE_ON_FINISH.",
    ),
]


class LogFormat(StrEnum):
    """Of what is told on stderr."""

    TEXT = "text"
    JSON = "json"


LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        envvar="REELTABLE_LOG_FORMAT",
        help="Of what is told on stderr; json: an object a line.",
    ),
]

SizeCluster = Annotated[
    bool,
    typer.Option("--size-cluster", help="How many nodes of cluster.* do it within --deadline."),
]
Deadline = Annotated[str, typer.Option(metavar="TIME", help="For --size-cluster: 6h, 90m, 1d12h.")]
VideoHours = Annotated[
    float | None,
    typer.Option(min=0, metavar="N", help="For --size-cluster: as if so many hours were left to do."),
]
