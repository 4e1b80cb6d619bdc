"""Clips and the sentence that describes them, composed: there is little video with sentences to learn from.

A scene is a caption of COCO, staged. What the caption names is recognised as a bundle recognises things: by the
bundle's names, often not at all, sometimes as something like it, beside what EfficientNet takes real footage
for. Sound and motion are real features whose class is told in the sentence, or whatever the footage has. Clips
of a scene share the sentence; many of them show little of it, some nothing. A unit is a few scenes in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.fusion.late import LateFusion
from pipeline.fusion.scene import LEAST_SURE, MOTION_DIM, N_NAMES, NAME_AT_S, Clips, Pieces
from pipeline.heads.actions import mixed_evidence

_T = TypeVar("_T")
N_WINDOWS = 2  # of motion in a clip of 4 s
_RECOGNISED, _OUT_OF_VIEW = 0.85, 0.1  # shares of the things named: in a scene, and not in a clip of it
_RELATED = 0.4  # share of what is wrongly recognised that is of the sentence's kind
SOUND_CLAUSES = {
    "dog_bark": ("a dog barks", "a barking dog is heard", "a dog is barking loudly"),
    "rain": ("rain falls", "it is raining", "the rain is heard pouring down"),
    "sea_waves": ("waves break on the shore", "the sea roars", "ocean waves are heard"),
    "baby_cry": ("a baby cries", "an infant is crying", "a crying baby is heard"),
    "clock_tick": ("a clock ticks", "the ticking of a clock is heard", "a clock is ticking"),
    "person_sneeze": ("someone sneezes", "a person sneezes loudly", "a sneeze is heard"),
    "helicopter": ("a helicopter flies over", "a helicopter is heard", "helicopter blades whir"),
    "chainsaw": ("a chainsaw runs", "someone saws wood with a chainsaw", "a chainsaw is heard"),
    "rooster": ("a rooster crows", "a cock is crowing", "a rooster is heard"),
    "fire_crackling": ("a fire crackles", "wood is burning and crackling", "a crackling fire is heard"),
}
MOTION_CLAUSES = {
    "pan": ("the camera pans", "the camera moves sideways", "the view swings to the side"),
    "tilt": ("the camera tilts", "the camera moves up or down", "the view rises or sinks"),
    "zoom": ("the camera zooms", "the view comes nearer or goes away", "the camera zooms in or out"),
    "roll": ("the camera rolls", "the picture turns around its middle", "the camera rotates"),
    "shake": ("the camera shakes", "the picture is shaky", "a handheld camera trembles"),
    "static": ("the camera stands still", "a fixed camera looks on", "the camera does not move"),
    "approach": ("something comes nearer", "something approaches the camera", "a thing moves closer"),
    "fall": ("something falls", "something drops down", "a thing falls to the ground"),
    "bounce": ("something bounces", "something jumps up and down", "a thing is bouncing"),
    "swing": ("something swings", "something sways to and fro", "a thing is swinging"),
    "spin": ("something spins", "something turns around itself", "a thing is spinning"),
    "collide": ("two things collide", "things bump into each other", "two things crash together"),
}  # fmt: skip
_JOINED = ("{0} while {1}", "{0} and {1}", "{0}, {1}", "{1} as {0}")


@dataclass(frozen=True)
class Recognised:
    """What real material was taken for: the surest names of N clips."""

    ids: npt.NDArray[np.int64]  # (N, K) of the sense's names
    scores: npt.NDArray[np.float32]  # (N, K), descending


@dataclass(frozen=True)
class Stage:
    """Real footage that scenes are staged in."""

    sight: Recognised
    hearing: Recognised
    looks: Tensor  # (N, L)
    motion: Tensor  # (N, MOTION_DIM)
    moves: npt.NDArray[np.bool_]  # (N,) whether `motion` is known
    has_sound: npt.NDArray[np.bool_]  # (N,)
    videos: tuple[npt.NDArray[np.int64], ...]  # the clips of each video


@dataclass(frozen=True)
class Material:
    """All that scenes are composed of; of one side of the split."""

    stage: Stage
    sounds: Mapping[str, Recognised]  # by class of SOUND_CLAUSES
    motions: Mapping[str, Tensor]  # by class of MOTION_CLAUSES, (n, MOTION_DIM)


@dataclass(frozen=True)
class Lexicon:
    """The bundle's names."""

    sight: Tensor  # (E, D)
    sounds: Tensor  # (S, D)
    alike: npt.NDArray[np.int64]  # (E, k) names nearest to each name of sight
    phrases: Mapping[int, str]  # how sounds of the foreground read
    counted: Tensor  # (S,) bool, sounds that count as evidence


@dataclass(frozen=True)
class Script:
    """What is to be composed."""

    things: Sequence[tuple[int, ...]]  # for each thing named, what it may be taken for, best first
    has_person: bool
    # Names that the sentence is near to: what it is mistaken for is often of its kind.
    related: Sequence[int] = ()
    sound: str | int | None = None  # a class of SOUND_CLAUSES, or a name of the bundle's, that is told
    motion: str | None = None  # a class of MOTION_CLAUSES that is told


@dataclass(frozen=True)
class Damage:
    """How clips of a scene lose what they show."""

    unseen: float = 0.2  # share of clips in which nothing of the sentence is recognised
    no_video: float = 0.08
    no_audio: float = 0.3
    known_cuts: float = 0.3  # share of units whose shots are known


WHOLE = Damage(0.0, 0.0, 0.0, 0.0)


def sentence_of(caption: str, clauses: Sequence[str], random: np.random.Generator) -> str:
    """A caption with clauses for what is heard and how things move."""
    for clause in clauses:
        caption = _one(_JOINED, random).format(caption, clause)
    return caption


def clause_of(script: Script, lexicon: Lexicon, random: np.random.Generator) -> list[str]:
    """How the sound and the motion of a script are told."""
    clauses = []
    if isinstance(script.sound, str):
        clauses.append(_one(SOUND_CLAUSES[script.sound], random))
    elif script.sound is not None:
        clauses.append(f"{lexicon.phrases[script.sound]} {_one(('is heard', 'can be heard'), random)}")
    if script.motion is not None:
        clauses.append(_one(MOTION_CLAUSES[script.motion], random))
    return clauses


class Composer:
    """Turns scripts into clips."""

    def __init__(self, material: Material, lexicon: Lexicon, people: int) -> None:
        """Args:
        people: the name of sight that means a person.
        """
        self.material, self.lexicon, self.people = material, lexicon, people
        self.fusion = LateFusion()

    def units(
        self, scripts: Sequence[Script], damage: Damage, random: np.random.Generator
    ) -> tuple[Clips, Tensor]:
        """Clips of units that show all `scripts`, and which script each clip is of, (N,)."""
        rows, owners, at = [], [], 0
        unit = 0
        while at < len(scripts):
            n = int(random.integers(1, 4))
            time_s = float(random.uniform(0, 60))
            is_cut = random.random() < damage.known_cuts
            for shot, script in enumerate(scripts[at : at + n]):
                for row in self._scene(script, int(random.integers(1, 4)), damage, random):
                    time_s += 4.0 if random.random() < 0.85 else float(random.uniform(0.5, 30))
                    rows.append(row | {"middle_s": time_s, "shot": shot if is_cut else 0, "unit": unit})
                    owners.append(at + shot)
            at, unit = at + n, unit + 1
        return self.collated(rows), torch.tensor(owners)

    def singles(self, scripts: Sequence[Script], random: np.random.Generator) -> Clips:
        """One whole clip for each script, alone in its unit."""
        rows = []
        for unit, script in enumerate(scripts):
            (row,) = self._scene(script, 1, WHOLE, random)
            rows.append(row | {"middle_s": 2.0, "shot": 0, "unit": unit})
        return self.collated(rows)

    def _scene(self, script: Script, n: int, damage: Damage, random: np.random.Generator) -> list[dict]:
        stage = self.material.stage
        video = _one(stage.videos, random)
        clarity = float(random.beta(4.0, 1.0))
        # What footage is taken for is as often wrong as not, but of its own kind: taken as it is, its few names
        # would come to mean nothing. So each scene is taken for other things, as surely.
        taken_for = random.permutation(len(self.lexicon.sight))
        if len(script.related):
            is_alike = random.random(len(taken_for)) < _RELATED
            taken_for[is_alike] = random.choice(script.related, int(is_alike.sum()))
        known = self._known(script, random)
        sound = self._sound_rows(script, random)
        moving = None if script.motion is None else self.material.motions[script.motion]
        rows = []
        for _ in range(n):
            at = int(random.choice(video))
            unseen = random.random() < damage.unseen
            seen = self._seen([] if unseen else known, at, clarity, taken_for, random)
            no_video = random.random() < damage.no_video
            no_audio = sound is None or random.random() < damage.no_audio
            windows = _windows(moving, random) if moving is not None else self._moved(video, random)
            rows.append(
                {
                    "seen": ([], []) if no_video else seen,
                    "motion": [] if no_video else windows,
                    "heard": ([], []) if sound is None or no_audio else _one(sound, random),
                    "present": (not no_video, not no_audio),
                    "looks": torch.zeros_like(stage.looks[at]) if no_video else stage.looks[at],
                }
            )
        return rows

    def _moved(self, video: npt.NDArray[np.int64], random: np.random.Generator) -> list[Tensor]:
        """Windows of the motion of a video, as it is."""
        known = video[self.material.stage.moves[video]]
        return _windows(self.material.stage.motion[known], random) if len(known) else []

    def _known(self, script: Script, random: np.random.Generator) -> list[int]:
        """Names that what the sentence speaks of is recognised by in this scene."""
        known = [
            names[0] if random.random() < 0.8 else int(_one(names, random))
            for names in script.things
            if random.random() < _RECOGNISED
        ]
        if script.has_person and random.random() < 0.3:
            known.append(self.people)
        return known

    def _seen(
        self,
        known: Sequence[int],
        at: int,
        clarity: float,
        taken_for: npt.NDArray[np.int64],
        random: np.random.Generator,
    ) -> tuple[list[int], list[float]]:
        scores: dict[int, float] = {}
        left = 1.0
        for name in random.permutation(np.array(known, np.int64)).tolist():
            if random.random() < _OUT_OF_VIEW:
                continue
            mass = left * clarity * float(random.beta(1.5, 1.0))
            leak = mass * float(random.beta(0.5, 2.0))
            like = int(_one(self.lexicon.alike[name], random))
            scores[name] = scores.get(name, 0.0) + mass - leak
            scores[like] = scores.get(like, 0.0) + leak
            left -= mass
        behind = self.material.stage.sight
        for name, score in zip(
            taken_for[behind.ids[at]].tolist(), behind.scores[at].tolist(), strict=True
        ):
            scores[name] = scores.get(name, 0.0) + left * score
        return _surest(scores)

    def _sound_rows(
        self, script: Script, random: np.random.Generator
    ) -> list[tuple[list[int], list[float]]] | None:
        """What may be heard in the clips of a scene; None: it has no sound."""
        stage = self.material.stage
        behind = [] if random.random() < 0.5 else np.flatnonzero(stage.has_sound).tolist()
        told = script.sound
        if told is None and not behind:
            return None
        rows = []
        for _ in range(3):
            scores: dict[int, float] = {}
            if isinstance(told, str):
                of = self.material.sounds[told]
                k = int(random.integers(len(of.ids)))
                scores = dict(zip(of.ids[k].tolist(), of.scores[k].tolist(), strict=True))
            elif told is not None:
                scores[told] = float(random.beta(1.5, 1.0))
            if behind:
                k = int(_one(behind, random))
                loudness = 1.0 if told is None else float(random.uniform(0, 1))
                for name, score in zip(
                    stage.hearing.ids[k].tolist(), stage.hearing.scores[k].tolist(), strict=True
                ):
                    scores[name] = max(scores.get(name, 0.0), loudness * score)
            rows.append(_surest({k: v for k, v in scores.items() if self.lexicon.counted[k]}))
        return rows

    def collated(self, rows: Sequence[dict]) -> Clips:
        """Rows side by side."""
        n = len(rows)
        seen = _pieces([row["seen"] for row in rows], self.lexicon.sight)
        heard = _pieces([row["heard"] for row in rows], self.lexicon.sounds)
        motion = torch.zeros(n, N_WINDOWS, MOTION_DIM)
        moves = torch.zeros(n, N_WINDOWS, dtype=torch.bool)
        for i, row in enumerate(rows):
            for k, window in enumerate(row["motion"]):
                motion[i, k], moves[i, k] = window, True
        present = torch.tensor([row["present"] for row in rows])
        video = mixed_evidence(seen.sure * seen.valid, seen.values)
        audio = mixed_evidence(heard.sure * heard.valid, heard.values)
        return Clips(
            seen,
            Pieces(motion, torch.ones(n, N_WINDOWS), moves, torch.tensor([[1.0, 3.0]]).expand(n, -1)),
            heard,
            present,
            self.fusion(video, audio, present),
            torch.stack([row["looks"] for row in rows]),
            torch.tensor([row["middle_s"] for row in rows]),
            torch.tensor([row["shot"] for row in rows]),
            torch.tensor([row["unit"] for row in rows]),
        )


def _windows(of: Tensor, random: np.random.Generator) -> list[Tensor]:
    """One or two windows of those (n, MOTION_DIM) that show the same."""
    n = N_WINDOWS if random.random() < 0.7 else 1
    return [of[int(random.integers(len(of)))] for _ in range(n)]


def _pieces(rows: Sequence[tuple[list[int], list[float]]], vectors: Tensor) -> Pieces:
    ids = torch.zeros(len(rows), N_NAMES, dtype=torch.int64)
    sure = torch.zeros(len(rows), N_NAMES)
    for i, (names, scores) in enumerate(rows):
        ids[i, : len(names)] = torch.tensor(names, dtype=torch.int64)
        sure[i, : len(scores)] = torch.tensor(scores)
    valid = sure >= LEAST_SURE
    return Pieces(vectors[ids] * valid[..., None], sure, valid, torch.full_like(sure, NAME_AT_S))


def _surest(scores: Mapping[int, float]) -> tuple[list[int], list[float]]:
    best = sorted(scores.items(), key=lambda item: -item[1])[:N_NAMES]
    return [name for name, _ in best], [min(1.0, score) for _, score in best]


def _one(items: Sequence[_T], random: np.random.Generator) -> _T:
    return items[int(random.integers(len(items)))]
