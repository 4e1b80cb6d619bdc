"""Everyday words over a classifier's fine classes, read from a bundle's `objects.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from pipeline.bundles.spec import BundleError


@dataclass(frozen=True)
class Objects:
    """G words; each class belongs to one word at most."""

    words: tuple[str, ...]
    phrases: tuple[str, ...]  # how each word reads in a sentence
    is_worn: Tensor  # (G,) bool: says who is there, not what they do
    member: Tensor  # (C, G) float, 1 where class c belongs to word g
    is_told: Tensor  # (C,) bool, False for a class that is neither a label nor evidence
    ungrouped: tuple[int, ...]  # classes that belong to no word


def read_objects(file: Path, classes: Sequence[str]) -> Objects:
    """Read the words over `classes`.

    Raises:
        BundleError: an index that is no class, or a class under two words.
    """
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))
    member = torch.zeros(len(classes), len(groups))
    for g, (word, group) in enumerate(groups.items()):
        for index in _indices(group["classes"]):
            if not 0 <= index < len(classes):
                raise BundleError(f"{file}: {word}: class {index} does not exist")
            if member[index].any():
                raise BundleError(f"{file}: {word}: {classes[index]!r} has a word already")
            member[index, g] = 1.0
    is_muted = torch.tensor([bool(group.get("muted")) for group in groups.values()])
    return Objects(
        words=tuple(groups),
        phrases=tuple(group["phrase"] for group in groups.values()),
        is_worn=torch.tensor([bool(group.get("worn")) for group in groups.values()]),
        member=member,
        is_told=~(member * is_muted).any(dim=1),
        ungrouped=tuple(int(i) for i in torch.nonzero(~member.any(dim=1))[:, 0]),
    )


def _indices(ranges: Sequence[int | str]) -> list[int]:
    indices: list[int] = []
    for item in ranges:
        first, _, last = str(item).partition("-")
        indices += range(int(first), int(last or first) + 1)
    return indices
