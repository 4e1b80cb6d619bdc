"""The house's floors: an import never goes up, and Ray stays in `jobs`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Package → what it may import of the project. `config` and `records` are the ground floor.
GROUND = {"pipeline.config", "pipeline.records"}
MAY_IMPORT = {
    "pipeline.config": set(),
    "pipeline.records": set(),
    "pipeline.sources": GROUND,
    "pipeline.transport": GROUND,
    "pipeline.remedies": set(),
    "pipeline.media": GROUND | {"pipeline.media"},
    "pipeline.encoders": GROUND | {"pipeline.encoders"},
    "pipeline.fusion": GROUND | {"pipeline.fusion", "pipeline.encoders"},
    "pipeline.heads": GROUND | {"pipeline.heads", "pipeline.encoders"},
    "pipeline.metrics": GROUND | {"pipeline.metrics"},
    "pipeline.sync": GROUND | {"pipeline.sync", "pipeline.media", "pipeline.encoders"},
    # A row's video is looked for by the name that its source gives it.
    "pipeline.tables": GROUND | {"pipeline.tables", "pipeline.sources"},
    # A page for a person: shows rows of the tables beside what is seen and heard of their sources.
    "pipeline.browse": GROUND
    | {"pipeline.browse", "pipeline.tables", "pipeline.media", "pipeline.sources"},
    "pipeline.bundles": GROUND
    | {"pipeline.bundles", "pipeline.encoders", "pipeline.fusion", "pipeline.heads"},
    "pipeline.report": GROUND
    | {"pipeline.report", "pipeline.tables", "pipeline.media", "pipeline.remedies"}
    | {"pipeline.bundles.spec"},
}
FORBIDDEN = {
    "pipeline": {"ray", "jobs"},
    "pipeline.browse": {"torch", "ray", "jobs"},
    "pipeline.metrics": {"torch", "ray", "jobs"},
    "pipeline.tables": {"torch", "ray", "jobs"},
    "pipeline.report": {"torch", "ray", "jobs"},
}


def imports_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def files_of(package: str) -> list[Path]:
    path = ROOT / package.replace(".", "/")
    return (
        [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.rglob("*.py"))
    )


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_floor_imports_only_what_lies_below_it(package):
    files = files_of(package)
    assert files
    for file in files:
        ours = {name for name in imports_of(file) if name.startswith("pipeline.")}
        above = {
            n for n in ours if not any(n == ok or n.startswith(f"{ok}.") for ok in MAY_IMPORT[package])
        }
        assert not above, f"{file.relative_to(ROOT)} imports {above}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_some_packages_never_enter(package):
    for file in files_of(package):
        roots = {name.split(".")[0] for name in imports_of(file)}
        assert not roots & FORBIDDEN[package], f"{file.relative_to(ROOT)}"


@pytest.mark.parametrize("module", ["jobs.run", "jobs.stages", "jobs.cli", "pipeline.understand"])
def test_torch_is_loaded_by_processes_that_encode_and_by_no_other(module):
    """It costs seconds and hundreds of MB, which the driver and each decoder would pay for nothing."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
