"""Two ways to do what a run does, as people write them by hand: the peers of `make bench-run`.

    python -m tests.benchmarks.run_peers sequential|ray_data LAKE WEIGHTS OUT

Both cut videos into clips of 4 s, look at 13 pictures of each with X3D-S in float32 and write its class and
features to Parquet. Neither hears anything, tells how exact its times are, or survives a damaged file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorchvideo.models.hub import x3d_s
from torch.nn.functional import interpolate

CLIP_S, N_PICTURES, SIDE_PX, CROP_PX = 4.0, 13, 182, 160
MEAN, STD = 0.45, 0.225


def load_net(weights: str) -> torch.nn.Module:
    net = x3d_s(pretrained=False)
    net.load_state_dict(torch.load(weights, weights_only=True)["model_state"])
    return net.eval()


def prepared(pictures: torch.Tensor) -> torch.Tensor:
    """(3, 13, 160, 160) of pictures (3, T, H, W): short side scaled, middle cut, normalised."""
    chosen = torch.linspace(0, pictures.shape[1] - 1, N_PICTURES).long()
    x = pictures[:, chosen].float() / 255
    height, width = x.shape[-2:]
    scale = SIDE_PX / min(height, width)
    size = (round(height * scale), round(width * scale))
    x = interpolate(x, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - CROP_PX) // 2, (size[1] - CROP_PX) // 2
    return (x[..., top : top + CROP_PX, left : left + CROP_PX] - MEAN) / STD


def sequential(lake: Path, weights: str, out: Path) -> None:
    """One video after the other, one clip after the other: `EncodedVideo`, as its tutorial uses it."""
    import pandas as pd
    from pytorchvideo.data.encoded_video import EncodedVideo

    net, rows = load_net(weights), []
    for file in sorted(lake.iterdir()):
        video = EncodedVideo.from_path(str(file), decode_audio=False, decoder="pyav")
        start_s = 0.0
        while start_s < float(video.duration) - 0.1:
            clip = video.get_clip(start_s, min(start_s + CLIP_S, float(video.duration)))
            if clip["video"] is not None:
                with torch.no_grad():
                    scores = net(prepared(clip["video"])[None])[0]
                best = int(scores.argmax())
                rows.append((str(file), start_s, best, float(scores[best]), scores.numpy()))
            start_s += CLIP_S
    out.mkdir()
    columns = ["uri", "start_s", "label", "score", "embedding"]
    pd.DataFrame(rows, columns=columns).to_parquet(out / "clips.parquet")


def clips_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a clip, its pictures small."""
    import decord

    reader = decord.VideoReader(row["path"], num_threads=1)
    rate_hz, n = reader.get_avg_fps(), len(reader)
    for k in range(max(1, math.ceil((n / rate_hz - 0.1) / CLIP_S))):
        first, last = k * CLIP_S * rate_hz, min(n, (k + 1) * CLIP_S * rate_hz) - 1
        chosen = np.linspace(first, max(first, last), N_PICTURES).round().astype(int).clip(0, n - 1)
        pictures = torch.from_numpy(reader.get_batch(chosen).asnumpy()).permute(3, 0, 1, 2)
        yield {"uri": row["path"], "start_s": k * CLIP_S, "pictures": prepared(pictures).numpy()}


class Classifier:
    """Holds the network."""

    def __init__(self, weights: str) -> None:
        self.net = load_net(weights)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            scores = self.net(torch.from_numpy(np.stack(batch.pop("pictures"))))
        best = scores.max(1)
        return batch | {
            "label": best.indices.numpy(), "score": best.values.numpy(), "embedding": scores.numpy(),
        }  # fmt: skip


def ray_data(lake: Path, weights: str, out: Path) -> None:
    """`flat_map` over paths with decord, `map_batches` with a class that holds the network: the way in which
    Ray Data's documentation does batch inference."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    clips = ray.data.from_items([{"path": str(file)} for file in sorted(lake.iterdir())])
    (
        clips.flat_map(clips_of)
        .map_batches(
            Classifier, fn_constructor_args=(weights,), batch_size=8, compute=ray.data.ActorPoolStrategy(size=1)
        )
        .write_parquet(str(out))
    )  # fmt: skip


if __name__ == "__main__":
    way, where, checkpoint, into = sys.argv[1:]
    {"sequential": sequential, "ray_data": ray_data}[way](Path(where), checkpoint, Path(into))
