"""What every experiment is: settings that a config gives, what it reads, and a way to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from pipeline.bundles.spec import BundleSpec
from pipeline.evaluation.records import Measured


@dataclass(frozen=True)
class Lab:
    """Where an experiment is made."""

    bundle: BundleSpec
    shared: Path  # holds data/ and media/
    work: Path  # keeps what took long to read or to compute
    tell: Callable[[str], None]  # how far it is

    @property
    def data(self) -> Path:
        """The labelled sets."""
        return self.shared / "data"

    @property
    def media(self) -> Path:
        """The real clips."""
        return self.shared / "media"


class Experiment(BaseModel):
    """One experiment; a kind of it is a class with a `kind`, a line in `EXPERIMENTS` and `measure`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    reads: ClassVar[tuple[str, ...]] = ()  # of the config's `sources`

    def measure(self, lab: Lab) -> Measured:
        """Figures, tables and plots."""
        raise NotImplementedError
