"""Which families there are, and which part of a bundle each does; asked before a cluster is begun.

Beside the shipped ones a family comes with an installed package, as an entry point (docs/encoders.md). Never
from a bundle's directory: that holds weights and words, and no code. Nothing here imports torch.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pipeline.bundles.spec import BundleError, BundleSpec, PartSpec

PartName = Literal["video", "audio", "captions", "speech"]
TELLER_KINDS = ("text_decoder",)
KINDS: dict[PartName, tuple[str, ...]] = {
    "video": (
        "efficientnet_lite0",
        "pytorchvideo",
        "torchvision",
        "hf_video",
        "clip",
        "siglip",
        "xclip",
    ),
    "audio": ("yamnet", "hf_audio", "clap"),
    "captions": ("hf_caption", "endpoint", "vllm", *TELLER_KINDS),
    "speech": ("whisper", "wav2vec2", "faster_whisper"),
}
# Networks that keep nothing of a call that another would mind, so that threads may share them.
_STATELESS = frozenset({"efficientnet_lite0", "yamnet", *TELLER_KINDS})
GROUP = "reeltable.families"  # of the entry points by which a package adds a family


def check_kinds(bundle: BundleSpec) -> None:
    """Raise BundleError unless every part has a family that is here and does it."""
    parts: dict[PartName, PartSpec | None] = {
        "video": bundle.video,
        "audio": bundle.audio,
        "captions": bundle.captions,
        "speech": bundle.speech,
    }
    for name, part in parts.items():
        if part is not None:
            check_kind(bundle.name, part.kind, name)


def is_stateless(bundle: BundleSpec) -> bool:
    """Whether several threads may call the loaded bundle at once."""
    parts = (bundle.video, bundle.audio, bundle.captions, bundle.speech)
    return all(part is None or part.kind in _STATELESS for part in parts)


def check_kind(bundle: str, kind: str, part: PartName) -> None:
    """Raise BundleError for a family that nobody has, or that does not do what the bundle's part is for."""
    if kind in KINDS[part]:
        return
    does = next((name for name, kinds in KINDS.items() if kind in kinds), None)
    if does is None:
        family = added_family(kind)
        if family is None:
            added = [point.name for point in entry_points(group=GROUP)]
            there = ", ".join((*KINDS[part], *sorted(added)))
            raise BundleError(
                f"{bundle}: {part}.kind {kind!r} is unknown; expected one of {there}, or one that an installed "
                f"package adds by an entry point in the group {GROUP}"
            )
        does = getattr(family, "PART", None)
    if does != part:
        raise BundleError(f"{bundle}: {part}.kind {kind!r} is for {does!r}, not for {part!r}")


def added_family(kind: str) -> Any | None:
    """The class by which an installed package adds a family of that name; None where none does.

    Raises:
        BundleError: several packages do, or the one that does cannot be loaded.
    """
    found: dict[str, EntryPoint] = {p.value: p for p in entry_points(group=GROUP, name=kind)}
    if len(found) > 1:
        raise BundleError(f"kind {kind!r}: several installed packages add it: {', '.join(found)}")
    for place, point in found.items():
        try:
            return point.load()
        except Exception as e:  # somebody else's module fails in any way
            what = f"{type(e).__name__}: {e}"
            raise BundleError(f"kind {kind!r}: {place} cannot be loaded: {what}") from e
    return None
