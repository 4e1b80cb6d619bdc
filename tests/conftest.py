"""Fixtures: media that tests make, shared media where present, one loaded model."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bundles.spec import find_bundle
from pipeline.config import Config, load_config
from tests.media_factory import flash_and_click
from tests.pipeline.bundles.families.endpoint_server import Endpoint

SHARED_MEDIA = Path(__file__).resolve().parents[2] / "shared" / "media"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: where two are tested at a time, none is left over at the end."""
    items.sort(key=lambda item: "soak" not in item.path.parts)


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """Real clips and timing vectors; the test is skipped where they are not."""
    if not (SHARED_MEDIA / "manifest.csv").is_file():
        pytest.skip(f"{SHARED_MEDIA} is not there: real clips are not part of the repository")
    return SHARED_MEDIA


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config()


@pytest.fixture(scope="session")
def model(config):
    """The embedded model, loaded once."""
    from pipeline.bundles.model import Model

    return Model(find_bundle("embedded"), config)


@pytest.fixture(scope="session")
def video_file(tmp_path_factory) -> Path:
    """Ten seconds at 25 frames a second with stereo sound; a flash and a click at 1, 2, … 9 s."""
    return flash_and_click(tmp_path_factory.mktemp("media") / "plain.mp4")


@pytest.fixture
def endpoint():
    """A server that captions clips; what it says depends on their grey level."""
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()
