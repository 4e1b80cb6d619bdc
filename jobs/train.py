"""Training on a user's labels: features over Ray Data, the one loop on Ray Train, a bundle at the end.

    manifest → units ─decode→ clips ─senses→ tokens on disk ─Ray Train→ weights ─→ bundle

What is on disk is not done again: features by unit, the training from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.plan import make_plan
from jobs.run import _ray, _watched, decoders, encoders
from pipeline.bundles.spec import BundleSpec, LearnedSpec, SpaceSpec, find_bundle
from pipeline.bundles.tuned import begun
from pipeline.config import Config, ConfigError
from pipeline.records import Unit, short_hash
from pipeline.sources import InputError, list_sources
from pipeline.tables.ledger import Ledger
from pipeline.training.bundle import write_bundle
from pipeline.training.corpus import gather, is_asked
from pipeline.training.features import feature_file
from pipeline.training.manifest import Labelled, read_manifest, split_videos
from pipeline.training.settings import TrainConfig

Tell = Callable[[str], None]
_POLL_S = 0.5


class TrainingError(Exception):
    """A training that came to no end; the message says why."""


@dataclass(frozen=True)
class Work:
    """What is to be done, and where."""

    config: TrainConfig
    decoding: Config  # as a run of the base bundle would decode
    base: BundleSpec
    labelled: Labelled
    units: tuple[Unit, ...]  # that hold a span of the manifest
    out: Path
    folder: Path  # checkpoints, scalars
    features: Path

    @property
    def uris(self) -> dict[str, str]:
        """Of the videos, by unit id."""
        return {unit.unit_id: unit.uri for unit in self.units}

    @property
    def missing(self) -> list[Unit]:
        """Units whose features are not there yet."""
        kinds = ("", *self.config.unfreeze.streams)
        return [
            u
            for u in self.units
            if not all(feature_file(self.features, u.unit_id, kind).is_file() for kind in kinds)
        ]


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    name: str
    bundle: str  # its directory
    bundle_digest: str
    n_videos: int
    n_train: int  # videos
    n_held_out: int
    n_tested: int
    failed: dict[str, str]  # why, by video
    n_steps: int
    measured: dict[str, str]
    config: str  # for `reeltable run --config`


def prepare(config: TrainConfig) -> Work:
    """Read the manifest and plan its units; decodes nothing.

    Raises:
        InputError: a manifest that cannot be trained on.
        BundleError, ConfigError: the base bundle cannot be used.
    """
    base = find_bundle(config.bundle)
    base.check_files()
    if config.caption and base.text is None:
        raise ConfigError(f"caption: bundle {base.name} has no text encoder to draw clips to sentences")
    taken = sorted(set(config.spaces) & set(base.spaces))
    if taken:
        raise ConfigError(
            f"spaces.{taken[0]}: bundle {base.name} has a vocabulary of that name; expected another name"
        )
    for stream in config.unfreeze.streams:
        begun(stream, base)
    labelled = read_manifest(config)
    decoding = base.at_its_place(base.fitted(config.config()))
    listing = list_sources([config.manifest])
    units = [u for u in make_plan(listing, decoding, Ledger()).todo if is_asked(u, labelled)]
    if not units:
        raise InputError(f"{config.manifest}: no span lies within its video; nothing to train on")
    out = Path(config.out or f"bundles/{config.name}").resolve()
    folder = out.with_name(f"{out.name}.work")
    features = Path(config.features).resolve() if config.features else folder / "features"
    return Work(config, decoding, base, labelled, tuple(units), out, folder, features)


def outlook(work: Work) -> dict[str, Any]:
    """What would be trained, for a person who asks before."""
    labelled, uris = work.labelled, sorted(set(work.uris.values()))
    split = split_videos(labelled, work.config, uris)
    counts = {
        name: {c: sum(c in (s.labels[name] or ()) for s in labelled.spans) for c in classes}
        for name, classes in labelled.classes.items()
    }
    return {
        "name": work.config.name,
        "bundle": str(work.out),
        "base": work.base.name,
        "spans": counts,
        "n_captions": len(labelled.captions),
        "n_videos": len(uris),
        "n_train": len(split.train),
        "n_held_out": len(split.watched),
        "n_tested": len(split.tested),
        "n_units": len(work.units),
        "n_to_decode": len(work.missing),
    }


def train(work: Work, address: str | None, tell: Tell) -> Trained:
    """Do what `work` says, from where it stopped, and write the bundle.

    Raises:
        InputError: what could be read cannot be trained on.
        TrainingError: a training worker failed.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    work.features.mkdir(parents=True, exist_ok=True)
    with _ray(address):
        failed = _fill(work, tell)
        for uri, why in failed.items():
            tell(f"not read: {why if uri in why else f'{uri}: {why}'}")
        corpus = gather(work.labelled, work.uris, work.features, work.config, with_tokens=False)
        tell(
            f"training on {len(corpus.split.train)} videos, {len(corpus.split.watched)} held out"
            + (f", {len(corpus.split.tested)} only measured" if corpus.split.tested else "")
        )
        result = _trained(work, tell)
    spec = _written(work, result)
    return Trained(
        name=spec.name,
        bundle=str(work.out),
        bundle_digest=spec.digest(),
        n_videos=len(set(work.uris.values())),
        n_train=len(corpus.split.train),
        n_held_out=len(corpus.split.watched),
        n_tested=len(corpus.split.tested),
        failed=failed,
        n_steps=result["n_steps"],
        measured=result["measured"],
        config=str(work.out / "config.yaml"),
    )


def _fill(work: Work, tell: Tell) -> dict[str, str]:
    """Decode and encode what has no features yet; why videos failed, by URI."""
    todo = work.missing
    if not todo:
        tell(f"features of {len(work.units)} units are there")
        return {}
    import ray

    from jobs.stages import decoded, restarts
    from jobs.training import FeatureStage
    from jobs.watcher import Watcher

    tell(f"decoding {len(todo)} of {len(work.units)} units")
    config = work.decoding
    cluster = ray.cluster_resources()
    uses_gpu = config.run.device != "cpu" and cluster.get("GPU", 0) > 0
    n_gpus = cluster.get("GPU", 0) if uses_gpu else 0
    n_encoders = encoders(ray.nodes(), n_gpus, len(todo), config)
    workers = decoders(cluster.get("CPU", 0), uses_gpu, config)
    watcher = Watcher.remote()  # type: ignore[attr-defined]
    resources: dict[str, Any] = (
        {"num_gpus": config.run.encode_gpus} if uses_gpu else {"num_cpus": config.run.encode_cpus}
    )
    told = decoded(todo, config, work.base.sample_rate_hz, workers, watcher).map_batches(
        FeatureStage,
        fn_constructor_args=(
            config,
            work.config.unfreeze.streams,
            "cuda" if uses_gpu else "cpu",
            str(work.features),
            watcher,
        ),
        batch_size=config.run.units_per_batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=n_encoders),
        **resources,
        **restarts(config),
    )
    lines = _Counted(tell, len(todo))
    with _watched(watcher, len(todo), lambda p: lines.at(p.encoded)):
        rows = told.take_all()
    uris = work.uris
    return {uris[row["unit_id"]]: row["problem"] for row in rows if row["problem"]}


class _Counted:
    """A line at each tenth of the way."""

    def __init__(self, tell: Tell, total: int) -> None:
        self.tell, self.total, self.tenths = tell, total, 0

    def at(self, n: int) -> None:
        if n * 10 // self.total > self.tenths:
            self.tenths = n * 10 // self.total
            self.tell(f"features of {n}/{self.total} units")


def _trained(work: Work, tell: Tell) -> dict[str, Any]:
    """Run the loop on Ray Train; what rank 0 found."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.training import RESULT, Lesson, Lines, train_worker

    config = work.config
    # Other labels, or a video that can be read now, make another training.
    there = sorted(work.uris.keys() - {unit.unit_id for unit in work.missing})
    apart = {"out", "features", "run", "workers"}
    digest = short_hash(config.model_dump(mode="json", exclude=apart), work.labelled.spans, there)
    folder = work.folder / f"training-{digest}"
    n_gpus = ray.cluster_resources().get("GPU", 0)
    uses_gpu = config.workers.gpu == "always" or (
        config.workers.gpu == "auto" and n_gpus >= config.workers.n
    )
    lines = Lines.remote()  # type: ignore[attr-defined]
    lesson = Lesson(
        config,
        work.decoding.bundle,
        work.labelled,
        work.uris,
        str(work.features),
        str(folder),
        _texts(work),
        lines,
    )
    scratch = work.folder / "ray"
    trainer = TorchTrainer(
        lambda given: train_worker(given["lesson"]),
        train_loop_config={"lesson": lesson},
        scaling_config=ScalingConfig(
            num_workers=config.workers.n,
            use_gpu=uses_gpu,
            resources_per_worker={"CPU": config.workers.cpus} | ({"GPU": 1} if uses_gpu else {}),
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=str(scratch),
            # A worker that dies is begun again and goes on from its last checkpoint.
            failure_config=FailureConfig(max_failures=config.run.max_attempts - 1),
        ),
    )
    with _printed(lines, tell):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as e:
            raise TrainingError(_cause(e)) from e
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if not (folder / RESULT).is_file():
        raise TrainingError("stopped; the same command goes on from its last checkpoint")
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result | {"folder": folder}


def _cause(error: BaseException) -> str:
    """What a worker said, without Ray's account of how it came to hear of it."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", None) or {0: error}
    found: BaseException = next(iter(failures.values()))
    while (inner := getattr(found, "cause", None) or found.__cause__) is not None:
        found = inner
    return str(found).strip().rpartition("\n")[2]


def _texts(work: Work) -> Any:
    """What the manifest's captions mean, (n, D) float32; None without captions."""
    if not work.config.caption or not work.labelled.captions or not work.config.learning.align_weight:
        return None
    import torch

    from pipeline.bundles.model import load_text
    from pipeline.training.vectors import embedded

    assert work.base.text is not None  # `prepare` saw to it
    encoder = load_text(work.base, work.base.text, torch.device("cpu"))
    return embedded(encoder, work.labelled.captions, work.folder, "captions").float()


@contextmanager
def _printed(lines: Any, tell: Tell) -> Iterator[None]:
    """Tell from a thread what workers say."""
    import ray

    stopped = threading.Event()

    def poll() -> None:
        for line in ray.get(lines.take.remote()):
            tell(line)

    def watch() -> None:
        while not stopped.wait(_POLL_S):
            poll()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        poll()


def _written(work: Work, result: Mapping[str, Any]) -> BundleSpec:
    """The bundle, from what the workers left."""
    from safetensors.torch import load_file

    from jobs.training import WEIGHTS

    tensors = load_file(result["folder"] / WEIGHTS)
    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    source = f"trained by reeltable train on {os.path.basename(work.config.manifest)}"
    learned = LearnedSpec.model_validate(
        result["part"] | {"licence": work.config.licence, "source": source}
    )
    return write_bundle(
        work.out,
        work.base,
        learned,
        parts.pop("net"),
        parts,
        {name: SpaceSpec.model_validate(space) for name, space in result["spaces"].items()},
        result["measured"],
        work.config,
    )
