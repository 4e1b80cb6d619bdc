"""What the scene encoder is worth against the evidence alone, as JSON: on composed scenes that training never
saw, on held-out sounds and motion, and on the real clips of ../shared/media.

Run by `make bench-scenes`; needs ../shared/data and ../shared/media, and keeps what it reads in
checkpoints/scenes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bundles.model import Model
from pipeline.bundles.spec import find_bundle
from pipeline.config import CONFIG_DIR, load_config
from pipeline.fusion.late import LateFusion
from pipeline.fusion.scene import Clips
from pipeline.heads.actions import mixed_evidence
from pipeline.metrics.classify import average_precision
from pipeline.metrics.intervals import mean_interval, wilson
from pipeline.metrics.retrieval import places
from pipeline.records import Unit
from pipeline.training.coco import read_sentences
from pipeline.training.scene_pairs import (
    MOTION_CLAUSES,
    SOUND_CLAUSES,
    Composer,
    Damage,
    Recognised,
    Script,
    clause_of,
    sentence_of,
)
from pipeline.training.scene_sources import read_material
from pipeline.training.scenes import Writer, person_of, read_recipe
from pipeline.understand import decode

SHARED = Path(__file__).resolve().parents[3] / "shared"
N_MORE, N_UNITS = 500, 600  # captions told with sound and motion, and in units
LEAST = 0.2  # from here on a name is evidence
Embed = Callable[[Clips], Tensor]


def retrieval(queries: Tensor, found: Tensor, right: Tensor | None = None) -> dict[str, Any]:
    """R@1, 5, 10 with intervals, and the median place."""
    place = places((queries @ found.T).numpy(), None if right is None else right.numpy())
    n = len(place)
    shares = {f"R@{k}": share(place <= k) for k in (1, 5, 10)}
    return shares | {"median": float(np.median(place)), "n": n}


def share(right: Any) -> list[float]:
    """A share with its 95 % interval."""
    n_right, n = int(np.sum(right)), len(right)
    return [round(x, 3) for x in (n_right / n, *wilson(n_right, n))]


def without(clips: Clips, sense: int) -> Clips:
    """The same clips with a sense (0 video, 1 audio) removed."""
    present = clips.present.clone()
    present[:, sense] = False
    seen, heard = clips.seen, clips.heard
    video = mixed_evidence(seen.sure * seen.valid * present[:, :1], seen.values)
    audio = mixed_evidence(heard.sure * heard.valid * present[:, 1:], heard.values)
    looks = clips.looks * present[:, :1]
    evidence = LateFusion()(video, audio, present)
    return dataclasses.replace(clips, present=present, evidence=evidence, looks=looks)


def without_motion(clips: Clips) -> Clips:
    hidden = torch.zeros_like(clips.moves.valid)
    return dataclasses.replace(clips, moves=dataclasses.replace(clips.moves, valid=hidden))


def alone(clips: Clips) -> Clips:
    """Each clip in a unit of its own."""
    return dataclasses.replace(clips, unit=torch.arange(len(clips.unit)))


class Bench:
    """Scenes that training never saw."""

    def __init__(self, work: Path) -> None:
        recipe = read_recipe(CONFIG_DIR / "train" / "scenes.yaml")
        data = SHARED / "data"
        _, self.material = read_material(recipe.sources, data, work / "read")
        self.model = Model(find_bundle("embedded"), load_config())
        self.sentences = read_sentences(data)
        self.writer = Writer(self.model, self.sentences, work)
        self.composer = Composer(self.material, self.writer.lexicon, person_of(self.model))
        self.told = self.writer.as_told(self.sentences.scored, "scored")
        self.vectors = self.told.vectors.float()
        self.singles = self.composer.singles(self.told.scripts, np.random.default_rng(11))

    def scenes(self, embed: Embed) -> dict[str, Any]:
        """A sentence finds its clip among one clip of each scene."""
        return {"all": retrieval(self.vectors, embed(self.singles))}

    def more(self, embed: Embed) -> dict[str, Any]:
        """The same where the sentence tells a sound, a motion, or both; and with each sense removed."""
        random = np.random.default_rng(12)
        found = {}
        for name, hears, moves in (
            ("sound", True, False),
            ("motion", False, True),
            ("both", True, True),
        ):
            scripts = [
                self._with(script, hears, moves, random) for script in self.told.scripts[:N_MORE]
            ]
            sentences = [
                sentence_of(caption, clause_of(script, self.writer.lexicon, random), random)
                for caption, script in zip(self.sentences.scored, scripts, strict=False)
            ]
            vectors = self.writer.text.encode(sentences)
            clips = self.composer.singles(scripts, random)
            found[name] = retrieval(vectors, embed(clips))
            if name == "both":
                cut = {
                    "sound": without(clips, 1),
                    "motion": without_motion(clips),
                    "sight": without(clips, 0),
                }
                found |= {f"both, no {x}": retrieval(vectors, embed(less)) for x, less in cut.items()}
        return found

    def _with(self, script: Script, hears: bool, moves: bool, random: np.random.Generator) -> Script:
        sound = str(random.choice(list(SOUND_CLAUSES))) if hears else None
        motion = str(random.choice(list(MOTION_CLAUSES))) if moves else None
        return dataclasses.replace(script, sound=sound, motion=motion)

    def units(self, embed: Embed) -> dict[str, Any]:
        """A clip finds its scene's sentence; clips that show nothing of it apart, with their unit and alone."""
        scripts = self.told.scripts[:N_UNITS]
        clips, owners = self.composer.units(scripts, Damage(), np.random.default_rng(13))
        hidden = torch.tensor(
            [not self._shows(clips, i, scripts[k]) for i, k in enumerate(owners.tolist())]
        )
        found = {}
        for name, mine in (("in its unit", clips), ("alone", alone(clips))):
            vectors = embed(mine)
            for what, which in (("shows nothing of it", hidden), ("shows some of it", ~hidden)):
                found[f"{what}, {name}"] = retrieval(
                    vectors[which], self.vectors[:N_UNITS], owners[which]
                )
        return found

    def _shows(self, clips: Clips, i: int, script: Script) -> bool:
        names = {name for thing in script.things for name in thing}
        names |= {self.composer.people} if script.has_person else set()
        sure = clips.seen.valid[i] & (clips.seen.sure[i] >= LEAST) & clips.present[i, 0]
        best = (clips.seen.values[i] @ self.writer.lexicon.sight.T).argmax(-1)
        return any(int(name) in names for name in best[sure])

    def names(self, embed: Embed) -> dict[str, Any]:
        """Names as queries: average precision of the scenes that name the thing, over names of five or more."""
        of: dict[int, list[int]] = {}
        for i, script in enumerate(self.told.scripts):
            for thing in script.things:
                of.setdefault(thing[0], []).append(i)
        found = embed(self.singles)
        values = []
        for name, scenes in of.items():
            if len(scenes) >= 5:
                is_true = np.isin(np.arange(len(found)), scenes)
                values.append(
                    average_precision((found @ self.writer.lexicon.sight[name]).numpy(), is_true)
                )
        low, high = mean_interval(np.array(values))
        return {"mAP": [round(x, 3) for x in (float(np.mean(values)), low, high)], "n": len(values)}

    def sounds(self, embed: Embed) -> dict[str, Any]:
        """Held-out sounds of ESC-10 told by their clauses, 10 classes."""
        right: list[bool] = []
        for k, of in enumerate(self.material.sounds.values()):
            rows = [self._row(heard=self._heard(of, i)) for i in range(len(of.ids))]
            right += self._told_apart(embed, rows, SOUND_CLAUSES, k)
        return {"right": share(right), "n": len(right)}

    def motions(self, embed: Embed) -> dict[str, Any]:
        """Rendered motion over held-out pictures, told by its clauses, 12 classes."""
        right: list[bool] = []
        for k, kind in enumerate(MOTION_CLAUSES):
            rows = [self._row(motion=[window]) for window in self.material.motions[kind]]
            right += self._told_apart(embed, rows, MOTION_CLAUSES, k)
        return {"right": share(right), "n": len(right)}

    def _told_apart(self, embed: Embed, rows: list[dict[str, Any]], clauses: Any, k: int) -> list[bool]:
        texts = [self.writer.text.encode(list(told)).mean(0) for told in clauses.values()]
        clips = self.composer.collated([row | {"unit": i} for i, row in enumerate(rows)])
        return ((embed(clips) @ F.normalize(torch.stack(texts), dim=-1).T).argmax(1) == k).tolist()

    def _heard(self, of: Recognised, i: int) -> tuple[list[int], list[float]]:
        counted = self.writer.lexicon.counted
        named = zip(of.ids[i].tolist(), of.scores[i].tolist(), strict=True)
        best = [(name, score) for name, score in named if counted[name]][:5]
        return [name for name, _ in best], [score for _, score in best]

    def _row(self, *, heard: Any = ([], []), motion: Sequence[Tensor] = ()) -> dict[str, Any]:
        looks = torch.zeros_like(self.material.stage.looks[0])
        present = (bool(motion), bool(heard[0]))
        return {
            "seen": ([], []), "motion": list(motion), "heard": heard, "present": present,
            "looks": looks, "middle_s": 2.0, "shot": 0,
        }  # fmt: skip

    def real(self, embed: Embed) -> dict[str, Any]:
        """The place of each real video for the sentence that was observed of it, by its best clip."""
        observed = read_observed(SHARED / "media" / "manifest.csv")
        queries = self.writer.text.encode([sentence for _, sentence in observed])
        best = []
        for name, _ in observed:
            clips = self._real_clips(SHARED / "media" / name)
            best.append((queries @ embed(clips).T).amax(1))
        place = places(torch.stack(best, 1).numpy())
        return {
            "places": dict(zip([Path(n).stem for n, _ in observed], place.tolist(), strict=True))
        } | {"MRR": round(float((1 / place).mean()), 3)}

    def _real_clips(self, file: Path) -> Clips:
        batch = decode(Unit("", "", str(file), "", 0.0, None), self.model.config, 16_000).batch
        assert batch is not None
        assert self.model.scenes is not None
        senses = self.model.sense([batch])
        present = torch.from_numpy(np.stack([batch.has_video, batch.has_audio], axis=1))
        evidence, _ = self.model.meaning.fuse(senses[0], senses[1], present)
        return self.model.scenes.clips([batch], *senses, present, evidence)


def read_observed(manifest: Path) -> list[tuple[str, str]]:
    """Real clips and what was observed in them, without notes in brackets; none of GRID."""
    found = []
    with manifest.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            name, told = next(iter(row.values())), row.get("label") or list(row.values())[5]
            if name.startswith("clips/") and told and "bin blue" not in told:
                found.append((name, observed(told)))
    return found


def observed(told: str) -> str:
    """ "(observed by helper) a man, 122 s" → "a man"."""
    while "(" in told:
        head, _, rest = told.partition("(")
        told = f"{head.strip()} {rest.partition(')')[2].strip()}".strip()
    return told.replace("CAPTION:", "").split("; observed")[0].strip(" ;,")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the scene encoder.")
    parser.add_argument("--work", type=Path, default=Path("checkpoints/scenes"))
    bench = Bench(parser.parse_args().work)
    assert bench.model.scenes is not None
    net = bench.model.scenes.net
    ways: dict[str, Embed] = {"evidence": lambda clips: clips.evidence, "trained": net}
    parts = (
        bench.scenes,
        bench.more,
        bench.units,
        bench.names,
        bench.sounds,
        bench.motions,
        bench.real,
    )
    found = {part.__name__: {name: part(embed) for name, embed in ways.items()} for part in parts}
    clips = bench.singles.part(0, 15)
    clips = dataclasses.replace(clips, unit=torch.zeros_like(clips.unit))
    started = time.perf_counter()
    for _ in range(10):
        net(clips)
    found["ms a clip, units of 15"] = {
        "trained": round((time.perf_counter() - started) / 150 * 1000, 3)
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
