"""An AUDIT_HOME with two synthetic runs, and evidence pages opened in it; for the page tests and the figure tests."""

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.synthetic import shared_run

APP = Path(__file__).resolve().parents[1] / "app.py"


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    """Folder with the runs `clear` (450 + 450, four draws, leak) and `few` (64 + 64); nobody writes there."""
    shared_run(tmp_path_factory, "clear", draws=4, leak=3.0)
    return shared_run(tmp_path_factory, "few", members=64, nonmembers=64, leak=0.7, seed=5).parent


@pytest.fixture
def home(run_folders, tmp_path, monkeypatch):
    """AUDIT_HOME with both runs, put there by hand; their files may be written. The 1,000 thumbnails are a link to the shared ones."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(run_folders, home / "runs", ignore=shutil.ignore_patterns("thumbnails"))
    for source in run_folders.glob("*/thumbnails"):
        (home / "runs" / source.parent.name / "thumbnails").symlink_to(source, target_is_directory=True)
    monkeypatch.setenv("AUDIT_HOME", str(home))
    for name in ("AUDIT_INBOX", "AUDIT_SCHEDULER"):
        monkeypatch.delenv(name, raising=False)
    return home


LEVELS = {"high": 4, "elevated": 5, "not-detected": 6}
RULES = {"control": 1, "few-images": 1, "order": 1, "sets-differ": 2, "near": 3, "few": 7} | LEVELS
FEATURES = (("file_bytes", 7.3, 0.001), ("jpeg_table", -4.1, 0.01), ("sharpness", 1.2, 0.6), ("mean", -0.4, 0.99))


def filled(report, kind="high", provenance="stated", blind=True):
    """A copy of a report with every part that an older version left null, as a run of that kind would have them.

    Args: kind: of the verdict; provenance: its kind, or None; blind: False = that part failed. The lists of reasons and the claims are made from the result.
    """
    from audit.report import words
    from audit.report.claims import claims

    made = json.loads(json.dumps(report))
    q, differs = made["queries"], kind == "sets-differ"
    q["provenance"] = None if provenance is None else {"kind": provenance, "reason": None}
    if provenance == "manifest":
        q["provenance"] |= {"manifest": "split.json", "manifest_sha256": "ab" * 32, "seed": 7}
    q["duplicates"] |= {"near": 3, "clusters": 2, "near_pairs": [], "rule": "Near duplicates across the sets are left out of both."}
    found = {"value": 0.71 if differs else 0.531, "low": 0.64 if differs else 0.46, "high": 0.78 if differs else 0.602}
    features = [{"name": name, "z": z, "p_value": p if differs else 0.5 + p / 3} for name, z, p in FEATURES]
    parts = {"p_value": 0.001 if differs else 0.21, "p_ridge": 0.2, "p_scalar": 0.1, "sd": 0.036, "detectable_auc": 0.589, "tpr_high": 0.05, "differs": differs, "images": 900}
    made["blind_baseline"] = {"auc": found, "features": features} | parts if blind else None
    made["minimum_detectable_share"] = 0.0512
    made["controls"] = [
        made["controls"][0],
        {"name": "nonmembers_twice", "auc": 0.481, "low": 0.41, "high": 0.55, "passed": True},
        {"name": "planted_leak", "auc": 0.64, "low": 0.59, "high": 0.69, "passed": kind != "control", "p_value": 0.31 if kind == "control" else 0.0001},
    ]
    precision = [{"prior": 0.5, "value": 0.962, "low": 0.91, "high": 0.99}, {"prior": 0.01, "value": 0.21, "low": 0.09, "high": 0.41}]
    head = made["verdict"]["headline_attack"]
    made["flags"] = {"attack": head, "q": 0.1, "flagged": 31, "flagged_members": 29, "of": 450, "precision": precision, "reason": None}
    curve = [{"images": 5, "median_p": 0.2, "share_below": 0.03}, {"images": 50, "median_p": 0.004, "share_below": 0.71}]
    made["set_level"] = {"p_value": 0.0002, "t": 3.6, "df": 410.2, "images_needed": curve, "needed": 50, "reason": None}
    random = provenance in ("manifest", "stated-random")
    made["epsilon_lower_bound"] = {
        "value": 0.62 if random else None, "confidence": 0.95, "delta": 1e-5, "method": "one run, guesses on both sides", "guesses": 210, "correct": 160, "ceiling": 4.9,
        "equivalents": {"two_rate": 0.4, "gdp_mu": 0.9}, "claim": {"epsilon": 0.5, "delta": 1e-5, "p_value": 0.02, "contradicted": True} if random else None,
        "basis": provenance if random else None, "reason": None if random else "An ε needs a split that was drawn at random.",
    }  # fmt: skip
    summary = {"mean": 0.7, "median": 0.7, "max": 0.75, "min": 0.62}
    row = {"statistic": "sum", "truncation": "time", "kept": 15, "accuracy": summary, "f1": summary, "auc": summary}
    made["paper_protocol"] = {"table": "eps_mse", "label": "Optimistic: settings are judged on the images that they would be chosen on.", "source": "arXiv:2302.07801"}
    made["paper_protocol"] |= {"repeats": 100, "subset": 113, "truncated_share": 0.25, "rows": [row]}
    point = {"fpr": 0.1, "threshold": 1.25, "tpr": 0.5, "tpr_low": 0.43, "tpr_high": 0.57, "fpr_achieved": 0.09, "fpr_low": 0.05, "fpr_high": 0.14}
    empty = dict.fromkeys(point) | {"fpr": 0.001, "balanced_accuracy": None, "f1": None, "reason": "cannot be set with 225 calibration non-members; needs 999"}
    for attack in made["attacks"]:
        attack["at_threshold"] = [point | {"balanced_accuracy": 0.705, "f1": 0.62, "reason": None}, empty]
    made["not_checked"] = {"pool": "generated samples (black-box attacks): not checked yet"}
    quiet = kind in ("not-detected", "few", "few-images", "order", "control")
    made["permutation"]["p_value"] = 0.3 if quiet else 0.0001
    made["verdict"] |= {"kind": kind, "rule": RULES[kind], "level": kind if kind in LEVELS else "inconclusive"}
    made["verdict"] |= words.reasons(made)
    made["verdict"]["claims"] = claims(made)
    return made


def open_page(page, **query):
    """The page as a visitor sees it who follows a link with this query; a list is a repeated parameter."""
    at = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    if page != "verdict":  # the start page has no address of its own
        at.switch_page(f"pages/{page}.py")
    at.run()
    assert not at.exception, [e.message for e in at.exception]
    return at


def specs(at):
    """The drawn figures, as dicts."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def trace(spec, name):
    """The one trace with that name."""
    found = [t for t in spec["data"] if t.get("name") == name]
    assert len(found) == 1, [t.get("name") for t in spec["data"]]
    return found[0]


def badges(at):
    """The words of all `exploratory` and `held out` badges, in the order of the page."""
    return [word for m in at.markdown for word in ("exploratory", "held out") if "-badge[" in m.value and word in m.value]


def control(at, label, kind):
    """The one widget of a kind with that label."""
    found = [w for w in getattr(at, kind) if w.label == label]
    assert len(found) == 1, [w.label for w in getattr(at, kind)]
    return found[0]
