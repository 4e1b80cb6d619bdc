"""Writes the bundle that a training makes: its base, a learned part, and what was measured."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from pipeline.bundles.spec import (
    BundleError,
    BundleSpec,
    LearnedSpec,
    PicturesSpec,
    SpaceSpec,
    WeightFile,
    find_bundle,
    recorded_sum,
)
from pipeline.config import ClipConfig
from pipeline.training.settings import TrainConfig

_OF_A_FILE = {"file", "sha256", "package", "install", "url"}


def write_bundle(
    out: Path,
    base: BundleSpec,
    part: LearnedSpec,
    weights: Mapping[str, Tensor],
    tuned: Mapping[str, Mapping[str, Tensor]],
    spaces: Mapping[str, SpaceSpec],
    measured: Mapping[str, str],
    config: TrainConfig,
) -> BundleSpec:
    """Write `out/bundle.yaml`, the weights, and `out/config.yaml` for `reeltable run --config`; a bundle that
    was there is replaced. Files of the base that lie in no package are named by their place.

    Raises:
        BundleError: `out` is something else than a bundle.
    """
    if (
        out.exists()
        and not (out / "bundle.yaml").is_file()
        and (not out.is_dir() or any(out.iterdir()))
    ):
        raise BundleError(f"{out}: is there and no bundle; expected another out")
    fresh = out.with_name(f"{out.name}.{os.getpid()}.part")
    fresh.mkdir(parents=True)
    files = {"learned.safetensors": weights} | {f"{n}.safetensors": w for n, w in tuned.items()}
    made = {name: _write_weights(fresh / name, tensors) for name, tensors in files.items()}
    part = part.model_copy(
        update={
            "weights": made["learned.safetensors"],
            "tuned": {name: made[f"{name}.safetensors"] for name in tuned},
        }
    )
    values = _base_values(base, fresh) | {"name": config.name, "version": 1}
    values["summary"] = (
        f"{base.summary.strip()} Learned on top of {base.name}: {', '.join(part.spaces)}."
    )
    values["pictures"] = _plain(_pictures(base, config.clips))
    values["learned"] = [*values.get("learned", []), _plain(part)]
    values["spaces"] = values["spaces"] | {n: _plain(space) for n, space in spaces.items()}
    values["measured"] = values["measured"] | dict(measured)
    _write_yaml(fresh / "bundle.yaml", values)
    alike = {
        "clips": config.clips.model_dump(mode="json", exclude_unset=True),
        "audio": config.audio.model_dump(mode="json", exclude_unset=True),
    }
    _write_yaml(fresh / "config.yaml", {"bundle": ".", **alike})
    if out.exists():
        shutil.rmtree(out)
    os.replace(fresh, out)
    return find_bundle(str(out))


def _pictures(base: BundleSpec, clips: ClipConfig) -> PicturesSpec:
    """What it asks of decoding: as many pictures as it was trained with."""
    rate_hz = clips.frames_per_clip / clips.length_s
    return PicturesSpec(
        rate_hz=min(60.0, max(base.pictures.rate_hz, rate_hz)),
        short_side_px=max(base.pictures.short_side_px, clips.short_side_px),
    )


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> WeightFile:
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    path.write_bytes(content)
    return WeightFile(file=path.name, sha256=hashlib.sha256(content).hexdigest())


def _base_values(base: BundleSpec, fresh: Path) -> dict[str, Any]:
    """What the base says, for another directory."""
    values = _placed(_plain(base), base)
    for key in ("objects_file", "sounds_file"):
        own = base.directory / str(values.get(key))
        if values.get(key) and own.is_file():
            shutil.copy(own, fresh / own.name)
            values[key] = own.name
    return values


def _plain(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = value.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return found


def _placed(value: Any, base: BundleSpec) -> Any:
    """Nested `value` in which files and folders of the base's own directory are named from the root, each with
    its sum."""
    if isinstance(value, list):
        return [_placed(v, base) for v in value]
    if not isinstance(value, dict):
        return value
    if "file" in value and set(value) <= _OF_A_FILE:
        if "package" in value:
            return value
        known = value.get("sha256") or recorded_sum(WeightFile.model_validate(value), base.directory)
        return (
            value
            | {"file": str((base.directory / value["file"]).resolve())}
            | ({"sha256": known} if known else {})
        )
    if "folder" in value and "files" in value and "package" not in value:
        files = {
            name: known or recorded_sum(WeightFile(file=f"{value['folder']}/{name}"), base.directory)
            for name, known in value["files"].items()
        }
        return value | {"folder": str((base.directory / value["folder"]).resolve()), "files": files}
    return {key: _placed(v, base) for key, v in value.items()}


def _write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
