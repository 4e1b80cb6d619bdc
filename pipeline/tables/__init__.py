"""The output: Parquet tables, exactly once, and how they are read. Nothing here knows torch or Ray."""

from __future__ import annotations

from pipeline.tables.read import query, read

__all__ = ["query", "read"]
