"""The browser that tests look through notices what it is there to notice."""

from __future__ import annotations

from tests.browser import chromium, visit

__all__ = ["chromium"]

PAGE = """<!doctype html><html lang="en"><head><title>A page</title>{policy}</head>
<body><main><h1>A page</h1>{body}</main></body></html>"""
STRICT = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'">"""


def page(tmp_path, body: str, policy: str = "") -> str:
    file = tmp_path / "page.html"
    file.write_text(PAGE.format(body=body, policy=policy))
    return file.as_uri()


def test_a_good_page_has_no_errors_calls_nobody_and_has_no_barrier(chromium, tmp_path):
    with visit(chromium, page(tmp_path, "<p>Fine.</p>", STRICT)) as seen:
        assert seen.barriers() == []
        assert (seen.errors, seen.off_machine()) == ([], [])
        assert seen.screenshot("browser_good").stat().st_size > 1000


def test_errors_calls_and_barriers_are_noticed(chromium, tmp_path):
    body = (
        """<img src="http://192.0.2.1/x.png"><script>console.error("oh"); throw Error("no")</script>"""
    )
    with visit(chromium, page(tmp_path, body), offline=True) as seen:
        assert any("oh" in e for e in seen.errors)
        assert any("no" in e for e in seen.errors)
        assert seen.off_machine() == ["http://192.0.2.1/x.png"]
        assert any("image-alt" in barrier for barrier in seen.barriers())
