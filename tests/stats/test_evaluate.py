import json
import math

import numpy as np
import pytest
from hypothesis import given

import audit.stats
from audit.errors import AttackError, ImageSetError
from audit.stats import evaluate
from audit.stats.auc import auc, auc_interval
from audit.stats.roc import roc
from audit.stats.tpr import tpr_points
from tests.stats.common import IS_MEMBER, SCORES, joined, two_classes


def test_it_is_the_function_that_the_package_exports():
    from audit.stats.evaluate import evaluate as inner

    assert evaluate is inner is audit.stats.evaluate


def test_published_vector():
    result = evaluate(SCORES.tolist(), IS_MEMBER.tolist())
    assert result.auc.value == result.curve_auc == pytest.approx(0.8174603, abs=1e-7)
    assert (result.auc.low, result.auc.high) == pytest.approx((0.476245, 0.956626), abs=1e-6)
    assert (result.evaluation_members, result.evaluation_nonmembers) == (7, 9)
    assert [p.resolution for p in result.tpr_at_fpr] == ["none"] * 3


def test_only_the_evaluation_rows_count():
    rng = np.random.default_rng(0)
    scores, is_member = joined(rng.normal(1, 1, 300), rng.normal(0, 1, 200))
    half = np.where(np.arange(500) % 2 == 0, "calibration", "evaluation")
    spoiled = np.where(half == "calibration", 50.0 * is_member, scores)
    result, kept = evaluate(spoiled, is_member, half), half == "evaluation"
    assert result.auc == auc_interval(scores[kept], is_member[kept])
    assert result.curve_auc == roc(scores[kept], is_member[kept]).area
    assert list(result.tpr_at_fpr) == tpr_points(scores[kept], is_member[kept])
    assert (result.evaluation_members, result.evaluation_nonmembers) == (150, 100)
    assert evaluate(spoiled, is_member, half.tolist()) == evaluate(spoiled, is_member, half.astype(object)) == result


@given(two_classes)
def test_json_holds_numbers_or_null_and_one_auc(data):
    result = evaluate(*data)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["auc"]["value"] == auc(*data)
    assert math.isclose(result.curve_auc, result.auc.value, abs_tol=1e-12)
    assert set(result.to_json()) == {"auc", "curve_auc", "tpr_at_fpr", "evaluation_members", "evaluation_nonmembers"}
    assert [set(p) for p in result.to_json()["tpr_at_fpr"]] == [{"fpr", "tpr", "low", "high", "resolution"}] * 3


@given(two_classes)
def test_only_the_order_matters(data):
    assert evaluate(np.exp(data[0]), data[1]) == evaluate(*data)


@pytest.mark.parametrize(
    ("scores", "is_member", "half", "error"),
    [
        ([1, 2, 3], [True, False], None, AttackError),
        ([1, np.nan], [True, False], None, AttackError),
        ([[1, 2]], [True, False], None, AttackError),
        ([1, 2], [True, True], None, ImageSetError),
        ([], [], None, ImageSetError),
        ([1, 2], [True, False], ["evaluation"], ImageSetError),
        ([1, 2], [True, False], ["evaluation", "test"], ImageSetError),
        ([1, 2], [True, False], ["evaluation", None], ImageSetError),
        ([1, 2], [True, False], ["evaluation", "calibration"], ImageSetError),  # one class is left
        ([1, 2], [True, False], ["calibration", "calibration"], ImageSetError),
    ],
)
def test_bad_input_is_refused_in_one_line(scores, is_member, half, error):
    with pytest.raises(error) as caught:
        evaluate(scores, is_member, half)
    assert "\n" not in str(caught.value) and "Expected" in str(caught.value)
