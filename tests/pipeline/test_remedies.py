"""Every failure code that the library gives comes with what to do about it, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

from pipeline.remedies import REMEDIES, remedy

ROOT = Path(__file__).resolve().parents[2]


def raised_codes() -> set[str]:
    """The second argument of every `MediaError(…)` and `Failure(…)`."""
    found = set()
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", None) not in (
                "MediaError",
                "Failure",
            ):
                continue
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                found.add(node.args[1].value)
    return found


def test_every_code_has_a_remedy_and_every_remedy_a_code():
    assert set(REMEDIES) == raised_codes()


def test_a_code_of_another_version_is_told_apart():
    assert "No advice" in remedy("from_the_future")
    assert "No advice" in remedy(None)
