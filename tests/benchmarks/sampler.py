"""What a command and all that it starts take while it runs: CPU and memory by role, objects, spilled bytes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.tables import descendants

_EVERY_S = 1.0  # a look takes 5 ms and more, which the others lack
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
# The first that a process's command line names is its role.
ROLES = {
    "pipeline.media.guard": "decode",
    "EncodeStage": "encode",
    "DecodeStage": "hand over",
    "Write": "write",
    "ray::": "other tasks",
    "/ray/": "ray",
}


@dataclass
class Taken:
    """Of one command; memory is each role's largest process's own, without what is shared."""

    wall_s: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    shared_peak_mb: float = (
        0.0  # of the machine, where objects between stages and what decoders lend lie
    )
    spilled_mb: float = 0.0
    history: list[tuple[float, dict[str, float]]] = field(default_factory=list)  # seconds, `cpu_s` then
    looks_s: float = 0.0  # CPU that the looks took, which the command lacked

    def cpu_s_at(self, seconds: float) -> dict[str, float]:
        """CPU seconds by role, as long after the command's begin."""
        return next((cpu_s for at, cpu_s in self.history if at >= seconds), self.cpu_s)


class Sampler:
    """Looks at a process and its descendants each second; what a process took last is what counts."""

    def __init__(self, pid: int, spill: Path) -> None:
        self.pid, self.spill = pid, spill
        self.cpu_s: dict[int, float] = {}
        self.ranks: dict[int, int] = {}
        self.peak_mb: dict[int, float] = {}
        self.shared_before_mb = _shared_mb()
        self.shared_peak_mb = self.spilled_mb = 0.0
        self.began = time.perf_counter()
        self.history: list[tuple[float, dict[int, float]]] = []
        self.looks_s = 0.0

    def look(self) -> None:
        for pid, line in ({self.pid: ""} | descendants(self.pid)).items():
            rank = next((k for k, part in enumerate(ROLES) if part in line), len(ROLES))
            self.ranks[pid] = min(rank, self.ranks.get(pid, rank))  # Ray names a process late
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                statm = Path(f"/proc/{pid}/statm").read_text().split()
            except OSError:
                continue
            self.cpu_s[pid] = (int(stat[11]) + int(stat[12])) / _TICKS
            own_mb = (int(statm[1]) - int(statm[2])) * _PAGE / 2**20
            self.peak_mb[pid] = max(own_mb, self.peak_mb.get(pid, 0.0))
        self.shared_peak_mb = max(self.shared_peak_mb, _shared_mb() - self.shared_before_mb)
        spilled = sum(f.stat().st_size for f in self.spill.glob("session_*/ray_spilled_objects*/*"))
        self.spilled_mb = max(self.spilled_mb, spilled / 2**20)
        self.history.append((time.perf_counter() - self.began, dict(self.cpu_s)))
        self.looks_s = time.thread_time()

    def _role(self, pid: int) -> str:
        return [*ROLES.values(), "driver"][self.ranks[pid]]

    def _by_role(self, of_process: dict[int, float]) -> dict[str, float]:
        """By the roles that processes turned out to have: Ray names one when it gets work."""
        cpu_s: dict[str, float] = {}
        for pid, seconds in of_process.items():
            cpu_s[self._role(pid)] = cpu_s.get(self._role(pid), 0.0) + seconds
        return cpu_s

    def taken(self, wall_s: float) -> Taken:
        taken = Taken(wall_s, self._by_role(self.cpu_s))
        taken.history = [(at, self._by_role(then)) for at, then in self.history]
        taken.shared_peak_mb, taken.spilled_mb = self.shared_peak_mb, self.spilled_mb
        taken.looks_s = self.looks_s
        for pid, mb in self.peak_mb.items():
            taken.peak_mb[self._role(pid)] = max(taken.peak_mb.get(self._role(pid), 0.0), mb)
        return taken


def timed(
    command: list[str], env: Mapping[str, str] | None = None, cpus: set[int] | None = None
) -> Taken:
    """Run a command to its end, on `cpus` if told.

    Raises:
        AssertionError: it failed; with the end of what it said.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=dict(os.environ) | dict(env or {}),
        preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
    )
    sampler, stopped = Sampler(process.pid, Path("/tmp/ray")), threading.Event()

    def watch() -> None:
        while not stopped.wait(_EVERY_S):
            sampler.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    _, said = process.communicate()
    wall_s = time.perf_counter() - began
    stopped.set()
    thread.join()
    assert process.returncode == 0, f"{command}: {said.decode(errors='replace')[-3000:]}"
    return sampler.taken(wall_s)


def _shared_mb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:")) / 1024


def cpu_s_of_machine() -> float:
    """CPU seconds that all processes have taken since the machine began."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / _TICKS
