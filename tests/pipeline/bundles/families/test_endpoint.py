"""The endpoint captioner against a real HTTP server that speaks the protocol, and misspeaks it."""

from __future__ import annotations

import asyncio
import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.bundles.families import load_part
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.records import MediaError

N_CLIPS = 12


def captioner(endpoint, tmp_path, **options):
    options = {"base_url": endpoint.url, "model": "tiny", "timeout_s": 1.0, "max_retries": 2} | options
    part = PartSpec(kind="endpoint", options=options, licence="none", source="a test")
    return load_part(part, tmp_path)


def clips():
    """Clip i is of one grey level, 20·i."""
    return [np.full((5, 32, 48, 3), 20 * i, np.uint8) for i in range(N_CLIPS)]


def texts(captions):
    return [caption.text for caption in captions]


OWN = [f"Grey {i}." for i in range(N_CLIPS)]


def test_every_caption_is_on_its_own_clip_whatever_order_answers_come_in(endpoint, tmp_path):
    endpoint.delays_s = {i: 0.5 - 0.04 * i for i in range(N_CLIPS)}
    found = captioner(endpoint, tmp_path, concurrency=6).caption(clips())
    assert texts(found) == OWN
    assert endpoint.most_at_once == 6
    assert found[0].score == pytest.approx(np.exp(-0.1))


def test_what_passes_is_asked_again_and_the_pause_is_the_servers(endpoint, tmp_path):
    endpoint.faults = {
        1: [(429, {"Retry-After": "1"})],
        2: [(500, {}), (503, {})],
        3: ["close"],
        4: [b'{"choices": []}'],
        5: [b"{not json"],
        6: ["html"],
    }
    found = captioner(endpoint, tmp_path).caption(clips())
    assert texts(found) == OWN
    first, again = [at for grey, at, _, _ in endpoint.requests if grey == 1]
    assert again - first >= 1.0


def test_a_caption_that_fails_is_a_null_with_its_reason_and_nobody_elses(endpoint, tmp_path):
    endpoint.faults = {
        2: [(500, {})] * 9,
        3: [(404, {})],
        4: [b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}'] * 9,
        5: ["html"] * 9,
        6: ["close"] * 9,
    }
    endpoint.delays_s = {7: 3.0}
    found = captioner(endpoint, tmp_path, concurrency=12).caption(clips())
    lost = {
        2: "HTTP 500",
        3: "HTTP 404",
        4: "no text",
        5: "malformed answer",
        6: "Connection",
        7: "no answer in 1 s",
    }
    for i, caption in enumerate(found):
        if i in lost:
            assert caption.text is None
            assert lost[i] in caption.problem, caption.problem
        else:
            assert caption.text == OWN[i]
            assert caption.problem is None
    assert sum(grey == 3 for grey, *_ in endpoint.requests) == 1  # a refusal is not asked again


def test_requests_keep_the_pace_that_is_allowed(endpoint, tmp_path):
    captioner(endpoint, tmp_path, requests_per_minute=600).caption(clips()[:6])
    times = sorted(at for _, at, _, _ in endpoint.requests)
    assert times[-1] - times[0] >= 0.35  # six requests, a tenth of a second apart


def test_a_request_holds_a_clips_pictures_in_order_and_the_key_of_the_environment(
    endpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("REELTABLE_VLM_KEY", "secret")
    clip = np.stack([np.full((600, 900, 3), 60 * i, np.uint8) for i in range(4)])
    captioner(endpoint, tmp_path, frames=4, side_px=300).caption([clip])
    ((_, _, body, token),) = endpoint.requests
    assert token == "Bearer secret"
    assert body["model"] == "tiny"
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
        for part in body["messages"][0]["content"][1:]
    ]
    assert [round(float(np.asarray(p).mean())) for p in pictures] == [0, 60, 120, 180]
    assert {p.size for p in pictures} == {(450, 300)}


def test_an_endpoint_needs_an_address(tmp_path):
    part = PartSpec(kind="endpoint", options={"base_url": "file:///x"}, licence="none", source="a test")
    with pytest.raises(BundleError, match=r"expected captions\.url=http://host:port/v1"):
        load_part(part, tmp_path)


def test_an_endpoint_that_is_away_fails_the_units_and_is_not_waited_for_again(endpoint, tmp_path):
    """A whole lake of nulls would look done; a failure is taken again by --retry-failures."""
    endpoint.close()
    away = captioner(endpoint, tmp_path, max_retries=1)
    with pytest.raises(
        MediaError, match=r"no clip of 12 was captioned by http://127\.0\.0\.1.*Connection"
    ):
        away.caption(clips())
    started = time.monotonic()
    with pytest.raises(MediaError):
        away.caption(clips())
    assert time.monotonic() - started < 2.0


def test_a_server_that_refuses_to_tell_probabilities_is_asked_without(endpoint, tmp_path):
    endpoint.refuses_probabilities = True
    found = captioner(endpoint, tmp_path, max_retries=0, timeout_s=30.0).caption(clips())
    assert texts(found) == OWN
    assert "logprobs" in endpoint.requests[0][2]
    assert "logprobs" not in endpoint.requests[-1][2]


def test_an_answer_that_drips_is_given_up_in_time(endpoint, tmp_path):
    endpoint.drips_s = 6.0
    started = time.monotonic()
    with pytest.raises(MediaError, match="no answer in 1 s"):
        captioner(endpoint, tmp_path, max_retries=0).caption(clips()[:2])
    assert time.monotonic() - started < 4.0


def test_scores_that_are_none_are_left_out(endpoint, tmp_path):
    said = '"message":{"role":"assistant","content":"Hm."}'
    logs = '"logprobs":{"content":[{"token":"a","logprob":%s}]}'
    whole = (
        '{"id":"x","object":"c","created":1,"model":"m","choices":[{"index":0,'
        + said
        + ","
        + logs
        + "}]}"
    )
    endpoint.faults = {0: [(whole % "1e9").encode()], 1: [(whole % "NaN").encode()]}
    found = captioner(endpoint, tmp_path).caption(clips()[:3])
    assert texts(found) == ["Hm.", "Hm.", OWN[2]]
    assert [caption.score for caption in found[:2]] == [None, None]


def test_captions_are_written_inside_a_notebooks_event_loop_too(endpoint, tmp_path):
    asked = captioner(endpoint, tmp_path)

    async def cell():
        return asked.caption(clips()[:2])

    assert texts(asyncio.run(cell())) == OWN[:2]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"concurrency": 0}, "concurrency is 0; expected a number of type int, 1 or more"),
        ({"timeout_s": "soon"}, "timeout_s is 'soon'; expected a number of type float"),
        ({"speed": 1}, "unknown option 'speed'; it has: base_url"),
    ],
)
def test_options_are_checked(endpoint, tmp_path, option, said):
    with pytest.raises(BundleError, match=said):
        captioner(endpoint, tmp_path, **option)
