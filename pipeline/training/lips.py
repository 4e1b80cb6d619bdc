"""Train the network of `pipeline.sync.lips`: by how much was this talking head's sound moved?

    python -m pipeline.training.lips DATA --work DIR [--steps 2500]

DATA holds `grid/` (talking heads), and `fights/`, `gmdcsa/`, `esc10/` (what is not speech). Every example
is cut, zoomed, panned, turned dark or noisy anew, its sound moved by up to ±550 ms; a fifth get the
sound of another. Resumes from DIR; the weights of the last step become `pipeline/sync/lips.safetensors`.
Files of GRID are dealt to folds by their names: 0–6 to train, 7 to watch, 8–9 are kept to be measured
(`tests/benchmarks/offset.py`).
"""

from __future__ import annotations

import argparse
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.media.audio import read_audio, resample
from pipeline.media.probe import probe
from pipeline.media.video import MOTION_FPS, MOTION_SHORT_SIDE_PX, index_packets, read_motion
from pipeline.sync import lips

SIZE_PX = (MOTION_SHORT_SIDE_PX, 120)
CLIP_PICTURES = 75
CLIP_SAMPLES = 3 * lips.RATE_HZ
TRAIN_FOLDS, WATCH_FOLD, TEST_FOLDS = range(7), 7, (8, 9)
_COLUMNS_A_PICTURE = lips.COLUMNS_HZ // MOTION_FPS
_MOST_MOVED = 55  # columns
_SHARE_OF_STRANGERS = 0.2
_BATCH = 12


def fold_of(name: str) -> int:
    """The fold of a file of GRID, 0 to 9, by its name."""
    return zlib.crc32(name.encode()) % 10


class Lips(nn.Module):
    """`pipeline.sync.lips` with gradients and batch normalisation, which `exported` folds away."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(5, 16, 5, 2, 2), nn.BatchNorm2d(16)
        self.c2, self.b2 = nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)
        self.c3, self.b3 = nn.Conv2d(32, 48, 3, 2, 1), nn.BatchNorm2d(48)
        self.att = nn.Conv2d(48, 1, 1, bias=False)
        self.v1, self.v2 = nn.Conv1d(48, 64, 5, padding=2), nn.Conv1d(64, 32, 1)
        self.a1, self.n1 = nn.Conv1d(lips.N_BANDS, 64, 5, padding=2), nn.BatchNorm1d(64)
        self.a2, self.n2 = nn.Conv1d(64, 64, 5, padding=2), nn.BatchNorm1d(64)
        self.a3 = nn.Conv1d(64, 32, 5, padding=2)
        self.alpha = nn.Parameter(torch.tensor(0.3))
        self.null, self.nulls = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.1))

    def see(self, x: Tensor) -> Tensor:
        """(B, T, H, W) → (B, T, 32)."""
        n_clips, n = x.shape[:2]
        padded = F.pad(x[:, None], (0, 0, 0, 0, 2, 2))[:, 0]
        stacks = torch.stack([padded[:, k : k + n] for k in range(5)], 2).flatten(0, 1)
        y = F.relu(self.b1(self.c1(stacks.contiguous(memory_format=torch.channels_last))))
        y = F.relu(self.b3(self.c3(F.relu(self.b2(self.c2(y))))))
        y = y.view(n_clips, n, *y.shape[1:])
        where = self.att(y.mean(1)).flatten(1).softmax(-1).view(n_clips, 1, 1, *y.shape[-2:])
        pooled = (y * where).sum((-1, -2)).transpose(1, 2)
        return F.normalize(self.v2(F.relu(self.v1(pooled))).transpose(1, 2), dim=-1)

    def hear(self, columns: Tensor) -> Tensor:
        """(B, n, N_BANDS) → (B, n, 32)."""
        y = F.relu(self.n1(self.a1(columns.transpose(1, 2))))
        y = F.relu(self.n2(self.a2(y)))
        return F.normalize(self.a3(y).transpose(1, 2), dim=-1)

    def forward(self, x: Tensor, columns: Tensor, is_present: Tensor) -> Tensor:
        """(B, offsets + 1) logits; `is_present` (B, n) tells which columns the file has."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training):
            seen = self.see(x)
        alike = seen.float() @ self.hear(columns).transpose(1, 2)
        n, n_columns = alike.shape[1:]
        moved = torch.as_tensor(lips.OFFSETS_MS * lips.COLUMNS_HZ // 1000)
        at = torch.arange(n)[:, None] * _COLUMNS_A_PICTURE + moved
        inside, at = (at >= 0) & (at < n_columns), at.clamp(0, n_columns - 1)
        met = inside & is_present[:, at]
        n_met = met.sum(1)
        values = alike.gather(2, at[None].expand(len(x), -1, -1))
        mean = (values * met).sum(1) / n_met.clamp(min=1)
        found = (self.alpha * n * mean).masked_fill(n_met < lips.MIN_PICTURES, -1e4)
        none = self.null + self.nulls * n * mean.mean(1, keepdim=True)
        return torch.cat([found, none], 1)

    def exported(self) -> dict[str, Tensor]:
        """Weights for `pipeline.sync.lips`."""
        weights = {k: v.detach().clone().contiguous() for k, v in self.named_parameters()}
        for conv, norm in (("c1", "b1"), ("c2", "b2"), ("c3", "b3"), ("a1", "n1"), ("a2", "n2")):
            layer = getattr(self, norm)
            scale = (layer.weight / (layer.running_var + layer.eps).sqrt()).detach()
            shape = (-1, *[1] * (weights[f"{conv}.weight"].dim() - 1))
            weights[f"{conv}.weight"] *= scale.view(shape)
            weights[f"{conv}.bias"] = (
                weights[f"{conv}.bias"] - layer.running_mean
            ) * scale + layer.bias.detach()
            del weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return weights


class Examples:
    """Talking heads and strangers, varied anew each time."""

    def __init__(self, data: Path, work: Path, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        heads = _cached(work / "grid.npz", sorted((data / "grid").glob("*.mp4")))
        folds = np.array([fold_of(str(name)) for name in heads["names"]])
        self.pictures, self.sounds = heads["pictures"], heads["sounds"]
        self.train = np.flatnonzero(np.isin(folds, TRAIN_FOLDS))
        self.watch = np.flatnonzero(folds == WATCH_FOLD)
        others = [*sorted((data / "fights").glob("*.mp4"))[::4], *(data / "gmdcsa").glob("*.mp4")]
        self.other_pictures = _cached(work / "others.npz", others)["pictures"]
        self.noises = _cached(work / "noises.npz", sorted((data / "esc10").rglob("*.*"))[::4])["sounds"]

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures (B, T, H, W), columns (B, n, N_BANDS), which are there (B, n), targets (B, offsets + 1)."""
        n = int(self.random.integers(50, CLIP_PICTURES + 1))
        parts = [self._example(n) for _ in range(_BATCH)]
        x, columns, present, target = (
            torch.stack([torch.as_tensor(p[k]) for p in parts]) for k in range(4)
        )
        return x, columns, present, target

    def _example(self, n: int) -> tuple[Any, ...]:
        i = self.random.choice(self.train)
        target = np.zeros(len(lips.OFFSETS_MS) + 1, np.float32)
        moved = int(self.random.integers(-_MOST_MOVED, _MOST_MOVED + 1))
        first = int(self.random.integers(0, CLIP_PICTURES - n + 1))
        seen, heard = self.pictures[i], self.sounds[i]
        if self.random.random() < _SHARE_OF_STRANGERS:
            target[-1] = 1
            kind = self.random.random()
            if kind < 0.6:
                heard = self.sounds[self.random.choice(self.train[self.train != i])]
            elif kind < 0.8:
                seen = self.other_pictures[self.random.integers(len(self.other_pictures))]
            else:
                heard = self.noises[self.random.integers(len(self.noises))]
        else:
            near = np.exp(-0.5 * ((lips.OFFSETS_MS - 10 * moved) / 20) ** 2)
            target[:-1] = near / near.sum()
        columns, present = self._columns(heard, first, n, moved)
        return self._view(seen[first : first + n]), columns, present, target

    def _view(self, pictures: np.ndarray) -> Tensor:
        """Seen nearer or from further off, moving, mirrored, darker, noisier."""
        random, n = self.random, len(pictures)
        zoom = np.exp(random.uniform(np.log(0.45), np.log(1.8)))
        centre = random.uniform(-0.35, 0.35, 2) * abs(1 - zoom) * 1.5
        if zoom < 1:
            centre[1] += 0.3 * (1 - zoom)  # mouths are in the lower half of faces
        drift = random.normal(0, 0.05, 2) * (random.random() < 0.5)
        shake = np.cumsum(random.normal(0, 0.003, (n, 2)), 0) * (random.random() < 0.4)
        path = centre + drift * np.linspace(-0.5, 0.5, n)[:, None] + shake
        turn = torch.zeros(n, 2, 3)
        turn[:, 0, 0] = float(zoom) * (-1 if random.random() < 0.5 else 1)
        turn[:, 1, 1] = float(zoom * random.uniform(0.85, 1.15))
        turn[:, :, 2] = torch.from_numpy(path).float()
        grid = F.affine_grid(turn, [n, 1, *SIZE_PX], align_corners=False)
        edge = "border" if random.random() < 0.5 else "zeros"
        x = torch.from_numpy(pictures).float()[:, None] / 255
        y = F.grid_sample(x, grid, padding_mode=edge, align_corners=False)[:, 0]
        y = (y * random.uniform(0.5, 1.3) + random.uniform(-0.1, 0.2)).clamp(0, 1)
        y = y ** float(random.uniform(0.7, 1.5))
        if random.random() < 0.5:
            y = y + torch.randn(y.shape) * float(random.uniform(0, 0.03))
        return torch.from_numpy(lips.moving((y.clamp(0, 1) * 255).byte().numpy()))

    def _columns(self, sound: np.ndarray, first: int, n: int, moved: int) -> tuple[Any, Any]:
        """Louder, noisier, through another microphone; moved by `moved` columns."""
        random = self.random
        x = sound * np.exp(random.uniform(-1.5, 1.5))
        kind = random.random()
        if kind < 0.4:
            x = x + random.normal(0, 10 ** random.uniform(-4, -2.2), len(x))
        elif kind < 0.6:
            other = self.noises if kind < 0.5 else self.sounds
            noise = np.roll(other[random.integers(len(other))], random.integers(len(x)))
            loud = np.sqrt((x**2).mean()) / (np.sqrt((noise**2).mean()) + 1e-6)
            x = x + noise * loud * random.uniform(0.05, 0.4)
        columns: Any = lips.log_mel(np.asarray(x, np.float32))
        if random.random() < 0.5:
            columns = columns + np.linspace(-1, 1, lips.N_BANDS) * random.normal(0, 1)
        at = np.arange(n * _COLUMNS_A_PICTURE) + _COLUMNS_A_PICTURE * first - moved
        present = (at >= 0) & (at < len(columns))
        cut = columns[np.clip(at, 0, len(columns) - 1)]
        return lips.normalised(cut).astype(np.float32), present


def _cached(file: Path, sources: list[Path]) -> dict[str, np.ndarray]:
    """First three seconds of `sources`: grey pictures and sound, read as inference reads them."""
    if not file.is_file():
        names, pictures, sounds = [], [], []
        for source in sources:
            seen, heard = _read(str(source))
            if len(seen) == CLIP_PICTURES or (len(seen) == 0 and heard.any()):
                names.append(source.name)
                pictures.append(seen if len(seen) else np.zeros((0, *SIZE_PX), np.uint8))
                sounds.append(heard)
        if not names:
            raise SystemExit(f"{file.stem}: no usable file among {len(sources)}")
        shapes = {len(p) for p in pictures}
        whole = np.stack(pictures) if len(shapes) == 1 else np.zeros(0)
        np.savez(file, names=np.array(names), pictures=whole, sounds=np.stack(sounds))
    with np.load(file) as found:
        return dict(found)


def _read(uri: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures (T, *SIZE_PX) and sound (CLIP_SAMPLES,) of a file's first three seconds."""
    info, span = probe(uri), (Fraction(0), Fraction(3))
    seen, heard = np.zeros((0, *SIZE_PX), np.uint8), np.zeros(CLIP_SAMPLES, np.float32)
    if info.video is not None:
        motion = read_motion(uri, info, index_packets(uri, info, *span), *span)
        x = torch.from_numpy(motion.grey).float()[:, None]
        seen = F.interpolate(x, SIZE_PX, mode="area")[:, 0].round().byte().numpy()
    if info.audio is not None:
        sound = resample(read_audio(uri, info, *span), lips.RATE_HZ).samples[:CLIP_SAMPLES]
        heard[: len(sound)] = sound
    return seen, heard


@torch.no_grad()
def _watch(net: Lips, examples: Examples) -> str:
    """How well the watched fold is answered as the net stands, moved by known amounts."""
    net.eval()
    random, off_ms, sure = np.random.default_rng(1), [], []
    for i in examples.watch:
        moved = 2 * int(random.integers(-25, 26))
        columns = lips.log_mel(examples.sounds[i])
        at = np.arange(CLIP_PICTURES * _COLUMNS_A_PICTURE) - moved
        present = torch.from_numpy((at >= 0) & (at < len(columns)))[None]
        cut = lips.normalised(columns[np.clip(at, 0, len(columns) - 1)])
        x = torch.from_numpy(lips.moving(examples.pictures[i]))[None]
        p = net(x, torch.from_numpy(cut)[None], present)[0].softmax(0).numpy()
        best = int(p[:-1].argmax())
        off_ms.append(abs(int(lips.OFFSETS_MS[best]) - 10 * moved))
        sure.append(p[max(0, best - 2) : min(best + 3, len(p) - 1)].sum() > 0.5)
    net.train()
    off, answered = np.array(off_ms), np.array(sure)
    right = (off[answered] <= 40).mean() if answered.any() else 0.0
    return f"within 40 ms {(off <= 40).mean():.3f}, answered {answered.mean():.2f}, of them {right:.3f}"


def train(data: Path, work: Path, n_steps: int) -> Lips:
    """Train for `n_steps`, from the last checkpoint in `work` on."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "lips.pt"
    torch.manual_seed(0)
    net = Lips().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=n_steps)
    begun = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        begun = state["step"]
    examples = Examples(data, work, seed=begun)
    losses: list[float] = []
    for step in range(begun, n_steps):
        x, columns, present, target = examples.batch()
        loss = -(target * net(x, columns, present).log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == n_steps:
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"schedule": schedule.state_dict(), "step": step + 1}, checkpoint)
            print(
                f"step {step + 1}: loss {np.mean(losses[-100:]):.3f}; {_watch(net, examples)}",
                flush=True,
            )
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the lips network and write its weights.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and read files")
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    net = train(args.data, args.work, args.steps)
    save_file(net.exported(), Path(lips.__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
