"""What the report page costs when a table is large: to write, to open, to filter.

    make bench-report

Tables of 10,000 and 100,000 clips without previews are written to a temporary directory; `reeltable report` is
timed in a process of its own; the page is opened in Chromium from disk, the median of several fresh
visits. Usable is when the first filter, set as soon as the clips are there, shows its rows. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.tables.store import Store
from tests.browser import ARGUMENTS, program, visit
from tests.pipeline.report.lake import make_lake

CLIPS_A_VIDEO = 20
GOALS_S = {10_000: 2.0, 100_000: 3.0}
VISITS = 5
_FILTER = """async () => {
  const text = document.getElementById("find-text"), told = document.getElementById("found");
  const before = told.textContent;
  text.value = "bicycle";
  text.dispatchEvent(new Event("input"));
  while (told.textContent === before) await new Promise((next) => requestAnimationFrame(next));
  return [performance.now(), told.textContent];
}"""


def written(out: Path) -> dict[str, float]:
    """Seconds and peak memory of `reeltable report`, and the size of what it wrote."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "jobs", "report", str(out), "--no-previews", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "write_s": round(time.perf_counter() - started, 1),
        "write_peak_mb": round(peak_mb),
        "folder_mb": round(json.loads(done.stdout)["n_bytes"] / 2**20, 1),
    }


def opened(chromium: Any, page: Path, n_clips: int) -> dict[str, float]:
    """Seconds until the first filter works and until all is drawn, and memory of the page's process."""
    usable, drawn, heap, resident = [], [], [], []
    for _ in range(VISITS):
        with visit(chromium, page.as_uri(), wait_until="commit") as seen:
            seen.page.wait_for_selector("html[data-ready]", state="attached")
            usable_ms, told = seen.page.evaluate(_FILTER)
            assert f"of {n_clips:,} clips" in told, told
            seen.page.wait_for_selector("html[data-ready=all]", state="attached", timeout=60_000)
            usable.append(usable_ms / 1000)
            drawn.append(seen.page.evaluate("() => performance.now()") / 1000)
            devtools = seen.page.context.new_cdp_session(seen.page)
            heap.append(devtools.send("Runtime.getHeapUsage")["usedSize"] / 2**20)
            resident.append(_renderers_mb())
    return {
        "usable_s": round(statistics.median(usable), 2),
        "usable_worst_s": round(max(usable), 2),
        "drawn_s": round(statistics.median(drawn), 2),
        "heap_mb": round(statistics.median(heap)),
        "renderer_mb": round(statistics.median(resident)),
    }


def _renderers_mb() -> float:
    """Resident memory of the largest page process below this one."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
            is_page = b"--type=renderer" in (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        pid = int(folder.name)
        parents[pid] = int(status["PPid"])
        if is_page:
            sizes[pid] = int(status["VmRSS"].split()[0]) / 1024
    return max((size for pid, size in sizes.items() if _is_below(pid, parents)), default=0.0)


def _is_below(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=list(GOALS_S))
    sizes = parser.parse_args().clips
    from playwright.sync_api import sync_playwright

    results: dict[str, Any] = {}
    for n_clips in sizes:
        folder = Path(tempfile.mkdtemp())
        try:
            make_lake(Store(str(folder)), n_clips // CLIPS_A_VIDEO, CLIPS_A_VIDEO)
            found = written(folder)
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=program(), args=ARGUMENTS)
                found |= opened(chromium, folder / "report" / "index.html", n_clips)
                chromium.close()
        finally:
            shutil.rmtree(folder)
        found["goal_s"] = GOALS_S.get(n_clips, 0.0)
        results[str(n_clips)] = found
        print(f"{n_clips:,} clips: {found}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
