"""What an experiment found, as plain values: they go to JSON, come back from it, and make the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.metrics.calibration import expected_calibration_error, reliability
from pipeline.metrics.classify import confusion, precision_recall
from pipeline.metrics.intervals import wilson

Array = npt.NDArray[Any]
_MOST_POINTS = 200  # of a drawn curve


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(_Record):
    """One figure. Shares and errors lie in 0..1 and are shown in %, `points` are differences of such shares."""

    key: str  # by which a card names it
    told: str  # how it reads in a table
    value: float
    unit: Literal["%", "points", "ms", "s", ""] = "%"
    low: float | None = None  # of the 95 % interval
    high: float | None = None
    n: int | None = None  # examples
    digits: int = 1

    @property
    def shown(self) -> str:
        """The value with its unit: "95.8 %"."""
        return self._told(self.value) + (f" {self.unit}" if self.unit else "")

    @property
    def interval(self) -> str:
        """ "93.3 to 97.3", or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{self._told(self.low)} to {self._told(self.high)}"

    def _told(self, value: float) -> str:
        scale, sign = (
            100 if self.unit in ("%", "points") else 1,
            "+" if self.unit == "points" else "",
        )
        return f"{scale * value:{sign}.{self.digits}f}"


class Table(_Record):
    """Rows as they are shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class BinRow(_Record):
    """See `pipeline.metrics.calibration.Bin`."""

    low: float
    high: float
    n: int
    said: float
    right: float


class ReliabilityPlot(_Record):
    """What was said against what was right."""

    kind: Literal["reliability"] = "reliability"
    key: str
    title: str
    n: int
    error: float  # expected calibration error
    bins: tuple[BinRow, ...]


class ConfusionPlot(_Record):
    """How often a row's class was answered by a column's."""

    kind: Literal["confusion"] = "confusion"
    key: str
    title: str
    n: int
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class CurveRow(_Record):
    """Precision over recall of one class."""

    name: str
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    base_rate: float  # precision of telling everything


class PrecisionRecallPlot(_Record):
    """One curve or several."""

    kind: Literal["precision_recall"] = "precision_recall"
    key: str
    title: str
    n: int
    curves: tuple[CurveRow, ...]


Plot = Annotated[ReliabilityPlot | ConfusionPlot | PrecisionRecallPlot, Field(discriminator="kind")]


class Measured(_Record):
    """What came out of an experiment."""

    how: str  # it was measured, in a sentence or more
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    markdown: str = ""  # tables that come ready made


class Outcome(_Record):
    """An experiment of a config after all."""

    name: str
    kind: str
    state: Literal["measured", "not measured", "not asked", "failed"]
    why: str = ""  # it is not measured
    digest: str = ""  # of all that the figures depend on
    took_s: float = 0.0
    measured: Measured | None = None


class Report(_Record):
    """All experiments of a config."""

    bundle: str
    bundle_digest: str
    outcomes: tuple[Outcome, ...]


def percent(value: float, digits: int = 0) -> str:
    """A share as tables show it: "95.8 %"."""
    return f"{100 * value:.{digits}f} %"


def share(key: str, told: str, is_right: Array | Sequence[bool]) -> Figure:
    """A share of right answers (N,) with Wilson's interval.

    Raises:
        ValueError: there are no answers.
    """
    n, n_right = len(is_right), int(np.sum(is_right))
    low, high = wilson(n_right, n)
    return Figure(key=key, told=told, value=n_right / n, low=low, high=high, n=n)


def reliability_plot(key: str, title: str, scores: Array, is_right: Array) -> ReliabilityPlot:
    """Of scores (N,) in 0..1 and whether each was right (N,)."""
    bins = tuple(
        BinRow(low=b.low, high=b.high, n=b.n, said=b.said, right=b.right)
        for b in reliability(scores, is_right)
    )
    error = expected_calibration_error(scores, is_right)
    return ReliabilityPlot(key=key, title=title, n=len(scores), error=error, bins=bins)


def confusion_plot(
    key: str, title: str, labels: Sequence[str], truth: Array, answer: Array
) -> ConfusionPlot:
    """Of true and answered classes (N,), numbers into `labels`."""
    counts = confusion(truth, answer, len(labels))
    rows = tuple(tuple(int(x) for x in row) for row in counts)
    return ConfusionPlot(key=key, title=title, n=len(truth), labels=tuple(labels), counts=rows)


def precision_recall_plot(
    key: str, title: str, curves: dict[str, tuple[Array, Array]]
) -> PrecisionRecallPlot:
    """Of scores (N,) and truth (N,) of each named class."""
    rows = []
    for name, (scores, is_true) in curves.items():
        curve = precision_recall(scores, is_true)
        at = np.unique(np.linspace(0, len(curve.recall) - 1, _MOST_POINTS).round().astype(int))
        rows.append(
            CurveRow(
                name=name,
                recall=tuple(float(x) for x in curve.recall[at]),
                precision=tuple(float(x) for x in curve.precision[at]),
                base_rate=float(np.mean(is_true)),
            )
        )
    n = len(next(iter(curves.values()))[0])
    return PrecisionRecallPlot(key=key, title=title, n=n, curves=tuple(rows))
