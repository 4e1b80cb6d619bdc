"""A server that speaks the protocol of OpenAI's chat, and misspeaks it."""

from __future__ import annotations

import base64
import io
import json
import threading
import time

import numpy as np
from PIL import Image

from tests.http_server import LoopbackServer


class Endpoint(LoopbackServer):
    """Answers with the grey level of the first picture; `faults` by grey level, used up one a request."""

    def __init__(self):
        self.faults: dict[int, list[object]] = {}
        self.delays_s: dict[int, float] = {}
        self.requests: list[tuple[int, float, dict, str | None]] = []
        self.now = self.most_at_once = 0
        self.drips_s = 0.0
        self.refuses_probabilities = False
        self.lock = threading.Lock()
        super().__init__()
        self.url += "/v1"

    def answer(self, request):
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self.lock:
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            self.say(request, body)
        except BrokenPipeError:
            pass  # who asked did not wait for it
        finally:
            with self.lock:
                self.now -= 1

    def say(self, request, body):
        parts = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        grey = -1  # no picture came with it
        if urls:
            picture = Image.open(io.BytesIO(base64.b64decode(urls[0].partition(",")[2])))
            grey = round(float(np.asarray(picture).mean()) / 20)
        with self.lock:
            token = request.headers.get("Authorization")
            self.requests.append((grey, time.monotonic(), body, token))
            waiting = self.faults.get(grey)
            fault: object = waiting.pop(0) if waiting else None
            if self.refuses_probabilities and "logprobs" in body:
                fault = (400, {})
        time.sleep(self.delays_s.get(grey, 0.02))
        said = {"role": "assistant", "content": f"Grey {grey}."}
        logs = {"content": [{"token": "Grey", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
        whole = {
            "id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": said, "logprobs": logs}],
        }  # fmt: skip
        code, headers, content = 200, {"Content-Type": "application/json"}, json.dumps(whole).encode()
        if isinstance(fault, tuple):
            code, more = fault
            headers |= more
            content = b'{"error": {"message": "no"}}'
        elif isinstance(fault, bytes):
            content = fault
        elif fault == "html":
            headers, content = {"Content-Type": "text/html"}, b"<html>a proxy's page</html>"
        elif fault == "close":
            request.close_connection = True
            return
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        step = 20 if self.drips_s else len(content)
        for i in range(0, len(content), step):
            request.wfile.write(content[i : i + step])
            request.wfile.flush()
            time.sleep(self.drips_s * step / len(content))
