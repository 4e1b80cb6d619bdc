"""How much moves, how it is spread in time and space, and how wildly: numbers of a window, without a network.

    change   from picture to picture, and the change of that change
    flow     how far each place went, by least squares over its surroundings (Lucas and Kanade 1981,
             https://www.ijcai.org/Proceedings/81-2/Papers/017.pdf), less what the whole picture went; and how
             that changed

Each is averaged over 6×8 cells and described by the same 13 numbers. They tell a fight better than what is in
view does: see `docs/models/embedded.md`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

N_STATISTICS = 61
_CELLS = (6, 8)
_FLOW_PX = (36, 48)  # what Lucas and Kanade's small moves are measured on
_SURROUNDINGS_PX = 7
_DAMPING = 0.02  # where nothing has an edge, nothing is taken to move
_LEAST, _LEAST_FLOW = 1e-3, 1e-2  # added before a logarithm
_DIRECTIONS = 8
_SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)


def statistics(levels: Tensor) -> Tensor:
    """Numbers of windows of pictures, (B, T, H, W) → (B, N_STATISTICS).

    Args:
        levels: grey, free of exposure, as `pipeline.encoders.motion.levels` makes them.
    """
    changes = levels[:, 1:] - levels[:, :-1]
    right, down = flow(F.adaptive_avg_pool2d(levels, _FLOW_PX))
    right, down = _less_median(right), _less_median(down)
    far = torch.hypot(right, down)
    wild = torch.hypot(right[:, 1:] - right[:, :-1], down[:, 1:] - down[:, :-1])
    parts = [changes.abs(), (changes[:, 1:] - changes[:, :-1]).abs(), far, wild]
    described = [_described(F.adaptive_avg_pool2d(part, _CELLS)) for part in parts]
    return torch.cat([*described, _shape_of_flow(right, down, far)], dim=1)


def flow(x: Tensor) -> tuple[Tensor, Tensor]:
    """How far each place of (B, T, h, w) goes to the right and down until the next picture, in pixels.

    Damped: a place with little contrast is told to move less than it does, one without any not at all.
    """
    now, then = x[:, :-1], x[:, 1:]
    padded = F.pad((now + then) / 2, (1, 1, 1, 1), mode="replicate")
    gx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    gy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    gt = then - now
    xx, yy = _around(gx * gx) + _DAMPING, _around(gy * gy) + _DAMPING
    xy, xt, yt = _around(gx * gy), _around(gx * gt), _around(gy * gt)
    det = xx * yy - xy * xy
    return -(yy * xt - xy * yt) / det, -(xx * yt - xy * xt) / det


def _around(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _SURROUNDINGS_PX, 1, _SURROUNDINGS_PX // 2)


def _less_median(x: Tensor) -> Tensor:
    """What the picture as a whole does is the camera's."""
    return x - x.flatten(2).median(2).values[..., None, None]


def _described(cells: Tensor) -> Tensor:
    """(B, T, h, w) of something that is never negative → (B, 13): how much, how uneven in time and in place."""
    in_time = cells.mean((2, 3))  # (B, T)
    in_place = cells.mean(1).flatten(1).sort(1).values  # (B, h·w)
    spread = cells.std(1).flatten(1)
    share = in_place / in_place.sum(1, keepdim=True).clamp(min=1e-6)
    logs = [
        in_time.mean(1),
        in_time.std(1),
        in_time.amax(1),
        (in_time[:, 1:] - in_time[:, :-1]).abs().mean(1),
        in_place.std(1),
        in_place[:, -1],
        in_place[:, -5:].mean(1),
        in_place[:, in_place.shape[1] // 2],
        cells.flatten(1).amax(1),
        spread.amax(1),
        spread.mean(1),
    ]
    numbers = [(value + _LEAST).log() for value in logs]
    numbers += [numbers[5] - (in_place.mean(1) + _LEAST).log(), _entropy(share)]
    return torch.stack(numbers, dim=1)


def _shape_of_flow(right: Tensor, down: Tensor, far: Tensor) -> Tensor:
    """(B, 9): turning, spreading, how many directions, level against upright, and how far the far ones go."""
    turning = right[:, :, 1:, 1:] - right[:, :, :-1, 1:] - down[:, :, 1:, 1:] + down[:, :, 1:, :-1]
    spreading = right[:, :, 1:, 1:] - right[:, :, 1:, :-1] + down[:, :, 1:, 1:] - down[:, :, :-1, 1:]
    turn = (torch.atan2(down, right) / (2 * torch.pi) + 0.5) * _DIRECTIONS
    which = turn.long().clamp(max=_DIRECTIONS - 1).flatten(1)
    ways = torch.zeros(len(far), _DIRECTIONS, device=far.device).scatter_add_(1, which, far.flatten(1))
    numbers = [
        (turning.abs().mean((1, 2, 3)) + _LEAST).log(),
        (spreading.abs().mean((1, 2, 3)) + _LEAST).log(),
        _entropy(ways / ways.sum(1, keepdim=True).clamp(min=1e-6)),
        (right.abs().mean((1, 2, 3)) / (down.abs().mean((1, 2, 3)) + _LEAST)).clamp(max=4),
    ]
    ranked = far.flatten(1).sort(1).values
    places = [round(share * (ranked.shape[1] - 1)) for share in _SHARES]
    return torch.cat([torch.stack(numbers, 1), (ranked[:, places] + _LEAST_FLOW).log()], dim=1)


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * (shares + 1e-9).log()).sum(1)
