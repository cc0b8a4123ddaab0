"""Whole jobs on models that are asked with more than the picture, or that see latents: toys whose loss of each image is known stand in for the checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.errors import RequestError
from audit.jobs import submit, tasks
from audit.jobs.store import Store
from audit.report.run import open_run
from models.pixels import to_model_range
from models.toy import Oracle, small_schedule
from tests.jobs import pair as pairs
from tests.jobs.test_driver_inline import CHECK, driver, fail_in, no_background_worker, run  # noqa: F401, the fixture acts by being here

CLASSES = 7
ATTACKS = ("loss_x0", "naive_loss")


class Fading(Oracle):
    """Knows every picture, and answers with one that is paler the larger `number` of what it is asked with: x0_mse = (number / 50)^2 mean x0^2."""

    def _x0_hat(self, xt, t, a, s, cond):
        number = self.number(cond, xt)
        return super()._x0_hat(xt, t, a, s, None) * (1 - number / 50)

    def number(self, cond, xt):
        """What fades, (N,1,1,1) or a number."""
        return 1.0


class WithLabels(Fading):
    classes = CLASSES

    def number(self, cond, xt):
        """The label and one."""
        assert cond.dtype == torch.int64 and cond.shape == xt.shape[:1]
        return 1 + cond.to(xt).view(-1, 1, 1, 1)


class WithCaptions(Fading):
    captions = True

    def embed(self, texts):
        """Their lengths."""
        return torch.tensor([[[float(len(text))]] for text in texts])

    def number(self, cond, xt):
        """The caption's length and one."""
        return 1.0 if cond is None else 1 + cond.to(xt)[:, :, :, None]


class OfLatents(Fading):
    """Sees means over 2 x 2 pixels, three times as large, so that a clamp would show."""

    def encode(self, images):
        """(N,1,8,8) -> (N,1,4,4)."""
        return 3 * torch.nn.functional.avg_pool2d(images, 2)


@pytest.fixture
def open_as(monkeypatch):
    """Makes every checkpoint open as a toy on the pictures of the pair."""

    def use(kind):
        x0 = torch.from_numpy(to_model_range(pairs.pictures(48, 0)))
        latent = kind is OfLatents
        toy = kind(kind.encode(None, x0) if latent else x0, small_schedule(40, first=0.9999, last=0.97))
        toy.image_shape, toy.pixel_space = (1, 8, 8), not latent
        object.__setattr__(toy.info, "image_shape", (1, 8, 8))
        monkeypatch.setattr(tasks.Place, "open", lambda place: toy)
        tasks._cache.clear()
        return toy

    yield use
    tasks._cache.clear()


def csv_of(place, column, value):
    """A file with value(i) for picture i of each set."""
    rows = [f'{side}_{i:03}.png,"{value(i)}"' for side, ids in (("members", range(24)), ("nonmembers", range(24))) for i in ids]
    place.write_text(f"image,{column}\n" + "\n".join(rows) + "\n")
    return str(place)


def number_of(image):
    return int(image["path"].rsplit("_", 1)[-1][:3])


def queries_of(job):
    return json.loads((Path(job.folder) / "queries.json").read_text())["images"]


def x0_mse_of(job, number):
    """Stored x0_mse beside the closed form, both (K,N)."""
    opened = open_run(job.folder)
    x0 = to_model_range(np.load(Path(job.folder) / "images.npy"))
    factor = np.array([(number(i) / 50) ** 2 for i in map(number_of, queries_of(job))])
    return opened.tables["x0_mse"].values, np.tile(factor * np.square(x0).mean(axis=(1, 2, 3)), (5, 1))


def test_every_image_is_asked_with_its_label(home, request_for, open_as, tmp_path):
    open_as(WithLabels)
    file = csv_of(tmp_path / "labels.csv", "class", lambda i: i % CLASSES)
    job = run(home, request_for(attacks=(*ATTACKS, "gray_free", "pia"), labels=file))
    assert (job.state, job.error) == ("done", "")
    got, expected = x0_mse_of(job, lambda i: 1 + i % CLASSES)
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    assert all(image["label"] == number_of(image) % CLASSES for image in queries_of(job))
    report = open_run(job.folder).report
    assert report["measurement"]["asked_with"] == {"kind": "labels", "source": "labels.csv"} and report["warnings"] == []
    status = {a["name"]: (a["status"], a["reason"]) for a in report["attacks"]}
    assert status["gray_free"][0] == "skipped" and "generates for each class label or caption anew" in status["gray_free"][1] and status["pia"][0] == "done"


def test_without_labels_no_pass_is_made(home, request_for, open_as, monkeypatch):
    toy = open_as(WithLabels)
    monkeypatch.setattr(type(toy), "predict", lambda *args: pytest.fail("the network was asked"))
    job = run(home, request_for(attacks=ATTACKS))
    assert job.state == "failed" and job.error.startswith("The model has 7 classes and needs a label for every image, and none were given. Expected --labels F.csv")
    assert not (Path(job.folder) / "images.npy").exists()


@pytest.mark.slow
def test_labels_are_part_of_the_request_of_the_shards_and_of_what_must_not_change(home, request_for, open_as, tmp_path, monkeypatch):
    open_as(WithLabels)
    file = csv_of(tmp_path / "labels.csv", "class", lambda i: i % CLASSES)
    plain, with_file = request_for(attacks=ATTACKS), request_for(attacks=ATTACKS, labels=file)
    assert plain.identity() != with_file.identity() != request_for(attacks=ATTACKS, captions=file).identity()
    assert "labels" in with_file.to_json() and type(with_file).from_json(with_file.to_json()) == with_file

    with monkeypatch.context() as broken:
        fail_in(broken, "measure", RuntimeError("lost"), after=3)
        job = run(home, with_file)
    kept = {path.parent.name for path in Path(job.folder).glob("shards/*/*.safetensors")}
    assert job.state == "failed" and len(kept) == 1
    csv_of(Path(file), "class", lambda i: (i + 1) % CLASSES)  # other labels: nothing measured before may stay
    submit.submit_audit(home, with_file, job.folder)
    driver(home).run_waiting()
    job = Store(home.home).get(job.id)
    assert job.state == "done"
    np.testing.assert_allclose(*x0_mse_of(job, lambda i: 1 + (i + 1) % CLASSES), rtol=1e-3)

    real = tasks.measure

    def measure_and_edit(*args):
        Path(file).write_text("image,class\n")
        return real(*args)

    monkeypatch.setattr(tasks, "measure", measure_and_edit)
    changed = run(home, request_for(attacks=ATTACKS, labels=file, seed=1), out=str(tmp_path / "out"))
    assert changed.state == "failed" and changed.error.startswith("The file of class labels (labels.csv) changed while the audit ran")
    Path(file).unlink()
    with pytest.raises(RequestError, match=r"--labels: labels\.csv was not found. Expected a \.csv with the columns image,class"):
        submit.submit_audit(home, request_for(attacks=ATTACKS, labels=file))


def test_captions_are_embedded_where_the_model_is_and_their_absence_is_said(home, request_for, open_as, tmp_path):
    open_as(WithCaptions)
    file = csv_of(tmp_path / "captions.csv", "caption", lambda i: "=" + "x" * (i % 5))
    job = run(home, request_for(attacks=ATTACKS, captions=file))
    assert (job.state, job.error) == ("done", "")
    np.testing.assert_allclose(*x0_mse_of(job, lambda i: 2 + i % 5), rtol=1e-3)
    assert queries_of(job)[1]["caption"] == "=x" and open_run(job.folder).report["warnings"] == []
    empty = run(home, request_for(attacks=(*ATTACKS, "gray_free")))
    np.testing.assert_allclose(*x0_mse_of(empty, lambda i: 1), rtol=1e-3)
    report = open_run(empty.folder).report
    assert report["warnings"][0].startswith("The model takes text and no captions were given") and report["measurement"]["asked_with"] is None
    assert {a["status"] for a in report["attacks"]} == {"done"}


def test_latents_are_encoded_on_the_device_and_never_clamped(home, request_for, open_as):
    toy = open_as(OfLatents)
    job = run(home, request_for(attacks=("loss_x0", "loss_vlb", "pfami", "gray_intermediate")))
    assert (job.state, job.error) == ("done", "")
    opened = open_run(job.folder)
    pictures = torch.from_numpy(to_model_range(np.load(Path(job.folder) / "images.npy")))
    x0 = toy.encode(pictures)
    assert float(x0.abs().max()) > 2.5
    expected = x0.double().square().mean(dim=(1, 2, 3)).numpy() / 2500
    np.testing.assert_allclose(opened.tables["x0_mse"].values, np.tile(expected, (5, 1)), rtol=1e-3)
    assert np.isnan(opened.tables["vlb_bits"].values[0]).all() and np.isfinite(opened.tables["vlb_bits"].values[1:]).all()
    crop, own = opened.tables["pfami_crop_mse"].values, opened.tables["pfami_mse"].values
    assert np.isfinite(crop).all() and not np.allclose(crop, own)
    status = {a["name"]: a["status"] for a in opened.report["attacks"]}
    assert status == {"loss_x0": "done", "loss_vlb": "done", "pfami": "done", "gray_intermediate": "skipped"}
    job = run(home, request_for(attacks=("pia",), api="bits=8"))
    assert job.state == "failed" and job.error.startswith("--api needs a model of pixels")


@pytest.mark.slow
def test_a_model_that_takes_none_says_so(home, request_for, open_as, tmp_path):
    open_as(Fading)
    job = run(home, request_for(attacks=ATTACKS, labels=csv_of(tmp_path / "labels.csv", "class", lambda i: "nonsense")))
    assert job.state == "done"
    assert open_run(job.folder).report["warnings"] == ["--labels was given, but this model takes no class labels: it was not used."]
    assert "label" not in queries_of(job)[0]


def test_a_check_says_what_the_model_needs(home, pair, open_as, tmp_path):
    def check(**given):
        job = submit.submit_check(home, CHECK | pair | given)
        driver(home).run_waiting()
        return Store(home.home).get(job.id).result

    open_as(WithLabels)
    lacking = check()
    assert lacking["asks_for"] == {"kind": "labels", "required": True, "classes": CLASSES} and lacking["asked_with"] is None
    assert "needs a label for every image" in lacking["asked_with_error"] and lacking["images"]["members"] == 24 and lacking["self_test"] is None
    given = check(labels=csv_of(tmp_path / "labels.csv", "class", lambda i: i % CLASSES))
    assert given["asked_with_error"] is None and given["asked_with"] == {"kind": "labels", "source": "labels.csv", "warnings": []}
    assert given["self_test"]["passed"] and given["price"]["seconds"] > 0
    open_as(WithCaptions)
    text = check(seed=1)
    assert text["asks_for"] == {"kind": "captions", "required": False, "classes": None} and text["asked_with"]["kind"] is None and text["self_test"]["passed"]
    assert "empty prompt" in text["asked_with"]["warnings"][0]
    open_as(Fading)
    assert check(seed=2)["asks_for"] is None
