"""Clips like a chosen one: nearest by the cosine of their embeddings, every one compared."""

from __future__ import annotations

import numpy as np

from pipeline.browse.snapshot import Snapshot

MOST_COMPARED = (
    200_000  # clips; of 384 numbers they are 300 MB, and a question takes a tenth of a second
)


def nearest(
    snapshot: Snapshot, row: int, most: int, *, other_videos: bool = False
) -> list[tuple[int, float]] | None:
    """Row numbers and cosines of the nearest clips, the nearest first, never the clip itself.

    Args:
        other_videos: none of the same video.

    Returns:
        None where the clip has no embedding, or there are more clips than are compared.
    """
    if len(snapshot.clips) > MOST_COMPARED:
        return None
    rows, vectors = snapshot.embeddings
    place = np.searchsorted(rows, row)
    if place == len(rows) or rows[place] != row:
        return None
    cosines = vectors @ vectors[place]  # (n,)
    keep = rows != row
    if other_videos:
        video_ids = snapshot.clips["video_id"].to_numpy()
        keep &= video_ids[rows] != video_ids[row]
    rows, cosines = rows[keep], cosines[keep]
    best = np.lexsort((rows, -cosines))[:most]
    return [(int(rows[i]), float(cosines[i])) for i in best]
