"""One lake and its page, made once for all tests of a file that only look."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.pipeline.browse.lake import make_lake


@pytest.fixture(scope="session")
def lake(tmp_path_factory):
    """`out`, the tables' directory; `ids`, video ids by name; `videos`, where the files are."""
    root = tmp_path_factory.mktemp("lake")
    out, ids = make_lake(root)
    return SimpleNamespace(out=out, ids=ids, videos=root / "videos")


@pytest.fixture(scope="session")
def client(lake):
    """The page's server, asked as a browser on this machine asks it."""
    from starlette.testclient import TestClient

    from pipeline.browse.app import make_app

    with TestClient(make_app(lake.out), base_url="http://127.0.0.1") as client:
        yield client
