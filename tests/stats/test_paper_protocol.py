import json

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from audit.errors import AttackError, ImageSetError
from audit.stats.paper_protocol import paper_protocol
from audit.stats.streams import stream
from tests.stats.common import two_classes

STATISTICS = ("mean", "sum", "median", "min", "max")


def example(n=60, k=8, seed=0):
    """(losses, timesteps, is_member): members lose less at small t only."""
    rng = np.random.default_rng(seed)
    is_member, timesteps = np.arange(n) < n // 3, np.arange(k) * 10
    losses = rng.gamma(2, 1, size=(n, k)) + timesteps / 10
    losses[is_member, : k // 2] *= 0.6
    return losses, timesteps, is_member


def row(result, statistic, truncation):
    return next(r for r in result["rows"] if (r["statistic"], r["truncation"]) == (statistic, truncation))


def test_every_row_is_the_naive_loop_with_scikit_learn():
    losses, timesteps, is_member = example()
    result = paper_protocol(losses, timesteps, is_member, seed=4, repeats=7)
    assert (result["subset"], result["repeats"], len(result["rows"])) == (10, 7, 15)
    for truncation, table in (("none", losses), ("time", losses[:, timesteps < 60]), ("value", np.sort(losses, axis=1)[:, :6])):
        for statistic in STATISTICS:
            scores, rng = -getattr(np, statistic)(table, axis=1), stream(4, "paper_protocol")
            found = {"accuracy": [], "f1": [], "auc": []}
            for _ in range(7):
                pick = np.concatenate([rng.permutation(np.flatnonzero(side))[:10] for side in (is_member, ~is_member)])
                called, truth = scores[pick] > np.median(scores[pick]), is_member[pick]
                found["accuracy"].append(accuracy_score(truth, called))
                found["f1"].append(f1_score(truth, called))
                found["auc"].append(roc_auc_score(truth, scores[pick]))
            got = row(result, statistic, truncation)
            assert got["kept"] == table.shape[1]
            for name, values in found.items():
                naive = {"mean": np.mean(values), "median": np.median(values), "max": max(values), "min": min(values)}
                assert got[name] == pytest.approx(naive, abs=1e-12), (truncation, statistic, name)


def test_a_quarter_is_dropped_at_the_noisy_end_whatever_the_order_of_the_columns():
    losses, timesteps, is_member = example(k=10)
    result = paper_protocol(losses, timesteps, is_member, 0, repeats=3)
    assert {r["kept"] for r in result["rows"] if r["truncation"] != "none"} == {8}  # floor(10/4) = 2 dropped
    assert paper_protocol(losses[:, ::-1], timesteps[::-1], is_member, 0, repeats=3)["rows"][7] == result["rows"][7]
    noisy = losses.copy()
    noisy[:, 8:] = 1e6 * np.random.default_rng(1).random((60, 2))
    changed = paper_protocol(noisy, timesteps, is_member, 0, repeats=3)
    assert row(changed, "sum", "time")["auc"] == row(result, "sum", "time")["auc"] and row(changed, "sum", "none")["auc"] != row(result, "sum", "none")["auc"]
    one = paper_protocol(losses[:, :1], timesteps[:1], is_member, 0, repeats=2)
    assert {r["kept"] for r in one["rows"]} == {1}


def test_higher_is_more_like_a_member():
    losses, timesteps, is_member = example()
    losses[is_member] = losses[is_member] * 0.01
    assert all(r["auc"]["min"] == 1 and r["accuracy"]["min"] == 1 and r["f1"]["min"] == 1 for r in paper_protocol(losses, timesteps, is_member, 0, 5)["rows"])
    low = paper_protocol(-losses, timesteps, is_member, 0, 5)["rows"]
    assert all(r["auc"]["max"] == 0 and r["f1"]["max"] == 0 for r in low)  # shown as it is


def test_equal_losses_call_nobody_a_member():
    (first, *_) = paper_protocol(np.ones((20, 4)), np.arange(4), np.arange(20) < 10, 0)["rows"]
    assert (first["accuracy"]["mean"], first["f1"]["mean"], first["auc"]["mean"]) == (0.5, 0.0, 0.5)


@settings(max_examples=25, deadline=None)
@given(two_classes)
def test_summaries_are_ordered_shares(data):
    scores, is_member = data
    result = paper_protocol(np.stack([scores, -scores, scores**2], axis=1), [0, 5, 9], is_member, 1, repeats=4)
    json.dumps(result, allow_nan=False)
    for found in result["rows"]:
        for name in ("accuracy", "f1", "auc"):
            s = found[name]
            assert 0 <= s["min"] <= min(s["mean"], s["median"]) + 1e-12 and max(s["mean"], s["median"]) <= s["max"] + 1e-12 <= 1 + 1e-11


def test_subsets_are_balanced_limited_and_named_optimistic():
    losses, timesteps, is_member = example(n=1800, k=2)
    result = paper_protocol(losses, timesteps, is_member, 0, repeats=2)
    assert result["subset"] == 256 and result["label"].startswith("Optimistic") and result["truncated_share"] == 0.25
    assert paper_protocol(losses, timesteps, is_member, 0, repeats=2) == result != paper_protocol(losses, timesteps, is_member, 1, repeats=2)
    assert paper_protocol([[1.0], [2.0]], [0], [True, False], 0)["subset"] == 1


def test_noise_looks_like_a_leak_in_the_best_row():
    rng = np.random.default_rng(0)
    result = paper_protocol(rng.gamma(2, 1, size=(200, 12)), np.arange(12), np.arange(200) < 100, 0)
    assert max(r["auc"]["max"] for r in result["rows"]) > 0.6  # why the label says optimistic


def test_bad_input_is_refused():
    losses, timesteps, is_member = example()
    for bad in (losses[:, :3], losses[:10], losses[:, 0], np.where(losses > 5, np.nan, losses)):
        with pytest.raises(AttackError):
            paper_protocol(bad, timesteps, is_member, 0)
    with pytest.raises(AttackError):
        paper_protocol(losses[:, :0], timesteps[:0], is_member, 0)
    with pytest.raises(ImageSetError):
        paper_protocol(losses, timesteps, np.ones(60, bool), 0)
    with pytest.raises(ValueError, match="at least 1"):
        paper_protocol(losses, timesteps, is_member, 0, repeats=0)
