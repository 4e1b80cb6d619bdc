"""A manifest and the features of its units, put together: examples to train on, to watch and to measure by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.records import Unit
from pipeline.sources import InputError
from pipeline.training.features import UnitFeatures, feature_file, read_features
from pipeline.training.learner import Example
from pipeline.training.manifest import Labelled, Split, labels_of, split_videos
from pipeline.training.settings import TrainConfig


@dataclass(frozen=True)
class Corpus:
    """Units with labelled clips."""

    train: list[Example]
    watched: list[Example]  # choose epoch, calibration and floors
    tested: list[Example]  # only measured; may be none
    split: Split


def is_asked(unit: Unit, labelled: Labelled) -> bool:
    """Whether a span of the manifest reaches into a unit."""
    end_s = float("inf") if unit.end_s is None else unit.end_s
    return any(s.start_s < end_s and unit.start_s < s.end_s for s in labelled.by_uri[unit.uri])


def gather(
    labelled: Labelled,
    uris: Mapping[str, str],
    folder: Path,
    config: TrainConfig,
    *,
    with_tokens: bool = True,
) -> Corpus:
    """Examples of all units whose features are there.

    Args:
        uris: of the videos, by unit id.
        folder: where features are.
        with_tokens: False: only who is where, to see whether it can be trained on.

    Raises:
        InputError: nothing could be read, no clip is labelled, or a class is missing where it is needed.
    """
    tuned = config.unfreeze.streams if with_tokens else ()
    streams = _frozen(config) if with_tokens else ()
    read: dict[str, list[Example]] = {}
    for unit_id, uri in sorted(uris.items(), key=lambda item: (item[1], item[0])):
        file = feature_file(folder, unit_id)
        if not file.is_file():
            continue
        try:
            told = read_features(file, streams)
        except KeyError as e:
            what = f"bundle {config.bundle} tells no such tokens: {e.args[0]}"
            raise InputError(f"streams: {what}") from e
        for stream in tuned:
            own = read_features(feature_file(folder, unit_id, stream), (stream,))
            told.streams[stream] = own.streams[stream]
        example = _example(labelled, uri, told)
        if example is not None:
            read.setdefault(uri, []).append(example)
    if not read:
        raise InputError(f"{config.manifest}: no labelled clip could be read; nothing to train on")
    split = split_videos(labelled, config, read)
    train, watched, tested = (
        [example for uri in sorted(videos) for example in read.get(uri, [])]
        for videos in (split.train, split.watched, split.tested)
    )
    silent = _silent(train, config)
    for example in (*train, *watched, *tested):
        for name in silent:
            del example.streams[name]
    return Corpus(train, watched, tested, split)


def _silent(train: Sequence[Example], config: TrainConfig) -> list[str]:
    """Streams that tell nothing of any clip of the training, such as motion of clips shorter than its window:
    what a network makes of them was never learned.

    Raises:
        InputError: the config asks for one, or there is no other.
    """
    told = {name: any(bool(e.streams[name].valid.any()) for e in train) for name in train[0].streams}
    silent = [name for name, is_told in told.items() if not is_told]
    wanted = {*(config.streams or ()), *config.unfreeze.streams}
    asked = [name for name in silent if name in wanted]
    if asked or (silent and len(silent) == len(told)):
        what = f"nothing is told by {', '.join(asked or silent)} in any clip of the training"
        raise InputError(f"streams: {what}; expected longer clips (clips.length_s), or other streams")
    return silent


def _frozen(config: TrainConfig) -> tuple[str, ...] | None:
    """Streams whose tokens are read; None: all that the bundle tells."""
    if config.streams is None:
        return None
    return tuple(s for s in config.streams if s not in config.unfreeze.streams)


def _example(labelled: Labelled, uri: str, told: UnitFeatures) -> Example | None:
    """A unit's clips with what the manifest says of them; None where it says nothing."""
    labels, texts = labels_of(labelled, uri, told.start_s, told.end_s)
    if all(y.isnan().any(1).all() for y in labels.values()):
        return None
    middle_s = torch.from_numpy((told.start_s + told.end_s) / 2).float()
    return Example(uri, told.streams, middle_s, labels, texts)
