"""From tables to report.json: the numbers are those of scores.csv, found again by an independent library."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from audit.analysis import analyse
from audit.errors import RunFolderError
from audit.report.export import export_npz
from audit.report.run import open_run
from audit.report.words import NOT_SEEN_ALWAYS, verdict_words
from audit.stats import evaluate
from audit.tables import Tables
from tests.synthetic import STEPS, synthetic_run


@pytest.fixture(scope="module")
def high(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "high"
    synthetic_run(folder, name="high", leak=4.0)
    return folder


def test_headline_numbers_are_those_of_the_evaluation_rows(high):
    report, scores = json.loads((high / "report.json").read_text()), pd.read_csv(high / "scores.csv")
    held_out = scores[scores.half == "evaluation"]
    assert len(held_out) == report["queries"]["evaluation_members"] + report["queries"]["evaluation_nonmembers"] == 450
    for row in report["attacks"]:
        assert row["auc"]["value"] == pytest.approx(roc_auc_score(held_out.is_member, held_out[row["name"]]), abs=1e-12)
        assert row["curve_auc"] == pytest.approx(row["auc"]["value"], abs=1e-12)
        fpr, tpr, _ = roc_curve(held_out.is_member, held_out[row["name"]], drop_intermediate=False)
        for point in row["tpr_at_fpr"]:
            if point["tpr"] is not None:
                assert point["tpr"] == pytest.approx(tpr[fpr <= point["fpr"] + 1e-12].max(), abs=1e-12)
                assert row["auc"]["value"] >= point["tpr"] * (1 - point["fpr"]) - 1e-12  # else the two come from different scores
        assert row["auc"]["low"] < row["auc"]["value"] < row["auc"]["high"]
        assert row["auc"]["noise_sd"] > 0


def test_settings_come_from_the_calibration_half_only(high):
    report, run = json.loads((high / "report.json").read_text()), open_run(high)
    for row in report["attacks"]:
        before = run.half == "calibration"
        assert row["selection"]["calibration_auc"] == pytest.approx(roc_auc_score(run.is_member[before], run.scores_of(row["name"])[before]), abs=1e-12)
        assert row["selection"]["best_of_sweep_auc"] >= roc_auc_score(run.is_member, run.scores_of(row["name"])) - 1e-12
    best = max(report["attacks"], key=lambda row: row["selection"]["calibration_auc"])
    assert report["verdict"]["headline_attack"] == best["name"]


def test_evaluation_images_cannot_change_the_choice(high, tmp_path):
    def disturb(tables):
        rng = np.random.default_rng(9)
        for name in tables:
            tables[name][:, outside] *= rng.uniform(0.2, 5, (1, outside.sum(), 1)).astype(np.float32)

    outside = open_run(high).half == "evaluation"
    other = synthetic_run(tmp_path / "disturbed", name="high", leak=4.0, edit=disturb)
    report = json.loads((high / "report.json").read_text())
    for before, after in zip(report["attacks"], other["attacks"], strict=True):
        assert before["selection"]["chosen"] == after["selection"]["chosen"]
        assert before["selection"]["calibration_auc"] == pytest.approx(after["selection"]["calibration_auc"], abs=1e-6)
        assert before["auc"]["value"] != after["auc"]["value"]


def test_rescore_gives_the_same_bytes(high, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(high, copy)
    (copy / "report.json").unlink()
    (copy / "scores.csv").unlink()
    analyse(copy)
    for file in ("report.json", "scores.csv"):
        assert (copy / file).read_bytes() == (high / file).read_bytes()


def test_swapped_folders_are_inconclusive_and_never_flipped(tmp_path):
    report = synthetic_run(tmp_path / "swapped", leak=-4.0)
    assert report["verdict"]["level"] == "inconclusive" and report["verdict"]["rule"] == 1 and report["verdict"]["kind"] == "order"
    assert report["direction"]["auc"]["high"] < 0.4 and not report["direction"]["passed"]
    assert verdict_words(report).next == "check which folder is which."


def test_swapped_labels_turn_every_figure_round(high):
    run = open_run(high)
    inside = run.evaluation
    for row in run.report["attacks"]:
        turned = evaluate(run.scores_of(row["name"])[inside], ~run.is_member[inside]).auc
        assert (turned.value, turned.low, turned.high) == pytest.approx((1 - row["auc"]["value"], 1 - row["auc"]["high"], 1 - row["auc"]["low"]), abs=1e-9)


def test_levels_follow_the_leak(high, tmp_path):
    assert open_run(high).report["verdict"] == open_run(high).report["verdict"] | {"level": "high", "rule": 4}
    quiet = synthetic_run(tmp_path / "quiet", leak=0.0, seed=3)
    assert (quiet["verdict"]["level"], quiet["verdict"]["rule"]) == ("not-detected", 6)
    few = synthetic_run(tmp_path / "few", members=60, nonmembers=60, leak=0.0, seed=1)
    assert (few["verdict"]["level"], few["verdict"]["rule"]) == ("inconclusive", 7)


def test_an_infinite_loss_drops_one_image_from_all_attacks_and_no_other_number(high, tmp_path):
    position = int(np.flatnonzero(open_run(high).evaluation)[0])

    def spoil(tables):
        tables["eps_mse"][:, position, :] = np.inf

    report = synthetic_run(tmp_path / "spoiled", name="high", leak=4.0, edit=spoil)
    assert report["queries"]["evaluation_members"] == 224
    assert {"path": f"image-{position:05d}.png", "reason": "a score that is not finite"} in report["queries"]["left_out"]
    assert any("not finite" in w for w in report["warnings"])
    assert np.isnan(open_run(tmp_path / "spoiled").scores_of("loss_eps")[position])
    others = np.delete(np.arange(900), position)
    np.testing.assert_allclose(open_run(tmp_path / "spoiled").scores_of("loss_eps")[others], open_run(high).scores_of("loss_eps")[others], rtol=1e-4)


def test_a_failed_attack_stays_with_its_reason_and_the_others_go_on(high, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(high, copy)
    index = json.loads((copy / "tables" / "index.json").read_text())
    del index["tables"]["x0_8bit_mse"]
    (copy / "tables" / "index.json").write_text(json.dumps(index))
    report = analyse(copy)
    gray = next(r for r in report["attacks"] if r["name"] == "gray_intermediate")
    assert gray["status"] == "failed" and "x0_8bit_mse" in gray["reason"] and gray["auc"] is None
    assert [r["name"] for r in report["attacks"] if r["status"] == "done"] == ["loss_vlb", "loss_x0", "loss_eps"]
    assert "did not run" in " ".join(verdict_words(report).not_seen)


def test_no_number_is_nan_and_missing_fields_are_named(high):
    text = (high / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    report = json.loads(text)
    for name in ("blind_baseline", "flags", "set_level", "epsilon_lower_bound", "comparisons", "pool", "paper_protocol", "minimum_detectable_share"):
        assert report[name] is None and any(name == key for key in report["not_checked"])
    assert report["verdict"]["claims"] is None and report["measurement"]["api"] is None
    words = verdict_words(report)
    assert words.not_seen[0] == "Whether the sets differ without the model: not checked yet" and words.not_seen[-1] == NOT_SEEN_ALWAYS
    assert report["verdict"]["not_tested"][0] == words.not_seen[0]


def test_export_holds_what_the_interface_says(high, tmp_path):
    file = export_npz(high, tmp_path / "tables.npz")
    run, tables = open_run(high), Tables.load(high / "tables")
    with np.load(file) as data:
        assert data["image_id"].tolist() == run.image_ids.tolist() and data["is_member"].dtype == bool
        assert data["eps_mse"].shape == (900, 20) and data["eps_mse"].dtype == np.float32 and str(data["eps_mse__axis"]) == "timestep"
        assert data["eps_mse__timesteps"].tolist() == tables["eps_mse"].timesteps.tolist() and data["eps_mse__timesteps"].max() == STEPS - 1
        np.testing.assert_array_equal(data["eps_mse"].T, tables["eps_mse"].values)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"request\.json is missing"):
        analyse(tmp_path)
    with pytest.raises(RunFolderError, match="is not a finished run"):
        open_run(tmp_path)


@pytest.mark.slow
def test_null_audits_raise_few_alarms(tmp_path):
    alarms = [synthetic_run(tmp_path / str(s), members=120, nonmembers=120, leak=0.0, seed=100 + s)["verdict"]["level"] in ("high", "elevated") for s in range(60)]
    assert sum(alarms) <= 8  # binomial(60, 0.05): more than 8 in 0.4 % of runs
