"""Which packets have to be decoded to show some frames, and which can stay unread.

    decode order   I  P  b  B  b  P  b  B  b │ I  P  b …       b: nothing refers to it
    wanted                  ▲                │    ▲
    decoded        I  P     B  b             │ I  P            the rest is never given to the decoder

Frames that others refer to are decoded up to the last one wanted in their group; a frame that nothing
refers to is decoded only if it is wanted itself. So the frames shown are exact, and on common H.264 a
third of the work is never done. A tolerance lets a neighbour that is decoded anyway stand in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_H264_SLICES = range(1, 6)
_HEVC_SUBLAYER_NON_REFERENCE = range(0, 16, 2)
_HEVC_SLICES = range(32)


@dataclass(frozen=True)
class Packets:
    """Picture packets in decode order."""

    pts: npt.NDArray[np.int64]
    is_key: npt.NDArray[np.bool_]
    is_disposable: npt.NDArray[np.bool_]  # no other picture refers to it

    def __len__(self) -> int:
        return len(self.pts)


def is_disposable(codec: str, packet: memoryview, length_size: int) -> bool:
    """Whether no other picture refers to this one, by its first slice's header.

    Args:
        length_size: bytes of the length before each unit (mp4, Matroska), or 0 where units are
            parted by start codes (MPEG-TS, raw).

    Source: ITU-T H.264 7.4.1 (`nal_ref_idc`), H.265 7.4.2.2 (sub-layer non-reference pictures; only
    trusted in the lowest temporal sub-layer of streams that have no other).
    """
    if codec not in ("h264", "hevc"):
        return False
    for offset in _unit_offsets(packet, length_size):
        if codec == "h264":
            kind = packet[offset] & 0x1F
            if kind in _H264_SLICES:
                return (packet[offset] >> 5) & 3 == 0
        else:
            kind = (packet[offset] >> 1) & 0x3F
            if kind in _HEVC_SLICES:
                return kind in _HEVC_SUBLAYER_NON_REFERENCE and packet[offset + 1] & 7 == 1
    return False


def _unit_offsets(packet: memoryview, length_size: int) -> list[int]:
    """Where the network abstraction units of a packet begin, as far as they are whole."""
    offsets, at, size = [], 0, len(packet)
    if length_size:
        while at + length_size + 2 <= size:
            offsets.append(at + length_size)
            at += length_size + int.from_bytes(packet[at : at + length_size], "big")
        return offsets
    content = bytes(packet[:4096])  # parameter sets and the first slice header lie in front
    while (at := content.find(b"\0\0\1", at)) >= 0 and at + 5 <= len(content):
        offsets.append(at + 3)
        at += 3
    return offsets


def length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of a unit's length by the stream's configuration record; 0 for start codes."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


class Groups:
    """Groups of pictures: each begins with a keyframe, in decode order."""

    def __init__(self, packets: Packets) -> None:
        self.packets = packets
        self.of = np.cumsum(packets.is_key)  # group 0 holds what comes before the first keyframe
        self.start = {int(g): int(np.searchsorted(self.of, g)) for g in np.unique(self.of)}
        self.place = {int(pts): i for i, pts in enumerate(packets.pts)}

    def is_leading(self, i: int) -> bool:
        """Whether packet `i` is shown before its group's keyframe: it refers to the group before."""
        return bool(self.packets.pts[i] < self.packets.pts[self.start[int(self.of[i])]])


def choose_frames(
    packets: Packets,
    shown: Sequence[int],
    instants: Sequence[int],
    tolerance: int,
    cuts: Sequence[int] = (),
    decoded: frozenset[int] = frozenset(),
) -> list[int]:
    """The frame to show at each instant, by PTS.

    Args:
        shown: PTS of all frames, ascending.
        instants: ascending ticks.
        tolerance: ticks by which a frame may lie from its instant; the frame on screen at the
            instant always may.
        cuts: ascending ticks; no frame stands in from the other side of one.
        decoded: PTS of packets that are decoded anyway, for other instants.

    Of the frames that may be shown, the one that costs least to decode after those chosen before;
    of equal ones the nearest.
    """
    times, groups = np.asarray(shown), Groups(packets)
    reach: dict[int, int] = {}  # group → place up to which it is decoded anyway
    for pts in decoded:
        place = groups.place[pts]
        if not packets.is_disposable[place]:
            reach[int(groups.of[place])] = max(reach.get(int(groups.of[place]), -1), place)
    chosen = []
    for t in instants:
        on_screen = max(0, int(np.searchsorted(times, t, side="right")) - 1)
        candidates = [int(times[on_screen])]
        if tolerance > 0:
            n_before = bisect_right(cuts, t)
            low = max([t - tolerance, *cuts[n_before - 1 : n_before]])
            high = min([t + tolerance + 1, *cuts[n_before : n_before + 1]])
            first, last = np.searchsorted(times, [low, high])
            candidates += [int(pts) for pts in times[first:last]]

        def cost(pts: int, t: int = t) -> tuple[int, int]:
            i = groups.place[pts]
            group = int(groups.of[i])
            done = reach.get(group, groups.start[group] - 1)
            if pts in decoded:
                return 0, abs(pts - t)
            return max(0, i - done) + int(packets.is_disposable[i]), abs(pts - t)

        best = min(candidates, key=cost)
        i = groups.place[best]
        group = int(groups.of[i])
        reach[group] = max(reach.get(group, -1), i - int(packets.is_disposable[i]))
        chosen.append(best)
    return chosen


@dataclass(frozen=True)
class DecodePlan:
    """What is given to the decoder."""

    send: frozenset[int]  # PTS of packets
    restart: frozenset[int]  # PTS of keyframes before which packets were left out


def plan_decode(packets: Packets, chosen: Sequence[int]) -> DecodePlan:
    """The packets that have to be decoded so that the frames `chosen` (PTS) come out."""
    groups = Groups(packets)
    wanted = {groups.place[pts] for pts in chosen}
    last_of: dict[int, int] = {}
    with_leading = {int(groups.of[i]) for i in wanted if groups.is_leading(i)}
    for i in wanted:
        group = int(groups.of[i])
        last_of[group] = max(last_of.get(group, -1), i)
    for group in with_leading:
        if group - 1 in groups.start:
            last_of[group - 1] = groups.start[group] - 1
    send: set[int] = set()
    restart: set[int] = set()
    previous_end = -1
    for group in sorted(last_of):
        start, end = groups.start[group], last_of[group]
        if start != previous_end + 1:
            restart.add(int(packets.pts[start]))
        previous_end = end
        for i in range(start, end + 1):
            is_referred = not packets.is_disposable[i]
            if group not in with_leading:
                is_referred = is_referred and not groups.is_leading(i)
            if i in wanted or is_referred:
                send.add(int(packets.pts[i]))
    return DecodePlan(frozenset(send), frozenset(restart))
