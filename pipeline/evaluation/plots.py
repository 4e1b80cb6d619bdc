"""Plots of what was measured, as PNG, with n in their titles. matplotlib comes with `reeltable[eval]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.evaluation.records import (
    ConfusionPlot,
    Plot,
    PrecisionRecallPlot,
    ReliabilityPlot,
    percent,
)

_INK, _FILL, _FAINT = "#24425f", "#8fb3d1", "#c9c9c9"
_DPI = 110


def draw(plot: Plot, file: Path) -> None:
    """Write one plot; the same plot gives the same file.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ConfigError("matplotlib is not installed: pip install 'reeltable[eval]'") from e
    figure = Figure(figsize=_size(plot), layout="constrained")
    FigureCanvasAgg(figure)  # no window system is asked
    if isinstance(plot, ReliabilityPlot):
        _reliability(figure, plot)
    elif isinstance(plot, ConfusionPlot):
        _confusion(figure, plot)
    else:
        _precision_recall(figure, plot)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=_DPI, metadata={"Software": None})


def _size(plot: Plot) -> tuple[float, float]:
    """Inches."""
    if isinstance(plot, ConfusionPlot):
        side = min(9.0, 2.6 + 0.38 * len(plot.labels))
        return side, side
    return 4.6, 4.4


def _reliability(figure: Any, plot: ReliabilityPlot) -> None:
    top, bottom = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    top.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, zorder=1)
    said, right = [b.said for b in plot.bins], [b.right for b in plot.bins]
    for b in plot.bins:  # how far each bin is off
        top.plot([b.said, b.said], [b.said, b.right], color=_FILL, linewidth=4, zorder=2)
    top.plot(said, right, color=_INK, marker="o", markersize=4, linewidth=1.2, zorder=3)
    top.set_ylabel("share right")
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    title = f"{plot.title}\nn = {plot.n:,}, expected calibration error {percent(plot.error, 1)}"
    top.set_title(title, fontsize=9)
    middles, widths = [(b.low + b.high) / 2 for b in plot.bins], [b.high - b.low for b in plot.bins]
    bottom.bar(middles, [b.n for b in plot.bins], width=widths, color=_FILL, edgecolor="white")
    if max(b.n for b in plot.bins) > 50 * min(b.n for b in plot.bins):
        bottom.set_yscale("log")
    bottom.set_ylabel("n")
    bottom.set_xlabel("score")
    _plain(top, bottom)


def _confusion(figure: Any, plot: ConfusionPlot) -> None:
    axes = figure.subplots()
    shares = [[x / max(1, sum(row)) for x in row] for row in plot.counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(plot.labels))
    size = 8 if len(plot.labels) <= 12 else 6
    axes.set_xticks(places, plot.labels, rotation=90, fontsize=size)
    axes.set_yticks(places, plot.labels, fontsize=size)
    for i in places:
        for j in places:
            if plot.counts[i][j] and len(plot.labels) <= 24:
                colour = "white" if shares[i][j] > 0.6 else "black"
                count = f"{plot.counts[i][j]}"
                axes.text(j, i, count, ha="center", va="center", color=colour, fontsize=size - 1)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.set_title(f"{plot.title}, n = {plot.n:,}", fontsize=9)


def _precision_recall(figure: Any, plot: PrecisionRecallPlot) -> None:
    axes = figure.subplots()
    for i, curve in enumerate(plot.curves):
        colour = _INK if len(plot.curves) == 1 else f"C{i % 10}"
        # Recall 0 has the precision of what is told first.
        recall, precision = [0.0, *curve.recall], [curve.precision[0], *curve.precision]
        axes.plot(
            recall, precision, color=colour, linewidth=1.3, label=curve.name, drawstyle="steps-pre"
        )
        axes.axhline(curve.base_rate, color=colour, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"{plot.title}\nn = {plot.n:,}; dotted: everything told", fontsize=9)
    _plain(axes)


def _plain(*all_axes: Any) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
