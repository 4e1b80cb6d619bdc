"""Checkpoints with random weights in the layouts in which families are published, for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from pipeline.bundles.spec import Checkpoint, PartSpec, WeightFile


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor random, statistics of norms too, so that no key could be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.ndim >= 2:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(fan_in, 1) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module.eval()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_part(kind: str, path: Path, **options: object) -> PartSpec:
    """A part whose checkpoint is one file."""
    weights = WeightFile(file=path.name, sha256=sha256(path))
    return PartSpec(kind=kind, weights=weights, options=options, licence="none", source="a test")


def folder_part(kind: str, folder: Path, **options: object) -> PartSpec:
    """A part whose checkpoint is a folder as the hub keeps it."""
    files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    checkpoint = Checkpoint(folder=folder.name, files=files)
    return PartSpec(kind=kind, checkpoint=checkpoint, options=options, licence="none", source="a test")


def rewrite_tensors(folder: Path, change: object) -> None:
    """Put a folder's tensors through `change`, a function of their dict."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = change(load_file(path))  # type: ignore[operator]
    save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata={"format": "pt"})
