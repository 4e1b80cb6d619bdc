"""What the motion weights are worth: on motion rendered over pictures that training never saw, on folds of
fights left out, and on real clips as found."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from pipeline.bundles.spec import BundleError, BundleSpec
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.config import read_as
from pipeline.encoders.motion import CAMERA_MOTIONS, OBJECT_MOTIONS, SIZE_PX, MotionNet
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.records import (
    Figure,
    Measured,
    Table,
    confusion_plot,
    percent,
    precision_recall_plot,
    reliability_plot,
    share,
)
from pipeline.media.probe import probe
from pipeline.metrics.calibration import AtFloor, at_floors, expected_calibration_error
from pipeline.metrics.classify import average_precision
from pipeline.training import fights
from pipeline.training.footage import picture_steps, read_footage
from pipeline.training.motion import (
    RECIPE,
    UNKNOWN,
    Recipe,
    read_fight_clips,
    read_fights,
    watched_clips,
)

Array = npt.NDArray[Any]
_FLOORS = (0.5, 0.6, 0.7, 0.8, 0.9)
_NAMES = {"camera": CAMERA_MOTIONS, "objects": (*OBJECT_MOTIONS, "none")}


def load_motion(bundle: BundleSpec) -> MotionNet:
    """The bundle's network.

    Raises:
        BundleError: it has none, or its weights are altered or do not fit.
    """
    if bundle.motion is None:
        raise BundleError(f"{bundle.name}: expected a motion network")
    net = MotionNet()
    load_strictly(net, read_tensors(bundle.motion.weights, bundle.directory), bundle.name)
    return net.eval()


class RenderedMotion(Experiment):
    """Camera and object motion rendered onto real pictures that no training renders onto."""

    kind: Literal["rendered_camera"]
    n_clips: int = Field(2000, ge=1)
    seed: int = 77
    reads: ClassVar[tuple[str, ...]] = ("fights",)

    def measure(self, lab: Lab) -> Measured:
        """Shares of right answers, of each motion, and what floors leave."""
        pictures = read_fights(lab.data, lab.work / "motion").pictures
        said, truth = self._answers(lab, pictures)
        found = [_of_head(head, said[head], truth[head]) for head in _NAMES]
        return Measured(
            how=(
                f"{len(said['camera']):,} clips of motion drawn by chance (seed {self.seed}), "
                f"rendered onto the first pictures of the {len(pictures)} CCTV clips of fights/, "
                "onto which no training renders. Many are static: the mean over motions weighs "
                "all alike."
            ),
            figures=tuple(figure for part in found for figure in part.figures),
            tables=tuple(table for part in found for table in part.tables),
            plots=tuple(plot for part in found for plot in part.plots),
        )

    @torch.no_grad()
    def _answers(self, lab: Lab, pictures: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Chances (N, C) and truth (N,) by head."""
        net = load_motion(lab.bundle)
        said: dict[str, list[Array]] = {head: [] for head in _NAMES}
        truth: dict[str, list[Array]] = {head: [] for head in _NAMES}
        watched = watched_clips(pictures, self.n_clips, self.seed)
        lab.tell("motion is rendered")
        for clips, true in watched:
            answers = net(clips)
            for head in _NAMES:
                said[head].append(answers[head].softmax(1).numpy())
                truth[head].append(getattr(true, head).numpy())
        return (
            {head: np.concatenate(rows) for head, rows in said.items()},
            {head: np.concatenate(rows) for head, rows in truth.items()},
        )


def _of_head(head: str, p: Array, truth: Array) -> Measured:
    """Of a head's chances (N, C) and truth (N,), where it is known."""
    names = _NAMES[head]
    p, truth = p[truth != UNKNOWN], truth[truth != UNKNOWN]
    best = p.argmax(1)
    right = best == truth
    n_classes = f"{len(names)}" if head == "camera" else f"{len(names) - 1} and none"
    what = f"{head.removesuffix('s')} motion, {n_classes}"
    shares = [share(f"{head}_{x}", f"– {x}", right[truth == i]) for i, x in enumerate(names)]
    mean = float(np.mean([s.value for s in shares]))
    error = expected_calibration_error(p.max(1), right)
    figures = [
        share(f"{head}_right", f"{what}: right", right),
        Figure(key=f"{head}_mean", told=f"{what}: mean over motions", value=mean, n=len(p)),
        Figure(
            key=f"{head}_calibration_error",
            told=f"{what}: expected calibration error",
            value=error,
            n=len(p),
        ),
    ]
    return Measured(
        how="",
        figures=(*figures, *shares),
        tables=(_floors(f"What a floor leaves, {what}", p, truth, names),),
        plots=(
            confusion_plot(head, f"{what}, rendered", names, truth, best),
            reliability_plot(f"{head}_reliability", f"{what}, rendered", p.max(1), right),
        ),
    )


def _floors(title: str, p: Array, truth: Array, names: tuple[str, ...]) -> Table:
    """Of answers at least so sure. "none" is no answer: it tells nothing."""
    told = p[:, :-1] if names[-1] == "none" else p
    there = truth < told.shape[1]
    return floors_table(title, at_floors(told.max(1), told.argmax(1) == truth, _FLOORS, there))


def floors_table(title: str, rows: list[AtFloor]) -> Table:
    """Precision and recall at each floor."""
    return Table(
        title=title,
        columns=("floor", "told", "of these right", "recall"),
        rows=tuple(
            (
                f"{row.floor:g}",
                percent(row.told),
                "" if row.precision is None else percent(row.precision, 1),
                percent(row.recall, 1),
            )
            for row in rows
        ),
    )


class FightsFolds(Experiment):
    """Fight or none, on contiguous folds: random ones leak scenes."""

    kind: Literal["fights_folds"]
    reads: ClassVar[tuple[str, ...]] = ("fights",)

    def measure(self, lab: Lab) -> Measured:
        """Each fold answered by a fit to the other four, whose strength they chose among themselves."""
        clips = read_fight_clips(lab.data, lab.work / "motion")
        lab.tell("heads by nested folds")
        logits, _ = fights.nested_logits(clips, read_as(Recipe, RECIPE).fight_strengths)
        right = (logits > 0) == clips.is_fight
        p = np.zeros(len(logits))
        for fold in np.unique(clips.fold):
            apart = clips.fold == fold
            slope, offset = fights.calibrate(logits[~apart], clips.is_fight[~apart])
            p[apart] = 1 / (1 + np.exp(-(slope * logits[apart] + offset)))
        sure = np.maximum(p, 1 - p)
        folds = [
            share(f"fold_{k}", f"– fold {k}", right[clips.fold == k]) for k in np.unique(clips.fold)
        ]
        rows = at_floors(p, clips.is_fight, _FLOORS, clips.is_fight)
        return Measured(
            how=(
                "Each contiguous fold is answered by a fit to the other four, whose strength was "
                "chosen by folds among these four; scores are calibrated on the other four's answers. "
                "Clips are seen as a run sees them. Neighbouring clips are of one scene, so the "
                "interval, which takes clips as independent, is on the narrow side; the folds "
                "show how far scenes differ."
            ),
            figures=(
                share("right", "fight or none, five contiguous folds: right", right),
                *folds,
                Figure(
                    key="average_precision",
                    told="average precision of fights",
                    value=average_precision(p, clips.is_fight),
                    n=len(p),
                ),
                Figure(
                    key="calibration_error",
                    told="expected calibration error",
                    value=expected_calibration_error(sure, right),
                    n=len(p),
                ),
            ),
            tables=(floors_table("What a floor leaves, fights told", rows),),
            plots=(
                confusion_plot(
                    "confusion",
                    "Fights, folds left out",
                    ("none", "fight"),
                    clips.is_fight.astype(int),
                    (p > 0.5).astype(int),
                ),
                reliability_plot("reliability", "Fights, chance of the answer", sure, right),
                precision_recall_plot(
                    "precision_recall", "Fights, folds left out", {"fight": (p, clips.is_fight)}
                ),
            ),
        )


class RealMotion(Experiment):
    """What is said of real clips, as found."""

    kind: Literal["real_motion"]
    most_windows: int = Field(8, ge=1, description="of two seconds, of each file")
    reads: ClassVar[tuple[str, ...]] = ("clips",)

    @torch.no_grad()
    def measure(self, lab: Lab) -> Measured:
        """A row a file; nobody labelled these, so there is no figure."""
        net = load_motion(lab.bundle)
        files = [f for f in sorted((lab.media / "clips").iterdir()) if probe(str(f)).video]
        footage = read_footage(files, self.most_windows, lab.work / "motion" / "footage", "clips")
        said: dict[str, list[tuple[str, str, float]]] = {}
        for file, window in zip(footage.files, footage.pictures, strict=True):
            x = torch.from_numpy(np.array(window[picture_steps()])).float()[:, None]
            x = torch.nn.functional.interpolate(x, SIZE_PX, mode="area")[:, 0].round()[None]
            answers = net(x)
            told = [
                f"{names[int(p.argmax())]} {float(p.max()):.2f}"
                for head, names in _NAMES.items()
                for p in [answers[head][0].softmax(0)]
            ]
            fight = float(torch.sigmoid(net.tell(x).fight)[0])
            said.setdefault(file, []).append((told[0], told[1], fight))
        rows = [_row(file, windows) for file, windows in said.items()]
        return Measured(
            how=(
                f"Windows of two seconds, the first {self.most_windows} of each file; in order of "
                "how often it is said, with the range of its chance."
            ),
            tables=(
                Table(
                    title="Real clips, as found",
                    columns=("file", "windows", "camera", "object", "fight"),
                    rows=tuple(rows),
                ),
            ),
        )


def _row(file: str, windows: list[tuple[str, str, float]]) -> tuple[str, ...]:
    """A file's answers about camera and things, and the range of its chances of a fight."""
    fights_told = [fight for *_, fight in windows]
    return (
        file,
        str(len(windows)),
        _listed([camera for camera, _, _ in windows]),
        _listed([thing for _, thing, _ in windows]),
        f"{min(fights_told):.2f} to {max(fights_told):.2f}",
    )


def _listed(answers: list[str]) -> str:
    """ "3 pan (0.61–0.97), 1 static (0.50)"."""
    chances: dict[str, list[float]] = {}
    for answer in answers:
        name, chance = answer.rsplit(" ", 1)
        chances.setdefault(name, []).append(float(chance))
    parts = []
    for name, n in Counter({name: len(c) for name, c in chances.items()}).most_common():
        low, high = min(chances[name]), max(chances[name])
        parts.append(f"{n} {name} ({low:.2f})" if n == 1 else f"{n} {name} ({low:.2f}–{high:.2f})")
    return ", ".join(parts)
