"""Strict loading of checkpoints as the Hugging Face hub lays them out, from a folder, never the network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.bundles.weights import checked_folder


def folder_of(part: PartSpec, directory: Path) -> Path:
    """The part's checkpoint folder with every sum checked.

    Raises:
        BundleError: the part names no checkpoint, or a file is absent or altered.
    """
    if part.checkpoint is None:
        raise BundleError(f"{part.kind}: expected checkpoint: a folder with config and weights")
    return checked_folder(part.checkpoint, directory)


def load_model(auto_class: Any, folder: Path, unused: tuple[str, ...] = (), **options: Any) -> Any:
    """The library's model with the folder's weights, each of them used and none made up.

    Args:
        unused: keys that published files lack and that only training reads.

    Raises:
        BundleError: a damaged file, or keys that are missing, unexpected or misshaped, all listed.
    """
    try:
        with _quiet():
            model, info = auto_class.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # collected below with the rest, instead of one at a time
                **options,
            )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, EOFError) as e:
        raise BundleError(f"{folder}: not loaded: {type(e).__name__}: {str(e).strip()}") from e
    except Exception as e:  # the unpickler's own error is not exported
        raise BundleError(f"{folder}: not loaded: {type(e).__name__}: {str(e).strip()}") from e
    problems = [f"missing {key}" for key in info["missing_keys"] if key not in unused]
    problems += [f"unexpected {key}" for key in info["unexpected_keys"]]
    problems += [
        f"{key} has shape {tuple(found)}, expected {tuple(wanted)}"
        for key, found, wanted in info["mismatched_keys"]
    ]
    problems += [str(message) for message in info.get("error_msgs") or ()]
    if problems:
        raise BundleError(f"{folder}: weights do not fit: " + "; ".join(sorted(problems)))
    return model.eval().requires_grad_(False)


def load_processor(auto_class: Any, folder: Path, **options: Any) -> Any:
    """The library's preprocessing as the folder configures it.

    Raises:
        BundleError: its config is absent or damaged.
    """
    try:
        with _quiet():
            return auto_class.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BundleError(f"{folder}: preprocessing not loaded: {str(e).strip()}") from e


def class_names(model: Any) -> tuple[str, ...] | None:
    """Names that the checkpoint's config gives its classes; None where it only numbers them."""
    names = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


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
