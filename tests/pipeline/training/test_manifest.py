"""A user's manifest: what it says of which clips, who is held out, and what is wrong with it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import InputError
from pipeline.training.learner import NO_TEXT
from pipeline.training.manifest import labels_of, read_manifest, split_videos
from pipeline.training.settings import TrainConfig


def config(manifest, spaces=None, **more):
    return TrainConfig.model_validate(
        {"name": "mine", "manifest": str(manifest), "spaces": spaces or {"label": {}}} | more
    )


@pytest.fixture
def write(tmp_path):
    def written(text, name="m.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


PLAIN = "uri,label\n" + "".join(f"v{i}.mp4,{'dog' if i % 2 else 'rain'}\n" for i in range(12))


def test_whole_videos_and_spans_are_read_with_their_labels(write):
    file = write(
        "uri,start_s,end_s,what,tags,text\n"
        "a.mp4,,,dog,loud|near,a dog barks\na.mp4,2,5.5,rain,,\nb.mp4,0,,1,near,\n"
    )
    found = read_manifest(
        config(file, {"what": {}, "sound": {"column": "tags", "separator": "|"}}, caption="text")
    )
    a, later, b = found.spans
    assert (a.start_s, a.end_s, later.start_s, later.end_s) == (0.0, float("inf"), 2.0, 5.5)
    assert a.labels == {"what": ("dog",), "sound": ("loud", "near")}
    assert later.labels["sound"] is None
    assert found.classes == {"what": ("1", "dog", "rain"), "sound": ("loud", "near")}
    assert found.captions == ("a dog barks",)
    assert a.uri.endswith("/a.mp4")
    assert b.labels["what"] == ("1",)


def test_a_parquet_file_may_hold_lists_of_labels(tmp_path):
    table = pa.table({"uri": ["a.mp4", "b.mp4"], "tags": [["x", "y"], []]})
    pq.write_table(table, tmp_path / "m.parquet")
    found = read_manifest(config(tmp_path / "m.parquet", {"tags": {"multi": True}}))
    assert [s.labels["tags"] for s in found.spans] == [("x", "y"), ()]


@pytest.mark.parametrize(
    ("text", "spaces", "said"),
    [
        ("file,label\na.mp4,x\n", None, "a manifest needs a column 'uri'"),
        ("uri,kind\na.mp4,x\n", None, "spaces.label.column: no column 'label'; .* has: uri, kind"),
        ("uri,label\na.mp4,x\nb.mp4,x\n", None, "expected two classes or more.*found only 'x'"),
        ("uri,label\na.mp4,\n", None, "found none"),
        (
            PLAIN,
            {"label": {"classes": ["dog", "rain", "cat"]}},
            r"no example of 'cat'; found: dog \(6\)",
        ),
        (PLAIN, {"label": {"classes": ["dog"]}}, "label 'rain' is none of classes: dog"),
        (PLAIN, {"label": {"background": ["calm"]}}, "background 'calm' is none of its classes"),
        ("uri,label,start_s\na.mp4,x,soon\n", None, "a.mp4: start_s is 'soon'; expected seconds"),
        ("uri,label,start_s,end_s\na.mp4,x,3,2\n", None, "nothing from start_s 3 to end_s 2"),
        ("", None, "not a readable manifest"),
        ("uri,label\n", None, "no row with a uri"),
    ],
)
def test_what_is_wrong_is_named(write, text, spaces, said):
    with pytest.raises(InputError, match=said):
        read_manifest(config(write(text), spaces))


def test_no_manifest_and_another_kind_of_file(tmp_path, write):
    with pytest.raises(InputError, match=r"nowhere\.csv: not a readable manifest"):
        read_manifest(config(tmp_path / "nowhere.csv"))
    with pytest.raises(InputError, match=r"expected a \.csv or \.parquet"):
        read_manifest(config(write("a.mp4", "m.txt")))


def test_whole_videos_are_held_out_of_every_class(write):
    file = write(PLAIN.replace(".mp4,", ".mp4,") + "v0.mp4,rain\nv1.mp4,dog\n")
    found = read_manifest(config(file))
    split = split_videos(found, config(file), found.by_uri)
    assert not split.train & split.watched
    assert len(split.train | split.watched) == 12
    for label in ("dog", "rain"):
        mine = {s.uri for s in found.spans if s.labels["label"] == (label,)}
        assert len(mine & split.watched) == 2  # a quarter of six
    assert split == split_videos(found, config(file), sorted(found.by_uri, reverse=True))


def test_a_rare_class_is_in_both_parts(write):
    file = write(PLAIN + "r1.mp4,rare\nr2.mp4,rare\n")
    found = read_manifest(config(file))
    split = split_videos(found, config(file), found.by_uri)
    rare = {s.uri for s in found.spans if s.labels["label"] == ("rare",)}
    assert len(rare & split.train) == len(rare & split.watched) == 1


def test_a_class_of_one_video_cannot_be_held_out(write):
    file = write(PLAIN + "r1.mp4,rare\n")
    found = read_manifest(config(file))
    with pytest.raises(InputError, match=r"no video held out has 'rare' \(1 of the 13"):
        split_videos(found, config(file), found.by_uri)


def test_folds_of_the_manifest_decide(write):
    rows = [f"v{i}.mp4,{'dog' if i % 2 else 'rain'},{i // 4}" for i in range(12)]
    file = write("uri,label,part\n" + "\n".join(rows) + "\n")
    asked = config(file, fold="part", held_out_folds=[1], test_folds=["2"])
    found = read_manifest(asked)
    split = split_videos(found, asked, found.by_uri)
    numbers = [sorted(int(u.split("/v")[-1][:-4]) for u in part) for part in
               (split.train, split.watched, split.tested)]  # fmt: skip
    assert numbers == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    nobody = config(file, fold="part", held_out_folds=["7"])
    with pytest.raises(InputError, match="no video held out has 'dog'"):
        split_videos(found, nobody, found.by_uri)


def test_a_video_in_two_folds_is_refused(write):
    file = write("uri,label,part\na.mp4,x,1\na.mp4,y,2\nb.mp4,x,1\n")
    asked = config(file, fold="part", held_out_folds=["2"])
    found = read_manifest(asked)
    with pytest.raises(InputError, match="expected one part for all rows of a video, found 1, 2"):
        split_videos(found, asked, found.by_uri)


def known(found, starts, length=4.0):
    (uri,) = found.by_uri
    starts = np.array(starts, float)
    targets, texts = labels_of(found, uri, starts, starts + length)
    names = found.classes["label"]
    told = [
        None if row.isnan().any() else {n for n, y in zip(names, row.tolist(), strict=True) if y}
        for row in targets["label"]
    ]
    return told, texts.tolist()


def test_a_clip_takes_the_label_of_a_span_that_covers_half_of_it(write):
    file = write("uri,start_s,end_s,label,text\na.mp4,0,6,x,long\na.mp4,9,10,y,short\n")
    found = read_manifest(config(file, caption="text"))
    told, texts = known(found, [0, 4, 8, 12])
    assert told == [{"x"}, {"x"}, {"y"}, None]  # 4–6 is half of 4–8; 9–10 lies whole in 8–12
    assert texts == [0, 0, 1, NO_TEXT]


def test_of_spans_that_compete_the_longer_one_has_the_clip_unless_labels_go_together(write):
    text = "uri,start_s,end_s,label\na.mp4,0,2.5,x\na.mp4,2,4,y\n"
    found = read_manifest(config(write(text)))
    assert known(found, [0])[0] == [{"x"}]
    both = read_manifest(config(write(text), {"label": {"multi": True}}))
    assert known(both, [0])[0] == [{"x", "y"}]
