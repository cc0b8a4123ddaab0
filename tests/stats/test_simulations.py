"""The simulations of docs/statistics.md, small: every claim on a few cells, and the method that each one replaces, which must miss.

The seeds are fixed, so a test passes or fails for good; the allowed ranges are those of the commands (three binomial standard errors of the runs made here).
"""

import re
from pathlib import Path

import numpy as np
import pytest

from audit.stats.auc import Interval, auc_interval
from audit.stats.threshold import clopper_pearson
from audit.stats.tpr import tpr_at_fpr
from tests.simulations import (
    blind_baseline,
    clusters,
    coherence,
    common,
    coverage_auc,
    coverage_crossfit,
    coverage_thresholds,
    coverage_tpr,
    epsilon_bound,
    image_flags,
    null_audits,
    permutation_size,
    planted_leaks,
    set_level_test,
    shifted_sets,
)

ROOT = Path(__file__).resolve().parents[2]


def missed(rows):
    """Lines of the rows outside their claim; at least one row must carry a claim."""
    rows = list(rows)
    assert any(row.least is not None or row.most is not None for row in rows)
    return [row.text() for row in rows if not row.ok]


def test_a_row_allows_three_standard_errors_and_no_more():
    assert common.share("", 912, 1000, 0.93).ok and not common.share("", 905, 1000, 0.93).ok  # 3 se of 0.93 in 1,000 runs are 0.024
    assert common.share("", 70, 1000, most=0.05).ok and not common.share("", 71, 1000, most=0.05).ok
    assert common.Row("", 0.07, None, 0.07).ok and not common.Row("", 0.0702, None, 0.07).ok
    assert [r.ok for r in common.uniform("", np.linspace(0, 1, 200))] == [True, True] and [r.ok for r in common.uniform("", np.linspace(0, 1, 200) ** 2)] == [False, False]


@pytest.mark.parametrize(
    "model", [common.equal_spread(0.9), common.twice_spread(0.6), common.heavy_tails(0.9), common.five_levels(0.6), common.few_exposed(0.05, 5)], ids=lambda m: m.name
)
def test_the_models_have_the_auc_and_tpr_that_they_state(model):
    scores, is_member = model.draw(np.random.default_rng(1), 20_000, 20_000)
    found = auc_interval(scores, is_member)
    assert abs(found.value - model.auc) <= (found.high - found.low)  # four standard errors
    if model.tpr:
        point = tpr_at_fpr(scores, is_member, 0.1)
        assert point.low - 0.005 <= model.tpr(0.1) <= point.high + 0.005


def test_the_pages_name_every_simulation_and_every_random_stream():
    page, checkpoints = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("statistics", "checkpoints"))
    commands = {path.name for path in (ROOT / "tests" / "simulations").glob("*.py") if "main(__doc__" in path.read_text(encoding="utf-8")}
    assert len(commands) > 12 and {name for name in commands if f"python tests/simulations/{name}" not in page + checkpoints} == set()
    table = page[page.index("| stream |") : page.index("Two more are hashes")]
    named = {part for path in (ROOT / "audit").rglob("*.py") for part in re.findall(r"stream\([\w.]+, f?\"([^\"{]+)", path.read_text(encoding="utf-8"))}
    assert {"split ", "permutation ", "blind", "non-members twice "} <= named
    assert {name for name in named if f"`{name.strip()}" not in table} == set()


# --- intervals -----------------------------------------------------------------------------------------------------------------------------


SOME = [(common.equal_spread(0.5), [(50, 50)]), (common.equal_spread(0.99), [(25, 25)]), (common.twice_spread(0.9), [(25, 200)])]


def delong(scores, is_member):
    """The plain interval: value ± 1.96 standard errors."""
    a, b = scores[is_member], scores[~is_member]
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    error = (wins.mean(1).var(ddof=1) / len(a) + wins.mean(0).var(ddof=1) / len(b)) ** 0.5
    return Interval(wins.mean(), wins.mean() - 1.96 * error, wins.mean() + 1.96 * error)


def at_the_same_threshold(scores, is_member, fpr):
    """Clopper-Pearson as if the threshold had not been read off the same images."""
    found, m = tpr_at_fpr(scores, is_member, fpr), int(is_member.sum())
    low, high = clopper_pearson(round(found.tpr * m), m)
    return low, found.tpr, high


def test_auc_interval():
    assert not missed(coverage_auc.rows(400, SOME))
    assert missed(coverage_auc.rows(400, [SOME[1]], delong))


def test_tpr_bounds():
    grid = [(common.equal_spread(0.9), 0.01, (100, 100)), (common.equal_spread(0.5), 0.1, (200, 200)), (common.few_exposed(0.05, 5), 0.01, (500, 500))]
    assert not missed(coverage_tpr.rows(150, grid))
    assert missed(coverage_tpr.rows(150, grid[:1], at_the_same_threshold))


def test_calibrated_thresholds():
    assert not missed(coverage_thresholds.rows(150, (100, 400), (0.5, 0.95)))


@pytest.mark.slow
def test_cross_fitting():
    rows = list(coverage_crossfit.rows(30, (50,)))
    assert not missed(rows)
    best = float(rows[1].note.split()[-1])
    assert best > 0.5 + 3 * rows[1].slack[0]  # nine standard errors: the best of the sweep is what must not be printed


@pytest.mark.slow
def test_intervals_over_more_of_the_grid():
    assert not missed(coverage_auc.rows(500, coverage_auc.GRID[::3]))
    assert not missed(coverage_tpr.rows(300, coverage_tpr.GRID[::3]))
    assert not missed(coverage_crossfit.rows(100, (100,)))


# --- tests that must be uniform without a leak ------------------------------------------------------------------------------------------------


def test_permutation_test():
    assert not missed(permutation_size.rows(60, (20,), ()))
    assert (permutation_size.p_values(20, 250, "AUC 0.60") <= 0.05).sum() >= 15  # 93 % in the command's 500 runs


def test_set_level():
    assert not missed(set_level_test.rows(20, (50,), ()))


def test_epsilon():
    assert not missed(epsilon_bound.rows(60, ((120, 100),), (1.0,), ()))


def test_flags():
    assert not missed(image_flags.rows(150, (100, 500)))


def test_blind_baseline():
    assert not missed(blind_baseline.rows(30, (25,), ()))


@pytest.mark.slow
def test_pairs_of_near_duplicates():
    rows = list(clusters.rows(15, 40, ()))
    assert not missed(rows)


@pytest.mark.slow
def test_permuting_images_of_pairs_one_by_one_would_miss():
    rows = {row.what: row for row in clusters.rows(120, 100, ((100, 20),))}
    assert not missed(rows.values())
    alone = next(row for what, row in rows.items() if "one by one" in what)
    assert not common.share("", alone.value * 120, 120, most=0.05).ok


@pytest.mark.slow
def test_blind_baseline_with_more_images():
    assert not missed(blind_baseline.rows(60, (100,), (("one named feature", 0.7, 250),)))


# --- whole audits ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_null_audits():
    assert not missed(null_audits.rows(6, 40))


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "side"), [(60, 100), (30, 400)])
def test_more_null_audits(runs, side):
    assert not missed(null_audits.rows(runs, side))


@pytest.mark.slow
def test_shifted_sets():
    cells = [("six features", 0.8, 100)]
    assert not missed(shifted_sets.rows(3, cells))

    def without_the_model_unasked(out):
        """The verdict if the blind baseline were not looked at."""
        return "elevated" if out.permutation.p_value <= 0.05 else "few"

    assert missed(shifted_sets.rows(1, cells, without_the_model_unasked))


@pytest.mark.slow
def test_more_shifted_sets():
    assert not missed(shifted_sets.rows(5, [c for c in shifted_sets.CELLS if c[2] < 1000 and c[1] < 0.8]))


@pytest.mark.slow
def test_planted_leaks():
    assert not missed(planted_leaks.rows(60, (40,), (), False))


@pytest.mark.slow
def test_whole_audits_find_what_they_promise():
    assert not missed(planted_leaks.rows(200, (100,), ((400, 20), (100, 20))))


@pytest.mark.slow
def test_numbers_of_one_row_fit_together():
    rows = list(coherence.rows())
    assert not missed(rows) and len(rows) == 15


@pytest.mark.slow
def test_end_to_end_nulls():
    from tests.simulations import end_to_end_nulls

    assert not missed(end_to_end_nulls.rows(3))
