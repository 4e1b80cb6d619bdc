"""A disk, fsspec's memory, and a real S3 server on loopback."""

from __future__ import annotations

import logging

import pytest

from pipeline.tables.store import Store

BUCKET = "tables"


@pytest.fixture(scope="session")
def s3_server():
    """An S3 API server; its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """An empty bucket's URL; s3fs finds the server by its environment."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir(BUCKET)
    yield f"s3://{BUCKET}/lake"
    fs.rm(BUCKET, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["disk", "memory", "s3"])
def store(request, tmp_path):
    """An empty output of every kind."""
    if request.param == "s3":
        return Store(request.getfixturevalue("s3"))
    return Store(str(tmp_path / "out") if request.param == "disk" else f"memory://out{tmp_path.name}")
