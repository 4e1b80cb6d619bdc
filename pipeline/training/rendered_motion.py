"""Motion whose truth is known, rendered onto pictures: moving cameras, moving things, and what disturbs both.

    scene    a picture or footage, with cut-outs of another picture that move over it
    view     a window on the scene that pans, tilts, zooms, rolls, shakes or stays
    film     exposure, flicker, noise, blocks, dropped pictures

One `Plan` says all of a clip but its pictures; `render` turns plans and pictures into clips. Lengths are in
heights of the view, angles in radians, y points down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.encoders.motion import CAMERA_MOTIONS, N_PICTURES, OBJECT_MOTIONS, RATE_HZ, SIZE_PX

Array = npt.NDArray[np.floating[Any]]
ASPECT = SIZE_PX[1] / SIZE_PX[0]
FLOW_STEP_PX = 8
_DURATION_S = N_PICTURES / RATE_HZ
_MOST_THINGS = 2


@dataclass(frozen=True)
class Path:
    """Where something is at each instant."""

    x: Array  # (T,) to the right
    y: Array  # (T,) down
    log_scale: Array  # (T,) natural logarithm of how much larger
    angle: Array  # (T,) clockwise


@dataclass(frozen=True)
class Thing:
    """A cut-out that moves over the scene."""

    path: Path
    radius: float  # at scale 1
    stretch: float  # of its width
    bumps: Array  # (3, 2) cosines and sines of its outline's 2nd to 4th harmonic
    gain: float  # of its contrast


@dataclass(frozen=True)
class Plan:
    """All of a clip but its pictures."""

    camera: str  # of CAMERA_MOTIONS
    view: Path  # of the window: what the scene shows moves the other way
    objects: str | None = None  # of OBJECT_MOTIONS; None: nothing of them
    things: tuple[Thing, ...] = ()
    share: float = 0.75  # of the scene's height that the view shows
    centre: tuple[float, float] = (0.0, 0.0)  # of the view in the scene, which spans −1..1
    is_mirrored: bool = False
    shown: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.arange(N_PICTURES)
    )  # dropped: repeated
    film: int | None = None  # seed of exposure and noise; None: a clean picture


def still(n: int = N_PICTURES) -> Path:
    """A path that stays where it is."""
    return Path(*(np.zeros(n, np.float32) for _ in range(4)))


def plan_clip(
    random: np.random.Generator, camera: str, objects: str | None, *, distracts: bool
) -> Plan:
    """A clip of these motions, all else by chance.

    Args:
        distracts: things that do none of OBJECT_MOTIONS move in front, where `objects` is None.
    """
    t = _instants(random)
    view = plan_camera(random, camera, t)
    things: tuple[Thing, ...] = ()
    if objects is not None:
        things = plan_things(random, objects, t)
    elif distracts:
        things = tuple(_thing(random, _wander(random, t)) for _ in range(random.integers(1, 3)))
    shown = np.arange(len(t))
    if random.random() < 0.15:  # a source with fewer pictures than are looked at
        shown = np.maximum.accumulate(np.where(random.random(len(t)) < 0.25, 0, shown))
    return Plan(
        camera,
        view,
        objects,
        things,
        share=float(random.uniform(0.55, 1.0)),
        centre=(float(random.uniform(-0.4, 0.4)), float(random.uniform(-0.4, 0.4))),
        is_mirrored=bool(random.random() < 0.5),
        shown=shown,
        film=int(random.integers(2**31)),
    )


def plan_camera(random: np.random.Generator, camera: str, t: Array) -> Path:
    """The path of a view that does `camera` at instants `t` (T,) in seconds."""
    n = len(t)
    x: Array = np.zeros(n)
    y, scale, angle = x, x, x
    way = _eased(random, t) * random.choice([-1, 1])
    aside = _eased(random, t) * random.uniform(-0.15, 0.15)
    if camera == "pan":
        far = _log_uniform(random, 0.08, 1.2)
        x, y = far * way, far * aside
    elif camera == "tilt":
        far = _log_uniform(random, 0.08, 1.0)
        x, y = far * aside, far * way
    elif camera == "zoom":
        far = _log_uniform(random, 0.08, 0.8)
        scale, x, y = (
            far * way,
            0.3 * far * aside,
            0.3 * far * _eased(random, t) * random.uniform(-0.15, 0.15),
        )
    elif camera == "roll":
        angle = np.deg2rad(_log_uniform(random, 5, 80)) * way
    elif camera == "shake":
        size = _log_uniform(random, 0.008, 0.06)
        x, y = (size * _tremble(random, t) * random.uniform(0.4, 1) for _ in range(2))
        angle = size * _tremble(random, t) * random.uniform(0, 0.8)
        far = random.uniform(0, 1.5) * size  # a hand that shakes also drifts
        x, y = x + far * way, y + far * aside
    elif camera != "static":
        raise ValueError(f"camera {camera!r} is unknown; expected one of: {', '.join(CAMERA_MOTIONS)}")
    if random.random() < 0.5:
        tiny = random.uniform(0, 0.0015 if camera == "static" else 0.004)
        x, y = (v + tiny * random.standard_normal(n) for v in (x, y))
    return Path(*(np.asarray(v, np.float32) for v in (x, y, scale, angle)))


def plan_things(random: np.random.Generator, objects: str, t: Array) -> tuple[Thing, ...]:
    """Things that do `objects` at instants `t` (T,) in seconds."""
    half = 0.5 * ASPECT
    n, u = len(t), t / _DURATION_S
    zero = np.zeros(n, np.float32)
    at_x, drift = random.uniform(-0.35, 0.35) * ASPECT, random.uniform(-0.15, 0.15)
    tilt = np.full(n, random.uniform(-3, 3))
    if objects == "approach":
        most = _log_uniform(random, 1.8, 6)
        near = 1 / (1 - u.clip(0, 1) * (1 - 1 / most))  # at an even speed, as perspective has it
        x, y = 0.6 * at_x + drift * u, random.uniform(-0.2, 0.2) + 0.3 * drift * u
        return (_thing(random, Path(x, y + zero, np.log(near), tilt), (0.06, 0.16)),)
    if objects == "fall":
        begin, g = random.uniform(0, 0.9), _log_uniform(random, 0.8, 5)
        down = 0.5 * g * (t - begin).clip(0) ** 2
        y0, ground = random.uniform(-0.5, -0.15), random.choice([random.uniform(0.25, 0.45), 2.0])
        turn = np.cumsum(np.diff(down, prepend=0)) * random.uniform(-1.5, 1.5)
        y = np.minimum(y0 + down, ground)
        return (_thing(random, Path(at_x + drift * np.minimum(down, 1), y, zero, tilt + turn)),)
    if objects == "bounce":
        x = at_x + random.uniform(-0.4, 0.4) * u
        return (_thing(random, Path(x, _bounces(random, t), zero, tilt + random.uniform(-2, 2) * u)),)
    if objects == "swing":
        long, period = random.uniform(0.3, 0.7), random.uniform(0.7, 2.2)
        swung = np.deg2rad(random.uniform(18, 60)) * np.sin(2 * np.pi * (t / period + random.random()))
        x, y = 0.6 * at_x + long * np.sin(swung), random.uniform(-0.55, -0.25) + long * np.cos(swung)
        return (_thing(random, Path(x, y, zero, tilt - swung)),)
    if objects == "spin":
        turns = random.choice([-1, 1]) * 2 * np.pi * _log_uniform(random, 0.3, 1.6) * t
        x, y = at_x + 0.5 * drift * u, random.uniform(-0.25, 0.25) + 0.3 * drift * u
        return (_thing(random, Path(x, y + zero, zero, tilt + turns), (0.12, 0.35), longish=True),)
    if objects == "collide":
        return _collision(random, t, half)
    raise ValueError(f"objects {objects!r} is unknown; expected one of: {', '.join(OBJECT_MOTIONS)}")


@dataclass(frozen=True)
class Rendered:
    """Clips, and how each place of their pictures moves."""

    pictures: Tensor  # (B, T, *size_px) uint8
    # (B, T - 1, 2, h, w): right and down from each picture to the next, every `FLOW_STEP_PX` pixels
    flow: Tensor


def render(plans: Sequence[Plan], scenes: Tensor, patches: Tensor) -> Rendered:
    """Clips of plans.

    Args:
        scenes: (B, T or 1, H, W) uint8, what lies behind; footage or a still.
        patches: (B, h, w) uint8, what the things are cut out of.
    """
    view = _stacked([p.view for p in plans])
    px, py = _pixels()
    sx, sy = _in_scene(view, px, py)  # (B, T, h, w)
    pictures = _background(plans, scenes, sx, sy)
    few = (..., slice(None, None, FLOW_STEP_PX), slice(None, None, FLOW_STEP_PX))
    now, then = _shown_pairs(plans)
    here = _at(torch.stack([sx[few], sy[few]]), now)
    moved = here  # where in the scene what is seen here lies when the next picture is taken
    for k in range(_MOST_THINGS):
        rows = torch.tensor([i for i, p in enumerate(plans) if len(p.things) > k], dtype=torch.long)
        if not len(rows):
            continue
        things = [plans[i].things[k] for i in rows.tolist()]
        path = _stacked([thing.path for thing in things])
        mask, texture = _cut_out(things, path, patches[rows], sx[rows], sy[rows], k)
        pictures[rows] = pictures[rows] * (1 - mask) + texture * mask
        carried = _carried(here[:, rows], _at(path, now[rows]), _at(path, then[rows]))
        is_thing = _at(mask[few][None], now[rows])[0] > 0.5
        moved = moved.clone()
        moved[:, rows] = torch.where(is_thing, carried, moved[:, rows])
    qx, qy = _on_screen(_at(view, then), *moved)
    flow = torch.stack([qx - px[few], qy - py[few]], dim=2)
    filmed = torch.stack([_filmed(p, x) for p, x in zip(plans, pictures, strict=True)])
    return Rendered(filmed, flow)


def dead_leaves(random: np.random.Generator, size_px: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture of overlapping shaded discs and boxes of all sizes, with the statistics of natural ones
    (Lee, Mumford and Huang 2001, https://doi.org/10.1023/A:1011109015675)."""
    h, w = size_px
    y, x = np.mgrid[:h, :w].astype(np.float32)
    picture = np.full(size_px, random.uniform(40, 200), np.float32)
    for _ in range(int(random.integers(60, 220))):
        r = float(_log_uniform(random, 3, 0.45 * h))
        dx, dy = x - random.uniform(0, w), y - random.uniform(0, h)
        a = random.uniform(0, np.pi)
        along, across = dx * np.cos(a) + dy * np.sin(a), dy * np.cos(a) - dx * np.sin(a)
        flat = random.uniform(0.3, 1)
        is_box = random.random() < 0.5
        far = np.maximum(abs(along), abs(across) / flat) if is_box else np.hypot(along, across / flat)
        shade = random.uniform(0, 255) + random.normal(0, 25) * along / r
        if random.random() < 0.3:
            shade = shade + random.uniform(5, 40) * np.sin(along * random.uniform(0.2, 1.5))
        picture = np.where(far < r, shade, picture)
    return picture.clip(0, 255).astype(np.uint8)


def _instants(random: np.random.Generator) -> Array:
    """Seconds of the pictures: at the rate, less what a source's own rate moves them by."""
    off = random.uniform(-0.02, 0.02, N_PICTURES) * (random.random() < 0.7)
    return np.asarray(np.arange(N_PICTURES) / RATE_HZ + off, np.float32)


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _eased(random: np.random.Generator, t: Array) -> Array:
    """A way from 0 to 1: even, or begun or ended softly; over most of the window."""
    begin = random.uniform(-0.3, 0.6) if random.random() < 0.5 else 0.0
    end = random.uniform(1.4, 2.3) if random.random() < 0.5 else _DURATION_S
    u = ((t - begin) / (end - begin)).clip(0, 1)
    kind = random.integers(4)
    if kind == 1:
        return np.asarray(u * u * (3 - 2 * u), np.float32)
    if kind == 2:
        return np.asarray(u ** random.uniform(1, 2.2), np.float32)
    if kind == 3:
        return np.asarray(1 - (1 - u) ** random.uniform(1, 2.2), np.float32)
    return np.asarray(u, np.float32)


def _tremble(random: np.random.Generator, t: Array) -> Array:
    """Noise of a hand: a few waves of 1 to 6 Hz and some that is white; of spread about 1."""
    waves = sum(
        np.sin(2 * np.pi * (random.uniform(1, 6) * t + random.random())) * random.uniform(0.3, 1)
        for _ in range(4)
    )
    return np.asarray(waves + 0.6 * random.standard_normal(len(t)), np.float32)


def _wander(random: np.random.Generator, t: Array) -> Path:
    """A thing that goes about: on a line or in a bow, with its own small turns and changes of size."""
    u = t / _DURATION_S
    far = random.uniform(0, 0.9, 2) * random.choice([-1, 1], 2)
    bow = random.uniform(-0.1, 0.1, 2)[:, None] * np.sin(np.pi * u)
    x, y = random.uniform(-0.4, 0.4, 2)[:, None] + far[:, None] * (u - 0.5) * [[1.2], [0.35]] + bow
    sway = 0.04 * np.sin(2 * np.pi * (random.uniform(0.5, 2.5) * t + random.random()))
    scale = random.uniform(-0.15, 0.15) * u + sway
    return Path(x, y, scale, random.uniform(-3, 3) + random.uniform(-0.3, 0.3) * u + 2 * sway)


def _bounces(random: np.random.Generator, t: Array) -> Array:
    """Heights of a ball over a floor that it leaves again and again, a little less each time."""
    floor, g = random.uniform(0.1, 0.45), _log_uniform(random, 2.5, 9)
    height, keeps = random.uniform(0.25, 0.7), random.uniform(0.6, 0.95)
    at, arcs = -random.uniform(0, 1) * np.sqrt(8 * height / g), []
    while at < _DURATION_S + 0.2:
        long = np.sqrt(8 * height / g)
        v = t - at
        arcs.append(np.where((v >= 0) & (v < long), 0.5 * g * v * (long - v), 0))
        at, height = at + max(long, 0.05), height * keeps
    return np.asarray(floor - np.max(arcs, axis=0), np.float32)


def _collision(random: np.random.Generator, t: Array, half: float) -> tuple[Thing, ...]:
    """Two things that come together and part, or stay with each other."""
    when = random.uniform(0.6, 1.4)
    a = random.uniform(0, np.pi) if random.random() < 0.4 else random.normal(0, 0.3)
    across = np.array([np.cos(a), np.sin(a)])
    met = np.array([random.uniform(-0.3, 0.3) * half, random.uniform(-0.15, 0.15)])
    radii = random.uniform(0.07, 0.18, 2)
    speeds = np.array(
        [_log_uniform(random, 0.3, 1.3), random.choice([0, 1]) * random.uniform(0.2, 1.2)]
    )
    after = speeds[::-1] * random.uniform(0, 0.9) if random.random() < 0.7 else np.zeros(2)
    things = []
    for k, side in enumerate((-1, 1)):
        before = speeds[k] * (when - t).clip(0)
        parted = after[k] * (t - when).clip(0)
        along = side * (0.85 * radii[k] + before + parted)
        spun = random.uniform(-3, 3) + random.uniform(-2, 2) * (t - when).clip(0)
        path = Path(met[0] + across[0] * along, met[1] + across[1] * along, 0 * t, spun)
        things.append(_thing(random, path, (radii[k], radii[k]), plain=True))
    return tuple(things)


def _thing(
    random: np.random.Generator,
    path: Path,
    radii: tuple[float, float] = (0.07, 0.25),
    *,
    longish: bool = False,
    plain: bool = False,
) -> Thing:
    n = len(path.angle)
    fields = (path.x, path.y, path.log_scale, path.angle)
    path = Path(*(np.broadcast_to(np.asarray(v, np.float32), n) for v in fields))
    size = 0.0 if plain else float(random.uniform(0, 0.15))
    return Thing(
        path,
        _log_uniform(random, *radii),
        1.0 if plain else float(random.uniform(1.3, 2.5) if longish else np.exp(random.normal(0, 0.3))),
        np.asarray(random.normal(0, size + 1e-6, (3, 2)), np.float32),
        float(random.uniform(0.8, 1.6)),
    )


def _stacked(paths: Sequence[Path]) -> Tensor:
    """(4, B, T, 1, 1): x, y, scale, angle."""
    values = [[p.x for p in paths], [p.y for p in paths]]
    values += [[np.exp(p.log_scale) for p in paths], [p.angle for p in paths]]
    return torch.from_numpy(np.asarray(values, np.float32))[..., None, None]


def _pixels() -> tuple[Tensor, Tensor]:
    """Where pixels lie in the view, in its heights from its middle, (h, w) each."""
    h, w = SIZE_PX
    py = (torch.arange(h) + 0.5) / h - 0.5
    px = ((torch.arange(w) + 0.5) / w - 0.5) * ASPECT
    down, right = torch.meshgrid(py, px, indexing="ij")
    return right, down


def _in_scene(view: Tensor, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the scene a place of the view lies."""
    x, y, scale, angle = view
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    return x + cos * px - sin * py, y + sin * px + cos * py


def _on_screen(view: Tensor, sx: Tensor, sy: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the view a place of the scene lies."""
    x, y, scale, angle = view
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    return cos * (sx - x) + sin * (sy - y), cos * (sy - y) - sin * (sx - x)


def _carried(places: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """Where places of the scene (2, …) go with a thing that goes from `now` to `then`."""
    return torch.stack(_in_scene(_inverse_scale(then), *_on_screen(_inverse_scale(now), *places)))


def _inverse_scale(path: Tensor) -> Tensor:
    """A thing twice as large covers more of the scene; a view zoomed in by two covers less."""
    x, y, scale, angle = path
    return torch.stack([x, y, 1 / scale, angle])


def _shown_pairs(plans: Sequence[Plan]) -> tuple[Tensor, Tensor]:
    """The instants of each picture and of the one after it, (B, T - 1) each."""
    shown = torch.from_numpy(np.stack([p.shown for p in plans]))
    return shown[:, :-1], shown[:, 1:]


def _at(values: Tensor, instants: Tensor) -> Tensor:
    """(C, B, T, …) at instants (B, n) → (C, B, n, …)."""
    rows = torch.arange(len(instants))[:, None]
    return values[:, rows, instants]


def _background(plans: Sequence[Plan], scenes: Tensor, sx: Tensor, sy: Tensor) -> Tensor:
    """(B, T, h, w) float: the scene as the view sees it; beyond its edges it is mirrored."""
    share = torch.tensor([p.share for p in plans])[:, None, None, None]
    centre = torch.tensor([p.centre for p in plans])[:, :, None, None, None]
    room = (1 - share).clamp(min=0)
    flip = torch.tensor([-1.0 if p.is_mirrored else 1.0 for p in plans])[:, None, None, None]
    gx = (2 * sx / ASPECT * share + centre[:, 0] * room) * flip
    gy = 2 * sy * share + centre[:, 1] * room
    grid = torch.stack([gx, gy], -1)  # (B, T, h, w, 2)
    if scenes.shape[1] == 1:  # one picture: all views of it side by side
        b, t, h, w, _ = grid.shape
        flat = F.grid_sample(
            scenes.float(), grid.view(b, t * h, w, 2), padding_mode="reflection", align_corners=False
        )
        return flat.view(b, t, h, w)
    frames = F.grid_sample(
        scenes.flatten(0, 1)[:, None].float(),
        grid.flatten(0, 1),
        padding_mode="reflection",
        align_corners=False,
    )
    return frames[:, 0].view(grid.shape[:-1])


def _cut_out(
    things: Sequence[Thing], path: Tensor, patches: Tensor, sx: Tensor, sy: Tensor, which: int
) -> tuple[Tensor, Tensor]:
    """Mask in 0..1 and grey of things, (B, T, h, w) each."""
    x, y, scale, angle = path
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    dx, dy = sx - x, sy - y
    radius = torch.tensor([thing.radius for thing in things])[:, None, None, None]
    stretch = torch.tensor([thing.stretch for thing in things]).sqrt()[:, None, None, None]
    u = (cos * dx + sin * dy) / radius / stretch
    v = (cos * dy - sin * dx) / radius * stretch
    far, around = torch.hypot(u, v), torch.atan2(v, u)
    edge = torch.ones_like(far)
    bumps = torch.from_numpy(np.stack([thing.bumps for thing in things]))[..., None, None, None]
    for k in range(3):
        edge = (
            edge
            + bumps[:, k, 0] * torch.cos((k + 2) * around)
            + bumps[:, k, 1] * torch.sin((k + 2) * around)
        )
    mask = torch.sigmoid((edge - far) * radius * scale * 80)
    part = 0.45  # of the patch's half-width that a radius spans
    gx, gy = u * part / ASPECT + (-0.4, 0.4)[which], v * part
    b, t, h, w = u.shape
    grid = torch.stack([gx, gy], -1).view(b, t * h, w, 2)
    grey = F.grid_sample(patches[:, None].float(), grid, padding_mode="reflection", align_corners=False)
    gain = torch.tensor([thing.gain for thing in things])[:, None, None, None]
    return mask, (grey.view(b, t, h, w) - 128) * gain + 128


def _filmed(plan: Plan, pictures: Tensor) -> Tensor:
    """(T, h, w) as a camera and a codec give it, uint8."""
    x = pictures[torch.from_numpy(plan.shown)]
    if plan.film is None:
        return x.round().clamp(0, 255).byte()
    random = np.random.default_rng(plan.film)
    n, h, w = x.shape
    gain = np.exp(random.normal(0, 0.25)) * np.ones(n)
    if random.random() < 0.3:  # exposure follows what is seen
        gain *= np.exp(random.normal(0, 0.25) * np.clip((np.arange(n) / n - random.random()) * 3, 0, 1))
    if random.random() < 0.3:  # lamps
        gain *= 1 + random.uniform(0, 0.06) * random.standard_normal(n)
    x = (x - 128) * float(random.uniform(0.5, 1.2)) + 128
    x = x * torch.from_numpy(gain.astype(np.float32))[:, None, None] + float(random.normal(0, 10))
    noise = torch.Generator().manual_seed(plan.film)
    if random.random() < 0.5:  # blocks of a codec, their level a little off, others each time
        off = torch.randn(n, 1, h // 8 + 1, w // 8 + 1, generator=noise) * float(random.uniform(0, 3))
        x = x + F.interpolate(off, scale_factor=8.0)[:, 0, :h, :w]
    if random.random() < 0.6:
        x = x + torch.randn(x.shape, generator=noise) * float(random.uniform(0, 7))
    if random.random() < 0.3:
        step = float(random.uniform(2, 10))
        x = (x / step).round() * step
    return x.round().clamp(0, 255).byte()
