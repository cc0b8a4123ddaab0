"""Page Images: a thumbnail, its rank and its losses belong to the same image whatever the order, and a blurred page holds no sharp byte."""

import base64
import csv
import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from audit import format as fmt
from audit.demo import demo_request
from audit.report import series
from audit.report.run import open_run
from tests.evidence_home import APP, control, open_page, specs, trace

HOSTILE = "<img src=x onerror=alert(1)> **b** [l](http://e.x) :red[x] $y$.png"


def shuffle(folder, seed=1):
    """Every per-image file of a finished run in another order, members and non-members mixed; images.csv in yet another."""
    with open(folder / "scores.csv", encoding="utf-8", newline="") as handle:
        head, *rows = csv.reader(handle)
    order = np.random.default_rng(seed).permutation(len(rows))
    write(folder / "scores.csv", [head, *(rows[i] for i in order)])
    for file in (folder / "tables").glob("*.npy"):
        if not file.name.endswith(".centres.npy"):
            np.save(file, np.load(file)[..., order])
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    queries["images"] = [queries["images"][i] for i in order]
    (folder / "queries.json").write_text(json.dumps(queries), encoding="utf-8")


def write(file, rows):
    with open(file, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(rows)


def images_csv(folder):
    """conformal p and flag of the headline attack, in reverse order: p tells every image apart."""
    run = open_run(folder)
    rows = [[i, repr((k + 1) / 2000), k % 2 == 0, "0.5", "1"] if run.evaluation[k] else [i, "", "", "0.5", "1"] for k, i in enumerate(run.image_ids)]
    write(folder / "images.csv", [["image_id", "conformal_p", "flagged", "blind", "blind_fold"], *reversed(rows)])


def page_number(number, **more):
    """`open_page` for an address that holds `page`, a name that it needs itself."""
    at = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in (more | {"page": number}).items():
        at.query_params[name] = value
    at.switch_page("pages/images.py").run()
    assert not at.exception, [e.message for e in at.exception]
    return at


def pictures_of(at):
    """Bytes of every picture that the page sends, in its order: all of them stand in the page itself."""
    urls = [picture.url for element in at.get("image") for picture in element.proto.imgs]
    assert all(url.startswith("data:image/png;base64,") for url in urls), [u[:60] for u in urls]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def cards(at):
    """{image id: label} of the grid, in its order."""
    return {b.key.removeprefix("show_"): b.label for b in at.button if b.key and b.key.startswith("show_") and b.key != "show_near"}


def query(at):
    """The address after the last run."""
    return {k: v[0] if isinstance(v, list) else v for k, v in dict(at.query_params).items()}


def said(at):
    return " ".join(e.value for e in [*at.markdown, *at.caption, *at.text])


def sharp(at):
    """The page with the blur switched off."""
    toggle = control(at, "Blur thumbnails", "toggle")
    assert "/" not in toggle.key, "a key reaches the browser"
    toggle.set_value(False).run()
    assert not at.exception
    return at


@pytest.fixture
def mixed(home):
    """The run `clear` in another order, with images.csv."""
    folder = home / "runs" / "clear"
    shuffle(folder)
    images_csv(folder)
    run = open_run(folder)
    assert not (np.diff(run.is_member.astype(int)) >= 0).all() and run.is_member[:20].any() and not run.is_member[:20].all()
    return run


def test_each_card_shows_the_picture_that_its_hash_names(mixed):
    at = sharp(open_page("images", run="clear", who="All"))
    shown = cards(at)
    assert len(shown) == 18
    for image_id, data in zip(shown, pictures_of(at), strict=False):
        assert hashlib.sha256(pixels(data).tobytes()).hexdigest()[:16] == image_id


def test_rank_and_percentile_are_those_of_scores_csv(mixed):
    headline = mixed.report["verdict"]["headline_attack"]
    with open(mixed.folder / "scores.csv", encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["half"] == "evaluation"]
    outsiders = [float(row[headline]) for row in rows if row["is_member"] == "False"]
    ordered = sorted(rows, key=lambda row: -float(row[headline]))
    at = page_number("2", run="clear", who="Non-members")
    expected = [(k, row) for k, row in enumerate(ordered, 1) if row["is_member"] == "False"][18:36]
    assert list(cards(at)) == [row["image_id"] for _, row in expected]
    for (rank, row), label in zip(expected, cards(at).values(), strict=True):
        below = sum(score < float(row[headline]) for score in outsiders)
        share = np.floor(1000 * below / (len(outsiders) - 1)) / 10
        assert label == f"{rank} · " + ("top" if below == len(outsiders) - 1 else f"{share:.1f}{fmt.NARROW}%")


def test_detail_joins_name_score_flag_and_losses_of_one_image(mixed, run_folders):
    original = open_run(run_folders / "clear")  # the order before
    position = np.flatnonzero(mixed.evaluation & mixed.is_member)[7]
    image_id = str(mixed.image_ids[position])
    at = sharp(open_page("images", run="clear", image=image_id))
    headline = mixed.report["verdict"]["headline_attack"]
    scores, before = original.scores_of(headline), int(np.flatnonzero(original.image_ids == image_id)[0])
    outside = original.evaluation & ~original.is_member
    above = int((scores[outside] < scores[before]).sum())
    assert original.paths[before] in [t.value for t in at.text]
    assert f"Above **{above} of {outside.sum()}** non-members" in said(at)
    assert f"Conformal {fmt.p_value((position + 1) / 2000)}" in said(at)
    assert ("**Flagged**" in said(at)) == (position % 2 == 0)
    detail = [d for d in pictures_of(at) if hashlib.sha256(pixels(d).tobytes()).hexdigest()[:16] == image_id]
    assert detail
    table = next(c.value.partition(";")[0] for c in at.caption if "band and median of all" in c.value)
    values = np.load(run_folders / "clear" / "tables" / f"{table}.npy").astype(float)[original.tables[table].scored]
    middle = np.median(values[:, ~original.is_member], axis=1)
    np.testing.assert_allclose(trace(specs(at)[0], "this image")["y"], 100 * (values[:, before] / middle - 1), rtol=1e-5, atol=1e-4)


def test_the_address_names_the_image_by_its_hash(mixed):
    at = open_page("images", run="clear")
    first, second = list(cards(at))[:2]
    at.button(key=f"show_{second}").click().run()
    assert query(at)["image"] == second
    assert str(mixed.paths[mixed.image_ids == second][0]) in [t.value for t in at.text]
    assert at.button(key=f"show_{first}").label.startswith("1 ·")
    unknown = open_page("images", run="clear", image="<b>nobody</b>")
    assert any(t.value == 'There is no image "<b>nobody</b>" in this run.' for t in unknown.text)


def test_images_that_chose_the_settings_are_found_but_not_judged(mixed):
    position = int(np.flatnonzero(~mixed.evaluation)[0])
    image_id = str(mixed.image_ids[position])
    listed = open_page("images", run="clear", who="All")
    assert image_id not in cards(listed)
    at = open_page("images", run="clear", who="All", image=image_id)
    assert "Not judged: this image chose the settings." in said(at) and "Conformal" not in said(at)
    control(at, "Find", "text_input").set_value(str(mixed.paths[position])).run()
    assert cards(at) == {image_id: "not judged"}


def test_no_match_says_what_is_searched(home):
    at = open_page("images", run="clear")
    control(at, "Find", "text_input").set_value("<b>cat</b>").run()
    assert 'No image matches "<b>cat</b>". File names and hashes are searched.' in [t.value for t in at.text]
    assert not cards(at)
    control(at, "Find", "text_input").set_value("image-0000").run()
    assert cards(at)
    control(at, "Show", "button_group").set_value("Non-members").run()
    assert not cards(at) and 'No non-member matches "image-0000"; among all images 10 do.' in [t.value for t in at.text]


def test_a_page_number_too_large_is_the_last_page(home):
    at = page_number("13", run="clear")
    assert len(cards(at)) == 225 - 12 * 18
    control(at, "Find", "text_input").set_value("image-0000").run()
    assert 0 < len(cards(at)) <= 10, "another list begins at its first page"


# --- blur ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grain(run_folders, tmp_path_factory):
    """Folder of the thumbnails of `noisy`."""
    folder = tmp_path_factory.mktemp("grain")
    (folder / "near").mkdir()
    for i, file in enumerate([*(folder / f"{image_id}.png" for image_id in open_run(run_folders / "clear").image_ids), folder / "near" / f"{'f' * 16}.png"]):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def noisy(home, grain):
    """Thumbnails with fine grain, so that a mean over blocks changes every one; two near pairs, one picture left out."""
    folder = home / "runs" / "clear"
    run = open_run(folder)
    (folder / "thumbnails").unlink()
    (folder / "thumbnails").symlink_to(grain, target_is_directory=True)
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    pair = {"a": str(run.image_ids[3]), "a_set": "members", "b": "f" * 16, "b_set": "nonmembers", "how": "mirrored", "correlation": 0.98, "left_out": True}
    queries["duplicates"] |= {"near": 2, "near_pairs": [pair]}
    report = run.report | {"queries": run.report["queries"] | {"duplicates": {"exact": 0, "near": 2}}}
    for name, data in (("queries", queries), ("report", report)):
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return run


def grains(data):
    """Sharp pictures of `noisy` differ from pixel to pixel; a blurred one is 4 x 4 blocks."""
    return len(np.unique(pixels(data)))


@pytest.mark.parametrize("layout", ["Grid", "Table"])
def test_a_blurred_page_holds_no_sharp_picture(noisy, grain, layout):
    on_disk = [file.read_bytes() for file in grain.rglob("*.png")]
    at = open_page("images", run="clear", layout=layout)
    sent = pictures_of(at)
    assert len(sent) >= 4 and all(grains(data) <= 16 for data in sent)
    if layout == "Table":
        rows = [base64.b64decode(url.partition(",")[2]) for url in at.dataframe[0].value["picture"]]
        assert len(rows) == 100
        assert all(grains(data) <= 16 for data in rows)
        sent += rows
    assert not set(sent) & set(on_disk)
    assert any("Blurred on the server." in c.value for c in at.caption)
    clear = pictures_of(sharp(at))
    assert len(clear) == len(pictures_of(at)) and all(grains(data) > 16 for data in clear), "the switch does nothing"
    assert set(clear) <= set(on_disk)


def test_only_the_bundled_demo_opens_sharp_and_one_run_says_nothing_about_another(noisy, home):
    shutil.copytree(noisy.folder, home / "runs" / "demo", symlinks=True)
    bundled = {name: demo_request("leaky").to_json()[name] for name in ("members", "nonmembers")}
    for file, changed in (("request", bundled), ("report", {"run": noisy.report["run"] | {"name": "bundled"}})):
        path = home / "runs" / "demo" / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    at = open_page("images", run="demo")
    assert all(grains(data) > 16 for data in pictures_of(at))
    for run, most in (("clear", 16), ("demo", 256), ("clear", 16)):
        at.selectbox(key="run_picker").set_value(run).run()
        assert not at.exception and query(at)["run"] == run
        assert (max(grains(data) for data in pictures_of(at)) <= 16) == (most == 16), run


def test_near_duplicates_are_shown_in_pairs(noisy):
    at = open_page("images", run="clear")
    assert "Near duplicates" in [h.value for h in at.header]
    assert "2 images were left out because a near duplicate stands in the other set." in said(at)
    assert f"mirrored · correlation {fmt.number(0.98, 2)} · left out" in [t.value for t in at.text]
    assert len(pictures_of(at)) == 18 + 1 + 1 + 2, "cards, the chosen one, its neighbour, one pair"


def test_without_near_pairs_there_is_no_such_section(home):
    assert "Near duplicates" not in [h.value for h in open_page("images", run="few").header]


# --- names and other runs ------------------------------------------------------------------------------------------------------------------------


def test_hostile_names_are_text(home):
    folder = home / "runs" / "clear"
    with open(folder / "scores.csv", encoding="utf-8", newline="") as handle:
        head, *rows = csv.reader(handle)
    write(folder / "scores.csv", [head, *([r[0], HOSTILE, *r[2:]] for r in rows)])
    at = open_page("images", run="clear")
    assert [t.value for t in at.text].count(HOSTILE) == 2, "the chosen image and its neighbour"
    assert not any("onerror" in e.value for e in [*at.markdown, *at.caption])
    assert not any("onerror" in b.label for b in at.button)


def test_few_images_print_no_decimals_and_an_older_run_no_conformal_p(home):
    (home / "runs" / "few" / "images.csv").unlink(missing_ok=True)
    at = open_page("images", run="few", who="All")
    assert all("." not in label for label in cards(at).values())
    assert "Conformal" not in said(at)


def test_another_run_begins_with_its_own_headline_attack(home):
    clear, few = (open_run(home / "runs" / name) for name in ("clear", "few"))
    other = [series.card(name)[0] for name in series.done(clear)][-1]
    at = page_number("2", run="clear", attack=other)
    assert control(at, "Attack", "selectbox").value == other
    at.selectbox(key="run_picker").set_value("few").run()
    assert not at.exception and query(at)["run"] == "few"
    shown = open_page("images", run="few")
    assert cards(at).keys() <= set(few.image_ids.tolist()) and query(at).get("image") is None
    assert control(shown, "Attack", "selectbox").value == series.card(few.report["verdict"]["headline_attack"])[0]


def test_every_picture_says_what_it_is(home):
    at = open_page("images", run="clear")
    alts = [picture.alt for element in at.get("image") for picture in element.proto.imgs]
    assert all("member" in alt and alt.endswith("blurred") for alt in alts) and len(set(alts)) >= 19
