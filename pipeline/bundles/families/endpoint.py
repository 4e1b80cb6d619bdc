"""Captions by a vision-language model behind any endpoint that speaks OpenAI's chat protocol.

vLLM, llama.cpp's server, Ray Serve LLM and hosted ones. Requests run side by side; each carries the pictures of
one clip and its answer goes to that clip whatever order they come back in. What fails stays a null with its
reason.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.families.base import Caption, Option, Sampling
from pipeline.bundles.families.chat import PROMPT, content, sentence, short
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.records import MediaError

_KEY_VARIABLE = "REELTABLE_VLM_KEY"


class EndpointCaptioner:
    """Asks the model that the config names; REELTABLE_VLM_KEY is its key, and is stored nowhere."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "base_url": (str, None),
        "model": (str, None),
        "prompt": (str, None),
        "timeout_s": (float, 0.1),
        "max_retries": (int, 0),
        "concurrency": (int, 1),
        "requests_per_minute": (float, 0),
        "max_tokens": (int, 1),
        "frames": (int, 1),
        "side_px": (int, 16),
    }

    def __init__(self, part: PartSpec, directory: Path) -> None:  # noqa: ARG002 (all families are made alike)
        import openai

        self.openai = openai
        options = part.options
        self.base_url, self.model = str(options.get("base_url", "")), str(options.get("model", ""))
        if not self.base_url.startswith(("http://", "https://")):
            raise BundleError("expected captions.url=http://host:port/v1 and captions.model=NAME")
        self.prompt = str(options.get("prompt", PROMPT))
        # The address comes from whoever runs the job, never from a bundle, so no bundle can ask for the key.
        self.key = os.environ.get(_KEY_VARIABLE) or "none"
        self.timeout_s = float(options.get("timeout_s", 60.0))
        self.most_retries = int(options.get("max_retries", 4))
        self.most_at_once = int(options.get("concurrency", 8))
        self.most_tokens = int(options.get("max_tokens", 80))
        self.gap_s = 60.0 / rate if (rate := float(options.get("requests_per_minute", 0))) else 0.0
        self.sampling = Sampling(int(options.get("frames", 4)), 0.0, int(options.get("side_px", 336)))
        self.tells_probabilities = True
        self.is_down = False

    def to(self, device: torch.device) -> EndpointCaptioner:  # noqa: ARG002
        return self

    def caption(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        """A sentence on each clip, uint8 (T, H, W, 3), in the order of the clips.

        Raises:
            MediaError: every clip of several failed: the endpoint is away or refuses us, which is no clip's
                fault and is worth another run.
        """
        if not clips:
            return []
        # A notebook has an event loop of its own, in which no second one may run.
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(lambda: asyncio.run(self._ask_all(clips))).result()
        self.is_down = all(caption.text is None for caption in found)
        if self.is_down and len(found) > 1:
            what = f"no clip of {len(found)} was captioned by {self.base_url}; {found[0].problem}"
            raise MediaError("encode", "endpoint", what)
        return found

    async def _ask_all(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        slots, pace = asyncio.Semaphore(self.most_at_once), _Pace(self.gap_s)
        async with self.openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self.key, timeout=self.timeout_s, max_retries=0
        ) as client:

            async def ask(clip: npt.NDArray[np.uint8]) -> Caption:
                async with slots:
                    return await self._ask(client, pace, clip)

            return list(await asyncio.gather(*(ask(clip) for clip in clips)))

    async def _ask(self, client: object, pace: _Pace, clip: npt.NDArray[np.uint8]) -> Caption:
        """One clip's answer; what may pass is asked again, each time after the pace allows it."""
        asked, problem = content(clip, self.sampling, self.prompt), ""
        n_tries = (
            1 if self.is_down else self.most_retries + 1
        )  # of one that is away nobody waits for each clip
        attempt = -1
        while (attempt := attempt + 1) < n_tries:
            await pace.wait()
            pause_s, asks = _retry_after_s(None, attempt), self.tells_probabilities
            try:
                return _read(await asyncio.wait_for(self._request(client, asked), self.timeout_s))
            except self.openai.APIStatusError as e:
                problem = f"HTTP {e.status_code}: {short(e.message)}"
                if e.status_code == 400 and asks:
                    self.tells_probabilities = False  # some servers refuse to be asked for them
                    n_tries, pause_s = max(n_tries, 2), 0.0
                elif e.status_code not in (408, 409, 425, 429) and e.status_code < 500:
                    break
                else:
                    pause_s = _retry_after_s(e.response.headers.get("retry-after"), attempt)
            except (TimeoutError, self.openai.APITimeoutError):
                problem, pause_s = f"no answer in {self.timeout_s:g} s", 0.0
            except self.openai.OpenAIError as e:
                problem = f"{type(e).__name__}: {short(str(e))}"
            except (ValueError, TypeError, AttributeError, LookupError) as e:
                problem = f"malformed answer: {short(str(e))}"
            if attempt < n_tries - 1:
                await asyncio.sleep(pause_s)
        return Caption(None, None, f"endpoint: {problem}")

    async def _request(self, client: object, asked: list[dict[str, object]]) -> object:
        return await client.chat.completions.create(  # type: ignore[attr-defined]
            model=self.model,
            messages=[{"role": "user", "content": asked}],
            max_tokens=self.most_tokens,
            temperature=0.0,
            **({"logprobs": True} if self.tells_probabilities else {}),
        )


class _Pace:
    """Lets one request through every `gap_s`."""

    def __init__(self, gap_s: float) -> None:
        self.gap_s, self.next_s = gap_s, 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        mine, self.next_s = max(now, self.next_s), max(now, self.next_s) + self.gap_s
        await asyncio.sleep(mine - now)


def _read(answer: object) -> Caption:
    """The sentence of an answer.

    Raises:
        ValueError: it has none.
    """
    choices = getattr(answer, "choices", None)
    if not choices:
        raise ValueError("no choices")
    text = getattr(choices[0].message, "content", None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no text")
    told = getattr(getattr(choices[0], "logprobs", None), "content", None) or []
    logs = [word.logprob for word in told if isinstance(word.logprob, (int, float))]
    logs = [log for log in logs if math.isfinite(log) and log <= 0]
    score = math.exp(sum(logs) / len(logs)) if logs else None
    return Caption(sentence(text), score)


def _retry_after_s(told: str | None, attempt: int) -> float:
    """The pause that the server asks for, up to a minute; else half a second, doubled each time."""
    try:
        return min(60.0, float(told)) if told else min(30.0, 0.5 * 2**attempt)
    except ValueError:
        return min(30.0, 0.5 * 2**attempt)
