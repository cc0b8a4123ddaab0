"""nearest_calibrated beside a reference set: pictures that are known not to be members, or samples of another model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.attacks import ATTACKS, check_settings
from audit.errors import AttackError, RequestError
from audit.pool import features
from audit.pool.nearest import NEIGHBOURS, to_references
from audit.probes.lowpass import low_pass
from audit.report.run import open_run
from audit.stats.auc import auc
from audit.tables import Tables, write_tables
from tests.attacks.toys import memoriser, pool_tables, samples_of
from tests.attacks.toys import pictures as soft
from tests.jobs.conftest import base, home, pair, request_for  # noqa: F401, fixtures
from tests.jobs.pair import pictures, save_pictures
from tests.jobs.test_driver_inline import no_background_worker, run  # noqa: F401, the fixture acts by being here
from tests.jobs.test_pools import folder, given, report_of  # noqa: F401, a fixture
from tests.pool.test_search import brute, crowd, pool_of

NAME = "nearest_calibrated"


@pytest.fixture
def outsiders(tmp_path):
    """30 pictures of the same kind that no model saw."""
    return save_pictures(tmp_path / "outsiders", pictures(30, 77))


def asked(pair, folder, outsiders, **more):  # noqa: F811
    return given(pair, folder, attacks=("nearest", NAME), settings={NAME: {"reference": str(outsiders), "relative_to": "reference", **more}})


def test_distances_to_the_reference_set_are_brute_force(tmp_path):
    queries, others = crowd(20, 1), crowd(40, 2)
    others[3] = queries[5]
    made = to_references(queries, pool_of(tmp_path, others), "cpu")
    np.testing.assert_allclose(made["references_pixels"][0], brute(queries, others, NEIGHBOURS)[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(made["references_lowpass"][0], brute(queries, others, NEIGHBOURS, low_pass)[0], rtol=1e-5, atol=1e-5)
    vectors = np.random.default_rng(0).standard_normal((60, 24)).astype(np.float32)
    found = features.among(vectors[:20], vectors[20:], np.array([7]), "cpu")[0]
    expected = np.sqrt(((vectors[:20, None].astype(np.float64) - np.delete(vectors[20:], 7, axis=0)[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :NEIGHBOURS], rtol=1e-6)


def test_without_a_checkpoint_samples_are_calibrated_by_a_reference_set(home, pair, folder, outsiders):  # noqa: F811
    job = run(home, asked(pair, folder, outsiders, k=5, space="pixels", mirrored="no"))
    assert (job.state, job.error) == ("done", "")
    opened, report = open_run(job.folder), report_of(job)
    near, around = opened.tables["nearest_pixels"].values[0], opened.tables["references_pixels"].values[:5].mean(axis=0)
    np.testing.assert_allclose(opened.scores_of(NAME), -near / around, rtol=1e-5)
    x, g = (a.reshape(len(a), -1) / 127.5 for a in (np.load(Path(job.folder) / "images.npy"), pictures(30, 77)))
    np.testing.assert_allclose(opened.tables["references_pixels"].values[0], np.sqrt(((x[:, None] - g[None]) ** 2).sum(axis=2)).min(axis=1), rtol=1e-5)
    assert report["pool"]["reference_set"]["images"] == 30 and len(report["pool"]["reference_set"]["sha256"]) == 64
    assert next(row for row in report["attacks"] if row["name"] == NAME)["settings"]["relative_to"] == "reference"


def test_query_images_in_the_reference_set_are_left_out_and_named(home, pair, folder, outsiders):  # noqa: F811
    for i in (2, 3):
        shutil.copy(Path(pair["nonmembers"]) / f"nonmembers_00{i}.png", outsiders / f"known_{i}.png")
    job = run(home, asked(pair, folder, outsiders))
    (warning,) = [w for w in report_of(job)["warnings"] if "reference set" in w]
    assert warning.startswith("2 reference images are also among the query images (first: known_2.png) and left out of the reference set: counting them")
    assert (open_run(job.folder).tables["references_pixels"].values[0] > 0).all() and report_of(job)["pool"]["reference_set"]["query_images"] == 2


def test_what_cannot_be_a_reference_set_is_one_line(home, pair, folder, outsiders, base, tmp_path):  # noqa: F811
    for place, words in ((tmp_path / "gone", "gone"), (save_pictures(tmp_path / "few", pictures(3, 5)), "few holds 3 usable images in 3 files"), (Path("few"), "absolute path")):
        job = run(home, asked(pair, folder, place))
        assert job.state == "failed" and job.error.startswith(f"{NAME}: reference") and words in job.error and "\n" not in job.error and str(tmp_path) not in job.error
    twice = given(pair, folder, checkpoint=pair["checkpoint"], reference=base, attacks=(NAME,), settings={NAME: {"reference": str(outsiders)}})
    assert "calibrate twice" in run(home, twice).error
    idle = given(pair, folder, attacks=("nearest",), settings={NAME: {"reference": str(tmp_path / "gone")}})
    assert run(home, idle).state == "done", "an attack that does not run asks for nothing"


def test_a_reference_set_is_tried_only_where_one_was_given():
    attack = ATTACKS[NAME]
    tables = dict.fromkeys(attack.card.tables)
    assert {c.relative_to for c in attack.candidates(tables, {})} == {"queries", "pool"}
    with pytest.raises(AttackError, match="no reference set was compared"):
        attack.candidates(tables, {"relative_to": "reference"})
    with pytest.raises(RequestError, match="Expected text"):
        check_settings({NAME: {"reference": 3}})
    with pytest.raises(RequestError, match="nearest has no setting 'reference'"):
        check_settings({"nearest": {"reference": "/p"}})


def test_a_memoriser_is_found_beside_pictures_of_its_kind(tmp_path):
    x0, is_member = soft(60, seed=3), np.arange(60) < 30
    others = ((soft(50, seed=8).double() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    queries = ((x0.double() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    arrays = pool_tables(tmp_path / "pool", x0, samples_of(memoriser(x0[is_member]), 120))
    arrays |= to_references(queries, pool_of(tmp_path / "others", others), "cpu")
    write_tables(tmp_path / "tables", 60, dict.fromkeys(arrays, ("feature", None)), [(0, arrays)])
    attack, fixed = ATTACKS[NAME], {"reference": "/others", "relative_to": "reference"}
    tables = Tables.load(tmp_path / "tables")
    choices = attack.candidates(tables, fixed)
    assert len(choices) == 12 and min(auc(attack.score(tables, choice), is_member) for choice in choices) > 0.9
