"""What home videos with timed actions tell, each answered by what was learned from the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.bundles.model import Model, told
from pipeline.config import Config, load_config
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.experiments.sounds import summary
from pipeline.evaluation.linear import binary_scores
from pipeline.evaluation.records import Figure, Measured, Table, percent, precision_recall_plot
from pipeline.media.probe import probe
from pipeline.metrics.classify import average_precision, mean_average_precision
from pipeline.metrics.intervals import bootstrap
from pipeline.records import ClipBatch, Unit
from pipeline.sync.align import read_clips
from pipeline.training.footage import read_table

Array = npt.NDArray[Any]
_WINDOW_S, _STRIDE_S, _N_PICTURES = 2.0, 1.0, 4
_ACTION = re.compile(r"([A-Za-z]+)\s*(?:\([A-Z]+\))?\s*\[([^\]]*)\]")
_SPAN = re.compile(r"([\d.]+)\s*to\s*([\d.]+)")
_SENSES = {"motion": "motion", "pictures": "video", "sound": "audio"}  # and their streams
_ALL = tuple(_SENSES)
# What a model is fitted to, and what of that it is given.
_WAYS = {
    "motion": (("motion",), ("motion",)),
    "pictures": (("pictures",), ("pictures",)),
    "sound": (("sound",), ("sound",)),
    "sight (motion, pictures)": (("motion", "pictures"), ("motion", "pictures")),
    "sight and sound": (_ALL, _ALL),
    "sight and sound, sound removed": (_ALL, ("motion", "pictures")),
    "sight and sound, sight removed": (_ALL, ("sound",)),
}


@dataclass(frozen=True)
class Windows:
    """Windows of all videos."""

    features: dict[str, Array]  # (N, D) by sense; NaN where it is absent
    video: Array  # (N,) which video each is of
    actions: list[dict[str, float]]  # (N,) seconds of each action within


class GmdcsaActions(Experiment):
    """Actions in windows of two seconds, one video left out in turn."""

    kind: Literal["gmdcsa_actions"]
    least_videos: int = Field(3, ge=2, description="an action must be in so many to be asked for")
    strength: float = Field(
        0.01, gt=0, description="of the fits; given, never chosen by what is measured"
    )
    reads: ClassVar[tuple[str, ...]] = ("gmdcsa",)

    def measure(self, lab: Lab) -> Measured:
        """Mean average precision by sense, with senses removed, and by action."""
        windows = _read(lab)
        names = self._names(windows)
        is_true = np.array(
            [[acts.get(name, 0.0) >= _WINDOW_S / 2 for name in names] for acts in windows.actions]
        )
        scores = self._scores(windows, is_true)
        n_videos = len(np.unique(windows.video))
        figures = [_figure(way, scores[way], is_true, windows.video) for way in _WAYS]
        chance = float(is_true.mean(0).mean())
        figures.append(
            Figure(key="chance", told="mAP of telling everything alike", value=chance, n=len(is_true))
        )
        rows = [
            (
                name,
                str(int(is_true[:, c].sum())),
                percent(is_true[:, c].mean()),
                *(percent(average_precision(scores[way][:, c], is_true[:, c])) for way in _WAYS),
            )
            for c, name in enumerate(names)
        ]
        best = scores["sight and sound"]
        heard = ~np.isnan(windows.features["sound"][:, 0])
        return Measured(
            how=(
                f"{len(is_true)} windows of {_WINDOW_S:g} s, one each second, of {n_videos} "
                "videos; each video is answered by logistic regressions (one an action, several "
                "may be true) fitted to the other videos, over frozen features: the motion "
                "network's and motion statistics; mean and maximum of the picture encoder's "
                f"tokens; the same of the sound encoder's, where there is sound ({heard.sum()} "
                f"windows). Asked for are actions that {self.least_videos} videos or more show; a "
                "window shows what fills half of it. The strength of the fits was given "
                "beforehand; scores of all videos are ranked together. Intervals are bootstraps "
                "over videos. The motion network has seen stills of ten of these videos, with "
                "motion rendered onto them and no action told."
            ),
            figures=tuple(figures),
            tables=(
                Table(
                    title="Average precision by action and by what is given",
                    columns=("action", "windows", "base rate", *_WAYS),
                    rows=tuple(rows),
                ),
            ),
            plots=(
                precision_recall_plot(
                    "precision_recall",
                    "Timed actions, videos left out, sight and sound",
                    {name: (best[:, c], is_true[:, c]) for c, name in enumerate(names)},
                ),
            ),
        )

    def _names(self, windows: Windows) -> list[str]:
        videos: dict[str, set[int]] = {}
        for video, acts in zip(windows.video, windows.actions, strict=True):
            for name, seconds in acts.items():
                if seconds >= _WINDOW_S / 2:
                    videos.setdefault(name, set()).add(int(video))
        return sorted(name for name, shown in videos.items() if len(shown) >= self.least_videos)

    def _scores(self, windows: Windows, is_true: Array) -> dict[str, Array]:
        """Chances (N, C) by way; each fit is made once and given all that it is asked with."""
        found: dict[str, Array] = {}
        for fitted_to in dict.fromkeys(senses for senses, _ in _WAYS.values()):
            ways = [way for way, (senses, _) in _WAYS.items() if senses == fitted_to]
            blocks = [[_block(windows, s, s in _WAYS[way][1]) for s in fitted_to] for way in ways]
            x, *instead = [np.concatenate(parts, axis=1) for parts in blocks]
            columns = [
                binary_scores(x, of_class, windows.video, self.strength, instead)
                for of_class in is_true.T
            ]
            for k, way in enumerate(ways):
                found[way] = np.stack([of_class[k] for of_class in columns], axis=1)
        return found


def _block(windows: Windows, sense: str, is_given: bool) -> Array:
    values = windows.features[sense]
    return values if is_given else np.full_like(values, np.nan)


def _figure(way: str, scores: Array, is_true: Array, video: Array) -> Figure:
    low, high = bootstrap(
        lambda at: mean_average_precision(scores[at], is_true[at]), len(video), groups=video
    )
    key = re.sub(r"[^a-z]+", "_", way).strip("_")
    value = mean_average_precision(scores, is_true)
    return Figure(key=key, told=f"mAP by {way}", value=value, low=low, high=high, n=len(is_true))


def timed_actions(text: str) -> dict[str, list[tuple[float, float]]]:
    """Spans in seconds by action; "Fall" is falling.

    The text reads "Falling (BW)[3.4 to 11]; Standing[0 to 0.3; 1.5 to 2.2]".
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for name, spans in _ACTION.findall(text):
        action = {"fall": "falling"}.get(name.lower(), name.lower())
        found.setdefault(action, []).extend((float(a), float(b)) for a, b in _SPAN.findall(spans))
    return found


def _read(lab: Lab) -> Windows:
    """One pass of the senses over all videos."""
    asked = {"length_s": _WINDOW_S, "stride_s": _STRIDE_S, "frames_per_clip": _N_PICTURES}
    config = load_config(overrides=[f"clips.{key}={value}" for key, value in asked.items()])
    model = Model(lab.bundle, config)
    features: dict[str, list[Array]] = {sense: [] for sense in _SENSES}
    video: list[int] = []
    actions: list[dict[str, float]] = []
    rows = read_table(lab.data / "gmdcsa.csv")
    for number, (name, row) in enumerate(sorted(rows.items())):
        batch = _batch(str(lab.data / "gmdcsa" / name), model.config, model.sample_rate_hz)
        spans = timed_actions(row["classes"])
        there = np.flatnonzero(~batch.is_padded & batch.has_video)
        if not len(there):
            there = np.flatnonzero(batch.has_video)[:1]
        for sense, values in _features(model, batch).items():
            features[sense].append(values[there])
        video += [number] * len(there)
        actions += [_within(spans, float(batch.start_s[i]), float(batch.end_s[i])) for i in there]
        lab.tell(f"{number + 1}/{len(rows)} videos")
    joined = {sense: np.concatenate(values) for sense, values in features.items()}
    return Windows(joined, np.array(video), actions)


def _batch(path: str, config: Config, rate_hz: int) -> ClipBatch:
    return read_clips(Unit("", "", path, "", 0.0, None), probe(path), config, rate_hz)[0]


def _within(
    spans: dict[str, list[tuple[float, float]]], start_s: float, end_s: float
) -> dict[str, float]:
    """Seconds of each action in a window."""
    return {
        name: sum(max(0.0, min(end_s, b) - max(start_s, a)) for a, b in told)
        for name, told in spans.items()
    }


def _features(model: Model, batch: ClipBatch) -> dict[str, Array]:
    """What each sense tells of each clip, (N, D); NaN where it is absent."""
    tokens = told(model.sense([batch]))
    return {sense: summary(tokens[stream]) for sense, stream in _SENSES.items()}
