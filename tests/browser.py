"""Pages in a real Chromium: what they show, what goes wrong in them, and whom they call.

    from tests.browser import chromium, visit

    def test_a_page(chromium):
        with visit(chromium, file.as_uri(), colours="dark") as seen:
            seen.page.click("text=Next")
            assert seen.errors == []
            assert seen.off_machine() == []
            assert seen.barriers() == []
            seen.screenshot("a_page_dark")

The browser is the one of the machine's own package (Debian's `chromium`); where there is none, or no
Playwright, the test is skipped. Screenshots stay in `test_output/`, for a person to look at.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

OUTPUT = Path(__file__).resolve().parents[1] / "test_output"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
]
_HERE = {"127.0.0.1", "localhost", "::1"}
_BARRIERS = {"serious", "critical"}


def program() -> str | None:
    """Where the machine's Chromium is; None where it has none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = program()
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that was opened, and what was noticed since."""

    page: Any  # playwright.sync_api.Page
    errors: list[str] = field(default_factory=list)  # of the console, and uncaught
    requests: list[str] = field(default_factory=list)  # every address asked for

    def off_machine(self) -> list[str]:
        """Requests to anything but this machine's files and loopback."""
        return [url for url in self.requests if not _is_here(url)]

    def until(self, expression: str, of: Any = None, timeout_s: float = 20.0) -> None:
        """Wait for an expression to hold; Playwright's own way is refused by pages that forbid eval.

        Args:
            of: an element (a handle), which the expression names `v`.
        """
        ends = time.monotonic() + timeout_s
        while not self.page.evaluate(f"(v) => Boolean({expression})", of):
            assert time.monotonic() < ends, f"after {timeout_s:g} s still not: {expression}"
            self.page.wait_for_timeout(30)

    def barriers(self) -> list[str]:
        """What axe-core finds serious or critical, a line a rule and place."""
        self.page.evaluate(_axe())
        found = self.page.evaluate(
            "() => axe.run(document, {resultTypes: ['violations'], preload: false})"
        )
        return [
            f"{rule['id']} ({rule['impact']}): {node['html'][:200]} {node.get('failureSummary', '')}"
            for rule in found["violations"]
            if rule["impact"] in _BARRIERS
            for node in rule["nodes"]
        ]

    def screenshot(self, name: str, *, full: bool = True, of: str | None = None) -> Path:
        """A picture of the page, or of one element of it, in `test_output/`."""
        OUTPUT.mkdir(exist_ok=True)
        path = OUTPUT / f"{name}.png"
        if of is not None:
            self.page.locator(of).screenshot(path=str(path))
        else:
            self.page.screenshot(path=str(path), full_page=full)
        return path


@contextmanager
def visit(
    chromium: Any,
    url: str,
    *,
    colours: str = "light",
    size: tuple[int, int] = (1280, 900),
    wait_until: str = "load",
    **context_options: Any,
) -> Iterator[Visit]:
    """A fresh page at `url`, loaded, as somebody sees it who prefers those colours.

    Args:
        wait_until: an event of Playwright's `goto`.
        context_options: of Playwright's `new_context`, such as `reduced_motion="reduce"`.
    """
    viewport = {"width": size[0], "height": size[1]}
    context = chromium.new_context(color_scheme=colours, viewport=viewport, **context_options)
    seen = Visit(context.new_page())
    context.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    try:
        seen.page.goto(url, wait_until=wait_until)
        yield seen
    finally:
        context.close()


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in _HERE


def _axe() -> str:
    """axe-core's source, from the package that carries it."""
    carrier = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is missing")
    return (Path(carrier.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
