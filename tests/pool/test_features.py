"""The space of features: a small backbone of timm with random weights, beside brute force and in whole jobs; what is refused needs no timm."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.attacks import ATTACKS, check_settings
from audit.backbones import Backbone, backbone_of
from audit.errors import AttackError, RequestError
from audit.pool import features
from audit.report.run import open_run
from audit.tables import Tables, write_tables
from tests.jobs.conftest import base, home, pair, request_for  # noqa: F401, fixtures
from tests.jobs.pair import pictures, save_pictures
from tests.jobs.test_driver_inline import fail_in, no_background_worker, run  # noqa: F401, the fixture acts by being here
from tests.jobs.test_pools import folder, given, report_of  # noqa: F401, a fixture
from tests.pool.test_search import crowd

BOTH = ("nearest", "nearest_calibrated")
MODEL = "test_efficientnet"


@pytest.fixture(scope="module")
def timm():
    """The package, or a skip that says why there is none."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
        pytest.skip(f"timm cannot be used here: {type(error).__name__}: {error}"[:200])
    return timm


@pytest.fixture(scope="module")
def weights(timm, tmp_path_factory):
    """Path of random weights of MODEL, its classifier among them."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in timm.create_model(MODEL, pretrained=False).state_dict().items()}, file)
    return str(file)


def settings_of(weights, **more):
    return {name: {"backbone": MODEL, "weights": weights, **more} for name in BOTH}


def test_a_picture_is_what_the_backbone_sees_of_it_at_length_one(timm, weights):
    from safetensors.torch import load_file

    embedder, pictures = features.Embedder(Backbone(MODEL, weights), torch.device("cpu")), crowd(5, shape=(12, 12, 3))
    network = timm.create_model(MODEL, pretrained=False).eval()
    network.load_state_dict(load_file(weights))
    x = torch.nn.functional.interpolate(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, (160, 160), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network.forward_head(network.forward_features((x - mean) / std), pre_logits=True))
    found = embedder.features(pictures)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert embedder.facts["numbers"] == found.shape[1] == 256 and embedder.facts["weights"] == "weights.safetensors" and len(embedder.facts["sha256"]) == 64
    grey = embedder.features(pictures[..., :1])
    np.testing.assert_allclose(grey, embedder.features(pictures[..., :1].repeat(3, axis=3)), atol=1e-6)


def test_the_search_is_brute_force():
    rng = np.random.default_rng(0)
    queries, mirrored, samples = (rng.standard_normal((count, 24)).astype(np.float32) for count in (30, 30, 70))
    samples[5], samples[6] = queries[3], mirrored[4]
    clusters = np.arange(30)
    clusters[1] = 0
    made = features.search(queries, mirrored, samples, 0, 30, clusters, np.array([9]), "cpu")
    assert {name: values.shape for name, values in made.items()} == {name: (1, 30, k) for name, k in features.TABLES.items()}
    rest = np.delete(samples, 9, axis=0)

    def distances(x, g):
        return np.sqrt(((x[:, None].astype(np.float64) - g[None]) ** 2).sum(axis=2))

    np.testing.assert_allclose(made["nearest_features"][0], np.sort(distances(queries, rest), axis=1)[:, :21], rtol=1e-6)
    both = np.sort(np.concatenate([distances(queries, rest), distances(mirrored, rest)], axis=1), axis=1)[:, :21]
    np.testing.assert_allclose(made["nearest_features_mirrored"][0], both, rtol=1e-6, atol=1e-9)
    among = distances(queries, queries)
    among[clusters[:, None] == clusters[None]] = np.inf
    np.testing.assert_allclose(made["neighbours_features"][0], np.sort(among, axis=1)[:, :20], rtol=1e-6)
    part = features.search(queries, mirrored, samples, 8, 20, clusters, np.array([9]), "cpu")
    np.testing.assert_allclose(part["neighbours_features"], made["neighbours_features"][:, 8:20], rtol=1e-6)


@pytest.mark.slow
def test_a_whole_job_measures_features_goes_on_where_it_stopped_and_says_by_what(home, pair, folder, weights, monkeypatch, tmp_path):  # noqa: F811
    from audit.jobs import pools_features, tasks_features

    monkeypatch.setattr(pools_features, "PICTURES_AT_ONCE", 20)
    asked = given(pair, folder, attacks=BOTH, settings=settings_of(weights, space="features", mirrored="no"))
    with monkeypatch.context() as broken:
        fail_in(broken, "embed", RuntimeError("stop"), after=2, module=tasks_features)
        assert run(home, asked, out=tmp_path / "run").state == "failed"
    calls, real = [], tasks_features.embed
    monkeypatch.setattr(tasks_features, "embed", lambda *args: calls.append(args[4]) or real(*args))
    job = run(home, asked, out=tmp_path / "run")
    assert (job.state, job.error) == ("done", "") and calls == [32, 0, 12]  # the third shard of the images, then the samples
    opened, report = open_run(job.folder), report_of(job)
    assert report["pool"]["backbone"]["model"] == MODEL and report["pool"]["backbone"]["weights"] == "weights.safetensors" and "weights" not in str(report["attacks"])
    embedder = features.Embedder(Backbone(MODEL, weights), torch.device("cpu"))
    made = [embedder.features(np.load(file)) for file in (Path(job.folder) / "images.npy", next((home.home / "pools").iterdir()) / "images.npy")]
    expected = np.sqrt(((made[0][:, None].astype(np.float64) - made[1][None]) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(opened.tables["nearest_features"].values[0], expected, atol=1e-5)
    assert {row["name"]: row["settings"]["space"] for row in report["attacks"]} == dict.fromkeys(BOTH, "features")
    np.testing.assert_allclose(opened.scores_of("nearest"), -expected, atol=1e-5)
    members = opened.is_member
    assert np.sort(expected[members])[:10].max() < np.median(expected[~members])  # ten members have near copies among the samples


@pytest.mark.slow
def test_a_reference_set_is_compared_by_features_too(home, pair, folder, weights, tmp_path):  # noqa: F811
    outsiders = save_pictures(tmp_path / "outsiders", pictures(30, 77))
    settings = {"nearest_calibrated": {"backbone": MODEL, "weights": weights, "space": "features", "relative_to": "reference", "reference": str(outsiders), "k": 1}}
    job = run(home, given(pair, folder, attacks=("nearest_calibrated",), settings=settings))
    assert (job.state, job.error) == ("done", "")
    embedder = features.Embedder(Backbone(MODEL, weights), torch.device("cpu"))
    made = [embedder.features(images).astype(np.float64) for images in (np.load(Path(job.folder) / "images.npy"), pictures(30, 77))]
    expected = np.sqrt(((made[0][:, None] - made[1][None]) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(open_run(job.folder).tables["references_features"].values[0], expected, atol=1e-5)


def test_features_are_tried_only_by_the_attack_that_names_a_backbone(tmp_path):
    rng = np.random.default_rng(1)
    arrays = {name: np.sort(rng.uniform(1, 2, (1, 40, k)), axis=2).astype(np.float32) for name, k in features.TABLES.items()}
    for name in ("nearest_pixels", "nearest_pixels_mirrored", "nearest_lowpass", "nearest_lowpass_mirrored", "neighbours_pixels", "neighbours_lowpass"):
        arrays[name] = np.ones((1, 40, 21), np.float32)
    write_tables(tmp_path / "tables", 40, dict.fromkeys(arrays, ("feature", None)), [(0, arrays)])
    tables = Tables.load(tmp_path / "tables")
    for name in BOTH:
        attack, named = ATTACKS[name], {"backbone": MODEL, "weights": "/w.safetensors"}
        assert {c.space for c in attack.candidates(tables, {})} == {"pixels", "low-pass"}
        assert {c.space for c in attack.candidates(tables, named)} == {"pixels", "low-pass", "features"}
        (choice, *_) = attack.candidates(tables, named | {"space": "features", "mirrored": "yes", "relative_to": "queries", "k": 5})
        near, around = arrays["nearest_features_mirrored"][0, :, 0], arrays["neighbours_features"][0, :, :5].mean(axis=1)
        np.testing.assert_allclose(attack.score(tables, choice), -near if name == "nearest" else -near / around, rtol=1e-5)
        with pytest.raises(AttackError, match="features were not measured"):
            attack.candidates({table: tables[table] for table in tables if "features" not in table}, {"space": "features"})


@pytest.mark.parametrize(("values", "words"), [
    ({"space": "features"}, "the space features needs a vision backbone"), ({"backbone": MODEL}, "backbone was given without weights"),
    ({"weights": "/a.safetensors"}, "weights was given without backbone"), ({"backbone": "hf-hub:a/b", "weights": "/a.safetensors"}, "Expected the name of a model in timm"),
    ({"backbone": MODEL, "weights": "a.safetensors"}, "Expected the absolute path"), ({"backbone": MODEL, "weights": "/a.pt"}, "Expected the absolute path of a .safetensors"),
    ({"backbone": 3, "weights": "/a.safetensors"}, "backbone is '3'. Expected text"), ({"backbone": "a\nb", "weights": "/a.safetensors"}, "Expected text"),
])  # fmt: skip
def test_half_a_backbone_is_refused_before_anything_runs(values, words):
    with pytest.raises(RequestError, match=words):
        check_settings({"nearest": values})


def test_attacks_share_one_backbone():
    one, other = ({"backbone": MODEL, "weights": f"/{name}.safetensors"} for name in "ab")
    assert backbone_of({"nearest": one, "nearest_calibrated": one, "pia": {}}) == Backbone(MODEL, "/a.safetensors") and backbone_of({"pia": {}}) is None
    with pytest.raises(RequestError, match="another one"):
        check_settings({"nearest": one, "nearest_calibrated": other})


@pytest.mark.parametrize("missing", [None, RuntimeError("operator torchvision::nms does not exist")])
def test_without_timm_one_line_says_what_to_install(home, pair, folder, tmp_path, monkeypatch, missing):  # noqa: F811
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "timm":
                raise missing

    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    if missing is None:
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    job = run(home, given(pair, folder, attacks=("nearest",), settings={"nearest": {"backbone": MODEL, "weights": str(tmp_path / "w.safetensors")}}))
    assert job.state == "failed" and job.error.startswith("Features need the package timm") and "pip install -r requirements-features.txt" in job.error
    assert "\n" not in job.error and str(tmp_path) not in job.error


@pytest.mark.parametrize("what", ["gone", "cut", "another model", "another shape", "more", "unknown", "nan"])
def test_weights_that_do_not_fit_are_one_line(what, timm, weights, tmp_path):
    from safetensors.torch import load_file, save_file

    file, model, state = tmp_path / "w.safetensors", MODEL, load_file(weights)
    if what == "cut":
        file.write_bytes(Path(weights).read_bytes()[:5000])
    elif what == "another shape":
        save_file(state | {"conv_stem.weight": torch.zeros(1, 3, 3, 3)}, file)
    elif what == "more":
        save_file(state | {"adapter.weight": torch.zeros(3)}, file)
    elif what == "nan":
        save_file({name: w * torch.nan if w.is_floating_point() else w for name, w in state.items()}, file)
    elif what != "gone":
        save_file(state, file)
    model = {"another model": "test_vit", "unknown": "resnet_of_nobody"}.get(what, MODEL)
    expected = {
        "gone": "w.safetensors was not found", "cut": "cannot be read", "another model": "does not fit test_vit: it lacks", "another shape": "have other shapes",
        "more": "holds adapter.weight besides", "unknown": "does not have", "nan": "NaN or infinity",
    }  # fmt: skip
    with pytest.raises(RequestError, match=expected[what]) as caught:
        features.Embedder(Backbone(model, str(file)), torch.device("cpu"))
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_the_report_of_a_run_without_a_backbone_names_none(home, pair, folder):  # noqa: F811
    assert json.loads(json.dumps(report_of(run(home, given(pair, folder)))["pool"]))["backbone"] is None
