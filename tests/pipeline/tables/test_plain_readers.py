"""The directory is a Parquet table for everybody: same rows, same types, no help of ours."""

from __future__ import annotations

import shutil

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset
import pytest

from pipeline.tables.commit import commit
from pipeline.tables.publish import publish
from pipeline.tables.schema import FAILURES, SEGMENTS, clips_schema
from pipeline.tables.store import Store
from tests.pipeline.tables.rows import DAY, clips, commit_video, unit, units

COUNTS = {"clips": 4, "videos": 3, "segments": 2, "failures": 1}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two dates; the first run has no sound, no label and no caption anywhere."""
    root = tmp_path_factory.mktemp("plain") / "out"
    store = Store(str(root))
    first = clips("s0", "s1", labels=(), video_id="s", uri="/s.mp4", run_id="1")
    rows = [unit(u, video_id="s", uri="/s.mp4", run_id="1") for u in ("s0", "s1")]
    commit(store, first, units(*rows), "2026-01-30", "1")
    publish(store, "2026-01-30")
    commit_video(store, "a", 2, run_id="2")
    failed = unit("f", "failed", uri="/bad.mp4", video_id="bad", run_id="2")
    commit(store, clips(), units(failed), DAY, "2")
    publish(store, DAY)
    return root


def kinds(schema: pa.Schema) -> dict[str, str]:
    """Types by column, but for the path's `dt` and for what readers call the same by other names."""
    said = {}
    for field in schema:
        kind = str(field.type).replace("large_", "").replace("string_view", "string")
        said[field.name] = kind.replace("element", "item").replace("l:", "item:")
    said.pop("dt", None)
    return said


@pytest.mark.parametrize("table", COUNTS)
def test_pandas(tables, table):
    frame = pd.read_parquet(tables / table)
    assert len(frame) == COUNTS[table]
    assert set(frame["dt"].astype(str)) <= {"2026-01-30", DAY}


@pytest.mark.parametrize("table", COUNTS)
def test_pyarrow(tables, table):
    found = pa.dataset.dataset(tables / table, partitioning="hive").to_table()
    assert len(found) == COUNTS[table]
    expected = {"clips": clips_schema(), "segments": SEGMENTS, "failures": FAILURES}.get(table)
    if expected is not None:
        assert kinds(found.schema) == kinds(expected)
    assert not [field.name for field in found.schema if pa.types.is_null(field.type)]


@pytest.mark.parametrize("table", COUNTS)
def test_duckdb(tables, table):
    found = duckdb.sql(f"select * from read_parquet('{tables}/{table}/*/*.parquet')").to_arrow_table()
    assert len(found) == COUNTS[table]
    if table == "clips":
        assert found.schema.field("start_pts").type == pa.int64()
        assert found.schema.field("sync_offset_ms").type == pa.float32()
        assert pa.types.is_struct(found.schema.field("labels").type.value_type)


@pytest.mark.parametrize("table", COUNTS)
def test_polars(tables, table):
    found = polars.read_parquet(tables / table)
    assert len(found) == COUNTS[table]
    if table == "clips":
        assert found.schema["av_skew_ms"] == polars.Float32
        assert found.schema["labels"].inner.fields[0].name == "label"


def test_spark(tables):
    """With Java and pyspark at hand; they are no dependency."""
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not here")
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = session.getOrCreate()
    try:
        for table, count in COUNTS.items():
            assert spark.read.parquet(str(tables / table)).count() == count
        types = dict(spark.read.parquet(str(tables / "clips")).dtypes)
        assert types["embedding"] == "array<float>"
        assert types["transcript"] == "string"
        assert types["labels"].startswith("array<struct<label:string,score:float")
    finally:
        spark.stop()
