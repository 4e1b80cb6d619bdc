"""Stills and excerpts beside the page: a bounded number, each made once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.media.preview import Previewer
from pipeline.records import MediaError
from pipeline.tables.store import Store

MEDIA = "report/media"


@dataclass(frozen=True)
class Wanted:
    """A clip whose preview is shown."""

    clip_id: str
    uri: str
    start_s: float
    end_s: float
    has_video: bool


@dataclass(frozen=True)
class Previews:
    """What is there, and what could not be made."""

    names: frozenset[str] = frozenset()  # <clip_id>.jpg, <clip_id>.mp4
    n_made: int = 0
    n_kept: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # code → files that were not made

    @property
    def says(self) -> str:
        """One sentence about what is missing; empty where nothing is."""
        if not self.failed:
            return ""
        codes = ", ".join(f"{n} × {code}" for code, n in self.failed.most_common())
        n = sum(self.failed.values())
        return f"{n} {'preview' if n == 1 else 'previews'} could not be made ({codes})."


def choose(clips: pa.Table, limit: int) -> list[Wanted]:
    """The clips to show: every video's surest first, then every one's second, until there are `limit`."""
    columns = ("clip_id", "uri", "start_s", "end_s", "has_video", "video_id", "top_score")
    rows = clips.select(columns).to_pylist()
    rows.sort(key=lambda row: (row["video_id"], -(row["top_score"] or 0.0), row["start_s"]))
    rank: Counter[str] = Counter()
    ranked = []
    for row in rows:
        ranked.append((rank[row["video_id"]], row["clip_id"], row))
        rank[row["video_id"]] += 1
    # By clip_id within a rank: of more videos than there is room for, the choice stays the same.
    ranked.sort(key=lambda item: item[:2])
    return [
        Wanted(row["clip_id"], row["uri"], row["start_s"], row["end_s"], bool(row["has_video"]))
        for _, _, row in ranked[:limit]
    ]


def there(store: Store) -> frozenset[str]:
    """Names of the previews that were made before."""
    return frozenset(name.rsplit("/", 1)[-1] for name in store.names(MEDIA))


def make_previews(
    store: Store,
    chosen: list[Wanted],
    previewer: Previewer,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Previews:
    """Make what is missing of the clips chosen; what is there is kept, what is of other clips goes."""
    before, names, failed = there(store), set(), Counter[str]()
    lost: dict[str, str] = {}  # URI that cannot be opened → code
    n_made = 0
    # A source's clips together: what was read of it may still be in memory.
    for i, clip in enumerate(sorted(chosen, key=lambda c: (c.uri, c.start_s))):
        for name in _names(clip):
            if name in before:
                names.add(name)
                continue
            code = lost.get(clip.uri) or _make(store, previewer, clip, name, lost)
            if code:
                failed[code] += 1
            else:
                names.add(name)
                n_made += 1
        on_progress(i + 1, len(chosen))
    remove(store, before - names)
    return Previews(frozenset(names), n_made, len(names) - n_made, failed)


def _names(clip: Wanted) -> list[str]:
    return [f"{clip.clip_id}.jpg"] * clip.has_video + [f"{clip.clip_id}.mp4"]


def _make(
    store: Store, previewer: Previewer, clip: Wanted, name: str, lost: dict[str, str]
) -> str | None:
    """Make one file; the code of why not."""
    try:
        if name.endswith(".jpg"):
            content = previewer.still(clip.uri, (clip.start_s + clip.end_s) / 2)
        else:
            content = previewer.excerpt(clip.uri, clip.start_s, clip.end_s)
    except MediaError as e:
        if e.failure.stage == "probe":
            lost[clip.uri] = e.failure.code
        return e.failure.code
    store.write(f"{MEDIA}/{name}", content)
    return None


def of_clips(store: Store, clips: pa.Table) -> Previews:
    """What was made before, of clips that are still there; the rest goes."""
    ids = set(clips["clip_id"].to_pylist())
    before = there(store)
    names = frozenset(name for name in before if name.rsplit(".", 1)[0] in ids)
    remove(store, before - names)
    return Previews(names, 0, len(names))


def remove(store: Store, names: frozenset[str]) -> None:
    for name in names:
        store.remove(f"{MEDIA}/{name}")
