"""Frame readers: the picture on screen at given instants, scaled, upright, with its PTS.

Two libraries read frames behind one protocol. PyAV is given only the packets that the wanted frames
need, which made it the faster in every codec measured, so it reads by default; `clips.reader: decord`
takes decord for the local files whose frames it counts and places exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt
from av.codec.hwaccel import HWAccel
from av.video.reformatter import VideoReformatter

from pipeline.config import ClipConfig
from pipeline.media.clock import on_screen, pts_to_time, time_to_pts
from pipeline.media.gop import (
    DecodePlan,
    Packets,
    choose_frames,
    is_disposable,
    length_size,
    plan_decode,
)
from pipeline.media.probe import decode_tolerantly, is_remote, open_media, packets_from, stream_at
from pipeline.records import MediaError, MediaInfo, VideoStream

_PLANAR_8BIT = frozenset(["yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "nv12"])
MOTION_FPS, MOTION_SHORT_SIDE_PX = 25, 96
_GREY_TOLERANCE_S = Fraction(1, 24)  # by which a small grey picture may lie from its instant
_MAX_ASPECT = 4  # wider pictures are squeezed to this, so that one file cannot ask for any memory
# decord reads the whole file's index at every opening: worth it only where the unit is most of it.
_DECORD_CONTAINERS = ("mov", "matroska")  # in others it seeks to wrong frames, MPEG-TS measured
_DECORD_MAX_FRAMES = 20_000
_DECORD_AT_ONCE = 32


@dataclass(frozen=True)
class PacketIndex:
    """The pictures around a span, from packets, nothing decoded."""

    pts: tuple[int, ...]  # ascending, distinct, from the one on screen at the span's start on
    end_pts: int  # where the last one leaves the screen
    is_whole_file: bool
    packets: Packets  # in decode order, from the keyframe before the span on
    is_torn: bool = False  # the container could not be read to the span's end
    is_to_end: bool = False  # there are no pictures behind the span

    def next_key(self, pts: int) -> int:
        """The PTS of the keyframe after `pts`, or where the pictures end: so far damage at `pts` reaches."""
        keys = self.packets.pts[self.packets.is_key]
        later = keys[keys > pts]
        return int(later.min()) if len(later) else max(pts, self.end_pts)

    @property
    def is_vfr(self) -> bool | None:
        """Whether frames are unevenly spaced by more than a tick's rounding and a tenth."""
        if len(self.pts) < 3:
            return None
        steps = np.diff(np.asarray(self.pts))
        usual = float(np.median(steps))
        return bool((np.abs(steps - usual) > 1 + 0.1 * usual).any())


Grey = npt.NDArray[np.uint8]  # (h, w)


@dataclass(frozen=True)
class GreyAsked:
    """Which frames are wanted small and grey as well."""

    pts: Sequence[int]  # of the frame for each instant, ascending
    width: int
    height: int


@dataclass(frozen=True)
class Frames:
    """Pictures for instants, in the instants' order."""

    rgb: npt.NDArray[np.uint8]  # (n, H, W, 3)
    pts: npt.NDArray[np.int64]  # (n,) of each picture
    damage: tuple[tuple[int, int], ...] = ()  # PTS from which to which pictures may be wrong or missing
    grey: Mapping[int, Grey] = field(default_factory=dict)  # PTS → picture, of those that came out
    grey_pts: Sequence[int] = ()  # which was to be shown at each grey instant


@dataclass(frozen=True)
class Motion:
    """Small grey pictures at an even rate: what moves, not what it is."""

    grey: npt.NDArray[np.uint8]  # (T, H, W)
    times_s: npt.NDArray[np.float64]  # (T,) of the picture used, on the media clock


class FrameReader(Protocol):
    """Reads pictures by their PTS."""

    def read(
        self, chosen: Sequence[int], width: int, height: int, grey: GreyAsked | None = None
    ) -> Frames:
        """The pictures of PTS `chosen`, scaled to `width` × `height` as shown, after rotation; in the same pass
        those of `grey` that come out.

        Raises:
            ReaderError: this reader cannot place this file's frames exactly, or not all of `chosen`.
        """
        ...


class ReaderError(Exception):
    """The reader leaves this file to another."""


def index_packets(uri: str, info: MediaInfo, start_s: Fraction, end_s: Fraction) -> PacketIndex:
    """Picture times in [start, end) and the one before, by demultiplexing alone.

    `end_s` may lie beyond the file's end.
    """
    stream_info = _video(info)
    start = time_to_pts(start_s, stream_info.time_base, info.origin_s)
    end = time_to_pts(end_s, stream_info.time_base, info.origin_s)
    found: dict[int, tuple[bool, bool]] = {}  # PTS → is a keyframe, is disposable
    last_duration, reached_eof, is_torn = 0, True, False
    with open_media(uri) as container:
        stream = stream_at(uri, container, stream_info.index)
        codec = stream_info.codec
        unit_size = length_size(codec, stream.codec_context.extradata)
        try:
            for packet in packets_from(container, stream, None if start_s <= 0 else start):
                if packet.dts is not None and packet.dts >= end:
                    reached_eof = False
                    break
                if packet.pts is None or packet.is_discard or packet.size == 0:
                    continue
                is_free = is_disposable(codec, memoryview(packet), unit_size)
                found.setdefault(packet.pts, (packet.is_keyframe, is_free))
                last_duration = packet.duration or last_duration
        except av.FFmpegError:
            is_torn = True  # what came before it counts
    times = sorted(found)
    pts = [t for t in times if t < end]
    if pts and pts[0] < start:
        pts = pts[on_screen(pts, start) :]
    step = int(np.median(np.diff(pts))) if len(pts) > 1 else last_duration
    ends = pts[-1] + (last_duration or step) if pts else start
    if pts and not reached_eof:
        ends = end  # the last picture stays until the one behind the span, however long that is
    whole = start_s <= 0 and reached_eof and len(pts) == len(times)
    flags = np.array(list(found.values()), dtype=bool).reshape(-1, 2)
    packets = Packets(np.fromiter(found, np.int64, len(found)), flags[:, 0], flags[:, 1])
    return PacketIndex(tuple(pts), ends, whole, packets, is_torn, reached_eof)


def scaled_size(stream: VideoStream, short_side_px: int) -> tuple[int, int]:
    """Width and height as shown when the short side is `short_side_px`; even, as scalers like it."""
    short, long = sorted((stream.width, stream.height))
    long_px = 2 * round(short_side_px * min(_MAX_ASPECT, long / short) / 2)
    return (long_px, short_side_px) if stream.width >= stream.height else (short_side_px, long_px)


def read_frames(
    uri: str,
    info: MediaInfo,
    index: PacketIndex,
    instants: Sequence[int],
    clips: ClipConfig,
    cuts: Sequence[int] = (),
    grey_instants: Sequence[int] = (),
) -> Frames:
    """The pictures on screen at `instants` (ascending ticks), or within the config's tolerance and between
    the same `cuts`; and small grey ones near `grey_instants`, for which what is decoded anyway stands in."""
    stream = _video(info)
    width, height = scaled_size(stream, clips.short_side_px)
    if not index.pts or not instants:
        return Frames(np.zeros((0, height, width, 3), np.uint8), np.zeros(0, np.int64))
    tolerance = int(Fraction(str(clips.max_frame_error_ms)) / 1000 / stream.time_base)
    chosen = choose_frames(index.packets, index.pts, instants, tolerance, cuts)
    grey = _grey_asked(stream, index, chosen, clips, cuts, grey_instants)
    readers: list[FrameReader] = [PyAVReader(uri, info, index)]
    if clips.reader == "decord":
        readers.insert(0, DecordReader(uri, info, index))
    elif clips.reader == "nvdec":
        readers.insert(0, NvdecReader(uri, info, index))
    for reader in readers:
        with contextlib.suppress(ReaderError):
            return dataclasses.replace(reader.read(chosen, width, height, grey), grey_pts=grey.pts)
    found = read_what_decodes(uri, info, index, instants, width, height, grey)
    return dataclasses.replace(found, grey_pts=grey.pts)


def _grey_asked(
    stream: VideoStream,
    index: PacketIndex,
    chosen: Sequence[int],
    clips: ClipConfig,
    cuts: Sequence[int],
    instants: Sequence[int],
) -> GreyAsked:
    """The frames near `instants` that cost least beside those `chosen`; 4:3 whatever the video's shape."""
    height = clips.motion_height_px
    if not instants:
        return GreyAsked((), height * 4 // 3, height)
    tolerance = int(_GREY_TOLERANCE_S / stream.time_base)
    decoded = plan_decode(index.packets, chosen).send
    pts = choose_frames(index.packets, index.pts, instants, tolerance, cuts, decoded)
    return GreyAsked(pts, height * 4 // 3, height)


def read_motion(
    uri: str,
    info: MediaInfo,
    index: PacketIndex,
    start_s: Fraction,
    end_s: Fraction,
    *,
    rate_hz: int = MOTION_FPS,
    short_side_px: int = MOTION_SHORT_SIDE_PX,
) -> Motion:
    """The pictures nearest to instants spaced evenly over [start, end), none twice; damaged ones left out."""
    stream = _video(info)
    width, height = scaled_size(stream, short_side_px)
    scale = _Scaler(width, height, stream, is_grey=True)
    pts = np.asarray(index.pts)
    n_instants = int((end_s - start_s) * rate_hz)
    instants = [start_s + Fraction(k, rate_hz) for k in range(n_instants)]
    ticks = [time_to_pts(t, stream.time_base, info.origin_s) for t in instants]
    ticks = [t for t in ticks if len(pts) and pts[0] <= t < index.end_pts]
    chosen = sorted({int(pts[np.abs(pts - t).argmin()]) for t in ticks})
    (shown,), _ = _decode_chosen(uri, stream, index, [(chosen, scale)])
    found = [p for p in chosen if p in shown]
    grey = np.stack([shown[p] for p in found]) if found else np.zeros((0, height, width), np.uint8)
    times_s = [float(pts_to_time(p, stream.time_base, info.origin_s)) for p in found]
    return Motion(grey, np.array(times_s))


def read_every(uri: str, info: MediaInfo, index: PacketIndex, width: int, height: int) -> Frames:
    """Every picture of the index that decodes, upright and squeezed to `width` × `height`."""
    stream = _video(info)
    scale = _Scaler(width, height, stream)
    (shown,), damage = _decode_chosen(uri, stream, index, [(index.pts, scale)])
    found = sorted(shown)
    rgb = np.stack([shown[p] for p in found]) if found else np.zeros((0, height, width, 3), np.uint8)
    return Frames(rgb, np.array(found, np.int64), damage)


def _decode_chosen(
    uri: str,
    stream: VideoStream,
    index: PacketIndex,
    wanted: Sequence[tuple[Sequence[int], _Scaler]],
    hardware: HWAccel | None = None,
) -> tuple[list[dict[int, npt.NDArray[np.uint8]]], tuple[tuple[int, int], ...]]:
    """Those of the wanted frames that come out, by PTS and each way of scaling them, and what was damaged."""
    found: list[dict[int, npt.NDArray[np.uint8]]] = [{} for _ in wanted]
    asked = [(set(chosen), scale, mine) for (chosen, scale), mine in zip(wanted, found, strict=True)]
    missing = {pts for chosen, _ in wanted for pts in chosen}
    if not missing:
        return found, ()
    with open_media(uri, hardware) as container:
        source = stream_at(uri, container, stream.index)
        decoder = _Decoder(container, source, index, plan_decode(index.packets, sorted(missing)))
        for frame in decoder:
            pts = _frame_pts(frame)
            for chosen, scale, mine in asked:
                if pts in chosen:
                    mine[pts] = scale(frame)
            missing.discard(pts)
            if not missing:
                break
    return found, tuple(decoder.damage)


class DecordReader:
    """decord, where its frames are the index's frames."""

    def __init__(self, uri: str, info: MediaInfo, index: PacketIndex) -> None:
        self.uri, self.info, self.index = uri, info, index

    def read(
        self, chosen: Sequence[int], width: int, height: int, grey: GreyAsked | None = None
    ) -> Frames:
        stream = _video(self.info)
        self._check_file(stream)
        decord = _import_decord()
        decord.logging.set_level(decord.logging.QUIET)  # what it cannot read, PyAV reports
        try:
            path = self.uri.removeprefix("file://")
            reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
            self._check_times(reader, stream)
            distinct = sorted({bisect_left(self.index.pts, pts) for pts in chosen})
            pictures = reader.get_batch(distinct).asnumpy()
            small = self._grey(reader, grey) if grey is not None else {}
        except (decord.DECORDError, RuntimeError, IndexError, ValueError) as e:
            raise ReaderError(str(e)) from e
        where = {self.index.pts[frame]: i for i, frame in enumerate(distinct)}
        rgb = pictures[[where[pts] for pts in chosen]]
        return Frames(rgb, np.array(chosen, dtype=np.int64), grey=small)

    def _grey(self, reader: Any, grey: GreyAsked) -> dict[int, Grey]:
        """Of decord's one size; some at once, as only the small ones are kept."""
        scale = _Scaler(grey.width, grey.height, _video(self.info), is_grey=True)
        distinct, found = sorted(set(grey.pts)), {}
        for i in range(0, len(distinct), _DECORD_AT_ONCE):
            part = distinct[i : i + _DECORD_AT_ONCE]
            pictures = reader.get_batch([bisect_left(self.index.pts, pts) for pts in part]).asnumpy()
            for pts, picture in zip(part, pictures, strict=True):
                found[pts] = scale(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        return found

    def _check_file(self, stream: VideoStream) -> None:
        shown, coded = (stream.width, stream.height), (stream.coded_width, stream.coded_height)
        if is_remote(self.uri) or not self.index.is_whole_file:
            raise ReaderError("decord reads the whole of local files")
        if not self.info.container.startswith(_DECORD_CONTAINERS):
            raise ReaderError(f"decord may seek to wrong frames in {self.info.container}")
        if stream.rotation_deg or stream.is_mirrored or shown != coded:
            raise ReaderError("turned, mirrored or anamorphic pictures")

    def _check_times(self, reader: Any, stream: VideoStream) -> None:
        """Raise unless decord counts the same frames at the same times, to half a millisecond."""
        if len(reader) != len(self.index.pts):
            raise ReaderError(f"decord counts {len(reader)} frames of {len(self.index.pts)}")
        theirs = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        pts = np.asarray(self.index.pts)
        ours = (pts - pts[0]) * float(stream.time_base)
        if np.abs(theirs - ours).max() > max(5e-4, 1e-6 * float(ours[-1])):
            raise ReaderError("decord places frames elsewhere than their PTS")


def _import_decord() -> Any:
    """decord, behind torch: loaded first, it breaks torch's linear algebra (it brings NVBLAS along)."""
    importlib.import_module("torch")
    return importlib.import_module("decord")


class PyAVReader:
    """PyAV, given only the packets that the chosen frames need."""

    def __init__(self, uri: str, info: MediaInfo, index: PacketIndex) -> None:
        self.uri, self.info, self.index = uri, info, index

    def read(
        self, chosen: Sequence[int], width: int, height: int, grey: GreyAsked | None = None
    ) -> Frames:
        stream = _video(self.info)
        wanted = [(chosen, _Scaler(width, height, stream))]
        if grey is not None:
            wanted.append((grey.pts, _Scaler(grey.width, grey.height, stream, is_grey=True)))
        found, damage = _decode_chosen(self.uri, stream, self.index, wanted, self._hardware())
        pictures = found[0]
        n_missing = len(set(chosen)) - len(pictures)
        if n_missing:
            raise ReaderError(f"{n_missing} frames did not come out")
        rgb = np.stack([pictures[pts] for pts in chosen])
        small = found[1] if grey is not None else {}
        return Frames(rgb, np.array(chosen, dtype=np.int64), damage, small)

    def _hardware(self) -> HWAccel | None:
        return None


class NvdecReader(PyAVReader):
    """PyAV with the video decoder of an NVIDIA GPU: the same packets, clock and pictures.

    A stream that the GPU does not decode goes through the CPU; where there is no GPU at all it refuses.
    """

    def read(
        self, chosen: Sequence[int], width: int, height: int, grey: GreyAsked | None = None
    ) -> Frames:
        try:
            return super().read(chosen, width, height, grey)
        except MediaError as e:  # FFmpeg cannot make the device; the file itself was opened before
            raise ReaderError(f"no NVDEC here: {e}") from e

    def _hardware(self) -> HWAccel | None:
        return HWAccel("cuda")


def read_what_decodes(
    uri: str,
    info: MediaInfo,
    index: PacketIndex,
    instants: Sequence[int],
    width: int,
    height: int,
    grey: GreyAsked,
) -> Frames:
    """Of a damaged file, the frame that is on screen at each instant among those that decode."""
    stream = _video(info)
    scale = _Scaler(width, height, stream)
    shrink = _Scaler(grey.width, grey.height, stream, is_grey=True)
    small: dict[int, Grey] = {}
    pictures: list[npt.NDArray[np.uint8]] = []
    pts: list[int] = []
    with open_media(uri) as container:
        start = instants[0] if instants[0] > stream.start_pts else None
        decoder = _Decoder(container, stream_at(uri, container, stream.index), index, None, start)
        frames = _tapped(decoder, set(grey.pts), shrink, small)
        for shown, count in _shown_at(frames, instants):
            pictures += [scale(shown)] * count
            pts += [_frame_pts(shown)] * count
        for frame in frames:  # small ones may be wanted from behind the last of the others
            if not grey.pts or _frame_pts(frame) >= grey.pts[-1]:
                break
    rgb = np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)
    missing = [t for t in index.pts if t <= instants[-1] and t not in decoder.seen]
    damage = [(t, index.next_key(t)) for t in missing]
    return Frames(rgb, np.array(pts, dtype=np.int64), (*decoder.damage, *damage), small)


class _Decoder:
    """Frames in order of presentation, of the packets that a plan names or of all; damage noted."""

    def __init__(
        self,
        container: Any,
        stream: Any,
        index: PacketIndex,
        plan: DecodePlan | None,
        start: int | None = None,
    ) -> None:
        self.container, self.stream, self.index, self.plan = container, stream, index, plan
        self.damage: list[tuple[int, int]] = []
        self.seen: set[int] = set()
        self.last = start if start is not None else stream.start_time or 0
        if plan is not None and plan.send:
            first = next(int(pts) for pts in index.packets.pts if int(pts) in plan.send)
            start = first if first > (stream.start_time or 0) else None
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        left = set(self.plan.send) if self.plan is not None else None
        try:
            for packet in packets_from(self.container, self.stream, self.start):
                if self.plan is not None and packet.size:
                    if packet.pts not in self.plan.send:
                        continue
                    if packet.pts in self.plan.restart:
                        yield from self._drain()
                yield from self._frames(packet)
                if left is not None:
                    left.discard(packet.pts)
                    if not left:
                        yield from self._drain()
                        return
        except av.FFmpegError:
            self._is_damaged(self.last)

    def _frames(self, packet: Any) -> Iterator[Any]:
        frames = decode_tolerantly(packet)
        if frames is None:
            self._is_damaged(packet.pts if packet.pts is not None else self.last)
        yield from self._whole(frames or ())

    def _drain(self) -> Iterator[Any]:
        """What the decoder still holds; afterwards it begins anew, as after a seek."""
        context = self.stream.codec_context
        try:
            frames = context.decode(None)
        except av.FFmpegError:
            frames = []
        context.flush_buffers()
        yield from self._whole(frames)

    def _whole(self, frames: Sequence[Any]) -> Iterator[Any]:
        for frame in frames:
            if not _has_pts(frame):
                continue
            self.last = _frame_pts(frame)
            if frame.is_corrupt:
                self._is_damaged(self.last)
                continue
            self.seen.add(self.last)
            yield frame

    def _is_damaged(self, pts: int) -> None:
        """Pictures refer to those before them: damage lasts until the next keyframe."""
        self.damage.append((pts, self.index.next_key(pts)))


def _tapped(frames: Any, wanted: set[int], scale: _Scaler, kept: dict[int, Grey]) -> Iterator[Any]:
    """`frames`, of which those `wanted` are kept on the way, scaled."""
    for frame in frames:
        if _frame_pts(frame) in wanted:
            kept[_frame_pts(frame)] = scale(frame)
        yield frame


def _shown_at(frames: Any, instants: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """Each frame that is on screen at some instants, with how many of them, in order."""
    done, shown = 0, None
    for frame in frames:
        if shown is not None:
            count = bisect_left(instants, _frame_pts(frame), lo=done) - done
            if count:
                yield shown, count
                done += count
        if done == len(instants):
            return
        shown = frame
    if shown is not None and done < len(instants):
        yield shown, len(instants) - done


class _Scaler:
    """Frames → upright pictures of one size, RGB or grey.

    Bicubic, as the pictures that encoders learned from were scaled. 8-bit planar YUV is scaled as it is
    and becomes RGB when it is small: a quarter of the cost of doing both at once, measured on 720p.
    Everything else (10-bit, RGB, palettes) goes in one step.
    """

    def __init__(self, width: int, height: int, stream: VideoStream, *, is_grey: bool = False) -> None:
        self.is_grey = is_grey
        self.rotation_deg, self.is_mirrored = stream.rotation_deg, stream.is_mirrored
        self.size = (height, width) if self.rotation_deg in (90, 270) else (width, height)
        self.shrink, self.colour, self.field = VideoReformatter(), VideoReformatter(), _FirstField()

    def __call__(self, frame: Any) -> npt.NDArray[np.uint8]:
        width, height = self.size
        if frame.interlaced_frame:
            frame = self.field(frame)
        if self.is_grey:
            rgb = self.shrink.reformat(
                frame, width=width, height=height, format="gray", interpolation="AREA"
            )
        elif frame.format.name in _PLANAR_8BIT:
            small = self.shrink.reformat(
                frame, width=width, height=height, format=frame.format.name, interpolation="BICUBIC"
            )
            colours = {"src_colorspace": frame.colorspace, "src_color_range": frame.color_range}
            rgb = self.colour.reformat(small, format="rgb24", **colours)
        else:
            rgb = self.shrink.reformat(
                frame, width=width, height=height, format="rgb24", interpolation="BICUBIC"
            )
        picture = rgb.to_ndarray()
        if self.is_mirrored:
            picture = picture[:, ::-1]
        return np.rot90(picture, -self.rotation_deg // 90)


class _FirstField:
    """Every other line of an interlaced frame: the two halves were taken at different instants, and
    woven together they comb whatever moves."""

    def __init__(self) -> None:
        self.graph: Any = None
        self.shape: tuple[int, int, str] | None = None

    def __call__(self, frame: Any) -> Any:
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self.shape:
            self.graph, self.shape = av.filter.Graph(), shape
            source = self.graph.add_buffer(
                width=shape[0], height=shape[1], format=frame.format, time_base=Fraction(1, 90_000)
            )
            field = self.graph.add("field", "top")
            sink = self.graph.add("buffersink")
            source.link_to(field)
            field.link_to(sink)
            self.graph.configure()
        self.graph.push(frame)
        return self.graph.pull()


def _has_pts(frame: Any) -> bool:
    return frame.pts is not None or frame.dts is not None


def _frame_pts(frame: Any) -> int:
    return frame.pts if frame.pts is not None else frame.dts


def _video(info: MediaInfo) -> VideoStream:
    if info.video is None:
        raise ValueError("the file has no video stream")
    return info.video
