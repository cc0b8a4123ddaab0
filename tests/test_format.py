"""Every kind of number, as it must be printed."""

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import format as fmt

N = "\u202f"


def point(tpr, low, high, resolution="resolvable", fpr=0.01):
    return {"fpr": fpr, "tpr": tpr, "low": low, "high": high, "resolution": resolution}


@pytest.mark.parametrize(
    "value, low, high, text",
    [
        (0.9389, 0.924, 0.951, "0.939 [0.924, 0.951]"),  # bounds that are exact stay
        (0.93912, 0.92499, 0.95001, "0.939 [0.924, 0.951]"),  # and others go outward
        (1.0, 0.9935, 1.0, "1.000 [0.993, 1.000]"),
        (0.312, 0.2741, 0.3526, "0.312 [0.274, 0.353]"),
        (0.29, 0.29, 0.29, "0.290 [0.290, 0.290]"),  # 0.29 is 0.28999… in binary
        (0.5, None, None, "0.500 no interval"),
    ],
)
def test_auc(value, low, high, text):
    assert fmt.auc_interval(value, low, high) == text
    assert fmt.value_interval({"value": value, "low": low, "high": high}) == text


@given(st.floats(0, 1), st.floats(0, 1))
def test_printed_bounds_hold_the_computed_ones(a, b):
    low, high = min(a, b), max(a, b)
    for text, scale, decimals in ((fmt.auc_bounds(low, high), 1, 3), (fmt.percent_bounds(low, high, 1), 100, 1), (fmt.percent_bounds(low, high, 0), 100, 0)):
        left, right = (Decimal(part) / scale for part in text.strip("[]").split(", "))
        assert left <= Decimal(repr(low)) and Decimal(repr(high)) <= right
        assert Decimal(repr(low)) - left <= Decimal(10) ** -decimals / scale and right - Decimal(repr(high)) <= Decimal(10) ** -decimals / scale


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        fmt.auc(bad)


def test_below_chance_needs_the_whole_interval():
    assert fmt.below_chance(0.499) and not fmt.below_chance(0.5) and not fmt.below_chance(None)


@pytest.mark.parametrize(
    "p, members, nonmembers, text",
    [
        (point(0.124, 0.0965, 0.1551), 500, 500, f"12.4{N}% [9.6, 15.6]"),
        (point(0.12, 0.09, 0.15), 500, 500, f"12.0{N}% [9.0, 15.0]"),
        (point(0.126, 0.05, 0.3), 199, 500, f"13{N}% [5, 30]"),  # no decimal below 200 members
        (point(1.0, 0.992, 1.0), 500, 500, f"100.0{N}% [99.2, 100]"),
        (point(0.0, 0.0, 0.0074), 500, 500, f"0 of 500 [0, 0.8{N}%]"),
        (point(0.0, 0.0, 0.0074), 1680, 500, f"0 of 1,680 [0, 0.8{N}%]"),
        (point(0.375, 0.0, 0.571, "coarse"), 200, 200, f"37.5{N}% [0, 58] coarse"),
        (point(0.0, 0.0, 0.021, "coarse"), 225, 225, "0 of 225 [0, 3] coarse"),
        (point(None, None, 0.171, "none"), 64, 64, "not resolvable with n = 64"),
        (point(None, None, 0.171, "none", 0.001), 500, 3000, "not resolvable with n = 3,000"),
    ],
)
def test_tpr_in_tables(p, members, nonmembers, text):
    assert fmt.tpr(p, members, nonmembers) == text


@pytest.mark.parametrize(
    "p, n, text",
    [
        (point(0.124, 0.0961, 0.1449), 500, f"12{N}% at 1{N}% FPR [9, 15]"),
        (point(0.124, 0.0961, 0.1449, fpr=0.001), 4000, f"12{N}% at 0.1{N}% FPR [9, 15]"),
        (point(0.0, 0.0, 0.0074), 500, f"no member at 1{N}% FPR [0, 0.8{N}%]"),
        (point(0.375, 0.0, 0.571, "coarse"), 200, f"38{N}% at 1{N}% FPR [0, 58] coarse"),
        (point(None, None, 0.171, "none"), 64, f"not resolvable with n = 64 at 1{N}% FPR"),
    ],
)
def test_tpr_in_sentences(p, n, text):
    assert fmt.tpr_sentence(p, n) == text


def test_tooltips_of_what_the_data_cannot_carry():
    assert fmt.tpr_help(point(0.2, 0.0, 0.5, "coarse"), 200) == f"n = 200 carries no lower bound at 1{N}% FPR; from 368 evaluation non-members it does."
    assert fmt.tpr_help(point(0.2, 0.0, 0.5, "coarse", 0.001), 2000) == f"n = 2,000 carries no lower bound at 0.1{N}% FPR; from 3,688 evaluation non-members it does."
    assert fmt.tpr_help(point(None, None, 0.1701, "none"), 64) == (
        f"One false alarm among 64 non-members is already 1.6{N}%. 1{N}% needs at least 100 for a coarse value, 368 for a lower bound. Here: at most 18{N}%."
    )
    assert fmt.tpr_help(point(None, None, None, "none"), 64).endswith("368 for a lower bound.")
    assert fmt.tpr_help(point(0.2, 0.1, 0.3), 500) is None


@pytest.mark.parametrize(
    "p, text",
    [
        (0.0004, "p < 0.001"), (0.001, "p = 0.001"), (0.0042, "p = 0.004"), (0.0099, "p = 0.010"), (0.01, "p = 0.01"), (0.0101, "p = 0.011"), (0.0119, "p = 0.012"),
        (0.0149, "p = 0.015"), (0.0151, "p = 0.02"), (0.03, "p = 0.03"), (0.0449, "p = 0.04"), (0.0451, "p = 0.045"), (0.0496, "p = 0.050"), (0.05, "p = 0.05"),
        (0.0504, "p = 0.051"), (0.0549, "p = 0.055"), (0.0551, "p = 0.06"), (0.444, "p = 0.44"), (1.0, "p = 1.00"),
    ],
)  # fmt: skip
def test_p_is_never_zero_and_never_crosses_a_level(p, text):
    assert fmt.p_value(p) == text


@given(st.floats(0.001, 1))
def test_a_printed_p_stands_on_the_side_of_the_computed_one(p):
    printed = float(fmt.p_value(p).removeprefix("p = "))
    assert all((printed <= level) == (p <= level) for level in (0.01, 0.05)) and abs(printed - p) <= 0.005 + 1e-12


def test_epsilon():
    assert fmt.epsilon(2.19, 0.95, 4.6) == f"ε ≥ 2.1 (95{N}%), ceiling 4.6 for this n"
    assert fmt.epsilon(None, 0.95, None) == "ε ≥ 0: nothing shown"
    assert fmt.epsilon(2.1, 0.95, 4.6, equivalent=True) == "ε-equivalent 2.1, not a bound"


@pytest.mark.parametrize(
    "args, text",
    [
        ((-0.021, -0.0335, -0.009), "−0.021 [−0.034, −0.009]"),
        ((0.0212, 0.009, 0.0335), "+0.021 [+0.009, +0.034]"),
        ((-0.0142, -0.0401, 0.0201), "−0.014 [−0.041, +0.021]"),
        ((0.0,), "±0.000"),
    ],
)
def test_differences_are_signed(args, text):
    assert fmt.difference(*args) == text


@pytest.mark.parametrize(
    "made, text",
    [
        (fmt.count(1680), "1,680"),
        (fmt.count_of(1680, 4000), "1,680 of 4,000"),
        (fmt.calls(1), "1 call"),
        (fmt.calls(1088, "model call"), "1,088 model calls"),
        (fmt.fpr(0.1), f"10{N}%"),
        (fmt.fpr(0.01), f"1{N}%"),
        (fmt.fpr(0.001), f"0.1{N}%"),
        (fmt.percent(0.29), f"29{N}%"),
        (fmt.percent_down(0.569), f"56{N}%"),
        (fmt.number(-0.12), "−0.120"),
        (fmt.millions(35_700_000), "35.7 M"),
        (fmt.millions(812_400), "812 k"),
        (fmt.millions(96), "96"),
        (fmt.window(82, 265), "t = 82 … 265"),
        (fmt.window(82, 82), "t = 82"),
        (fmt.fingerprint("9c41e07b55"), "9c41e07b"),
    ],
)
def test_counts_shares_and_windows(made, text):
    assert made == text


@pytest.mark.parametrize("seconds, text", [(0.3, "less than 1 s"), (3, "3 s"), (59.7, "1 min 0 s"), (332, "5 min 32 s"), (7512, "2 h 5 min")])
def test_durations(seconds, text):
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(None, ""), (0, "less than a minute left"), (59, "less than a minute left"), (60, "about 1 min left"), (170, "about 3 min left"), (7800, "about 2 h 10 min left")],
)
def test_time_left_never_counts_seconds(seconds, text):
    assert fmt.time_left(seconds) == text


@pytest.mark.parametrize("size, text", [(512, "512 B"), (87_400, "87 kB"), (999_999, "1 MB"), (9_000_000, "9 MB"), (143_000_000, "143 MB"), (1_900_000_000, "1.9 GB")])
def test_sizes(size, text):
    assert fmt.size(size) == text


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be set on Windows")
def test_moments_are_local(berlin):
    assert fmt.moment("2026-11-24T01:14:07Z") == "24 Nov, 02:14"
    assert fmt.moment("2026-11-24T01:14:07") == "24 Nov, 02:14"  # without a zone it is UTC
    assert fmt.moment(fmt.timestamp("2026-11-24T01:14:07Z")) == "24 Nov, 02:14"
    assert fmt.iso("2026-11-24T01:14:07Z") == "2026-11-24T02:14:07+01:00"
    assert fmt.clock("2026-11-24T01:14:07Z") == "02:14"


def test_what_was_evaluated():
    queries = {"evaluation_members": 500, "evaluation_nonmembers": 1500, "split": "half"}
    assert fmt.evaluated(queries) == "500 + 1,500 images held out"
    assert fmt.evaluated({**queries, "split": "cross-fitted"}) == "500 + 1,500 images, cross-fitted"
