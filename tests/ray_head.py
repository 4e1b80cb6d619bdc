"""A Ray head of one's own: on loopback only, with its own token, ports and folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

READY_S = 240.0
_TRIES = 4
# On a busy machine a node's helpers are slow to begin, and a node gives itself up that has not heard of them.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_worker_niceness": "0",
}


def free_ports(n: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class Head:
    """A head with its dashboard, running until it is stopped or killed."""

    def __init__(self, num_cpus: int = 3, object_store_mb: int = 300) -> None:
        self.token = secrets.token_hex(16)
        for n_left in reversed(range(_TRIES)):  # Ray gives up after 30 s, which a busy machine may need
            # Sockets lie in it, whose names may not be long.
            self.folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
            self.log = self.folder / "start.log"
            self.process = self._start(num_cpus, object_store_mb)
            try:
                self._wait_until_ready()
                return
            except BaseException as e:
                self.stop()
                if not n_left or not isinstance(e, AssertionError):
                    raise

    def _start(self, num_cpus: int, object_store_mb: int) -> subprocess.Popen[bytes]:
        gcs, dashboard, client, agent, metrics, runtime = free_ports(6)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        ray = Path(sys.executable).with_name("ray")
        command = [
            sys.executable, str(ray), "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={gcs}", "--include-dashboard=true",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}",
            f"--num-cpus={num_cpus}", "--num-gpus=0", f"--object-store-memory={object_store_mb * 2**20}",
            f"--temp-dir={self.folder}",
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
        env |= {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} | PATIENCE
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=env, cwd="/", start_new_session=True
            )

    @property
    def env(self) -> dict[str, str]:
        """The environment of somebody who knows the head and its token, and no other."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return kept | {"RAY_AUTH_TOKEN": self.token, "RAY_API_SERVER_ADDRESS": self.address}

    def _wait_until_ready(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)
        started = time.monotonic()
        while True:
            try:
                if "Ray runtime started" in self.log.read_text():
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        answer.read()
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # it will come
            if time.monotonic() - started > READY_S or self.process.poll() is not None:
                raise AssertionError(f"no head: {self.log.read_text()[-2000:]}")
            time.sleep(0.3)

    def family(self) -> list[int]:
        """Processes that belong to the head: they name its folder, or descend from one that does."""
        from tests.soak.tables import descendants

        found = {self.process.pid, *descendants(self.process.pid)}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.folder).encode() in line:
                    found |= {int(entry.name), *descendants(int(entry.name))}
        return sorted(found)

    def kill(self) -> None:
        """End the whole machine at once, as a loss of power would."""
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)

    def stop(self) -> None:
        """Ask the head to stop, end what is left of it, and remove its folder."""
        family = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)
