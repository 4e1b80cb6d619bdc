"""Bringing a bundle's weights: downloads that resume, sums that are checked, mirrors and local folders."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from pipeline.bundles.spec import SUMS, BundleError, BundleSpec, WeightFile, read_sums, recorded_sum
from pipeline.bundles.weights import sha256_of

HUB = "https://huggingface.co"
_HUB_URL = re.compile(r"hf://(?P<repo>[^@]+)@(?P<revision>[^/]+)/(?P<file>.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 5
_TIMEOUT_S = 60.0
_BLOCK = 1 << 20
_PART = ".part"  # what has come of a file so far
OnProgress = Callable[[str, int, int | None], None]  # file, bytes here, bytes in all where known


@dataclass(frozen=True)
class Fetched:
    """A file of the bundle after fetching."""

    file: str
    state: str  # there, copied, downloaded, package
    sha256: str
    size_bytes: int


def fetch(
    spec: BundleSpec,
    *,
    source: Path | None = None,
    mirror: str | None = None,
    on_progress: OnProgress | None = None,
) -> list[Fetched]:
    """Bring every file of a bundle to its place; what is there and right stays.

    Args:
        source: a folder to copy from instead of the network, laid out as the bundle or flat.
        mirror: asked instead of each publisher, as mirror/host/path; hub files go by HF_ENDPOINT.

    Raises:
        BundleError: a file cannot be had, or is not what the bundle names.
    """
    told = on_progress or (lambda _file, _here, _total: None)
    read_sums(spec.directory)
    try:
        with _locked(spec):
            return [_fetch_one(spec, file, source, mirror, told) for file in spec.weight_files()]
    except (OSError, requests.RequestException) as e:
        raise BundleError(f"{spec.name}: not fetched: {type(e).__name__}: {e}") from e


@contextmanager
def _locked(spec: BundleSpec) -> Iterator[None]:
    """Two that fetch one bundle do so one after the other: they would write the same files."""
    if all(file.package for file in spec.weight_files()):
        yield
        return
    spec.directory.mkdir(parents=True, exist_ok=True)
    with (spec.directory / ".fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_one(
    spec: BundleSpec, file: WeightFile, source: Path | None, mirror: str | None, on_progress: OnProgress
) -> Fetched:
    if file.package is not None:
        path = file.path(spec.directory)
        return Fetched(file.file, "package", _settled(spec, file, path, None), path.stat().st_size)
    target = spec.directory / file.file
    if target.is_file():
        return Fetched(file.file, "there", _settled(spec, file, target, None), target.stat().st_size)
    if not target.resolve().is_relative_to(spec.directory.resolve()):
        raise BundleError(f"{target}: no such weight file, and it lies outside the bundle's directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART)
    if source is not None:
        shutil.copyfile(_found_in(source, file, spec), part)
        told, state = None, "copied"
    elif file.url is not None:
        told, state = _download(file, resolve_url(file.url, mirror), part, on_progress), "downloaded"
    else:
        raise BundleError(f"{target}: no such weight file, and bundle {spec.name} says no URL for it")
    try:
        found = _settled(spec, file, part, told)
    except BundleError:
        part.unlink()  # it is whole and wrong: no resuming will make it right
        raise
    part.replace(target)
    return Fetched(file.file, state, found, target.stat().st_size)


def _settled(spec: BundleSpec, file: WeightFile, path: Path, told: str | None) -> str:
    """The file's sum, being the one that is expected; recorded where the bundle names none."""
    found = sha256_of(path)
    for expected, by in (
        (file.sha256, "the bundle"),
        (told, "the server"),
        (None if file.sha256 else recorded_sum(file, spec.directory), SUMS),
    ):
        if expected is not None and not found.startswith(expected):
            raise BundleError(f"{path}: sha256 is {found}, expected {expected} by {by}")
    if file.sha256 is None:
        _record(spec.directory, file.file, found)
    return found


def _record(directory: Path, name: str, sha256: str) -> None:
    path = directory / SUMS
    sums = read_sums(directory)
    if sums.get(name) != sha256:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{SUMS}.{os.getpid()}")
        temporary.write_text(json.dumps(sums | {name: sha256}, indent=1), encoding="utf-8")
        temporary.replace(path)


def _found_in(source: Path, file: WeightFile, spec: BundleSpec) -> Path:
    name = Path(file.file).name
    is_alone = [Path(other.file).name for other in spec.weight_files()].count(name) == 1
    for candidate in (source / file.file, *([source / name] if is_alone else [])):
        if candidate.is_file():
            return candidate
    missing = f"neither {file.file} nor {name} is there" if is_alone else f"{file.file} is not there"
    raise BundleError(f"{source}: {missing}")


def resolve_url(url: str, mirror: str | None = None) -> str:
    """Where a published file is asked for: the hub at HF_ENDPOINT, others at `mirror` where there is one.

    Raises:
        BundleError: neither https nor http nor a hub's file.
    """
    hub = _HUB_URL.fullmatch(url)
    if hub:
        endpoint = _hub()
        url = f"{endpoint}/{hub['repo']}/resolve/{hub['revision']}/{hub['file']}"
        if endpoint != HUB:
            return url
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise BundleError(f"{url}: expected https://… or hf://owner/name@revision/file")
    mirror = mirror or os.environ.get("REELTABLE_MIRROR")
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}" if mirror else url


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _download(file: WeightFile, url: str, part: Path, on_progress: OnProgress) -> str | None:
    """Bring `part` until it is whole; the sum that the server tells, if it does.

    Raises:
        BundleError: the server refuses, or stays away.
    """
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(min(10.0, 0.5 * 2**attempt))
        try:
            told, problem = _download_once(file, url, part, on_progress)
        except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as e:
            problem = f"{type(e).__name__}: {e}"
            break
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as e:
            problem = f"{type(e).__name__}"
            continue
        except requests.HTTPError as e:
            code = e.response.status_code if e.response is not None else 0
            problem = f"HTTP {code}"
            if code in (408, 425, 429) or code >= 500:
                continue
            break
        if not problem:
            _tag_of(part).unlink(missing_ok=True)
            return told
    here = part.stat().st_size if part.is_file() else 0
    kept = f"{here} bytes of {file.file} are kept and the next fetch goes on from them"
    raise BundleError(f"{url}: {problem}; {kept}")


def _tag_of(part: Path) -> Path:
    """Where the version of a file is kept of which `part` is the beginning."""
    return part.with_name(part.name + ".tag")


def _download_once(
    file: WeightFile, url: str, part: Path, on_progress: OnProgress
) -> tuple[str | None, str]:
    """One request; the sum that the server tells, and why the file is not whole yet ("" where it is).

    What came before is gone on from only where the server says that it is of the same version.
    """
    tag = _tag_of(part).read_text(encoding="utf-8") if _tag_of(part).is_file() else ""
    here = part.stat().st_size if part.is_file() and tag else 0
    headers = {"Accept-Encoding": "identity"}
    if here:
        headers |= {"Range": f"bytes={here}-", "If-Range": tag}
    if _may_have_token(file, url):
        headers["Authorization"] = f"Bearer {os.environ['HF_TOKEN']}"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
        told = _told_sum(answer)
        if answer.status_code == 416:
            part.unlink(missing_ok=True)
            return told, "what had come is longer than the file"
        answer.raise_for_status()
        if answer.status_code != 206:
            here = 0
        length = answer.headers.get("Content-Length")
        if length is None and not (file.sha256 or told):
            return (
                told,
                "the server tells neither length nor sum, so nobody could say whether it is whole",
            )
        _tag_of(part).write_text(answer.headers.get("ETag", ""), encoding="utf-8")
        total = here + int(length) if length else None
        with part.open("ab" if here else "wb") as out:
            for block in answer.iter_content(_BLOCK):
                out.write(block)
                here += len(block)
                on_progress(file.file, here, total)
    missing = total - here if total is not None else 0
    return told, f"the connection ended {missing} bytes early" if missing else ""


def _may_have_token(file: WeightFile, url: str) -> bool:
    """The hub's token goes to the hub, encrypted, and to nobody else; on this machine it need not be."""
    parts = urlsplit(url)
    is_hubs = (file.url or "").startswith("hf://") and parts.netloc == urlsplit(_hub()).netloc
    is_safe = parts.scheme == "https" or parts.hostname in ("127.0.0.1", "localhost")
    return bool(os.environ.get("HF_TOKEN")) and is_hubs and is_safe


def _told_sum(answer: requests.Response) -> str | None:
    """The sha256 that a hub tells of a large file, in the headers of its first answer."""
    for response in (*answer.history, answer):
        etag = (response.headers.get("X-Linked-Etag") or "").strip('W/"')
        if _SHA256.fullmatch(etag):
            return etag
    return None
