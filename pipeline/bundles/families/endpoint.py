"""Captions by a vision-language model behind any endpoint that speaks OpenAI's chat protocol.

vLLM, llama.cpp's server, Ray Serve LLM and hosted ones. Requests run side by side; each carries the pictures of
one clip and its answer goes to that clip whatever order they come back in. What fails stays a null with its
reason.
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.families.base import Caption, Sampling, frame_places
from pipeline.bundles.spec import BundleError, PartSpec

_PROMPT = "These pictures are from one short video clip, in order. Say in one sentence what happens."
_MOST_CHARACTERS = 1_000
_JPEG_QUALITY = 85


class EndpointCaptioner:
    """Asks the model at `options.base_url`; the key comes from the environment and is never stored."""

    OPTIONS = (
        "base_url", "model", "prompt", "key_variable", "timeout_s", "max_retries", "concurrency",
        "requests_per_minute", "max_tokens", "frames", "side_px",
    )  # fmt: skip

    def __init__(self, part: PartSpec, directory: Path) -> None:  # noqa: ARG002 (all families are made alike)
        import openai

        self.openai = openai
        options = part.options
        self.base_url = os.environ.get("REELTABLE_VLM_URL") or str(options.get("base_url", ""))
        if not self.base_url.startswith(("http://", "https://")):
            raise BundleError(
                f"captions.options.base_url {self.base_url!r}: expected http://host:port/v1, there or in "
                "REELTABLE_VLM_URL"
            )
        self.model = os.environ.get("REELTABLE_VLM_MODEL") or str(options.get("model", ""))
        self.prompt = str(options.get("prompt", _PROMPT))
        self.key = os.environ.get(str(options.get("key_variable", "OPENAI_API_KEY"))) or "none"
        self.timeout_s = float(options.get("timeout_s", 60.0))
        self.most_retries = int(options.get("max_retries", 4))
        self.most_at_once = int(options.get("concurrency", 8))
        self.most_tokens = int(options.get("max_tokens", 80))
        self.gap_s = 60.0 / rate if (rate := float(options.get("requests_per_minute", 0))) else 0.0
        self.sampling = Sampling(int(options.get("frames", 4)), 0.0, int(options.get("side_px", 336)))

    def to(self, device: torch.device) -> EndpointCaptioner:  # noqa: ARG002
        return self

    def caption(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        """A sentence on each clip, uint8 (T, H, W, 3), in the order of the clips."""
        return asyncio.run(self._ask_all(clips))

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
        content, problem = self._content(clip), ""
        for attempt in range(self.most_retries + 1):
            await pace.wait()
            try:
                return _read(await self._request(client, content))
            except self.openai.APIStatusError as e:
                problem = f"HTTP {e.status_code}"
                if e.status_code not in (408, 409, 425, 429) and e.status_code < 500:
                    break
                pause_s = _retry_after_s(e.response.headers.get("retry-after"), attempt)
            except self.openai.APITimeoutError:
                problem, pause_s = f"no answer in {self.timeout_s:g} s", 0.0
            except self.openai.OpenAIError as e:
                problem, pause_s = type(e).__name__, _retry_after_s(None, attempt)
            except (ValueError, TypeError, AttributeError, LookupError) as e:
                problem, pause_s = f"malformed answer: {e}", _retry_after_s(None, attempt)
            if attempt < self.most_retries:
                await asyncio.sleep(pause_s)
        return Caption(None, None, f"endpoint: {problem}")

    def _content(self, clip: npt.NDArray[np.uint8]) -> list[dict[str, object]]:
        """The prompt and the clip's pictures, in order."""
        places = frame_places(self.sampling, len(clip), 1.0, 1)[0].tolist()
        pictures = [_jpeg(clip[at], self.sampling.side_px) for at in dict.fromkeys(places)]
        content: list[dict[str, object]] = [{"type": "text", "text": self.prompt}]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        return content

    async def _request(self, client: object, content: list[dict[str, object]]) -> object:
        return await client.chat.completions.create(  # type: ignore[attr-defined]
            model=self.model,
            messages=[{"role": "user", "content": content}],
            max_tokens=self.most_tokens,
            temperature=0.0,
            logprobs=True,
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
    logs = [word.logprob for word in told]
    score = math.exp(sum(logs) / len(logs)) if logs else None
    return Caption(" ".join(text.split())[:_MOST_CHARACTERS], score)


def _retry_after_s(told: str | None, attempt: int) -> float:
    """The pause that the server asks for, up to a minute; else half a second, doubled each time."""
    try:
        return min(60.0, float(told)) if told else min(30.0, 0.5 * 2**attempt)
    except ValueError:
        return min(30.0, 0.5 * 2**attempt)


def _jpeg(picture: npt.NDArray[np.uint8], side_px: int) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    scale = side_px / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
