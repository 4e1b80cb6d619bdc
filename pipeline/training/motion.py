"""Trains `pipeline.encoders.motion` and writes its weights, which the embedded bundle carries.

    python -m pipeline.training.motion ../shared/data --work checkpoints/motion

The trunk learns motion rendered onto pictures of GMDCSA, of GRID and drawn ones; the fight head is fitted to
statistics of `fights/`, whose pictures the trunk never sees, so that it can be measured on them. Resumes from
the work folder. `configs/train/motion.yaml` is the recipe, `make bench-motion` measures what came of it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import CONFIG_DIR, read_as
from pipeline.encoders.motion import CAMERA_MOTIONS, N_PICTURES, OBJECT_MOTIONS, SIZE_PX, MotionNet
from pipeline.training import fights, footage
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.rendered_motion import FLOW_STEP_PX, dead_leaves, plan_clip, render

RECIPE = CONFIG_DIR / "train" / "motion.yaml"
WEIGHTS = Path(__file__).resolve().parents[1] / "bundles" / "embedded" / "motion.safetensors"
NO_OBJECT = len(OBJECT_MOTIONS)  # the class of clips in which nothing does any of them
UNKNOWN = -1
_SMALL_FLOW = 0.01  # of the height: flows above it count by their logarithm
_PLAYED_SHARE, _MOVED_SHARE, _CALM_SHARE = 0.2, 0.55, 0.6
_DISTURBED_SHARE = 0.7
_MOST_WINDOWS = 6  # of a file of GMDCSA
_GRID_STRIDE = 60  # of its 599 files, which show one speaker


class Recipe(BaseModel):
    """What is rendered, and how long it is learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rendered_clips: int = Field(ge=1)
    watched_clips: int = Field(ge=1)
    drawn_pictures: int = Field(ge=0)
    real_repeats: int = Field(ge=1)
    held_out: tuple[str, ...]
    passes: tuple[LoopConfig, ...] = Field(min_length=1)
    fight_strengths: tuple[float, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Scenes:
    """What motion is rendered onto."""

    stills: npt.NDArray[np.uint8]  # (n, H, W)
    played: npt.NDArray[np.uint8]  # (m, T, H, W) windows of static cameras; may be none


@dataclass(frozen=True)
class Answers:
    """What is true of clips."""

    camera: Tensor  # (B,) int64
    objects: Tensor  # (B,) int64; UNKNOWN in footage
    flow: Tensor  # (B, T - 1, 2, h, w); NaN in footage, which moves by itself


class MotionTask:
    """A network that learns rendered motion."""

    def __init__(
        self,
        scenes: Scenes,
        n_examples: int,
        watched: list[tuple[Tensor, Answers]],
        begun: dict[str, Tensor] | None = None,
    ) -> None:
        """Args:
        n_examples: clips an epoch.
        watched: clips to validate on, some at once.
        begun: weights to begin from.
        """
        self.scenes, self.n_examples, self.watched, self.begun = scenes, n_examples, watched, begun

    def make_net(self) -> nn.Module:
        """As it begins."""
        net = MotionNet()
        if self.begun is not None:
            net.load_state_dict(self.begun)
        return net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def loss(self, net: nn.Module, indices: Tensor, random: np.random.Generator) -> Tensor:
        """Cross entropy of what camera and objects do, and how far the flow is off."""
        pictures, truth = rendered(self.scenes, len(indices), random)
        said = net(pictures)
        camera = F.cross_entropy(said["camera"], truth.camera)
        objects = F.cross_entropy(said["objects"], truth.objects, ignore_index=UNKNOWN, reduction="sum")
        return camera + objects / len(indices) + _flow_loss(said["flow"], truth.flow)

    @torch.no_grad()
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Shares of right answers over the clips watched."""
        found: dict[str, list[Tensor]] = {"camera": [], "objects": []}
        for pictures, truth in self.watched:
            said = net(pictures)
            for head, right in found.items():
                told = getattr(truth, head)
                right.append((said[head].argmax(1) == told)[told != UNKNOWN])
        shares = {head: float(torch.cat(right).float().mean()) for head, right in found.items()}
        return shares | {"score": float(np.mean(list(shares.values())))}


def _flow_loss(said: Tensor, truth: Tensor) -> Tensor:
    """How far (B, 8, T/4, h, w) is from the flow of the two steps into and out of every fourth picture."""
    told = torch.asinh(truth / _SMALL_FLOW)
    told = F.pad(
        told, (0, 0, 0, 0, 0, 0, 2, 0), value=float("nan")
    )  # before the first picture: not known
    told = told[:, : 4 * said.shape[2]].unflatten(1, (-1, 4)).flatten(2, 3).transpose(1, 2)
    known = ~told.isnan()
    return F.smooth_l1_loss(said[known], told[known]) if known.any() else said.sum() * 0


def rendered(scenes: Scenes, n: int, random: np.random.Generator) -> tuple[Tensor, Answers]:
    """Clips (n, T, *SIZE_PX) of motion drawn by chance, over scenes drawn by chance, and what they show."""
    plans, seen, patches = [], [], []
    camera, objects = [], []
    for _ in range(n):
        plays = len(scenes.played) > 0 and random.random() < _PLAYED_SHARE
        moves = not plays and random.random() < _MOVED_SHARE
        is_calm = random.random() < (_CALM_SHARE if moves else 0.0)
        name = "static" if is_calm else str(random.choice(CAMERA_MOTIONS))
        thing = str(random.choice(OBJECT_MOTIONS)) if moves else None
        distracts = not plays and bool(random.random() < _DISTURBED_SHARE)
        plans.append(plan_clip(random, name, thing, distracts=distracts))
        seen.append(_scene(scenes, random, plays=plays))
        patches.append(torch.from_numpy(scenes.stills[random.integers(len(scenes.stills))]))
        camera.append(CAMERA_MOTIONS.index(name))
        objects.append(OBJECT_MOTIONS.index(thing) if thing else UNKNOWN if plays else NO_OBJECT)
    x = torch.zeros(n, N_PICTURES, *SIZE_PX, dtype=torch.uint8)
    flow = torch.zeros(n, N_PICTURES - 1, 2, *(side // FLOW_STEP_PX for side in SIZE_PX))
    for length in (1, N_PICTURES):
        at = [i for i in range(n) if len(seen[i]) == length]
        if at:
            scene = torch.stack([seen[i] for i in at])
            made = render([plans[i] for i in at], scene, torch.stack([patches[i] for i in at]))
            x[at] = made.pictures
            flow[at] = made.flow if length == 1 else float("nan")
    return x, Answers(torch.tensor(camera), torch.tensor(objects), flow)


def _scene(scenes: Scenes, random: np.random.Generator, *, plays: bool) -> Tensor:
    """A still (1, H, W), or footage (T, H, W) at some speed."""
    if not plays:
        return torch.from_numpy(scenes.stills[random.integers(len(scenes.stills))][None])
    window = scenes.played[random.integers(len(scenes.played))]
    return torch.from_numpy(window[footage.varied_steps(random)])


def read_scenes(data: Path, work: Path, recipe: Recipe) -> Scenes:
    """Pictures to learn from: of GMDCSA and GRID, less what is held out, and drawn ones."""
    kept = work / "footage"
    homes = footage.read_footage(sorted((data / "gmdcsa").glob("*.mp4")), _MOST_WINDOWS, kept, "gmdcsa")
    heads = footage.read_footage(sorted((data / "grid").glob("*.mp*"))[::_GRID_STRIDE], 1, kept, "grid")
    played = np.concatenate([homes.without(recipe.held_out), heads.without(recipe.held_out)])
    middle = played.shape[1] // 2
    real = np.tile(np.concatenate([played[:, 0], played[:, middle]]), (recipe.real_repeats, 1, 1))
    random = np.random.default_rng(0)
    drawn = [dead_leaves(random, footage.SIZE_PX) for _ in range(recipe.drawn_pictures)]
    return Scenes(np.concatenate([real, *(picture[None] for picture in drawn)]), played)


def read_fights(data: Path, work: Path) -> footage.Footage:
    """The clips of `fights/`, whose pictures no motion is rendered onto in training."""
    files = sorted((data / "fights").glob("*.mp4"))
    return footage.read_footage(files, 1, work / "footage", "fights")


def read_fight_clips(data: Path, work: Path) -> fights.Clips:
    """Statistics of the clips of `fights/`, as a run sees them and as they can be seen otherwise."""
    windows = footage.read_as_a_run(sorted((data / "fights").glob("*.mp4")), work / "footage", "fights")
    return fights.read_clips(read_fights(data, work), windows, data / "fights.csv")


def watched_clips(pictures: npt.NDArray[np.uint8], n: int, seed: int) -> list[tuple[Tensor, Answers]]:
    """Clips rendered onto the first picture of each window (N, T, H, W), 40 at once."""
    scenes = Scenes(np.ascontiguousarray(pictures[:, 0]), pictures[:0])
    random = np.random.default_rng(seed)
    return [rendered(scenes, min(40, n - i), random) for i in range(0, n, 40)]


def train(data: Path, work: Path, recipe: Recipe) -> MotionNet:
    """All passes of the recipe, from the last checkpoint in `work` on, and the fight head."""
    scenes, others = read_scenes(data, work, recipe), read_fights(data, work)
    watched = watched_clips(others.pictures, recipe.watched_clips, seed=1)
    weights = None
    for k, settings in enumerate(recipe.passes):
        task = MotionTask(scenes, recipe.rendered_clips, watched, weights)
        fitted = fit(task, settings, work / f"pass-{k + 1}", tell=_tell)
        weights = fitted.net.state_dict()
    net = MotionNet()
    net.load_state_dict(weights or {})
    clips = read_fight_clips(data, work)
    strength = fights.choose_strength(clips, recipe.fight_strengths)
    head = fights.fit(clips, strength)
    net.fight.weight.data = torch.from_numpy(head.weight).float()[None]
    net.fight.bias.data = torch.tensor([head.bias])
    return net.eval()


def _tell(step: int, measures: dict[str, float]) -> None:
    values = ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
    print(f"step {step}: {values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the motion network and write its weights.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and read files")
    args = parser.parse_args()
    net = train(args.data, args.work, read_as(Recipe, RECIPE))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
