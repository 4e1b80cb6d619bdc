"""Real material that scenes are composed of: what the bundle's senses take real files for, read once and kept.

perceive           files → clips, with what each sense recognised, how they look, how they move
rendered_motions   windows of motion whose kind is known, as the motion network's trunk sees them
read_material      all of it, divided: what is scored on is never trained on
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pipeline.bundles.model import Model
from pipeline.bundles.scene import mean_looks, windows
from pipeline.bundles.spec import find_bundle
from pipeline.config import load_config, read_as
from pipeline.encoders.motion import CAMERA_MOTIONS, OBJECT_MOTIONS, MotionNet
from pipeline.fusion.scene import MOTION_DIM
from pipeline.records import ClipBatch, Unit, short_hash
from pipeline.training.footage import listing, read_footage, read_table
from pipeline.training.motion import (
    NO_OBJECT,
    UNKNOWN,
    WEIGHTS,
    Scenes,
    read_scenes,
    rendered,
)
from pipeline.training.motion import (
    RECIPE as MOTION_RECIPE,
)
from pipeline.training.motion import (
    Recipe as MotionRecipe,
)
from pipeline.training.scene_pairs import SOUND_CLAUSES, Material, Recognised, Stage
from pipeline.understand import decode

_B = TypeVar("_B")
_N_KEPT = 16  # names of each sense
_PAIRS = 3  # of each file with itself, and with others
_AT_ONCE = 16  # clips; YAMNet's chunk is filled up to as many


@dataclass(frozen=True)
class Perceived:
    """N clips of real files."""

    files: tuple[str, ...]  # (N,) names
    tensors: dict[str, Tensor]  # see `_sensed`; each (N, …)

    def of(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """The clips of the files `names`."""
        return np.flatnonzero(np.isin(self.files, list(names)))


def perceive(files: Sequence[Path], model: Model, work: Path, name: str) -> Perceived:
    """What the senses take `files` for, from `work` where these files were read so before; a file that cannot
    be read is left out."""
    key = short_hash(listing(files), model.config.result_digest(model.spec.digest()))
    values, index = work / f"{name}-{key}.safetensors", work / f"{name}-{key}.json"
    if not index.is_file():
        rows: list[dict[str, Tensor]] = []
        names: list[str] = []
        for group in _groups(files, model):
            rows.append(_sensed(_joined([batch for _, batch in group]), model))
            names += [file.name for file, batch in group for _ in range(len(batch))]
        work.mkdir(parents=True, exist_ok=True)
        save_file({key: torch.cat([row[key] for row in rows]) for key in rows[0]}, values)
        part = index.with_suffix(".part")
        part.write_text(json.dumps(names), encoding="utf-8")
        os.replace(part, index)
    return Perceived(tuple(json.loads(index.read_text(encoding="utf-8"))), load_file(values))


def _groups(files: Sequence[Path], model: Model) -> Iterator[list[tuple[Path, ClipBatch]]]:
    """Files with their clips, some at once: those that have the same shapes are encoded together."""
    group: list[tuple[Path, ClipBatch]] = []
    for file in files:
        unit = Unit(file.name, file.name, str(file), "", 0.0, None)
        batch = decode(unit, model.config, model.sample_rate_hz).batch
        if batch is None or not len(batch):
            continue
        others = sum(len(other) for _, other in group)
        fits = not group or group[0][1].frames.shape[1:] == batch.frames.shape[1:]
        if group and (not fits or others + len(batch) > _AT_ONCE):
            yield group
            group = []
        group.append((file, batch))
    if group:
        yield group


def _joined(batches: Sequence[_B]) -> _B:
    """Clips of several files as if they were of one."""
    first, changed = batches[0], {}
    for f in dataclasses.fields(first):  # type: ignore[arg-type]
        values = [getattr(batch, f.name) for batch in batches]
        if isinstance(values[0], np.ndarray):
            changed[f.name] = np.concatenate(values)
        elif dataclasses.is_dataclass(values[0]):  # motion pictures
            changed[f.name] = _joined(values)
    return dataclasses.replace(first, **changed)  # type: ignore[type-var]


def _sensed(batch: ClipBatch, model: Model) -> dict[str, Tensor]:
    seen, heard, moved = model.sense([batch])
    moves = windows(moved, len(batch))
    found = {
        "present": torch.from_numpy(np.stack([batch.has_video, batch.has_audio], 1)),
        "moves": moves.values[:, 0],
        "moves_known": moves.valid[:, 0],
        "looks": mean_looks(seen, len(batch)),
    }
    for sense, sensed in (("seen", seen), ("heard", heard)):
        assert sensed is not None  # the embedded bundle has both
        best = sensed.evidence.topk(_N_KEPT, dim=1)
        found |= {f"{sense}_ids": best.indices, f"{sense}_scores": best.values}
    return found


@torch.no_grad()
def rendered_motions(
    scenes: Scenes, net: MotionNet, n: int, seed: int, work: Path, name: str
) -> dict[str, Tensor]:
    """Features of `n` windows of rendered motion by what is most told of each: what a thing does, else the
    camera."""
    drawn_on = [hashlib.blake2b(x.tobytes()).hexdigest() for x in (scenes.stills, scenes.played)]
    weights = [hashlib.blake2b(t.numpy().tobytes()).hexdigest() for t in net.state_dict().values()]
    file = work / f"{name}-{short_hash(drawn_on, weights, n, seed)}.safetensors"
    if not file.is_file():
        random = np.random.default_rng(seed)
        found: dict[str, list[Tensor]] = {kind: [] for kind in (*CAMERA_MOTIONS, *OBJECT_MOTIONS)}
        for i in range(0, n, 40):
            pictures, truth = rendered(scenes, min(40, n - i), random)
            of = net.tell(pictures).tokens[:, :MOTION_DIM]
            for row, camera, thing in zip(
                of, truth.camera.tolist(), truth.objects.tolist(), strict=True
            ):
                moves = thing not in (NO_OBJECT, UNKNOWN)
                found[OBJECT_MOTIONS[thing] if moves else CAMERA_MOTIONS[camera]].append(row)
        work.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({kind: torch.stack(rows) for kind, rows in found.items() if rows}, part)
        os.replace(part, file)
    return load_file(file)


class Sources(BaseModel):
    """How much is read, and what is held out for scoring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    held_out_fold: int = Field(ge=1, description="of ESC-10 and of fights")
    held_out: tuple[str, ...] = Field(description="files of GMDCSA")
    fights_stride: int = Field(
        ge=1, description="every so many files are footage that scenes are staged in"
    )
    grid_stride: int = Field(ge=1)
    rendered: int = Field(ge=1, description="windows of motion to learn from")
    rendered_scored: int = Field(ge=1)


def motion_net() -> MotionNet:
    """The motion network that the bundle carries."""
    net = MotionNet()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def read_material(sources: Sources, data: Path, work: Path) -> tuple[Material, Material]:
    """What is learned from, and what is scored on.

    Footage is read in clips of a window of motion, one a second, so that a file shows its scene more than once.
    """
    config = load_config()
    brief = config.clips.model_copy(update={"length_s": 2.0, "stride_s": 1.0, "frames_per_clip": 4})
    net, spec = motion_net(), find_bundle("embedded")
    model = Model(spec, config.model_copy(update={"clips": brief}))
    read = [
        perceive(sorted((data / name).glob("*.m*"))[::stride], model, work, name)
        for name, stride in (
            ("gmdcsa", 1),
            ("grid", sources.grid_stride),
            ("fights", sources.fights_stride),
        )
    ]
    sounds = perceive(sorted((data / "esc10").glob("*.ogg")), Model(spec, config), work, "esc10")
    folds = {
        name: int(row["fold"])
        for table in ("esc10", "fights")
        for name, row in read_table(data / f"{table}.csv").items()
    }
    kinds = {name: row["label"] for name, row in read_table(data / "esc10.csv").items()}

    def is_scored(file: str) -> bool:
        return folds.get(file) == sources.held_out_fold or file in sources.held_out

    motions = _motions(sources, data, work, net, is_scored)
    both = [
        Material(
            _stage(read, lambda file, scored=scored: is_scored(file) == scored),  # type: ignore[misc]
            _by_kind(sounds, kinds, lambda file, scored=scored: is_scored(file) == scored),  # type: ignore[misc]
            motion,
        )
        for scored, motion in zip((False, True), motions, strict=True)
    ]
    return both[0], both[1]


def _motions(
    sources: Sources, data: Path, work: Path, net: MotionNet, is_scored: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rendered onto the pictures that the motion network learned from, and onto held-out ones of fights."""
    learned = read_scenes(data, work, read_as(MotionRecipe, MOTION_RECIPE))
    files = [file for file in sorted((data / "fights").glob("*.mp4")) if is_scored(file.name)]
    others = read_footage(files, 1, work, "fights-scored").pictures
    scored = Scenes(np.ascontiguousarray(others[:, 0]), others[:0])
    return (
        rendered_motions(learned, net, sources.rendered, 3, work, "motions"),
        rendered_motions(scored, net, sources.rendered_scored, 5, work, "motions-scored"),
    )


def _stage(read: Sequence[Perceived], belongs: Callable[[str], bool]) -> Stage:
    """The clips of footage that belong to one side."""
    files = [file for one in read for file in one.files]
    kept = np.array([belongs(file) for file in files])
    names = np.array(files)[kept]

    def of(key: str) -> Tensor:
        return torch.cat([one.tensors[key] for one in read])[torch.from_numpy(kept)]

    return Stage(
        Recognised(of("seen_ids").numpy(), of("seen_scores").numpy()),
        Recognised(of("heard_ids").numpy(), of("heard_scores").numpy()),
        of("looks"),
        of("moves"),
        of("moves_known").numpy(),
        of("present")[:, 1].numpy(),
        tuple(np.flatnonzero(names == name) for name in dict.fromkeys(names)),
    )


def _by_kind(
    sounds: Perceived, kinds: Mapping[str, str], belongs: Callable[[str], bool]
) -> dict[str, Recognised]:
    """Sounds of one side by their class; of each file the clip in which most is recognised."""
    found: dict[str, list[int]] = {kind: [] for kind in SOUND_CLAUSES}
    surest = sounds.tensors["heard_scores"][:, 0]
    for file in dict.fromkeys(sounds.files):
        if belongs(file):
            at = sounds.of([file])
            found[kinds[file]].append(int(at[int(surest[at].argmax())]))
    ids, scores = sounds.tensors["heard_ids"].numpy(), sounds.tensors["heard_scores"].numpy()
    return {kind: Recognised(ids[at], scores[at]) for kind, at in found.items()}


def kinship_of(stage: Stage, seed: int) -> Tensor:
    """Slope and offset of the log-odds that two clips show one scene, from the cosine of their looks: a
    logistic regression over pairs from one file and from two."""
    random = np.random.default_rng(seed)
    looks = F.normalize(stage.looks, dim=-1)
    cosines, same = [], []
    for k, video in enumerate(stage.videos):
        for _ in range(_PAIRS):
            others = stage.videos[
                (k + 1 + int(random.integers(len(stage.videos) - 1))) % len(stage.videos)
            ]
            pairs = [(random.choice(video), random.choice(others), 0)]
            if len(video) > 1:
                pairs.append((*random.choice(video, 2, replace=False), 1))
            for a, b, is_same in pairs:
                cosines.append(float(looks[a] @ looks[b]))
                same.append(is_same)
    x, y = torch.tensor(cosines, dtype=torch.float64), torch.tensor(same, dtype=torch.float64)
    weight = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    fitted = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([fitted], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = fitted[0] * (x - x.mean()) + fitted[1]
        value = F.binary_cross_entropy_with_logits(logits, y, weight) + 1e-4 * fitted[0].square()
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = fitted.detach().tolist()
    return torch.tensor([slope, offset - slope * float(x.mean())])
