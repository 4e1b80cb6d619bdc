"""One honest sentence from the evidence: what was recognised and no more, with a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.heads.sentences import Asked, Told, deed_phrase
from pipeline.records import Label

_LIKELY = 0.7  # from here on an action is "probably", below it "perhaps"
_SURE = 0.95  # from here on it is said what the camera does
_CAMERA = {"pan": "pans", "tilt": "tilts", "zoom": "zooms", "roll": "rolls", "shake": "shakes"}
_DARK, _STILL, _BUSY = 30.0, 1.0, 12.0  # grey levels of 0..255: mean, and mean change between pictures


@dataclass(frozen=True)
class PictureStats:
    """What can be said of pictures in which nothing is recognised; grey levels of 0..255."""

    brightness: float
    change: float  # mean absolute difference between one looked-at picture and the next


@dataclass(frozen=True)
class Evidence:
    """What a caption may be made of; labels best first, above their floors."""

    actions: Sequence[Label]
    objects: Sequence[Label]
    sounds: Sequence[Label]
    stats: PictureStats | None  # None: the clip has no picture
    has_audio: bool
    is_silent: bool = False
    camera: Label | None = None  # the surest of what the camera does


def asked_of(evidence: Evidence, phrases: Mapping[str, str], deed_floor: float) -> Asked:
    """What a decoder is to put into a sentence: the things in view, and what is done from `deed_floor` on."""
    if evidence.stats is None:
        return Asked(())
    things = tuple(thing.lower() for thing in _things(evidence, phrases))
    sure = [a for a in evidence.actions[:1] if a.score >= deed_floor]
    deeds = [deed for deed in (deed_phrase(a.label) for a in sure) if deed is not None]
    return Asked(things, tuple(deeds))


def compose(
    evidence: Evidence,
    object_phrases: Mapping[str, str],
    sound_phrases: Mapping[str, str],
    told: Told | None = None,
) -> tuple[str, float]:
    """A sentence and its score, the mean of the scores of what it says (0 where it says nothing).

    Args:
        told: how a decoder says what `asked_of` asked; it stands in place of a plain list of what is in view.
    """
    seen, seen_scores = _seen(evidence, object_phrases, told)
    seen += _filmed(evidence.camera)
    heard, heard_scores = _heard(evidence, sound_phrases)
    sentence = f"{seen}; {heard}." if heard else f"{seen}."
    scores = seen_scores + heard_scores
    return sentence[0].upper() + sentence[1:], sum(scores) / len(scores) if scores else 0.0


def _things(evidence: Evidence, phrases: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(phrases.get(o.label, with_article(o.label)) for o in evidence.objects))


def _seen(evidence: Evidence, phrases: Mapping[str, str], told: Told | None) -> tuple[str, list[float]]:
    if evidence.stats is None:
        return "no picture", []
    things = _things(evidence, phrases)
    sureness = told.score if told else 1.0
    scores = [o.score * sureness for o in evidence.objects]
    in_view = told.text if told else f"{_join(things)} in view" if things else ""
    if evidence.actions:
        action = evidence.actions[0]
        hedge = "probably" if action.score >= _LIKELY else "perhaps"
        if told and told.deeds:
            return _hedged(told, hedge), [action.score * sureness, *scores]
        done = f"{hedge} {action.label}"
        return f"{in_view}, {done}" if in_view else done, [action.score, *scores]
    if in_view:
        return in_view, scores
    return _unrecognised(evidence.stats), []


def _filmed(camera: Label | None) -> str:
    if camera is None or camera.score < _SURE or camera.label not in _CAMERA:
        return ""
    return f", the camera {_CAMERA[camera.label]}"


def _hedged(told: Told, hedge: str) -> str:
    """A told deed with its hedge: before the deed where its doer was seen, else before the sentence."""
    verb = told.deeds[0].split()[0]
    doer, _, rest = told.text.partition(f" {verb}")
    return f"{hedge} {told.text}" if doer == "someone" else f"{doer}, {hedge} {verb}{rest}"


def _unrecognised(stats: PictureStats) -> str:
    light = "dark " if stats.brightness < _DARK else ""
    if stats.change < _STILL:
        return f"a {light}still picture, not recognised"
    return f"a {light}{'busy' if stats.change > _BUSY else 'moving'} picture, not recognised"


def _heard(evidence: Evidence, phrases: Mapping[str, str]) -> tuple[str, list[float]]:
    if not evidence.has_audio:
        return "no sound track" if evidence.stats is not None else "no sound", []
    if evidence.sounds:
        names = list(dict.fromkeys(phrases.get(s.label, s.label.lower()) for s in evidence.sounds))
        return f"{_join(names[:2])} heard", [s.score for s in evidence.sounds[:2]]
    return ("silence" if evidence.is_silent else "sound not recognised"), []


def with_article(name: str) -> str:
    """ "crate" → "a crate"."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
