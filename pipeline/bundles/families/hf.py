"""Strict loading of checkpoints as the Hugging Face hub lays them out, from a folder, never the network."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.bundles.weights import checked_path


@contextmanager
def opened_folder(part: PartSpec, directory: Path) -> Iterator[Path]:
    """A folder with the files that the part's checkpoint names and no others, every sum checked.

    The libraries take whatever lies in a folder, a second set of weights too: what the bundle does not name
    is not there for them.

    Raises:
        BundleError: the part names no checkpoint, or a file is absent or altered.
    """
    if part.checkpoint is None:
        raise BundleError(f"{part.kind}: expected checkpoint: a folder with config and weights")
    with tempfile.TemporaryDirectory(prefix="reeltable-") as view:
        for name, file in zip(part.checkpoint.files, part.checkpoint.weight_files(), strict=True):
            link = Path(view) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(checked_path(file, directory).resolve())
        yield Path(view)


def load_model(auto_class: Any, folder: Path, unused: tuple[str, ...] = (), **options: Any) -> Any:
    """The library's model with the folder's weights, each of them used and none made up.

    Args:
        unused: keys that published files lack and that only training reads.

    Raises:
        BundleError: a damaged file, or keys that are missing, unexpected or misshaped, all listed.
    """
    where = real_place(folder)
    try:
        with _quiet():
            model, info = auto_class.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                dtype=torch.float32,  # published halves too: what they are run in is decided elsewhere
                ignore_mismatched_sizes=True,  # collected below with the rest, instead of one at a time
                **options,
            )
    except Exception as e:  # a damaged file makes the library fail in any way
        raise BundleError(f"{where}: not loaded: {type(e).__name__}: {str(e).strip()}") from e
    problems = [f"missing {key}" for key in info["missing_keys"] if key not in unused]
    problems += [f"unexpected {key}" for key in info["unexpected_keys"]]
    problems += [
        f"{key} has shape {tuple(found)}, expected {tuple(wanted)}"
        for key, found, wanted in info["mismatched_keys"]
    ]
    problems += [str(message) for message in info.get("error_msgs") or ()]
    if problems:
        raise BundleError(f"{where}: weights do not fit: " + "; ".join(sorted(problems)))
    return model.eval().requires_grad_(False)


def load_processor(auto_class: Any, folder: Path, **options: Any) -> Any:
    """The library's preprocessing as the folder configures it.

    Raises:
        BundleError: its config is absent or damaged.
    """
    where = real_place(folder)
    try:
        with _quiet():
            return auto_class.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as e:  # as above
        raise BundleError(f"{where}: preprocessing not loaded: {str(e).strip()}") from e


def class_names(model: Any) -> tuple[str, ...] | None:
    """Names that the checkpoint's config gives its classes; None where it only numbers them."""
    known = model.config.id2label
    names = tuple(str(known.get(i, f"LABEL_{i}")) for i in range(model.config.num_labels))
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def real_place(folder: Path) -> Path:
    """Where the files of a view lie, for a person."""
    links = [path for path in folder.iterdir() if path.is_symlink()]
    return links[0].resolve().parent if links else folder


@contextmanager
def _quiet() -> Iterator[None]:
    """What the library would print is either an error of ours or of no use to the reader."""
    from transformers.utils import logging as library_logging

    logger = logging.getLogger("transformers")
    before, has_bar = logger.level, library_logging.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    library_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        if has_bar:
            library_logging.enable_progress_bar()
