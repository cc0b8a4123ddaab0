"""Whose word the split rests on: a manifest that verifies, by content; the owner's; nobody's. And the flags that say so."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.cli import _parser
from audit.cli_request import request_from
from audit.demo import FOLDER, demo_request
from audit.errors import ImageSetError, RequestError
from audit.provenance import provenance_of, read_manifest
from audit.request import Request, dp_claim
from models import demo
from models.demo import draw
from models.imagefiles import read_set
from models.manifest import coin, content_sha256, images_sha256, manifest_of

SEED, N = 7, 200


def sha(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def entries():
    """200 drawn pictures and 20 for training; number 199 lies near number 0."""
    cluster = [*range(N - 1), 0]
    keys = {c: min(sha(n) for n in range(N) if cluster[n] == c) for c in set(cluster)}
    drawn = [{"path": f"all/{n}.png", "sha256": sha(n), "cluster": c, "role": "member" if coin(SEED, keys[c]) else "nonmember"} for n, c in enumerate(cluster)]
    return drawn + [{"path": f"all/{n}.png", "sha256": sha(n), "cluster": n, "role": "training"} for n in range(N, N + 20)]


def content(images=None, **change):
    return manifest_of(entries() if images is None else images, SEED, "2026-01-01T00:00:00Z", "all", "sha256", "a fair coin each") | change


@pytest.fixture
def manifest(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(content()))
    return file


def request(**more):
    return Request(checkpoint="/c", members="/m", nonmembers="/n", name="x", **more)


def queries(images=None, left_out=(), pairs=()):
    drawn = [image for image in (entries() if images is None else images) if image["role"] != "training"]
    found = [{"image_id": "", "path": Path(i["path"]).name, "is_member": i["role"] == "member", "cluster": 0, "source_sha256": i["sha256"]} for i in drawn]
    return {"images": found, "left_out": list(left_out), "duplicates": {"exact": 0, "pairs": list(pairs)}}


def test_a_whole_split_verifies(manifest):
    found, counts = provenance_of(request(manifest=str(manifest)), queries()), [e["role"] for e in entries()]
    assert (found["kind"], found["reason"], found["manifest"], found["seed"]) == ("manifest", None, "split.json", SEED)
    assert found["manifest_sha256"] == images_sha256(entries()) and found["rule"] == "a fair coin each"
    assert (found["members_listed"], found["nonmembers_listed"]) == (counts.count("member"), counts.count("nonmember"))
    assert found["covered"]["members"] == {"audited": counts.count("member"), "left_out": 0, "of": counts.count("member")}
    assert found["coins"] == N - 1, "near duplicates share one"
    json.dumps(found)


def test_without_a_manifest_it_is_somebodys_word():
    assert provenance_of(request(), queries()) == {"kind": "stated", "reason": None}
    assert provenance_of(request(randomised_split=True), queries()) == {"kind": "stated-random", "reason": None}


def test_swapped_folders_are_refused_by_the_first_image(manifest):
    swapped = queries()
    for image in swapped["images"]:
        image["is_member"] = not image["is_member"]
    first = swapped["images"][0]
    with pytest.raises(ImageSetError, match=rf"{first['path']} is among the .*, and split.json lists it as a (non-)?member. Check which folder is which"):
        provenance_of(request(manifest=str(manifest)), swapped)


def test_an_image_that_no_coin_decided_is_refused(manifest):
    extra = queries()
    extra["images"].append({"path": "new.png", "is_member": True, "source_sha256": sha("new")})
    with pytest.raises(ImageSetError, match=r"new.png \(members\) is not in split.json"):
        provenance_of(request(manifest=str(manifest)), extra)
    trained = queries()
    trained["images"].append({"path": "t.png", "is_member": True, "source_sha256": sha(N)})
    with pytest.raises(ImageSetError, match=r"t\.png is among the members, and split.json lists it as trained on, without a coin"):
        provenance_of(request(manifest=str(manifest)), trained)


@pytest.mark.parametrize("side", ["member", "nonmember"])
def test_a_selected_part_is_not_the_random_split(manifest, side):
    of = [e for e in entries() if e["role"] == side]
    for kept, kind in ((int(np.ceil(0.95 * len(of))), "manifest"), (int(np.ceil(0.95 * len(of))) - 1, "stated")):
        part = of[:kept] + [e for e in entries() if e["role"] not in (side, "training")]
        found = provenance_of(request(manifest=str(manifest)), queries(part))
        assert found["kind"] == kind
        if kind == "stated":
            words = {"member": "members", "nonmember": "non-members"}[side]
            assert found["reason"] == f"split.json covers {kept} of {len(of)} {words}: a selected part is not the random split"


def test_what_the_audit_left_out_itself_is_not_missing(manifest):
    members = [e for e in entries() if e["role"] == "member"]
    gone, rest = members[:30], members[30:] + [e for e in entries() if e["role"] == "nonmember"]
    left = [{"path": e["path"], "set": "members", "reason": "damaged"} for e in gone[:20]]
    pairs = [{"image_id": "0", "set": "members", "kept": "x.png", "left_out": [Path(e["path"]).name for e in gone[20:]]}]
    found = provenance_of(request(manifest=str(manifest)), queries(rest, left, pairs))
    assert found["kind"] == "manifest" and found["covered"]["members"] == {"audited": len(members) - 30, "left_out": 30, "of": len(members)}
    elsewhere = [entry | {"set": "nonmembers"} for entry in left]
    assert provenance_of(request(manifest=str(manifest)), queries(rest, elsewhere, pairs))["kind"] == "stated"
    foreign = [{"path": f"other/{n}.png", "set": "members", "reason": "damaged"} for n in range(900, 930)]
    assert provenance_of(request(manifest=str(manifest)), queries(rest, foreign))["kind"] == "stated", "files of another place excuse nothing"


def flip(role):
    return {"member": "nonmember", "nonmember": "member"}[role]


def tampered():
    """(name, text, words) of files that are no manifest, or one that somebody changed."""
    one = entries()
    yield "empty", "", "is not JSON"
    yield "cut short", json.dumps(content())[:-9], "is not JSON"
    yield "nested", "[" * 100_000, "is not JSON"
    yield "a list", "[]", "is not a manifest"
    yield "a report", json.dumps({"images": one}), "is not a manifest"
    yield "version 2", json.dumps(content(afterimage_split=2)), "of version 2. Expected version 1"
    yield "version true", json.dumps(content(afterimage_split=True)), "of version True. Expected version 1"
    yield "no seed", json.dumps(content(seed=None)), "lacks fields"
    yield "no images", json.dumps(content(images=[])), "lacks fields"
    yield "another role", json.dumps(content([*one[:-1], one[-1] | {"role": "guest"}])), "lacks fields"
    yield "half a hash", json.dumps(content([*one[:-1], one[-1] | {"sha256": "ab"}])), "lacks fields"
    yield "a flipped role", json.dumps(content() | {"images": [one[5] | {"role": flip(one[5]["role"])}, *one[1:]]}), "was changed after it was drawn"
    yield "and its hash", json.dumps(content([*one[:5], one[5] | {"role": flip(one[5]["role"])}, *one[6:]])), r"does not give all/5.png the role that its seed draws"
    yield "another seed", json.dumps(content(seed=SEED + 1)), "the role that its seed draws"
    yield "a torn cluster", json.dumps(content([*one[:199], one[199] | {"role": flip(one[199]["role"])}, *one[200:]], coins="other")), "the role that its seed draws"
    yield "two roles", json.dumps(content([*one, one[3] | {"role": flip(one[3]["role"]), "cluster": 999}], coins="other")), "with two roles"


@pytest.mark.parametrize(("text", "words"), [pytest.param(text, words, id=name) for name, text, words in tampered()])
def test_a_manifest_that_is_none_is_one_clear_line(tmp_path, text, words):
    file = tmp_path / "split.json"
    file.write_text(text)
    with pytest.raises(RequestError, match=words) as caught:
        read_manifest(file)
    assert str(caught.value).startswith("split.json ") and "\n" not in str(caught.value)


def test_a_manifest_that_cannot_be_read(tmp_path):
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for name, words in (("none.json", "No such file"), ("b.json", "not text"), (".", "cannot be read")):
        with pytest.raises(RequestError, match=words):
            read_manifest(tmp_path / name)


def demo_queries():
    images = []
    for side in ("members", "nonmembers"):
        images += [{"path": e.name, "is_member": side == "members", "source_sha256": content_sha256(e.data)} for e in read_set(FOLDER / f"{side}.zip")]
    return {"images": images, "left_out": [], "duplicates": {"exact": 0, "pairs": []}}


def test_the_bundled_pair_verifies_against_its_manifest():
    for which in ("leaky", "twin"):
        found = provenance_of(demo_request(which), demo_queries())
        assert found["kind"] == "manifest" and found["coins"] == 900 and found["seed"] == 20261124
        assert found["covered"] == {side: {"audited": 450, "left_out": 0, "of": 450} for side in ("members", "nonmembers")}


@pytest.mark.parametrize("coins", ["other", "models.demo.draw", "SHA256", None])
def test_coins_that_nobody_can_toss_again_show_nothing(tmp_path, coins):
    """Roles of somebody's choice under another name of coins are a statement, also with an empty bag of words such as the demo's own."""
    chosen = [e if e["role"] == "training" else e | {"role": "member" if e["cluster"] % 2 else "nonmember"} for e in entries()]
    file = tmp_path / "split.json"
    file.write_text(json.dumps(content(chosen, coins=coins)))
    found = provenance_of(request(manifest=str(file)), queries(chosen))
    assert (found["kind"], found["reason"]) == ("stated", "the coins of split.json cannot be tossed again, so nothing shows that they decided")


def test_the_bundled_manifest_is_known_by_its_hash_alone(tmp_path):
    made = json.loads((FOLDER / "manifest.json").read_text())
    assert (made["sha256"], made["seed"]) == (demo.MANIFEST_SHA256, demo.MANIFEST_SEED) == (images_sha256(made["images"]), draw.SEED)
    for name, change, drawn in (("as it is", {}, True), ("seed", {"seed": 1}, False), ("one image", {"images": made["images"][1:]}, False)):
        made_too = made | change
        (tmp_path / "split.json").write_text(json.dumps(made_too | {"sha256": images_sha256(made_too["images"])}))
        assert read_manifest(tmp_path / "split.json").drawn == drawn, name


def test_the_cluster_of_each_audited_image(manifest):
    drawn = [e for e in entries() if e["role"] != "training"][::-1]
    found = provenance_of(request(manifest=str(manifest)), queries(drawn))
    assert found["clusters"] == [e["cluster"] for e in drawn] and found["clusters"].count(0) == 2
    assert provenance_of(request(), queries()).get("clusters") is None


@pytest.mark.slow
def test_draw_still_makes_the_bundled_files(tmp_path):
    from models.demo.draw import main

    idx = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
    if not idx.exists():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    main(["--idx", str(idx), "--out", str(tmp_path)])
    for name in ("members.zip", "nonmembers.zip", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


# --- the request ------------------------------------------------------------------------------------------------------------------------------


def test_the_new_fields_go_through_request_json_and_belong_to_its_identity():
    all_ = [request(), request(manifest="/f.json"), request(randomised_split=True), request(claimed_dp=(3.0, 1e-5)), request(claimed_dp=(3.0, 0.0))]
    for one in all_:
        assert Request.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert len({one.identity() for one in all_}) == len(all_)
    old = {k: v for k, v in request().to_json().items() if k not in ("manifest", "randomised_split", "claimed_dp")}
    assert Request.from_json(old) == request(), "a run folder of before"


def test_a_manifest_and_a_word_together_are_refused():
    with pytest.raises(RequestError, match="--manifest and --randomised-split were both given"):
        request(manifest="/f.json", randomised_split=True)
    with pytest.raises(RequestError, match="Expected a path, and true or false"):
        request(randomised_split="yes")


@pytest.mark.parametrize("value", ["3", "", "3,", "3,x", "3,1e-5,0", 3, [3], [True, 1e-5], {"eps": 3}, [[3], 1]])
def test_an_epsilon_without_a_delta_is_refused(value):
    with pytest.raises(RequestError, match=r"^--claimed-dp is .*\. Expected EPS,DELTA such as 3,1e-5.$"):
        dp_claim(value)


@pytest.mark.parametrize("value", ["0,1e-5", "-1,1e-5", "inf,1e-5", "nan,1e-5", "3,1", "3,-1e-9", "3,nan"])
def test_a_claim_out_of_range_is_refused(value):
    with pytest.raises(RequestError, match="Expected EPS above 0 and DELTA from 0 to below 1"):
        dp_claim(value)


@given(st.floats(1e-6, 1e6), st.floats(0, 0.999))
def test_a_claim_is_read_as_written(epsilon, delta):
    assert dp_claim(f"{epsilon!r},{delta!r}") == dp_claim([epsilon, repr(delta)]) == (epsilon, delta)


def parsed(tmp_path, *more, config=None):
    for name in ("checkpoint", "members", "nonmembers"):
        (tmp_path / name).mkdir(exist_ok=True)
    if config is not None:
        (tmp_path / "audit.yaml").write_text(config)
        more = (*more, "--config", str(tmp_path / "audit.yaml"))
    flags = [part for n in ("checkpoint", "members", "nonmembers") for part in (f"--{n}", str(tmp_path / n))]
    return request_from(_parser().parse_args(["run", *flags, *more]))[0]


def test_the_flags_reach_the_request(tmp_path, manifest):
    assert parsed(tmp_path, "--manifest", str(manifest)).manifest == str(manifest)
    assert parsed(tmp_path, "--randomised-split", "--claimed-dp", "3,1e-5").claimed_dp == (3.0, 1e-5)
    assert parsed(tmp_path, config="randomised-split: true\nclaimed-dp: [3, 1e-5]\n").claimed_dp == (3.0, 1e-5)
    assert parsed(tmp_path, config=f"manifest: {manifest}\n").manifest == str(manifest)
    won = parsed(tmp_path, "--manifest", str(manifest), config="randomised-split: true\n")
    assert (won.manifest, won.randomised_split) == (str(manifest), False), "a flag wins over the file"


def test_flags_that_contradict_or_lead_nowhere(tmp_path, manifest):
    with pytest.raises(RequestError, match="not allowed with"):
        parsed(tmp_path, "--manifest", str(manifest), "--randomised-split")
    with pytest.raises(RequestError, match="both given"):
        parsed(tmp_path, config=f"manifest: {manifest}\nrandomised-split: true\n")
    with pytest.raises(RequestError, match=r"--manifest: gone.json was not found"):
        parsed(tmp_path, "--manifest", str(tmp_path / "gone.json"))
    with pytest.raises(RequestError, match=r"--claimed-dp is '3'"):
        parsed(tmp_path, config="claimed-dp: 3\n")
