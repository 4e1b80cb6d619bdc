"""What a person can do about a failure, by its code. The one place where that is written.

The command line and the report page print it beside the code; a test holds that every code of the
library has one.
"""

from __future__ import annotations

REMEDIES: dict[str, str] = {
    # The file cannot be opened.
    "not_found": "The file is not where the input says, seen from the workers. Mount it there, or list the "
    "inputs anew; then --retry-failures.",
    "unreadable": "Storage failed or the file changed while it was read. Check credentials and network, then "
    "--retry-failures; if it fails again, copy the file anew.",
    "not_a_file": "The path is a directory. Name the files in it, or give the directory itself as INPUT.",
    "empty": "The file has no bytes: a copy was cut off. Copy it anew.",
    "no_permission": "The user that runs the workers may not read it. Change its owner or mode, then "
    "--retry-failures.",
    "not_media": "No media container: another kind of file under a video's name, or one cut off before its "
    "index was written. Copy it anew; an mp4 without moov can be mended by the recorder's own tool.",
    "no_streams": "A container without picture or sound that FFmpeg decodes: an unknown or encrypted codec. "
    "Convert it to H.264 and AAC.",
    # It asks for too much.
    "too_large": "It asks for more than limits allow. Where the file is trusted, raise the limit that the "
    "message names (--set limits.…), then --retry-failures.",
    "deadline": "Decoding took too long. Raise run.decode_deadline_s, or make clips.unit_s smaller, so that a "
    "unit has less to decode; then --retry-failures.",
    "memory": "The decoder took too much memory. Raise run.decode_memory_mb, or make clips.unit_s smaller; "
    "then --retry-failures.",
    # It is damaged.
    "crashed": "The decoder died on it twice. Repack the file (ffmpeg -i IN -c copy OUT), or convert it; "
    "the machine may also have run out of memory.",
    "undecodable": "Its streams are damaged from the start: nothing could be decoded. Copy it anew from its "
    "source, or convert it.",
    # The model.
    "endpoint": "No clip was captioned by the endpoint. See that it is up, and captions.url, captions.model "
    "and its key are right; then --retry-failures.",
    "unexpected": "An error that nobody foresaw; the message says where. Try --retry-failures once; if it "
    "stays, report it with the message.",
    # Labelled videos of an evaluation.
    "no_duration": "Its length is not known: give start_s and end_s in the manifest, or repack the file.",
    "too_long": "The labelled span is longer than an evaluation takes. Give start_s and end_s of the part.",
    "no_stream": "The file lacks the picture or the sound that a training reads. Leave it out of the manifest.",
    "no_span": "The labelled span is empty or lies outside the file. Mend start_s and end_s in the manifest.",
    # Previews.
    "no_picture": "The file shows nothing at that second: it has no video, or ended before.",
    "nothing_to_play": "The file has neither picture nor sound there: it ended before.",
}
_UNKNOWN = "No advice for this code; the message says what happened."


def remedy(code: str | None) -> str:
    """One or two sentences that say what to do."""
    return REMEDIES.get(code or "", _UNKNOWN)
