"""Which fusion? Late, early and bottleneck trained beside each sense alone, on the same data.

    python -m pipeline.training.fusion DATA --work DIR [--recipe configs/train/fusion.yaml]

    train each sense alone ─ every fusion starts from these two (pipeline.fusion.start), learns what crosses
                           └ trained on by themselves for as many steps, they are held against it

Reads `DATA/grid` and `DATA/esc10` once, trains every model of the recipe (`pipeline.training.sentences`),
measures all of them on the same sentences under the same noises, prints tables and writes `DIR/fusion.json`.
What is read and the trainings are kept in DIR, so that the command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from pipeline.bundles.model import Model
from pipeline.bundles.spec import find_bundle
from pipeline.config import CONFIG_DIR, load_config, read_as
from pipeline.fusion import FUSIONS
from pipeline.records import short_hash
from pipeline.training import grid
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.sentences import (
    SINGLES,
    Learning,
    ReadSentences,
    SentenceReader,
    Singles,
    answer,
    conditions,
    only,
    plain,
)

RECIPE = CONFIG_DIR / "train" / "fusion.yaml"
ADDED = "added"  # what the two models of one sense say, added: a fusion that has learned nothing yet
LONGER = {f"{sense} longer": sense for sense in SINGLES}
ALONE = {sense: sense for sense in SINGLES} | LONGER  # models of one sense, and that sense
REFERENCES = (ADDED, *ALONE)  # what fusions are held against
MODELS = (*FUSIONS, *REFERENCES)
CLEAN = float("inf")  # dB
_N_RESAMPLED = 2000
Tell = Callable[[str], None]
Array = npt.NDArray[np.float64]


class Recipe(BaseModel):
    """How the models are trained and measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = MODELS
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="a training of each model for each")
    loop: LoopConfig = Field(LoopConfig(), description="of a model of one sense; its seed is not used")
    joining: LoopConfig = Field(
        LoopConfig(), description="of a fusion, which starts from two such models; its seed is not used"
    )
    learning: Learning = Learning()
    test_snr_db: tuple[float, ...] = Field((-5.0, 0.0, 5.0, 10.0), min_length=1)
    n_noises: int = Field(2, ge=1, description="draws of babble, and of sounds, under each sentence")

    @field_validator("models")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(names) - set(MODELS))
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}; expected some of {', '.join(MODELS)}")
        return names

    def loop_of(self, kind: str) -> LoopConfig:
        """How a model is trained; one trained longer goes on from where a fusion starts, for as long."""
        return self.joining if kind in FUSIONS or kind in LONGER else self.loop


@dataclass(frozen=True)
class Measure:
    """Share of words right, or a difference of two shares, with its 95 % interval over sentences."""

    model: str
    senses: str  # both, video, audio: what the model was given
    snr_db: float | None  # None: no noise
    value: float
    low: float
    high: float
    less: str = ""  # the model whose share is taken off


@dataclass(frozen=True)
class Comparison:
    """What the experiment found."""

    n_sentences: int
    n_weights: dict[str, int]
    train_cpu_s: dict[
        str, float
    ]  # on one thread, checks on the watched fold included; of a fusion, what
    # came after the models that it started from
    shares: list[Measure]
    gains: list[Measure]  # with both senses, less the better single sense at that noise
    losses: list[Measure]  # one sense removed, less the model that was trained on the other alone
    found_first: dict[str, float]  # share of sentences nearest to their own text, no noise


def compare(data: Path, work: Path, recipe: Recipe, tell: Tell = print) -> Comparison:
    """Train and measure every model of `recipe`.

    Raises:
        FileNotFoundError: `data` lacks the talking heads or the noises.
    """
    heads = {part: grid.load(data, work / "read", part, tell) for part in ("train", "watch", "test")}
    texts = {part: _texts(heads[part]) for part in ("train", "test")}
    trainings = Trainings(heads["train"], heads["watch"], texts["train"], work, recipe, tell)
    right: dict[tuple[str, str, float], list[Array]] = {}
    found_first: dict[str, list[float]] = {}
    n_weights: dict[str, int] = {}
    cpu_s: dict[str, float] = {}
    for seed in recipe.seeds:
        for kind in recipe.models:
            net, seconds = trainings.model(kind, seed)
            n_weights[kind] = sum(p.numel() for p in net.parameters())
            cpu_s[kind] = cpu_s.get(kind, 0.0) + seconds / len(recipe.seeds)
            for key, shares in measured(kind, net, heads["test"], recipe).items():
                right.setdefault((kind, *key), []).append(shares)
            clean = plain(heads["test"], CLEAN, 0, "babble")
            embedding = answer(net, clean, heads["test"].words).embedding
            found_first.setdefault(kind, []).append(_found_first(embedding, texts["test"]))
    by_sentence = {key: np.mean(runs, axis=0) for key, runs in right.items()}
    return Comparison(
        len(heads["test"]),
        n_weights,
        cpu_s,
        [_measure(key, shares) for key, shares in by_sentence.items()],
        _gains(by_sentence),
        _losses(by_sentence),
        {kind: float(np.mean(runs)) for kind, runs in found_first.items()},
    )


@dataclass
class Trainings:
    """The trainings of a recipe, each done once."""

    train: grid.Heads
    watch: grid.Heads
    texts: Tensor  # of `train`, (n, 384)
    work: Path
    recipe: Recipe
    tell: Tell
    _singles: dict[int, Singles] = field(default_factory=dict)  # by seed

    def model(self, kind: str, seed: int) -> tuple[SentenceReader, float]:
        """A trained model, and the seconds of CPU that went into it over all its starts; those of the models
        that it started from are not counted again."""
        if kind == ADDED:
            net = SentenceReader("late", self.recipe.learning.size)
            net.start_from(*self.singles(seed).readers)
            return net.eval(), 0.0
        singles = self.singles(seed) if kind in FUSIONS or kind in LONGER else None
        kinds = (kind, *SINGLES) if singles else (kind,)  # what it comes from decides, too
        loops = [self.recipe.loop_of(k).model_copy(update={"seed": seed}) for k in kinds]
        learning, kind = self.recipe.learning, ALONE.get(kind, kind)
        settings = [x.model_dump() for x in (*loops, learning)]
        task = ReadSentences(kind, learning, self.train, self.watch, self.texts, singles)
        return self._fitted(task, loops[0], self.work / f"{kind}-{short_hash(*settings)}")

    def singles(self, seed: int) -> Singles:
        """The models of one sense each that fusions start from."""
        if seed not in self._singles:
            self._singles[seed] = Singles(*(self.model(sense, seed)[0] for sense in SINGLES))
        return self._singles[seed]

    def _fitted(
        self, task: ReadSentences, loop: LoopConfig, folder: Path
    ) -> tuple[SentenceReader, float]:
        spent = folder / "cpu_s.json"
        before = json.loads(spent.read_text()) if spent.is_file() else 0.0
        started = time.process_time()

        def told(step: int, measures: dict[str, float]) -> None:
            if "score" in measures:
                shown = ", ".join(
                    f"{k} {v:.3f}" for k, v in measures.items() if k not in ("epoch", "score")
                )
                self.tell(f"{task.kind} (seed {loop.seed}) step {step}: {shown}")
            else:  # a checkpoint is being written
                spent.write_text(json.dumps(before + time.process_time() - started))

        net = fit(task, loop, folder, tell=told).net
        return net.eval(), json.loads(spent.read_text())  # type: ignore[return-value]


def measured(
    kind: str, net: nn.Module, heads: grid.Heads, recipe: Recipe
) -> dict[tuple[str, float], Array]:
    """Share of words right in each sentence (n,), by what the model was given and the noise in dB."""
    found: dict[tuple[str, float], Array] = {}
    for snr_db in (*recipe.test_snr_db, CLEAN):
        noises = [(k, draw) for k in ("babble", "sound") for draw in range(recipe.n_noises)]
        batches = [
            plain(heads, snr_db, draw, noise)
            for noise, draw in noises[: 1 if snr_db == CLEAN else None]
        ]
        for name, senses in conditions(ALONE.get(kind, kind)).items():
            if name == "video" and snr_db != CLEAN:
                continue  # pictures do not know of the noise
            shares = [answer(net, only(b, senses), heads.words).right.mean(1) for b in batches]
            found[name, snr_db] = np.mean(shares, axis=0)
    return found


def _texts(heads: grid.Heads) -> Tensor:
    """What is said, as MiniLM embeds it, (n, 384)."""
    meaning = Model(find_bundle("embedded"), load_config()).meaning
    return meaning.embed_text(heads.sentences()).clone()  # away from inference mode


def _found_first(embedding: Tensor, texts: Tensor) -> float:
    nearest = (nn.functional.normalize(embedding, dim=1) @ texts.T).argmax(1)
    return float((nearest == torch.arange(len(texts))).float().mean())


def _measure(key: tuple[str, str, float], shares: Array, less: str = "") -> Measure:
    """The mean over sentences; the interval is a bootstrap over sentences."""
    random = np.random.default_rng(0)
    again = shares[random.integers(len(shares), size=(_N_RESAMPLED, len(shares)))].mean(1)
    low, high = np.percentile(again, [2.5, 97.5])
    kind, senses, snr_db = key
    shown_db = None if snr_db == CLEAN else snr_db
    return Measure(kind, senses, shown_db, float(shares.mean()), float(low), float(high), less)


def _alone(
    shares: Mapping[tuple[str, str, float], Array], snr_db: float, *senses: str
) -> dict[str, Array]:
    """The models of one sense alone at a noise, of which pictures do not know."""
    at = {"audio": snr_db, "video": CLEAN}
    return {
        kind: shares[kind, sense, at[sense]]
        for kind, sense in ALONE.items()
        if sense in senses and (kind, sense, at[sense]) in shares
    }


def _gains(shares: Mapping[tuple[str, str, float], Array]) -> list[Measure]:
    gains = []
    for (kind, senses, snr_db), both in shares.items():
        alone = _alone(shares, snr_db, *SINGLES)
        if senses == "both" and {ALONE[k] for k in alone} == set(SINGLES):
            better = max(alone, key=lambda k: alone[k].mean())
            gains.append(_measure((kind, senses, snr_db), both - alone[better], better))
    return gains


def _losses(shares: Mapping[tuple[str, str, float], Array]) -> list[Measure]:
    return [
        _measure((kind, senses, snr_db), found - alone, single)
        for (kind, senses, snr_db), found in shares.items()
        if kind in FUSIONS and senses in SINGLES
        for single, alone in _alone(shares, snr_db, senses).items()
    ]


def tables(found: Comparison) -> str:
    """The comparison as Markdown."""
    levels = [*sorted({m.snr_db for m in found.shares if m.snr_db is not None}), None]
    shown = ["no noise" if snr_db is None else f"{snr_db:g} dB" for snr_db in levels]
    parts = []
    for title, head, measures, row in (
        (
            f"Words right, % (95 % interval over {found.n_sentences} sentences)",
            ("model", "given"),
            found.shares,
            lambda m: (m.model, m.senses),
        ),
        (
            "Both senses, less the best model of one sense at that noise, points",
            ("model",),
            found.gains,
            lambda m: (m.model,),
        ),
        (
            "One sense removed, less a model trained on the other alone, points",
            ("model", "given", "less"),
            found.losses,
            lambda m: (m.model, m.senses, m.less),
        ),
    ):
        lines = [title, "", *_lines((*head, *shown))]
        for key in dict.fromkeys(map(row, measures)):
            at = {m.snr_db: m for m in measures if row(m) == key}
            cells = [_cell(at.get(level), measures is not found.shares) for level in levels]
            lines.append(f"| {' | '.join((*key, *cells))} |")
        parts.append("\n".join(lines))
    costs = [
        f"| {kind} | {n:,} | {found.train_cpu_s[kind]:.0f} | {found.found_first[kind]:.1%} |"
        for kind, n in found.n_weights.items()
    ]
    heading = _lines(("model", "weights", "training, CPU s", "own text found first"))
    return "\n\n".join([*parts, "\n".join([*heading, *costs])])


def _lines(names: tuple[str, ...]) -> tuple[str, str]:
    return f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"


def _cell(m: Measure | None, is_gain: bool) -> str:
    if m is None:
        return ""
    sign = "+" if is_gain else ""
    return f"{100 * m.value:{sign}.1f} ({100 * m.low:{sign}.1f} to {100 * m.high:{sign}.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the fusions and print them side by side.")
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--work", type=Path, required=True, help="what was read, checkpoints, fusion.json"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the nets are small: more threads wait for each other
    found = compare(args.data, args.work, read_as(Recipe, args.recipe))
    (args.work / "fusion.json").write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
    print(tables(found))


if __name__ == "__main__":
    main()
