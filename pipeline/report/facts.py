"""What a report is made of: one snapshot of the tables, and what the runs recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.tables.read import query_together
from pipeline.tables.store import Store

RUNS = "_runs"
MAX_RUNS = 30  # of which the page tells
MAX_COMPARED = 20_000  # embeddings that are looked through for near-duplicates
_CLIP_COLUMNS = """clip_id, video_id, uri, start_s, end_s, status, has_video, has_audio, audio_coverage,
    sound_level_db, av_skew_ms, frame_error_ms, top_label, top_score, labels, caption, caption_score,
    caption_problem, transcript, words, cut_s, bundle, bundle_digest, result_digest, run_id"""
_QUESTIONS = {
    "clips": f"select {_CLIP_COLUMNS} from clips order by uri, video_id, start_s, clip_id",
    "videos": "select * from videos order by uri, video_id",
    "segments": "select * from segments order by video_id, start_s, space, label",
    "failures": "select * from failures order by code, uri, start_s",
    # Ordered by a hash: the same sample again, whatever the order of the files.
    "embeddings": f"""select video_id, embedding from clips where embedding is not null
        order by hash(clip_id), clip_id limit {MAX_COMPARED}""",
    "n_embeddings": "select count(embedding) as n from clips",
    # Old results too: that settings changed is when scores are compared.
    "scores": """select run_id, top_score, count(*) as n from every_clip where top_score is not null
        group by all order by all""",
}


@dataclass(frozen=True)
class Facts:
    """Rows as they stand in the tables, ordered."""

    directory: str
    clips: pa.Table  # a video's clips together, by start
    videos: pa.Table
    segments: pa.Table
    failures: pa.Table
    embeddings: pa.Table  # a sample, where there are many
    n_embeddings: int
    scores: pa.Table  # run_id, top_score, n
    runs: tuple[dict[str, Any], ...]  # the latest ones, oldest first


def read_facts(directory: str) -> Facts:
    """Everything that the page tells, read once.

    Raises:
        TableError: no tables there, or a damaged file.
    """
    found = query_together(directory, _QUESTIONS)
    store = Store(directory)
    names = store.names(RUNS, ".json")[-MAX_RUNS:]  # names sort by time
    return Facts(
        directory=store.root,
        clips=found["clips"],
        videos=found["videos"],
        segments=found["segments"],
        failures=found["failures"],
        embeddings=found["embeddings"],
        n_embeddings=found["n_embeddings"]["n"][0].as_py(),
        scores=found["scores"],
        runs=tuple(store.read_jsons(names)),
    )
