"""Page New audit: what it lets through to the job list, and what it says about what the worker found."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from audit import pricing
from audit.attacks import ATTACKS
from audit.config import load
from audit.errors import RequestError
from audit.jobs import check, launch, submit
from audit.jobs.store import Store
from audit.planner import count_images, plan_of_files, power_head, power_lines
from audit.probes import PROBES
from audit.request import Request
from audit.stats.power import planned, planned_mda
from models.manifest import manifest_of
from pages.frame import intake, plan, samples

APP = Path(__file__).resolve().parents[2] / "app.py"
INFO = {
    "sha256": "9c41e07b" * 8, "format": "diffusers-folder", "architecture": "UNet2DModel", "parameters": 1_100_000, "weights": "only", "prediction_type": "epsilon",
    "train_timesteps": 1000, "image_shape": [1, 16, 16], "confidence": "likely", "files": ["unet/config.json"], "missing": [],
    "settings": [{"name": "beta_schedule", "value": "linear", "decided_by": "scheduler_config.json"}, {"name": "pixel_range", "value": "-1 to 1", "decided_by": "default"}],
}  # fmt: skip
IMAGES = {
    "members": 400, "nonmembers": 420, "shape": [1, 16, 16], "modes": None, "complete": True, "duplicates": {"exact": 0, "pairs": []},
    "left_out": [{"path": "cat_1.png", "set": "members", "reason": "damaged"}, {"path": "cat_2.png", "set": "members", "reason": "damaged"}],
}  # fmt: skip
SELF_TEST = {"passed": True, "error": 0.031, "baseline": 0.4, "per_t": [], "hint": ""}
PRICE = {
    "seconds": 332.0, "low": 249.0, "high": 415.0, "model_calls": 245_888, "calls_per_image": 64, "memory_bytes": 1_100_000_000, "disk_bytes": 9_000_000,
    "seconds_per_call": 0.001, "batch_size": 64, "device": "CPU, 2 cores",
}  # fmt: skip
NOTHING = {"checkpoint": None, "checkpoint_error": None, "images": None, "images_error": None, "self_test": None, "price": None, "provenance": None, "provenance_error": None}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The job list of a new home whose inbox holds a checkpoint, two sets and a link out; no worker is ever started."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    config = load().prepare_home()
    for name in ("leaky/unet", "faces/members", "faces/nonmembers"):
        (config.inbox / name).mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (config.inbox / "link").symlink_to(outside)
    alive = launch.WorkerStatus(True, "CPU, 2 cores", 0, 0, "")
    monkeypatch.setattr(launch, "worker_status", lambda config: alive)
    monkeypatch.setattr(launch, "ensure_worker", lambda config: False)
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)
    store = Store(config.home)
    store.config = config
    return store


def answer(store, **parts):
    """Finish the open check as the worker would."""
    job = store.claim("w", kind="check")
    assert job is not None, "no check was asked for"
    assert store.update(job.id, "w", "running", new_state="done", result=NOTHING | parts)
    return job


def page():
    """Page New audit, run once."""
    app = AppTest.from_file(APP, default_timeout=30)
    app.switch_page("pages/new.py").run()
    assert not app.exception, app.exception
    return app


def step(app, name):
    """The same page at another step."""
    app.button_group(key="new_step").set_value(name).run()
    assert not app.exception, app.exception
    return app


def has(app, words):
    """True when one st.text holds these words."""
    return any(words in text.value for text in app.text)


def chosen(store):
    """The page with everything chosen and answered, at step 3."""
    app = page()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    answer(store, checkpoint=INFO)
    step(app, "images")
    app.selectbox(key="new_inbox_members").set_value("faces/members/").run()
    app.selectbox(key="new_inbox_nonmembers").set_value("faces/nonmembers/").run()
    answer(store, checkpoint=INFO, images=IMAGES, self_test=SELF_TEST, price=PRICE)
    app.run()
    return step(app, "price")


def test_next_waits_for_a_checkpoint_and_says_why(store):
    app = page()
    assert app.button(key="new_next_images").disabled and has(app, "Choose a checkpoint first.")
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    assert has(app, "Reading the checkpoint …") and app.button(key="new_next_images").disabled
    asked = answer(store, checkpoint=INFO)
    assert asked.request["checkpoint"] == str((store.config.inbox / "leaky").resolve()) and asked.request["members"] is None
    app.run()
    assert not app.button(key="new_next_images").disabled
    table = app.dataframe[0].value.set_index("setting")
    assert table.loc["network", "from"] == "unet/config.json" and table.loc["parameters", "value"] == "1.1 M" and table.loc["beta_schedule", "from"] == "scheduler_config.json"
    assert table.loc["pixel_range", "from"] == "default · check"
    assert any("likely: check the marked rows" in m.value for m in app.markdown)


def test_an_unreadable_checkpoint_is_said_in_words(store):
    app = page()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    answer(store, checkpoint_error="model.safetensors ends after 41 of 143 MB. The copy was cut short: copy it again.")
    app.run()
    assert has(app, "model.safetensors ends after 41 of 143 MB.") and has(app, "This checkpoint cannot be audited.")
    assert any("not recognised" in m.value for m in app.markdown)


def test_one_class_is_refused(store):
    app = step(page(), "images")
    app.selectbox(key="new_inbox_members").set_value("faces/members/").run()
    assert has(app, "Only members were given. Without non-members there is no ROC and no verdict: add a folder of non-members.")
    assert app.button(key="new_next_price").disabled and has(app, "Choose a folder of non-members first.")


def test_price_and_start(store):
    app = chosen(store)
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown == {"time on this CPU": "5 min 32 s", "model calls": "245,888", "memory": "1.1 GB", "disk": "9 MB"}
    assert app.metric[0].delta == "± 25\u202f%, measured"
    assert app.code[0].value.splitlines()[-1] == "  --preset standard" and "--attacks" not in app.code[0].value
    app.button(key="new_start").click().run()
    (job,) = store.list("audit")
    inbox = store.config.inbox.resolve()
    assert job.name == "leaky" and job.request["preset"] == "standard" and job.request["attacks"] == []
    assert [job.request[key] for key in ("checkpoint", "members", "nonmembers")] == [str(inbox / name) for name in ("leaky", "faces/members", "faces/nonmembers")]


def test_attacks_left_out_stay_out(store):
    app = chosen(store)
    app.checkbox(key="new_use_loss_vlb").uncheck().run()
    left = [name for name in ATTACKS if name != "loss_vlb"]
    assert app.code[0].value.endswith("--attacks " + ",".join(left))
    step(step(app, "images"), "price")
    assert not app.checkbox(key="new_use_loss_vlb").value, "a change of step forgets no choice"
    app.button(key="new_start").click().run()
    assert store.list("audit")[0].request["attacks"] == left


def test_no_attack_at_all_stops_the_start(store):
    app = chosen(store)
    for name in ATTACKS:
        app.checkbox(key=f"new_use_{name}").uncheck()
    app.run()
    assert app.button(key="new_start").disabled and has(app, "Choose at least one attack.")


def test_a_second_start_opens_the_first_job(store):
    chosen(store).button(key="new_start").click().run()
    chosen(store).button(key="new_start").click().run()
    assert len(store.list("audit")) == 1


def test_another_preset_is_priced_anew_and_the_old_price_is_gone(store):
    app = chosen(store)
    app.button_group(key="new_preset").set_value("quick").run()
    assert has(app, "Measuring on two batches …") and not app.metric
    assert answer(store, checkpoint=INFO, images=IMAGES, self_test=SELF_TEST, price=PRICE | {"seconds": 60.0}).request["preset"] == "quick"
    app.run()
    assert app.metric[0].value == "1 min 0 s"


def test_another_choice_of_attacks_is_priced_anew(store):
    app = chosen(store)
    app.checkbox(key="new_use_dime").uncheck().run()
    assert has(app, "Measuring on two batches …") and not app.metric
    assert "dime" not in answer(store, checkpoint=INFO, images=IMAGES, self_test=SELF_TEST, price=PRICE | {"seconds": 60.0}).request["attacks"]
    app.run()
    assert app.metric[0].value == "1 min 0 s"


def test_a_failed_self_test_stops_the_start(store):
    hint = "Prediction type v_prediction gives 0.04: set prediction_type in scheduler_config.json."
    app = images_step(store, self_test={"passed": False, "error": 0.97, "baseline": 0.4, "per_t": [], "hint": hint}, price=None)
    step(app, "price")
    assert app.button(key="new_start").disabled and has(app, f"Self-test failed. Denoising error 0.970, no better than an untrained network. {hint}")


def test_a_full_disk_stops_the_start(store):
    app = images_step(store, price=PRICE | {"disk_bytes": 10**18})
    step(app, "price")
    assert app.button(key="new_start").disabled and has(app, "this audit writes 1,000,000,000.0 GB. Free space or set AUDIT_HOME elsewhere.")


@pytest.mark.parametrize("typed", ["/etc", "../jobs.sqlite", "link", "faces/../../jobs.sqlite"])
def test_a_path_outside_the_inbox_never_reaches_a_row(store, typed):
    app = AppTest.from_file(APP, default_timeout=30)
    app.session_state["new_inbox_checkpoint"] = typed  # AppTest cannot type a new option
    app.switch_page("pages/new.py").run()
    assert not app.exception and has(app, "lies outside the inbox")
    assert app.button(key="new_next_images").disabled and store.list(None) == []


def test_a_link_swapped_in_after_the_choice_stops_the_start(store, tmp_path):
    app = chosen(store)
    (store.config.inbox / "faces/members/x.png").symlink_to("/etc/passwd")
    app.button(key="new_start").click().run()
    assert store.list("audit") == [] and has(app, "x.png is a link that leads out of the inbox.")


def test_input_lines():
    lines = dict(reversed(pair) for pair in plan.input_check_lines(IMAGES))
    assert "400 members and 420 non-members read, 820 in all, used as 16 × 16 grey" in lines
    assert lines["2 left out: 2 damaged"] == "warning" and lines["No exact duplicates"] == "check_circle"
    few = dict(reversed(pair) for pair in plan.input_check_lines(IMAGES | {"members": 12, "nonmembers": 14}))
    assert f"12 images a side can show only a leak above AUC {planned_mda(12, 14):.3f}." in few, "cross-fitted: every image is judged"


NEAR = {"exact": 0, "pairs": [], "near": 14, "clusters": 3, "near_pairs": []}
DIFFERENCES = [
    {"what": "file type", "members": ["PNG", 1.0], "nonmembers": ["PNG", 0.69]}, {"what": "sharpness", "z": -7.21}, {"what": "mean", "z": 5.0}, {"what": "sd", "z": 4.5},
]  # fmt: skip


def test_input_lines_on_near_duplicates_and_on_what_tells_the_sets_apart():
    lines = [text for _, text in plan.input_check_lines(IMAGES | {"duplicates": NEAR, "differences": DIFFERENCES})]
    assert "14 near duplicates across the sets, left out of both" in lines and "3 groups of near duplicates inside a set: each stays together wherever images are split" in lines
    assert "File type differs: members 100\u202f% PNG, non-members 69\u202f%. The blind baseline may find this." in lines
    assert "Sharpness differs: non-members have more of it (z = 7.2). The blind baseline may find this." in lines
    assert "Further features that differ: 1." in lines and not any(text.startswith("Sd") for text in lines)
    assert "No near duplicates across the sets" in [text for _, text in plan.near_lines(NEAR | {"near": 0, "clusters": 0})]
    assert plan.near_lines({"exact": 0, "pairs": []}) == [], "nobody looked"


@pytest.mark.parametrize(
    ("n", "line"),
    [
        (64, "No TPR at 1\u202f% and 0.1\u202f% FPR: not resolvable with n = 64."),
        (200, "Only a coarse TPR at 1\u202f% FPR."),
        (500, "No TPR at 0.1\u202f% FPR: not resolvable with n = 500."),
        (5000, "TPR with a lower bound at 10\u202f% and 1\u202f% and 0.1\u202f% FPR."),
    ],
)
def test_power_lines_speak_of_the_evaluation_half(n, line):
    lines = power_lines(2 * n, 2 * n)
    m = 2 * n if n < 200 else n  # cross-fitting below 400 a side judges every image; TPR is read from one half all the same
    assert f"A leak of AUC {planned_mda(m, m):.3f} or more would be found in 4 audits of 5." in lines and line in lines


def test_every_attack_has_its_row_and_card(store):
    app = step(page(), "price")
    boxes = [box for box in app.checkbox if box.key.startswith("new_use_")]
    assert [box.label for box in boxes] == [attack.card.title for attack in ATTACKS.values()] and all(box.value for box in boxes)
    for name, attack in ATTACKS.items():
        app.selectbox(key="new_card").set_value(name).run()
        assert has(app, attack.card.equation) and has(app, attack.card.source)


def test_a_step_that_does_not_exist_is_the_first(store):
    app = AppTest.from_file(APP, default_timeout=30)
    app.run()
    app.switch_page("pages/new.py")
    app.query_params["step"] = "nonsense"
    app.run()
    assert app.button_group(key="new_step").value == "checkpoint" and not app.exception


def test_the_inbox_lists_folders_and_zips_but_no_link(store):
    (store.config.inbox / "cats.zip").write_bytes(b"")
    (store.config.inbox / "notes.txt").write_bytes(b"")
    (store.config.inbox / ".hidden").mkdir()
    assert intake.inbox_entries(store.config.inbox, (".zip",)) == ["cats.zip", "faces/", "faces/members/", "faces/nonmembers/", "leaky/", "leaky/unet/"]


class Uploaded:
    """What Streamlit hands over, as far as `pack` looks."""

    def __init__(self, name, data):
        import io

        self.name, self.size, self._io = name, len(data), io.BytesIO(data)

    def read(self, n=-1):
        return self._io.read(n)


def test_an_uploaded_folder_becomes_one_zip_named_by_its_content(tmp_path):
    def files():
        return [Uploaded("mdl/unet/config.json", b"{}"), Uploaded("mdl/model_index.json", b"[]")]

    first, second = intake.pack(files(), tmp_path, 100), intake.pack(files()[::-1], tmp_path, 100)
    assert first.path == second.path and first.name == "mdl" and [p.name for p in tmp_path.iterdir()] == [first.path.name]
    with zipfile.ZipFile(first.path) as archive:
        assert archive.namelist() == ["model_index.json", "unet/config.json"] and archive.read("unet/config.json") == b"{}"


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", "C:\\x.json", "a\\..\\x"])
def test_an_uploaded_name_that_climbs_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match="is not a name inside a folder"):
        intake.pack([Uploaded(name, b"")], tmp_path, 100)
    assert list(tmp_path.iterdir()) == []


def test_an_uploaded_folder_has_a_limit(tmp_path):
    with pytest.raises(RequestError, match=r"holds 200 B. Expected at most 100 B"):
        intake.pack([Uploaded("a/x.png", b"x" * 200)], tmp_path, 100)


def test_the_command_is_quoted():
    names = {"checkpoint": "/in/my model", "members": "/in/a;b", "nonmembers": "/in/c"}
    command = plan.command({key: intake.Choice(path) for key, path in names.items()}, "quick", ("loss_x0", "loss_vlb"))
    assert command.replace(" \\\n ", "") == "python -m audit run --checkpoint '/in/my model' --members '/in/a;b' --nonmembers /in/c --preset quick --attacks loss_x0,loss_vlb"


# --- how the split was drawn ------------------------------------------------------------------------------------------------------------------


VERIFIED = {
    "kind": "manifest", "reason": None, "manifest": "split.json", "manifest_sha256": "ab" * 32, "seed": 1, "rule": "", "coins": 815,
    "members_listed": 400, "nonmembers_listed": 420,
    "covered": {"members": {"audited": 398, "left_out": 2, "of": 400}, "nonmembers": {"audited": 420, "left_out": 0, "of": 420}},
}  # fmt: skip


@pytest.fixture
def manifest(store):
    """A manifest in the inbox, and a folder of a name that only looks like one."""
    image = {"path": "a.png", "sha256": "ab" * 32, "cluster": 0, "role": "member"}
    file = store.config.inbox / "split.json"
    file.write_text(json.dumps(manifest_of([image], 1, "2026-01-01T00:00:00Z", "all", "elsewhere", "a coin each")))
    (store.config.inbox / "not.json").mkdir()
    return str(file.resolve())


def images_step(store, self_test=SELF_TEST, price=PRICE, **parts):
    """The page at step 2 with both sets chosen, the first check answered."""
    app = page()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    step(app, "images")
    app.selectbox(key="new_inbox_members").set_value("faces/members/").run()
    app.selectbox(key="new_inbox_nonmembers").set_value("faces/nonmembers/").run()
    answer(store, checkpoint=INFO, images=IMAGES, self_test=self_test, **({} if price is None else {"price": price}), **parts)
    return app.run()


def test_nobody_says_random_unless_asked(store):
    app = chosen(store)
    assert not {"--manifest", "--randomised-split"} & set(app.code[0].value.split())
    app.button(key="new_start").click().run()
    (job,) = store.list("audit")
    assert (job.request["manifest"], job.request["randomised_split"]) == (None, False)


def test_a_manifest_of_the_inbox_is_checked_shown_and_asked_for(store, manifest):
    app = images_step(store)
    app.checkbox(key="new_split_random").check().run()
    assert app.selectbox(key="new_manifest").options == ["split.json"]
    assert app.button(key="new_next_price").disabled and has(app, "Choose the manifest of the split, or say that it is your word.")
    app.selectbox(key="new_manifest").set_value("split.json").run()
    asked = answer(store, checkpoint=INFO, images=IMAGES, provenance=VERIFIED, self_test=SELF_TEST, price=PRICE)
    assert asked.request["manifest"] == manifest
    app.run()
    assert has(app, "Split verified by split.json: 398 of 400 members and 420 of 420 non-members, 815 coins") and not app.button(key="new_next_price").disabled
    step(app, "price")
    assert f"--manifest {manifest}" in app.code[0].value
    app.button(key="new_start").click().run()
    assert not app.exception
    (job,) = store.list("audit")
    assert (job.request["manifest"], job.request["randomised_split"]) == (manifest, False)


def test_a_manifest_that_does_not_match_stops_the_start(store, manifest):
    app = images_step(store)
    app.checkbox(key="new_split_random").check().run()
    app.selectbox(key="new_manifest").set_value("split.json").run()
    problem = "cat.png (members) is not in split.json. Expected only files of that split."
    answer(store, checkpoint=INFO, images=IMAGES, provenance_error=problem, self_test=SELF_TEST, price=PRICE)
    app.run()
    assert has(app, problem) and has(app, "The manifest cannot be used for these sets.") and app.button(key="new_next_price").disabled
    assert step(app, "price").button(key="new_start").disabled
    step(app, "images").checkbox(key="new_split_random").uncheck().run()
    assert not has(app, problem), "without the manifest the answer of before holds again"


def test_a_selected_part_is_said_and_may_start(store, manifest):
    app = images_step(store)
    app.checkbox(key="new_split_random").check().run()
    app.selectbox(key="new_manifest").set_value("split.json").run()
    reason = "split.json covers 40 of 400 members: a selected part is not the random split"
    answer(store, checkpoint=INFO, images=IMAGES, provenance=VERIFIED | {"kind": "stated", "reason": reason}, self_test=SELF_TEST, price=PRICE)
    app.run()
    assert has(app, f"{reason}. It counts as your statement.") and not app.button(key="new_next_price").disabled


LABELLED = {"asks_for": {"kind": "labels", "required": True, "classes": 10}}


def test_a_class_conditional_model_asks_for_labels_and_gets_them(store):
    file = store.config.inbox / "labels.csv"
    file.write_text("image,class\na.png,3\n")
    refused = "The model has 10 classes and no labels were given."
    app = images_step(store, self_test=None, price=None, **LABELLED, asked_with_error=refused)
    app.run()
    assert has(app, refused) and app.button(key="new_next_price").disabled and has(app, "What the model is asked with is not known for every image.")
    assert app.selectbox(key="new_labels").options == ["labels.csv"]
    app.selectbox(key="new_labels").set_value("labels.csv").run()
    found = {"kind": "labels", "source": "labels.csv", "warnings": []}
    asked = answer(store, checkpoint=INFO, images=IMAGES, self_test=SELF_TEST, price=PRICE, asked_with=found, **LABELLED)
    assert asked.request["labels"] == str(file) and asked.request["captions"] is None
    app.run()
    assert has(app, "Class labels of all images from labels.csv.") and not has(app, refused) and not app.button(key="new_next_price").disabled
    step(app, "price")
    assert f"--labels {file}" in app.code[0].value
    app.button(key="new_start").click().run()
    assert not app.exception
    (job,) = store.list("audit")
    assert (job.request["labels"], job.request["captions"]) == (str(file), None)


def test_a_model_that_takes_neither_is_asked_with_nothing(store):
    (store.config.inbox / "labels.csv").write_text("image,class\n")
    app = images_step(store)
    assert not [box for box in app.selectbox if box.key in ("new_labels", "new_captions")]


def test_captions_may_be_left_out_and_it_is_said(store):
    found = {"kind": None, "source": None, "warnings": ["Every image was asked about with the empty prompt."]}
    app = images_step(store, asks_for={"kind": "captions", "required": False, "classes": None}, asked_with=found)
    app.run()
    assert app.selectbox(key="new_captions").value is None and has(app, "Every image was asked about with the empty prompt.")
    assert not app.button(key="new_next_price").disabled


def test_the_owners_word_is_one_click_and_says_what_it_is_worth(store):
    app = images_step(store)
    app.checkbox(key="new_split_random").check().run()
    app.button_group(key="new_split_by").set_value("My word").run()
    assert any("It changes nothing in the verdict." in c.value for c in app.caption) and not app.button(key="new_next_price").disabled
    step(app, "price")
    assert "--randomised-split" in app.code[0].value
    app.button(key="new_start").click().run()
    (job,) = store.list("audit")
    assert (job.request["manifest"], job.request["randomised_split"]) == (None, True)


def test_a_manifest_swapped_for_a_link_out_never_reaches_a_row(store, manifest, tmp_path):
    app = images_step(store)
    app.checkbox(key="new_split_random").check().run()
    app.selectbox(key="new_manifest").set_value("split.json").run()
    answer(store, checkpoint=INFO, images=IMAGES, provenance=VERIFIED, self_test=SELF_TEST, price=PRICE)
    step(app, "price")
    outside = tmp_path / "outside.json"
    Path(manifest).rename(outside)
    Path(manifest).symlink_to(outside)
    app.button(key="new_start").click().run()
    assert store.list("audit") == [] and has(app, "split.json lies outside the inbox.")


def test_submit_reads_the_manifest_before_anything_is_queued(store, tmp_path):
    paths = {name: str(store.config.inbox) for name in ("checkpoint", "members", "nonmembers")}
    (tmp_path / "bad.json").write_text("{}")
    for manifest, words in ((str(tmp_path / "bad.json"), "bad.json is not a manifest"), ("bad.json", "Expected an absolute path"), (str(tmp_path / "x"), "cannot be read")):
        with pytest.raises(RequestError, match=words):
            submit.submit_audit(store.config, Request(**paths, name="x", manifest=manifest))
    assert store.list(None) == []


# --- what these images can show ---------------------------------------------------------------------------------------------------------------


def test_the_planner_says_what_planned_says():
    for members, nonmembers in ((60, 90), (399, 2000), (400, 400), (5000, 8000)):
        found, lines = planned(members, nonmembers), power_lines(members, nonmembers)
        assert f"{found['members']:,} + {found['nonmembers']:,}" in power_head(members, nonmembers)
        assert ("cross-fitted" in power_head(members, nonmembers)) == (members < 400)
        assert f"AUC {found['minimum_detectable_auc']:.3f} or more" in lines[0] and f"{100 * found['minimum_detectable_share']:.1f}\u202f%" in lines[1]
        goals = [goal for goal in found["images_needed"] if goal["images"] > min(members, nonmembers)]
        assert all(f"AUC {goal['auc']:.3f}: {goal['images']:,} images a side" in lines[-1] for goal in goals)
        assert ("images a side" in lines[-1]) == bool(goals)


def test_run_counts_by_names_and_says_so(tmp_path):
    (tmp_path / "m").mkdir()
    for name in (*(f"{n}.PNG" for n in range(30)), ".hidden.png", "notes.txt"):
        (tmp_path / "m" / name).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "n.zip", "w") as archive:
        for name in (*(f"x/{n}.jpg" for n in range(25)), "__MACOSX/y.jpg", "z.txt"):
            archive.writestr(name, b"")
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((41, 8, 8, 3), np.uint8))
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    assert [count_images(tmp_path / name) for name in ("m", "n.zip", "a.npz", "bad.zip", "gone")] == [30, 25, 41, None, None]
    lines = plan_of_files(tmp_path / "m", tmp_path / "n.zip")
    assert lines[0] == "30 + 25 images by their files' names; if none is left out: what 30 + 25 images, cross-fitted, can show"
    assert [line.strip() for line in lines[1:]] == power_lines(30, 25)
    assert plan_of_files(tmp_path / "m", tmp_path / "bad.zip") == []


# --- what a check says about the sets ---------------------------------------------------------------------------------------------------------


def test_a_check_names_the_file_type_that_differs():
    modes = {"members": {"28 x 28 grey PNG": 100}, "nonmembers": {"28 x 28 grey PNG": 69, "28 x 28 grey JPEG": 31}}
    (found,) = check.mode_differences(modes)
    assert (found["what"], found["members"], found["nonmembers"]) == ("file type", ["PNG", 1.0], ["PNG", 0.69])
    assert check.mode_differences({"members": {"8 x 8 RGB PNG": 9}, "nonmembers": {"8 x 8 RGB PNG": 4}}) == []
    assert check.mode_differences({"members": {}, "nonmembers": {}}) == []


def test_a_check_names_the_features_beyond_luck_and_no_others(tmp_path):
    rng = np.random.default_rng(0)
    is_member = np.arange(400) < 200
    values = rng.normal(size=(400, 5)) + np.outer(is_member, [0, 1.5, -3, 9, 0])
    values[:, 4] = 1
    np.savez(tmp_path / "f.npz", names=["luck", "sharpness", "mean", "pixel", "constant"], scalar=[True, True, True, False, True], values=values)
    found = check.feature_differences(tmp_path / "f.npz", is_member.tolist())
    assert [(d["what"], d["z"] > 0) for d in found] == [("mean", False), ("sharpness", True)] and abs(found[0]["z"]) > abs(found[1]["z"])
    assert check.feature_differences(tmp_path / "gone.npz", is_member.tolist()) == []


# --- reference, API, budget, and what the file does not say -------------------------------------------------------------------------------------

QUESTIONS = [
    {"name": "recipe", "words": "named preset", "kind": "choice", "values": ["improved-cifar10"], "low": 0, "high": 0},
    {"name": "prediction_type", "words": "what it predicts", "kind": "choice", "values": ["epsilon", "v_prediction"], "low": 0, "high": 0},
    {"name": "rescale_timesteps", "words": "scaled timesteps", "kind": "switch", "values": [], "low": 0, "high": 0},
    {"name": "num_heads", "words": "attention heads", "kind": "whole", "values": [], "low": 1, "high": 1024},
    {"name": "respacing", "words": "steps kept", "kind": "text", "values": [], "low": 0, "high": 0},
    {"name": "variance", "words": "reverse variance", "kind": "choice", "values": ["fixed_small", "fixed_large"], "low": 0, "high": 0},
]
DECIDED = [{"name": "respacing", "value": "", "decided_by": "default"}, {"name": "variance", "value": "learned_range", "decided_by": "inferred"}]
OPENAI = INFO | {
    "format": "openai", "words": "improved-diffusion .pt", "confidence": "incomplete", "missing": ["num_heads", "rescale_timesteps"], "fixed": ["variance"],
    "settings": DECIDED, "questions": QUESTIONS, "notes": ["another head count would load as well"],
}  # fmt: skip


def set_key(app, name):
    """The one widget that asks for a setting of the loader."""
    found = [w for kind in ("selectbox", "number_input", "text_input") for w in getattr(app, kind) if w.key and w.key.startswith(f"new_set_{name}_")]
    assert len(found) == 1, name
    return found[0]


def test_what_the_file_does_not_say_is_asked_for_and_reaches_the_request(store):
    app = page()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    answer(store, checkpoint=OPENAI)
    app.run()
    assert app.button(key="new_next_images").disabled and has(app, "Fill in what the file does not say first: num_heads, rescale_timesteps.")
    assert any("incomplete" in m.value for m in app.markdown) and has(app, "Another head count would load as well.")
    asked = {key.split("_set_")[1].rsplit("_", 1)[0] for w in (*app.selectbox, *app.number_input, *app.text_input) if (key := w.key or "").startswith("new_set_")}
    assert asked == {"recipe", "rescale_timesteps", "num_heads", "respacing"}, "what the tensors show, and what a file decided, is not asked"
    set_key(app, "num_heads").set_value(4).run()
    assert store.claim("x", kind="check").request["overrides"] == {"num_heads": 4}
    set_key(app, "rescale_timesteps").set_value(False).run()
    whole = OPENAI | {"missing": [], "confidence": "likely", "settings": [*DECIDED, {"name": "num_heads", "value": 4, "decided_by": "user"}]}
    assert answer(store, checkpoint=whole).request["overrides"] == {"num_heads": 4, "rescale_timesteps": False}
    app.run()
    assert not app.button(key="new_next_images").disabled
    step(app, "images")
    app.selectbox(key="new_inbox_members").set_value("faces/members/").run()
    app.selectbox(key="new_inbox_nonmembers").set_value("faces/nonmembers/").run()
    answer(store, checkpoint=whole, images=IMAGES, self_test=SELF_TEST, price=PRICE)
    step(app, "price")
    assert has(app, "You set num_heads 4, rescale_timesteps False") and "--num-heads 4" in app.code[0].value and "--no-rescale-timesteps" in app.code[0].value
    step(app, "checkpoint")
    assert set_key(app, "num_heads").value == 4
    step(app, "price").button(key="new_start").click().run()
    assert store.list("audit")[0].request["overrides"] == {"num_heads": 4, "rescale_timesteps": False}


def test_the_ranking_and_another_reading_are_offered(store):
    app = page()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    answer(store, checkpoint=OPENAI, ranking={"words": "On these images num_heads 4 denoises best.", "best": "num_heads 4"})
    app.run()
    assert has(app, "On these images num_heads 4 denoises best. It is a hint")
    app = page()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    answer(store, checkpoint=OPENAI | {"missing": []}, self_test=SELF_TEST | {"passed": False, "hint": "x", "better": "v_prediction"})
    app.run()
    app.button(key="new_use_better").click().run()
    assert store.claim("x", kind="check").request["overrides"] == {"prediction_type": "v_prediction"}


def test_reference_api_and_budget_reach_the_check_the_summary_and_the_request(store):
    (store.config.inbox / "base").mkdir()
    app = page()
    app.selectbox(key="new_inbox_reference").set_value("base/").run()
    app.selectbox(key="new_inbox_checkpoint").set_value("leaky/").run()
    answer(store, checkpoint=INFO, plan_error="--reference has a number of timesteps that is 30, the checkpoint 1000.")
    app.run()
    assert has(app, "--reference has a number of timesteps that is 30")
    step(app, "images")
    app.selectbox(key="new_inbox_members").set_value("faces/members/").run()
    app.selectbox(key="new_inbox_nonmembers").set_value("faces/nonmembers/").run()
    step(app, "price")
    app.checkbox(key="new_api").check().run()
    app.number_input(key="new_api_steps").set_value(20).run()
    app.number_input(key="new_api_bits").set_value(6).run()
    app.number_input(key="new_budget").set_value(3).run()
    api = {"steps": 20, "bits": 6, "noise": 0.0, "jpeg": None}
    base = str((store.config.inbox / "base").resolve())
    plan_ = {"skipped": {"loss_vlb": "an API shows no weights"}, "reference": {"format": "diffusers", "architecture": "U", "parameters": 10**6}, "warnings": []}
    asked = answer(store, checkpoint=INFO, images=IMAGES, self_test=SELF_TEST, plan=plan_, price=PRICE).request
    assert (asked["reference"], asked["api"], asked["budget"]) == (base, api, 3)
    step(step(app, "images"), "price")
    for words in ("Relative to the reference base", "Through an API that shows 20 steps, 6-bit pictures", "Budget: 3 loss grids", "1 attack will not run"):
        assert has(app, words), words
    command = app.code[0].value
    assert f"--reference {base}" in command and "--api steps=20,bits=6,noise=0" in command and "--budget 3" in command
    app.button(key="new_start").click().run()
    (job,) = store.list("audit")
    assert (job.request["reference"], job.request["api"], job.request["budget"]) == (base, api, 3)


def test_samples_are_priced_and_reach_the_request(store):
    app = chosen(store)
    assert sum("needs samples: say below, under Samples alone" in text.value for text in app.text) == 2  # nearest and its calibrated form
    assert "--pool" not in app.code[0].value
    app.number_input(key="new_pool").set_value(2000).run()
    assert not app.exception and sum("no call per image, once the samples are drawn" in text.value for text in app.text) == 2
    assert has(app, "2,000 samples are drawn first: 100,000 calls, 1 min 40 s here beside the price above") and "--pool 2000" in app.code[0].value
    app.button(key="new_start").click().run()
    (job,) = store.list("audit")
    assert job.request["pool"] == 2000 and not app.exception


def test_a_reference_draws_samples_too_and_its_attacks_are_not_called_skipped():
    terms, base, drawn = {"api": None, "budget": None, "problem": ""}, intake.Choice("/b", "base"), samples.Samples(500)
    lines = plan.summary(base, terms, {}, {"skipped": {"nearest": "no samples", "gray_free": "too dear"}}, drawn)
    assert lines[-1][1] == "1 attack will not run, each for the reason beside it: Free run"
    ((_, said),) = samples.summary(drawn, base, None, None)
    assert said == "500 samples from the checkpoint and as many from the reference are drawn first: 50,000 calls"
    ((_, said),) = samples.summary(samples.Samples(own=intake.Choice("/s", "mine")), base, None, None)
    assert said == "Your own samples mine are compared, and as many are drawn from the reference"


COSTS = {"probes": {name: [5, 0, 5] for name in PROBES} | {"noised": [40, 0, 40], "dime": [44, 0, 44], "gray_free": [0, 1280, 7]}}
COSTS |= {"seconds_per_call": 0.01, "seconds_per_shared_call": 0.02, "images": 100}


def test_each_attack_shows_what_it_adds_and_a_shared_probe_is_counted_once(store):
    found = pricing.shares(COSTS, tuple(ATTACKS), None)
    total = sum(share.calls for share in found.values())
    assert total == sum(cost[0] for cost in COSTS["probes"].values()) - COSTS["probes"]["untrained"][0] and found["nearest"].calls == 0
    assert found["dime"].calls == 44 and found["dime_m"].shared_with == "dime" and found["dime_m"].seconds == 0
    assert found["loss_vlb"].seconds == pytest.approx(40 * 100 * 0.01) and found["gray_free"].once == 1280 and found["gray_free"].seconds == pytest.approx(25.6)
    left = pricing.shares(COSTS, tuple(n for n in ATTACKS if n != "dime"), 1)
    assert left["dime_m"].skipped.startswith("over the budget") and left["dime"].calls == 44 and not left["dime"].skipped
    assert pricing.shares(COSTS, tuple(ATTACKS), None, api=True)["loss_x0"].skipped.startswith("an API shows no weights")
    app = images_step(store, costs=COSTS)
    step(app, "price")
    assert has(app, "white-box · 40 new calls per image · 40 s here") and has(app, "no new calls, shared with") and has(app, "not run: over the budget")
