"""Class labels and captions of two sets: every image gets its own, or the audit stops with one line that says where and what."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from audit import conditions
from audit.conditions import EMPTY_PROMPT, condition_of
from audit.errors import ImageSetError, RequestError
from audit.images import prepare
from audit.request import Request

NAMES = ("a.png", "b.png", "deep/c.png")


def sets(root, members=NAMES, nonmembers=("x.png", "y.png")):
    """Two folders of empty files by these names: nothing here is decoded."""
    for side, names in (("members", members), ("nonmembers", nonmembers)):
        for name in names:
            (root / side / name).parent.mkdir(parents=True, exist_ok=True)
            (root / side / name).touch()
    return root


def request(root, **given):
    return Request("model", str(root / "members"), str(root / "nonmembers"), "name", **given)


def labels(root, content, classes=10):
    """The Condition of a labels file with this content (text or bytes)."""
    file = root / "labels.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return condition_of(request(root, labels=str(file)), classes, False)


GOOD = "image,class\na.png,3\nb.png,0\ndeep/c.png,9\nx.png,1\ny.png,2\n"
SAID = {"members": {"a.png": 3, "b.png": 0, "deep/c.png": 9}, "nonmembers": {"x.png": 1, "y.png": 2}}


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("image,class", " Class ,note,IMAGE").replace("a.png,3", "3,,a.png").replace("b.png,0", "0,,b.png").replace("deep/c.png,9", "9,,deep/c.png")
        .replace("x.png,1", "1,,x.png").replace("y.png,2", "2,,y.png"),
        GOOD.replace("deep/c.png", "c.png"),  # a file name that only one image has
        GOOD.replace("deep/c.png", ".\\deep\\c.png").replace("a.png", "./a.png"),
        GOOD.replace("x.png", "nonmembers/x.png") + "\n\n",
        GOOD + "a.png,3\nnobody.png,4\n",  # the same row again, and one of no image
        GOOD.replace("a.png,3", '"a.png"," 03 "'),
    ],
)  # fmt: skip
def test_every_way_to_write_the_same_labels(tmp_path, content):
    found = labels(sets(tmp_path), content)
    assert found.said == SAID and (found.kind, found.source, found.warnings) == ("labels", "labels.csv", ())
    assert found.of("members", "a.png") == {"label": 3} and found.to_json() == {"kind": "labels", "source": "labels.csv"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.replace("a.png,3", "a.png,10"), "line 2 of labels.csv: a.png has class 10. Expected 0 to 9"),
        (GOOD.replace("a.png,3", "a.png,-1"), "line 2 of labels.csv: class of a.png is -1. Expected a whole number"),
        (GOOD.replace("a.png,3", "a.png,3.0"), "class of a.png is 3.0"),
        (GOOD.replace("a.png,3", "a.png,=1+1"), "class of a.png is =1\\+1"),
        (GOOD.replace("a.png,3", "a.png,"), "class of a.png is . Expected"),
        (GOOD.replace("a.png,3", "a.png,٣"), "class of a.png is ٣"),
        (GOOD.replace("a.png,3", "a.png,99999999999999999999"), "class of a.png"),
        (GOOD.replace("a.png,3\n", ""), "1 of 5 images has no row in labels.csv \\(first: a.png\\)"),
        ("image,class\na.png,3\n", "4 of 5 images have no row"),
        (GOOD + "a.png,4\n", "two different rows for a.png \\(lines 2 and 7\\)"),
        (GOOD.replace(",", ";"), "begins with image;class. Expected a UTF-8 .csv with the columns image,class, divided by commas"),
        (GOOD.split("\n", 1)[1], "begins with a.png,3"),
        ("image,image,class\n", "begins with image,image,class"),
        ("", "begins with "),
        ("image,class\n", "has no rows"),
        (GOOD + "a.png\n", "line 7 of labels.csv has 1 of 2 cells"),
        (GOOD + "a.png,3,4\n", "line 7 of labels.csv has 3 cells, 2 columns"),
        (GOOD + ",3\n", "line 7 of labels.csv names no image"),
        (GOOD + '"a.png,3\n' + "x,1\n" * 50_000, "cannot be read near line"),
        (GOOD + "a.png," + "9" * 5_000, "line 7 of labels.csv holds a cell of 5,000 characters"),
        (GOOD + "a.png," + "9" * 200_000, "cannot be read near line 7"),
        (GOOD.encode("utf-16"), "is not UTF-8"),
        (GOOD.replace("a.png", "ä.png").encode("latin-1"), "is not UTF-8"),
        (GOOD.encode() + b"\0", "holds zero bytes"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_in_one_line(tmp_path, content, words):
    with pytest.raises(RequestError, match="^--labels: .*" + words) as caught:
        labels(sets(tmp_path), content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 and str(tmp_path) not in str(caught.value)


def test_limits_are_on_bytes_and_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(conditions, "MAX_ROWS", 4)
    with pytest.raises(RequestError, match="more than 4 rows"):
        labels(sets(tmp_path), GOOD)
    with pytest.raises(RequestError, match="cannot be read"):
        condition_of(request(tmp_path, labels=str(tmp_path)), 10, False)
    monkeypatch.setattr(conditions, "MAX_BYTES", 10)
    with pytest.raises(RequestError, match="larger than"):
        labels(tmp_path, GOOD)


def test_one_row_never_stands_for_two_pictures(tmp_path):
    root = sets(tmp_path, ("a.png", "one/c.png", "two/c.png"), ("a.png",))
    rows = "image,class\nmembers/a.png,1\nnonmembers/a.png,2\none/c.png,3\ntwo/c.png,4\n"
    assert labels(root, rows).said == {"members": {"a.png": 1, "one/c.png": 3, "two/c.png": 4}, "nonmembers": {"a.png": 2}}
    with pytest.raises(RequestError, match="both sets hold a.png, and labels.csv has one row for it. Expected two, members/a.png and nonmembers/a.png".replace(".", "[.]")):
        labels(root, rows.replace("nonmembers/a.png", "a.png").replace("members/a.png,1\n", ""))
    with pytest.raises(RequestError, match=r"2 images are called c\.png"):
        labels(root, rows.replace("one/c.png", "c.png").replace("two/c.png,4\n", ""))


def test_names_become_numbers_only_where_there_are_as_many_as_classes(tmp_path):
    content = GOOD.replace(",3", ",dog").replace(",0", ",cat").replace(",9", ",cat").replace(",1", ",frog").replace(",2", ",dog")
    found = labels(sets(tmp_path), content, classes=3)
    assert found.said["members"] == {"a.png": 1, "b.png": 0, "deep/c.png": 0} and found.said["nonmembers"] == {"x.png": 2, "y.png": 1}
    assert "0 = cat, 1 = dog, 2 = frog" in found.warnings[0] and "check it" in found.warnings[0]
    with pytest.raises(RequestError, match="names 3 classes \\(cat, dog, frog\\), the model has 4"):
        labels(tmp_path, content, classes=4)


def test_sub_folders_are_read_where_they_can_mean_one_thing(tmp_path):
    def folders(*names, classes=3, also=()):
        root = tmp_path / "_".join((*names, *also))
        sets(root, [f"{name}/a.png" for name in names], [f"{name}/b.png" for name in names[:1]] + list(also))
        return condition_of(request(root), classes, False)

    found = folders("0", "2")
    assert found.said == {"members": {"0/a.png": 0, "2/a.png": 2}, "nonmembers": {"0/b.png": 0}} and found.source == "sub-folders"
    assert "2 of the model's 3 classes" in found.warnings[0]
    assert folders("2").said["members"] == {"2/a.png": 2}
    found = folders("n01440764", "n02102040", "n01443537")
    assert found.said["members"] == {"n01440764/a.png": 0, "n02102040/a.png": 2, "n01443537/a.png": 1} and "1 = n01443537" in found.warnings[0]
    for names, also, words in (
        (("0", "3"), (), "sub-folders up to 3"),
        (("1", "01"), (), "which are no labels"),
        (("n01440764", "n02102040"), (), "do not say which number is theirs"),
        (("cat", "dog", "frog"), (), "do not say which number is theirs"),
        (("0", "dog"), (), "do not say"),
        (("0", "1"), ("loose.png",), "needs a label for every image, and none were given"),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            folders(*names, also=also)
        assert "--labels F.csv (image,class), or sub-folders 0 to 2" in str(caught.value)
    with pytest.raises(RequestError, match="3 classes and needs a label for every image, and none were given"):
        condition_of(request(sets(tmp_path / "flat")), 3, False)


def test_zips_and_arrays_have_names_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "members", "w") as archive:
        for name in ("faces/0/a.png", "faces/1/b.png", "__MACOSX/faces/0/._a.png"):
            archive.writestr(name, b"")
    (tmp_path / "members").rename(tmp_path / "members.zip")
    np.savez(tmp_path / "nonmembers.npz", images=np.zeros((2, 4, 4, 1), np.uint8))
    given = Request("model", str(tmp_path / "members.zip"), str(tmp_path / "nonmembers.npz"), "name", labels=str(tmp_path / "labels.csv"))
    (tmp_path / "labels.csv").write_text("image,class\nfaces/0/a.png,1\nb.png,0\nnonmembers/images[0],1\nimages[1],0\n")
    assert condition_of(given, 2, False).said == {"members": {"faces/0/a.png": 1, "faces/1/b.png": 0}, "nonmembers": {"images[0]": 1, "images[1]": 0}}
    both = Request("model", str(tmp_path / "members.zip"), str(tmp_path / "members.zip"), "name")
    assert condition_of(both, 2, False).said["members"] == {"faces/0/a.png": 0, "faces/1/b.png": 1}
    for name, words in (("gone", "was not found"), ("labels.csv", "is not an image set"), ("torn.zip", "not a readable .zip"), ("torn.npz", "not a readable .npz")):
        if name.startswith("torn"):
            (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(ImageSetError, match=words):
            condition_of(Request("model", str(tmp_path / name), str(tmp_path / name), "name"), 2, False)


def test_sets_of_other_classes_are_named(tmp_path):
    def warned(first, second):
        root = tmp_path / "_".join(map(str, (*first, *second)))
        sets(root, [f"{c}/{i}.png" for c, n in enumerate(first) for i in range(n)], [f"{c}/{i}.png" for c, n in enumerate(second) for i in range(n)])
        return condition_of(request(root), len(first), False).warnings[1:]

    assert warned((30, 30, 40), (36, 28, 36)) == () and warned((20, 0), (15, 0)) == () and warned((1,) * 9, (1,) * 9) == ()
    (words,) = warned((60, 30, 10), (30, 60, 10))
    assert "class 0: 60 % of the members against 30 % of the non-members" in words
    assert warned((40, 0), (0, 40))[0].startswith("The sets hold the classes in different shares (class 0: 100 %")


def test_captions_may_be_empty_but_not_missing(tmp_path):
    root, file = sets(tmp_path), tmp_path / "captions.csv"
    text = 'image,caption\na.png,"a cat, asleep\non ""the"" mat"\nb.png,\nc.png,=HYPERLINK(1)\nx.png,12\ny.png,ein Bär\n'
    file.write_text(text, encoding="utf-8")
    found = condition_of(request(root, captions=str(file)), None, True)
    assert found.said["members"] == {"a.png": 'a cat, asleep\non "the" mat', "b.png": "", "deep/c.png": "=HYPERLINK(1)"}
    assert found.said["nonmembers"] == {"x.png": "12", "y.png": "ein Bär"}
    assert found.of("members", "b.png") == {"caption": ""} and found.warnings == ()
    file.write_text(text.replace("x.png,12\n", ""), encoding="utf-8")
    with pytest.raises(RequestError, match=r"--captions: 1 of 5 images has no row in captions\.csv"):
        condition_of(request(root, captions=str(file)), None, True)
    absent = condition_of(request(root), None, True)
    assert absent.kind is None and absent.warnings == (EMPTY_PROMPT,) and absent.of("members", "a.png") == {}


def test_what_a_model_does_not_take_is_named_and_not_read(tmp_path):
    root = sets(tmp_path)
    given = request(root, labels=str(tmp_path / "gone.csv"), captions=str(tmp_path / "gone.csv"))
    unconditional = condition_of(given, None, False)
    assert unconditional.kind is None and [w.split(" was")[0] for w in unconditional.warnings] == ["--labels", "--captions"]
    (tmp_path / "labels.csv").write_text(GOOD)
    both = condition_of(request(root, labels=str(tmp_path / "labels.csv"), captions=str(tmp_path / "gone.csv")), 10, False)
    assert both.kind == "labels" and both.warnings == ("--captions was given, but this model takes no captions: it was not used.",)


def test_the_images_that_stay_keep_their_labels(tmp_path):
    rng = np.random.default_rng(0)
    for side in ("members", "nonmembers"):
        (tmp_path / side).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / side / f"{side}{i}.png")
    (tmp_path / "members" / "members3.png").write_bytes(b"broken")
    rows = [f"{side}{i}.png,{i}" for side in ("members", "nonmembers") for i in range(12)]
    found = labels(tmp_path, "image,class\n" + "\n".join(rows), classes=12)
    queries = prepare(tmp_path / "members", tmp_path / "nonmembers", (1, 8, 8), tmp_path / "run", asked_with=found)
    assert len(queries) == 23 and all(image["label"] == int("".join(filter(str.isdigit, image["path"]))) for image in queries.images)
