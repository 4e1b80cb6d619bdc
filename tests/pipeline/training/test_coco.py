"""What is scored is never trained on, nor is its like, nor what its picture was told with."""

import pytest

from pipeline.training.coco import near_duplicates, normalised, read_sentences


def test_a_near_duplicate_shares_half_of_its_words_and_pairs():
    held_out = ["a man riding a wave on a surfboard"]
    near = ["a man riding a wave on top of a surfboard", "a man riding a wave on a surfboard today"]
    far = ["a man riding a horse on a beach", "a dog on a sofa", ""]
    assert near_duplicates([*near, *far], held_out).tolist() == [True] * 2 + [False] * 3


def test_the_measure_is_the_jaccard_index():
    # words: 3 of 5 shared; pairs: 2 of 4 shared; together 5 of 9
    assert near_duplicates(["w x y p"], ["w x y q"], 5 / 9).tolist() == [True]
    assert near_duplicates(["w x y p"], ["w x y q"], 5 / 9 + 1e-6).tolist() == [False]


def test_case_and_punctuation_make_no_other_sentence():
    assert normalised("A  Man's T-shirt, (red) .") == "a man's t-shirt red"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    texgen = ["a lion sleeps under an old tree", "two boats wait beside grey cliffs"]
    (folder / "coco_texygen_train.txt").write_text("\n".join(texgen))
    (folder / "coco_texygen_test.txt").write_text("Rain falls upon quiet city roofs.")
    scored = "A red kite over the hill ."
    (folder / "coco_val2017.txt").write_text(scored)
    picture = [scored, "someone flies something", "green grass", "wind blows", "children look up"]
    other = ["five", "plain", "words", "of", "another"]
    (folder / "coco_karpathy_test5k.txt").write_text("\n".join(picture + other))
    watched = ["a lion sleeps under an old oak", "cats", "nap", "in", "sun"]
    (folder / "coco_karpathy_dev1k.txt").write_text("\n".join(watched))
    return tmp_path


def test_the_scored_its_pictures_sentences_and_their_like_are_not_trained_on(data):
    sentences = read_sentences(data)
    assert sentences.scored == ("a red kite over the hill",)
    assert sentences.references[0][0] == "a red kite over the hill"
    assert set(sentences.references[0][1:]) == {
        "someone flies something",
        "green grass",
        "wind blows",
        "children look up",
    }
    assert sentences.calibration[0][0] == "a lion sleeps under an old oak"
    assert set(sentences.train) == {
        "two boats wait beside grey cliffs",
        "rain falls upon quiet city roofs",
        *("five", "plain", "words", "of", "another"),
    }
    assert sentences.n_near == 1


def test_a_file_that_is_missing_or_not_in_fives_is_named(data):
    (data / "text" / "coco_karpathy_dev1k.txt").write_text("one\ntwo")
    with pytest.raises(ValueError, match=r"coco_karpathy_dev1k.txt: 2 lines; expected 5 for each"):
        read_sentences(data)
    (data / "text" / "coco_texygen_test.txt").unlink()
    with pytest.raises(ValueError, match=r"coco_texygen_test.txt: no such file"):
        read_sentences(data)
