"""Families: the shipped ones, those of installed packages, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.bundles.families import FAMILIES
from pipeline.bundles.kinds import GROUP, KINDS, added_family, check_kind, is_stateless
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.config import CONFIG_DIR

CODE = "class Hum:\n    PART = 'audio'\n    OPTIONS = {}\n"


def install(folder: Path, package: str, code: str = CODE, offers: str = "hum = {}:Hum") -> Path:
    """What `pip install` leaves behind: a module, and its metadata with the entry point."""
    (folder / f"{package}.py").write_text(code)
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{offers.format(package)}\n")
    return folder


@pytest.mark.parametrize(
    ("bundle", "expected"), [("embedded", True), ("embedded-speech", False), ("kinetics-x3d", False)]
)
def test_threads_share_only_what_is_known_to_keep_nothing(bundle, expected):
    assert is_stateless(find_bundle(bundle)) == expected


def test_every_shipped_kind_has_its_family_but_the_two_that_are_built_here():
    shipped = {kind for kinds in KINDS.values() for kind in kinds}
    assert shipped - set(FAMILIES) == {"efficientnet_lite0", "yamnet"}
    assert set(FAMILIES) <= shipped


def test_an_installed_package_adds_a_family_for_the_part_that_it_says(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(install(tmp_path, "hums"))
    check_kind("mine", "hum", "audio")
    assert added_family("hum").PART == "audio"
    with pytest.raises(BundleError, match=r"video.kind 'hum' is for 'audio', not for 'video'"):
        check_kind("mine", "hum", "video")
    with pytest.raises(
        BundleError, match=r"is unknown; expected one of yamnet, hf_audio, clap, hum, or"
    ):
        check_kind("mine", "humm", "audio")


def test_a_shipped_family_that_does_something_else_is_refused():
    with pytest.raises(BundleError, match=r"mine: video.kind 'yamnet' is for 'audio', not for 'video'"):
        check_kind("mine", "yamnet", "video")


def test_a_package_cannot_take_a_shipped_familys_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(install(tmp_path, "taker", offers="clap = {}:Hum"))
    check_kind("mine", "clap", "audio")
    with pytest.raises(BundleError, match=r"'clap' is for 'audio'"):
        check_kind("mine", "clap", "speech")
    assert FAMILIES["clap"] == "pairs:Clap"


def test_two_packages_with_one_name_are_told_and_neither_is_loaded(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(install(tmp_path, "one", code="raise SystemExit"))
    install(tmp_path, "two", code="raise SystemExit")
    with pytest.raises(BundleError, match=r"several installed packages add it: .*one:Hum"):
        check_kind("mine", "hum", "audio")


def test_a_package_that_does_not_load_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(install(tmp_path, "torn_hums", code="import no_such_library\n"))
    with pytest.raises(BundleError, match=r"torn_hums:Hum cannot be loaded: .*no_such_library"):
        check_kind("mine", "hum", "audio")


def test_code_in_a_bundles_directory_is_never_looked_for(tmp_path):
    """A family's code lies beside the weights as a package would: the bundle is refused before it is loaded."""
    install(tmp_path, "hidden_hums", code="raise SystemExit('it was run')")
    values = yaml.safe_load((CONFIG_DIR / "bundles" / "kinetics-x3d.yaml").read_text())
    values["audio"]["kind"] = "hum"
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(BundleError, match=r"audio.kind 'hum' is unknown"):
        find_bundle(str(tmp_path)).check_files()
