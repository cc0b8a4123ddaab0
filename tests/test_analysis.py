"""From tables to report.json: the numbers are those of scores.csv, found again by an independent library."""

import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from audit.analysis import analyse
from audit.attacks import ATTACKS
from audit.errors import RunFolderError
from audit.report.build import NO_EPSILON
from audit.report.export import export_npz
from audit.report.run import open_run
from audit.report.words import NOT_SEEN_ALWAYS, verdict_words
from audit.stats import evaluate
from audit.stats.crossfit import fold_halves
from audit.stats.paired import holm, paired_difference
from audit.stats.permutation import permutation_test
from audit.tables import Tables
from tests.synthetic import STEPS
from tests.synthetic import synthetic_run as with_thumbnails

synthetic_run = functools.partial(with_thumbnails, thumbnails=False)


@pytest.fixture(scope="module")
def high(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "high"
    synthetic_run(folder, name="high", leak=4.0)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "few"
    synthetic_run(folder, name="few", members=100, nonmembers=120, leak=3.0)
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
    (copy / "images.csv").unlink()
    analyse(copy)
    for file in ("report.json", "scores.csv", "images.csv", "report.html"):
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


def test_an_attack_without_its_table_is_skipped_with_its_reason_and_the_others_go_on(high, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(high, copy)
    index = json.loads((copy / "tables" / "index.json").read_text())
    del index["tables"]["x0_8bit_mse"]
    (copy / "tables" / "index.json").write_text(json.dumps(index))
    report = analyse(copy)
    gray = next(r for r in report["attacks"] if r["name"] == "gray_intermediate")
    assert gray["status"] == "skipped" and "x0_8bit_mse" in gray["reason"] and gray["auc"] is None
    assert [r["name"] for r in report["attacks"] if r["status"] == "done"] == ["loss_vlb", "loss_x0", "loss_eps"]
    assert "did not run" in " ".join(verdict_words(report).not_seen)


def test_an_attack_beyond_the_budget_is_skipped_even_where_its_table_is_there(high, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(high, copy)
    made = json.loads((copy / "measurement.json").read_text())
    made["measurement"]["skipped"] = {"loss_vlb": "over the budget: so", "loss_x0": "over the budget: so"}
    (copy / "measurement.json").write_text(json.dumps(made))
    report = analyse(copy)
    assert [(r["status"], r["reason"], r["auc"] is None) for r in report["attacks"]] == [("skipped", "over the budget: so", True)] * 2 + [("done", None, False)] * 2
    said = " ".join(verdict_words(report).not_seen)
    assert "2 of 4 attacks did not run: Variational bound terms, Clean-image error (over the budget: so)." in said


def test_the_papers_protocol_reads_a_loss_along_the_schedule_whatever_leads(tmp_path):
    def leak(tables):
        tables["eps_mse"][:, :450] *= 0.3

    report = synthetic_run(tmp_path / "run", edit=leak, attacks=("loss_x0", "naive_loss"))
    assert report["verdict"]["headline_attack"] == "naive_loss" and report["paper_protocol"]["table"] == "x0_mse"


def test_no_number_is_nan_and_missing_fields_are_named(high):
    text = (high / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    report = json.loads(text)
    assert report["pool"] is None and "pool" in report["not_checked"]
    assert report["measurement"]["api"] is None and "measurement.api" in report["not_checked"]
    for name in ("blind_baseline", "flags", "set_level", "epsilon_lower_bound", "paper_protocol", "minimum_detectable_share"):
        assert report[name] is not None and name not in report["not_checked"]
    assert report["verdict"]["claims"]["allowed"] and report["verdict"]["claims"]["blocked"]
    assert verdict_words(report).not_seen[-1] == NOT_SEEN_ALWAYS


@pytest.mark.parametrize("which", ["high", "few"])
def test_comparisons_are_those_of_the_evaluation_rows(which, request):
    """Every other attack against the headline; below 400 a side on the first repeat, whose images chose neither."""
    folder = request.getfixturevalue(which)
    report, scores = json.loads((folder / "report.json").read_text()), pd.read_csv(folder / "scores.csv")
    held_out, headline = scores[scores.half == "evaluation"], report["verdict"]["headline_attack"]
    members, areas = held_out[held_out.is_member], {row["name"]: row["curve_auc"] for row in report["attacks"]}
    assert [row["a"] for row in report["comparisons"]] == [name for name in areas if name != headline] and len(areas) == 4
    listed = {name: set(members[name].nlargest(report["comparisons"][0]["overlap_of"]).index) for name in areas}
    for row in report["comparisons"]:
        assert row["b"] == headline and row["overlap_of"] == min(50, len(members) // 2) and row["overlap_chance"] == row["overlap_of"] / len(members)
        assert row["difference"] == pytest.approx(areas[row["a"]] - areas[row["b"]], abs=1e-12)
        again = paired_difference(held_out[headline].to_numpy(), held_out[row["a"]].to_numpy(), held_out.is_member.to_numpy())
        assert (row["low"], row["high"], row["p_unadjusted"], row["reason"]) == (again.low, again.high, again.p_value, None)
        assert row["overlap"] == len(listed[headline] & listed[row["a"]]) / row["overlap_of"]
    assert [row["p_value"] for row in report["comparisons"]] == holm([row["p_unadjusted"] for row in report["comparisons"]])
    assert "comparisons" not in report["not_checked"]


def every_pair(scores, is_member):
    """AUC of each row by comparing every member with every non-member; (J,n) -> (J,)."""
    members, others = scores[:, is_member, None], scores[:, None, ~is_member]
    return ((members > others) + 0.5 * (members == others)).mean(axis=(1, 2))


def test_cross_fitted_auc_is_the_mean_of_the_halves_each_at_the_others_choice(few):
    """Below 400 a side: found again with plain loops over every setting, from the stored tables."""
    report, tables, is_member = json.loads((few / "report.json").read_text()), Tables.load(few / "tables"), open_run(few).is_member
    assert report["queries"]["split"] == "cross-fitted"
    assert (report["queries"]["evaluation_members"], report["queries"]["evaluation_nonmembers"]) == (100, 120)
    halves = fold_halves(is_member, 0)
    assert len(halves) == 10
    for row in report["attacks"]:
        attack = ATTACKS[row["name"]]
        candidates = attack.candidates(tables, {})
        scores = np.stack([attack.score(tables, c) for c in candidates])
        judged = []
        for first in halves:
            for half in (first, ~first):
                best = int(np.argmax(every_pair(scores[:, half], is_member[half])))
                judged.append(roc_auc_score(is_member[~half], scores[best][~half]))
        assert row["auc"]["value"] == pytest.approx(np.mean(judged), abs=1e-12)
        assert row["auc"]["low"] < row["auc"]["value"] < row["auc"]["high"]


def test_below_400_scores_and_curve_are_those_of_the_first_repeat(few):
    report, scores = json.loads((few / "report.json").read_text()), pd.read_csv(few / "scores.csv")
    assert np.array_equal(scores.half == "calibration", fold_halves(scores.is_member.to_numpy(), 0)[0])
    held_out = scores[scores.half == "evaluation"]
    for row in report["attacks"]:
        assert row["curve_auc"] == pytest.approx(roc_auc_score(held_out.is_member, held_out[row["name"]]), abs=1e-12)
        assert row["curve_auc"] != row["auc"]["value"]
        before = scores[scores.half == "calibration"]
        assert row["selection"]["calibration_auc"] == pytest.approx(roc_auc_score(before.is_member, before[row["name"]]), abs=1e-12)


def test_below_400_the_permutation_test_looks_at_every_setting_that_was_tried(few):
    report, tables, is_member = json.loads((few / "report.json").read_text()), Tables.load(few / "tables"), open_run(few).is_member
    columns = {n: np.stack([ATTACKS[n].score(tables, c) for c in ATTACKS[n].candidates(tables, {})]) for n in open_run(few).scored}
    again = permutation_test(columns, is_member, 0)
    assert report["permutation"]["critical_z"] == again.critical_z > 2.4  # one frozen score would have 1.9
    assert report["permutation"]["p_value"] == again.p_value


def test_thresholds_come_from_the_calibration_half_and_are_judged_on_the_other(high):
    report, scores = json.loads((high / "report.json").read_text()), pd.read_csv(high / "scores.csv")
    before, after = scores[scores.half == "calibration"], scores[scores.half == "evaluation"]
    for row in report["attacks"]:
        for point in row["at_threshold"]:
            if point["threshold"] is None:
                assert point["reason"]
                continue
            outsiders = before[~before.is_member][row["name"]]
            assert (outsiders >= point["threshold"]).sum() <= point["fpr"] * (len(outsiders) + 1)
            flagged = after[row["name"]] >= point["threshold"]
            tpr, fpr = flagged[after.is_member].mean(), flagged[~after.is_member].mean()
            assert (point["tpr"], point["fpr_achieved"]) == pytest.approx((tpr, fpr), abs=1e-12)
            assert point["balanced_accuracy"] == pytest.approx((1 + tpr - fpr) / 2, abs=1e-12)
            assert point["f1"] == pytest.approx(f1_score(after.is_member, flagged), abs=1e-12)


def test_images_csv_holds_conformal_p_flags_and_blind_scores(high):
    report, scores, images = json.loads((high / "report.json").read_text()), pd.read_csv(high / "scores.csv"), pd.read_csv(high / "images.csv")
    assert images.image_id.tolist() == scores.image_id.tolist()
    name, inside = report["flags"]["attack"], scores.half == "evaluation"
    assert name == report["verdict"]["headline_attack"]
    outsiders = scores[~inside & ~scores.is_member][name].to_numpy()
    p = [(1 + (outsiders >= s).sum()) / (len(outsiders) + 1) for s in scores[inside][name]]
    assert images[inside].conformal_p.tolist() == pytest.approx(p, abs=1e-15) and images[~inside].conformal_p.isna().all()
    assert (images[inside].flagged == True).sum() == report["flags"]["flagged"] > 0  # noqa: E712 the column also holds blanks
    folds = [roc_auc_score(scores.is_member[images.blind_fold == f], images.blind[images.blind_fold == f]) for f in range(5)]
    assert report["blind_baseline"]["auc"]["value"] == pytest.approx(np.mean(folds), abs=1e-12)


def test_sets_that_differ_without_the_model_decide_nothing(tmp_path):
    stated = synthetic_run(tmp_path / "stated", leak=4.0, shift=1.0, provenance="stated")
    assert (stated["verdict"]["rule"], stated["verdict"]["kind"], stated["blind_baseline"]["differs"]) == (2, "sets-differ", True)
    assert stated["blind_baseline"]["features"][0]["name"] == "file bytes"
    assert stated["epsilon_lower_bound"]["value"] is None and stated["epsilon_lower_bound"]["reason"] == NO_EPSILON
    verified = synthetic_run(tmp_path / "verified", leak=4.0, shift=1.0)
    assert verified["verdict"]["rule"] == 2  # p_blind is below 0.001 too
    word = synthetic_run(tmp_path / "word", leak=4.0, provenance="stated-random")
    assert word["epsilon_lower_bound"]["value"] > 1 and word["epsilon_lower_bound"]["basis"] == "stated-random"


def test_a_small_leak_that_the_images_could_explain_is_no_leak(tmp_path):
    """Rule 3: elevated where the split was verified, undecided where it was only stated."""
    verified = synthetic_run(tmp_path / "verified", leak=0.5, seed=5)
    stated = synthetic_run(tmp_path / "stated", leak=0.5, seed=5, provenance="stated")
    assert verified["verdict"]["level"] == "elevated" and 0.5 < verified["attacks"][0]["auc"]["value"] < 0.65
    assert (stated["verdict"]["level"], stated["verdict"]["rule"], stated["verdict"]["kind"]) == ("inconclusive", 3, "near")


def test_scores_that_are_all_equal_end_in_words(tmp_path):
    """A constant loss has no signal to miss, and no power either: it must not read as "not detected"."""
    with pytest.raises(RunFolderError, match="all images score alike"):
        synthetic_run(tmp_path / "flat", edit=lambda tables: [table.fill(0.5) for table in tables.values()])


def test_an_attack_without_finite_losses_fails_alone(tmp_path):
    report = synthetic_run(tmp_path / "one", leak=4.0, edit=lambda tables: tables["vlb_bits"].fill(np.inf))
    row = next(r for r in report["attacks"] if r["name"] == "loss_vlb")
    assert row["status"] == "failed" and row["reason"] == "900 of 900 images have losses that are not finite"
    assert report["queries"]["evaluation_members"] == 225 and report["verdict"]["level"] == "high"


@pytest.mark.parametrize("side", [450, 150])
def test_an_infinite_loss_outside_the_chosen_window_drops_the_image_too(tmp_path, side):
    def spoil(tables):
        tables["x0_mse"][:, 3, -1] = np.inf

    report = synthetic_run(tmp_path / "last", members=side, nonmembers=side, leak=4.0, edit=spoil)
    assert {"path": "image-00003.png", "reason": "a score that is not finite"} in report["queries"]["left_out"] and report["paper_protocol"]
    assert all(np.isnan(open_run(tmp_path / "last").scores_of(name)[3]) for name in open_run(tmp_path / "last").scored)


def test_images_with_infinite_losses_choose_nothing(tmp_path):
    """Non-members that are infinite at one timestep would be sure wins for every window around it."""
    def spoil(tables):
        tables["eps_mse"][:, 600:735, 10] = np.inf

    report, run = synthetic_run(tmp_path / "run", leak=2.0, edit=spoil), open_run(tmp_path / "run")
    for row in report["attacks"]:
        before = (run.half == "calibration") & np.isfinite(run.scores_of(row["name"]))
        assert row["selection"]["calibration_auc"] == pytest.approx(roc_auc_score(run.is_member[before], run.scores_of(row["name"])[before]), abs=1e-12)


def test_a_claim_that_could_not_be_checked_stays_in_the_report(high, tmp_path):
    folder = shutil.copytree(high, tmp_path / "claimed")
    for file, change in (("request", {"claimed_dp": [3.0, 1e-5]}), ("measurement", {"provenance": {"kind": "stated"}})):
        made = json.loads((folder / f"{file}.json").read_text()) | change
        (folder / f"{file}.json").write_text(json.dumps(made))
    bound = analyse(folder)["epsilon_lower_bound"]
    assert bound["value"] is None and bound["claim"] == {"epsilon": 3.0, "delta": 1e-5, "p_value": None, "contradicted": None}


def test_three_controls_stand_in_every_report(high, few):
    for folder in (high, few):
        controls = {c["name"]: c for c in json.loads((folder / "report.json").read_text())["controls"]}
        assert list(controls) == ["shuffled_labels", "nonmembers_twice", "planted_leak"] and all(c["passed"] for c in controls.values())
        assert controls["planted_leak"]["p_value"] <= 0.05 and 0.6 < controls["planted_leak"]["auc"] < 0.85
        assert abs(controls["nonmembers_twice"]["auc"] - 0.5) < 0.2


def test_near_duplicates_stay_in_one_half(tmp_path):
    clusters = np.arange(900) // 2  # pairs of neighbours
    synthetic_run(tmp_path / "pairs", leak=2.0, clusters=clusters)
    half = open_run(tmp_path / "pairs").half
    assert (half[::2] == half[1::2]).all() and (half == "calibration").sum() in (448, 450, 452)


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
