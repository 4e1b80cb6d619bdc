"""A config of experiments: what is measured of which bundle, on what, and where the card is written."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import ConfigError, read_values
from pipeline.evaluation.experiments import AnyExperiment


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Section):
    """Data that experiments read."""

    files: tuple[str, ...] = Field(min_length=1, description="files and folders below `shared`")
    what: str
    licence: str
    source: str


class EvalConfig(_Section):
    """`configs/eval/*.yaml`. Paths are as seen from where the command runs."""

    bundle: str = Field("embedded", description="a bundle's name, or a directory with bundle.yaml")
    shared: Path = Field(Path("../shared"), description="holds data/ and media/")
    work: Path = Field(Path("checkpoints/eval"), description="keeps figures, and what took long")
    card: str = Field(description="the card's prose, a file beside the config")
    out: Path = Field(description="folder of the card NAME.md, of NAME.json and of NAME/*.png")
    sources: dict[str, Source]
    experiments: dict[str, AnyExperiment] = Field(min_length=1)

    @model_validator(mode="after")
    def _sources_are_told(self) -> Self:
        for name, experiment in self.experiments.items():
            missing = [s for s in experiment.reads if s not in self.sources]
            if missing:
                raise ValueError(
                    f"experiments.{name} reads {missing[0]!r}; expected its files, what, licence and source "
                    f"under sources.{missing[0]}"
                )
        return self


def load_eval_config(path: str | Path, overrides: Sequence[str] = ()) -> EvalConfig:
    """The config of a YAML file with `a.b=c` overrides applied.

    Raises:
        ConfigError: no such file, not YAML, an unknown kind of experiment or key, a wrong value.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a YAML file with experiments")
    values = read_values(file, overrides)
    try:
        return EvalConfig.model_validate(values, context={"beside": file.parent})
    except ValidationError as e:
        raise ConfigError(f"{file}: {_explained(e)}") from e


def _explained(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "union_tag_invalid":
            kinds = [kind.strip("'") for kind in problem["ctx"]["expected_tags"].split(", ")]
            asked = str(problem["ctx"]["tag"])
            near = difflib.get_close_matches(asked, kinds, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            lines.append(f"{key}: unknown kind {asked!r}{hint} (known: {', '.join(kinds)})")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{key}: expected a kind")
        else:
            lines.append(f"{key or 'config'}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(lines))
