"""The fusions side by side on talking heads, beside each sense alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.config import read_as
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.records import Figure, Measured
from pipeline.training import fusion


class FusionComparison(Experiment):
    """Words right with both senses, with one removed, and by models of one sense alone."""

    kind: Literal["fusion"]
    recipe: Path = Field(fusion.RECIPE, description="how the models are trained and measured")
    work: Path = Field(
        Path("checkpoints/fusion"),
        description="of the trainings: finished ones are measured, the others go on from there",
    )
    reads: ClassVar[tuple[str, ...]] = ("grid", "esc10")

    def measure(self, lab: Lab) -> Measured:
        """The comparison's own tables, and its differences as figures."""
        recipe = read_as(fusion.Recipe, self.recipe)
        found = fusion.compare(lab.data, self.work, recipe, lab.tell)
        return Measured(
            how=(
                f"{found.n_sentences} sentences of one speaker that no model saw, under noise that "
                "none heard; every model was trained with the same data, order and steps. "
                "Intervals are bootstraps over sentences. docs/fusion.md says how."
            ),
            figures=tuple(
                [_figure("gain", "both senses less the better single one", m) for m in found.gains]
                + [
                    _figure("loss", f"one removed, less the model {m.less} alone", m)
                    for m in _most(found.losses)
                ]
            ),
            markdown=fusion.tables(found),
        )


def _most(losses: Sequence[fusion.Measure]) -> list[fusion.Measure]:
    """Of each model and each that it is held against, the noise at which it is farthest behind."""
    worst: dict[tuple[str, str, str], fusion.Measure] = {}
    for m in losses:
        key = (m.model, m.senses, m.less)
        if key not in worst or m.value < worst[key].value:
            worst[key] = m
    return list(worst.values())


def _figure(key: str, told: str, m: fusion.Measure) -> Figure:
    level = "no noise" if m.snr_db is None else f"{m.snr_db:g} dB"
    return Figure(
        key="_".join([key, m.model, m.senses, level, *([f"less {m.less}"] if m.less else [])])
        .replace(" ", "_")
        .replace("-", "minus_"),
        told=f"{m.model}, {level}, given {m.senses}: {told}",
        value=m.value,
        low=m.low,
        high=m.high,
        unit="points",
    )
