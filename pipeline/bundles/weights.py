"""Strict loading of weights: the right bytes, every key, no pickled code."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bundles.spec import BundleError, WeightFile, recorded_sum

_ONNX_FLOAT = 1
_CONVS_OF_YAMNET = 27


def sha256_of(path: Path) -> str:
    """The sum of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_path(weights: WeightFile, bundle_dir: Path) -> Path:
    """Where the file lies, its content being what the bundle names.

    Raises:
        BundleError: it is absent, its sum is another, or no sum is known.
    """
    path = weights.path(bundle_dir)
    expected = weights.sha256 or recorded_sum(weights, bundle_dir)
    if expected is None:
        raise BundleError(
            f"{path}: no sum is known for it; reeltable models fetch {bundle_dir.name} records it"
        )
    found = sha256_of(path)
    if len(expected) < 8 or not found.startswith(expected):
        raise BundleError(f"{path}: sha256 is {found}, expected {expected}")
    return path


def checked_bytes(weights: WeightFile, bundle_dir: Path) -> bytes:
    """The file's content; raises as `checked_path`."""
    return checked_path(weights, bundle_dir).read_bytes()


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> nn.Module:
    """Give `module` its weights; anything missing, unexpected or misshaped is listed in one error.

    Old files lack the norms' counts of training batches, which no result depends on.
    """
    expected = module.state_dict()
    absent = expected.keys() - tensors.keys()
    counts = {k for k in absent if k.endswith(".num_batches_tracked")}
    problems = [f"missing {k}" for k in absent - counts]
    problems += [f"unexpected {k}" for k in tensors.keys() - expected.keys()]
    problems += [
        f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in expected.keys() & tensors.keys()
        if tensors[k].shape != expected[k].shape
    ]
    if problems:
        raise BundleError(f"{where}: weights do not fit: " + "; ".join(sorted(problems)))
    module.load_state_dict(tensors | {k: expected[k] for k in counts}, strict=True)
    return module.eval().requires_grad_(False)


def read_tensors(weights: WeightFile, bundle_dir: Path, inside: str | None = None) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file, or of a pickle that holds tensors alone.

    Args:
        inside: key under which a training job's checkpoint keeps the model, such as `model_state`.

    Raises:
        BundleError: absent, altered, truncated, or a pickle with code in it.
    """
    path = checked_path(weights, bundle_dir)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        why = str(e).split("\n", maxsplit=1)[0].removesuffix(".")
        raise BundleError(f"{path}: not a pickle of tensors alone, so it is not opened: {why}") from e
    except Exception as e:  # a damaged file makes the readers fail in any way
        raise BundleError(f"{path}: damaged: {type(e).__name__}: {e}") from e
    if inside is not None:
        if not isinstance(held, dict) or inside not in held:
            raise BundleError(f"{path}: expected a dict with {inside!r}, as the model zoo saves it")
        held = held[inside]
    if not isinstance(held, dict) or not all(isinstance(t, Tensor) for t in held.values()):
        raise BundleError(f"{path}: expected tensors by name")
    return dict(held)


def read_yamnet(weights: WeightFile, bundle_dir: Path) -> dict[str, Tensor]:
    """YAMNet's float32 weights out of a zipped ONNX graph with external data, under our names.

    The graph quantises and dequantises around each convolution, but its initializers are the float
    weights with batch norm folded in; the convolutions stand in the order of the network.
    """
    graph, external = _open_onnx_zip(checked_bytes(weights, bundle_dir))
    raw = {}
    for tensor in graph.initializer:
        if tensor.data_type == _ONNX_FLOAT:
            raw[tensor.name] = _onnx_float(tensor, external)
    convs = [node for node in graph.node if node.op_type == "Conv"]
    if len(convs) != _CONVS_OF_YAMNET:
        raise BundleError(f"{weights.file}: {len(convs)} convolutions, expected {_CONVS_OF_YAMNET}")
    ours = ["stem.1"]
    for i in range((_CONVS_OF_YAMNET - 1) // 2):
        ours += [f"layers.{i}.depthwise.1", f"layers.{i}.pointwise.1"]
    tensors = {}
    for name, node in zip(ours, convs, strict=True):
        tensors[f"{name}.weight"] = raw[node.input[1].removesuffix("_qdq")]
        tensors[f"{name}.bias"] = raw[node.input[2]]
    tensors["classifier.weight"] = raw["model.classifier.weight"]
    tensors["classifier.bias"] = raw["model.classifier.bias"]
    return tensors


def _open_onnx_zip(content: bytes):  # type: ignore[no-untyped-def]
    import onnx

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {Path(name).name: archive.read(name) for name in archive.namelist()}
    return onnx.load_model_from_string(files["model.onnx"]).graph, files["model.data"]


def _onnx_float(tensor, external: bytes) -> Tensor:  # type: ignore[no-untyped-def]
    where = {entry.key: entry.value for entry in tensor.external_data}
    if where:
        start = int(where["offset"])
        content = external[start : start + int(where["length"])]
    else:
        content = tensor.raw_data or np.array(tensor.float_data, "<f4").tobytes()
    values = np.frombuffer(content, dtype="<f4").reshape(tuple(tensor.dims))
    return torch.from_numpy(values.copy())


@lru_cache
def label_space(name: str) -> tuple[str, ...]:
    """Class names of a vocabulary that the libraries carry, in the order of its classifier."""
    if name == "imagenet1k":
        from torchvision.models import EfficientNet_B0_Weights

        return tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
    if name == "kinetics400":
        from torchvision.models.video import R3D_18_Weights

        return tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])
    raise BundleError(f"label space {name!r} is unknown; the bundle must bring a label_file")


def read_labels(weights: WeightFile, bundle_dir: Path) -> tuple[str, ...]:
    """Class names: the column `display_name` of a CSV, or the lines of a text file."""
    text = checked_bytes(weights, bundle_dir).decode("utf-8")
    if weights.file.endswith(".csv"):
        import csv

        return tuple(row["display_name"] for row in csv.DictReader(io.StringIO(text)))
    return tuple(line.strip() for line in text.splitlines() if line.strip())
