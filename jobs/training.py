"""What runs inside Ray workers when something is trained: the senses that tell features, and the loop."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.train import get_context
from ray.train.torch import get_device
from safetensors.torch import save_file
from torch import Tensor

from jobs.record import Done
from pipeline.bundles.model import Model, told
from pipeline.bundles.spec import LearnedSpaceSpec, find_bundle
from pipeline.bundles.tuned import TunedEncoder, begun
from pipeline.config import Config
from pipeline.records import ClipBatch, Unit
from pipeline.training.corpus import Corpus, gather
from pipeline.training.features import feature_file, write_features
from pipeline.training.learner import Learner, learn
from pipeline.training.manifest import Labelled
from pipeline.training.measure import measure, space_specs, told_measure
from pipeline.training.settings import TrainConfig
from pipeline.transport import unpack
from pipeline.understand import surprise

RESULT, WEIGHTS = "result.json", "weights.safetensors"
TOLD = pa.schema([("unit_id", pa.string()), ("problem", pa.string())])
_LINES = 20  # of a training


@ray.remote(num_cpus=0)
class Lines:
    """Carries what workers say to the command."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def add(self, line: str) -> None:
        self.waiting.append(line)

    def take(self) -> list[str]:
        taken, self.waiting = self.waiting, []
        return taken


class FeatureStage:
    """Holds the base bundle's senses and keeps what they tell of each unit."""

    def __init__(
        self, config: Config, tuned: tuple[str, ...], device: str, folder: str, watcher: Any
    ) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # as in a run
        self.model = Model(find_bundle(config.bundle), config, device, tells=True)
        self.tuned, self.folder, self.watcher = tuned, Path(folder), watcher

    def __call__(self, rows: pa.Table) -> pa.Table:
        out: dict[str, list[Any]] = {"unit_id": [], "problem": []}
        for known, buffer in zip(rows.column("decoded"), rows.column("batch"), strict=True):
            decoded = ray.cloudpickle.loads(known.as_py())
            problem = decoded.failure.message if decoded.failure else None
            if buffer.is_valid:
                problem = self._keep(decoded.unit, unpack(buffer.as_buffer()))
            out["unit_id"].append(decoded.unit.unit_id)
            out["problem"].append(problem)
            self.watcher.add.remote(Done("encoded", 1, 0.0))
        return pa.table(out, schema=TOLD)

    def _keep(self, unit: Unit, batch: ClipBatch) -> str | None:
        """Write what is told of a unit; why not, where that fails."""
        if not len(batch):
            return f"{unit.uri}: no clip from {unit.start_s:g} s on"
        try:
            for stream in self.tuned:
                own = {stream: self.model.pieces(stream, [batch])}
                write_features(feature_file(self.folder, unit.unit_id, stream), batch, own)
            tokens = told(self.model.sense([batch]))
            write_features(feature_file(self.folder, unit.unit_id), batch, tokens)
        except Exception as e:  # this unit's failure and no other's
            return surprise("encode", unit.uri, e).message
        return None


@dataclass(frozen=True)
class Lesson:
    """What a training worker is given."""

    config: TrainConfig
    base: str  # the bundle that is learned on top of: its name, or its directory from the root
    labelled: Labelled
    uris: dict[str, str]  # of the videos, by unit id
    features: str
    folder: str  # of this training: checkpoints, scalars, what comes of it
    texts: Tensor | None  # (n, D) what the captions mean
    lines: Any


def train_worker(lesson: Lesson) -> None:
    """The loop on one of Ray Train's workers; the first one leaves the weights and what they are worth."""
    config, folder = lesson.config, Path(lesson.folder)
    context = get_context()
    rank, n_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(config.workers.cpus)))
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / "lock", rank == 0):
        corpus = gather(lesson.labelled, lesson.uris, Path(lesson.features), config)
        spaces = {
            name: LearnedSpaceSpec(names=classes, is_multi=space.is_multi, background=space.background)
            for (name, space), classes in zip(
                config.spaces.items(), lesson.labelled.classes.values(), strict=True
            )
        }
        with _told(lesson, rank) as tell:
            learner = learn(
                corpus.train,
                corpus.watched,
                config.learning,
                config.loop,
                folder / "loop",
                spaces=spaces,
                texts=lesson.texts,
                make_tuned=lambda: _tuned(lesson),
                device=get_device(),
                rank=rank,
                n_ranks=n_ranks,
                tell=tell,
            )
        if rank == 0:
            _leave(learner, corpus, config, folder)


def _tuned(lesson: Lesson) -> dict[str, TunedEncoder]:
    """Encoders to train, as they begin."""
    base, asked = find_bundle(lesson.base), lesson.config.unfreeze
    encoders: dict[str, TunedEncoder] = {s: begun(s, base) for s in asked.streams}
    for encoder in encoders.values():
        encoder.rate = asked.rate
    return encoders


@contextmanager
def _alone(file: Path, is_first: bool) -> Iterator[None]:
    """Wait until a worker that a killed command left behind has gone: two would write one checkpoint."""
    if not is_first:
        yield
        return
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _told(lesson: Lesson, rank: int) -> Iterator[Any]:
    """A function for the loop that writes scalars for TensorBoard, and now and then a line for a person."""
    every = max(1, lesson.config.loop.n_epochs // _LINES)
    writer = _writer(lesson) if rank == 0 else None

    def tell(step: int, measures: dict[str, float]) -> None:
        if writer is not None:
            part = "held_out" if "score" in measures else "train"
            for name, value in measures.items():
                writer.add_scalar(f"{part}/{name}", value, step)
        if "score" in measures and int(measures["epoch"]) % every == 0:
            shown = ", ".join(
                f"{k} {v:.3f}" for k, v in measures.items() if k not in ("epoch", "score")
            )
            lesson.lines.add.remote(f"epoch {int(measures['epoch'])}, step {step}: {shown}")

    try:
        yield tell
    finally:
        if writer is not None:
            writer.close()


def _writer(lesson: Lesson) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        lesson.lines.add.remote("no scalars for TensorBoard: pip install 'reeltable[train]'")
        return None
    return SummaryWriter(str(Path(lesson.folder) / "scalars"))


def _leave(learner: Learner, corpus: Corpus, config: TrainConfig, folder: Path) -> None:
    """Write what the command makes a bundle of."""
    specs = space_specs(learner, corpus.watched, config)
    floors = {name: spec.floor for name, spec in specs.items()}
    measured = {
        name: told_measure(found, "held-out videos, which chose epoch, calibration and floor")
        for name, found in measure(learner, corpus.watched, floors).items()
    }
    if corpus.tested:
        measured |= {
            f"{name} test": told_measure(found, "videos by which nothing was chosen")
            for name, found in measure(learner, corpus.tested, floors).items()
        }
    tensors = {f"net/{k}": v for k, v in learner.pupil.net.state_dict().items()}
    for name, encoder in learner.pupil.tuned.items():
        tensors |= {f"{name}/{k}": v for k, v in encoder.state_dict().items()}
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, folder / WEIGHTS)
    result = {
        "n_steps": learner.n_steps,
        "part": learner.spec.model_dump(mode="json"),
        "spaces": {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        "measured": measured,
    }
    (folder / RESULT).write_text(json.dumps(result, indent=1), encoding="utf-8")
