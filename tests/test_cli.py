"""The command line's streams and exit codes on bad input: one line on stderr, nothing run, exit 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from audit.attacks import ATTACKS
from audit.cli import _parser, main
from audit.cli_progress import print_result
from audit.cli_request import request_from
from audit.config import load
from audit.errors import RequestError, RunFolderError
from audit.jobs.store import Store
from audit.report.run import open_run
from audit.request import Request

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def paths(tmp_path):
    for name in ("checkpoint", "members", "nonmembers"):
        (tmp_path / name).mkdir()
    return tmp_path


def run_flags(paths, *more):
    return ["run", *(part for n in ("checkpoint", "members", "nonmembers") for part in (f"--{n}", str(paths / n))), *more]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "--checkpoint is missing"),
        (["frobnicate"], "invalid choice"),
        (["run", "--checkpoint", "/nowhere/x", "--members", "a", "--nonmembers", "b"], "x was not found"),
        (["inspect", "/nowhere/model"], "model"),
        (["split", "/nowhere", "--out", "/tmp"], "exists, and a split is drawn once"),
        (["split", "/nowhere/photos", "--out", "new.json"], "photos was not found"),
        (["split", "", "--out", "new.json"], "is empty"),
        (["split", "/nowhere/photos", "--out", ""], "--out: is empty"),
        (["split", "/nowhere/photos", "--out", "new.json", "--copy", " "], "--copy: is empty"),
        (["demo", "--out", ""], "--out: is empty"),
        (["run", "--out", ""], "--out: is empty"),
        (["run", "--checkpoint", ""], "--checkpoint: is empty"),
        (["rescore", ""], "is empty"),
        (["split", "/nowhere/photos"], "The following arguments are required: --out"),
        (["rescore", "/nowhere"], "request.json is missing"),
        (["report", "/nowhere", "--html", "x.html"], "not a finished run"),
        (["export", "/nowhere", "--tables", "x.npz"], "not a finished run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, words, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--timesteps", "0"], "at least 1"),
        (["--timesteps", "few"], "not a whole number"),
        (["--attacks", "loss_eps,magic"], "no attack 'magic'"),
        (["--preset", "huge"], "Expected one of quick"),
        (["--device", "tpu"], "Expected one of auto"),
        (["--precision", "fp8"], "Expected one of fp32"),
        (["--seed", "-1"], "--seed is -1"),
        (["--claimed-dp", "3"], "--claimed-dp is '3'. Expected EPS,DELTA such as 3,1e-5."),
        (["--randomised-split", "--manifest", "x.json"], "not allowed with argument"),
        (["--manifest", "/nowhere/x.json"], "--manifest: x.json was not found"),
        (["--budget", "-1"], "--budget is -1"),
    ],
)
def test_bad_flags_of_run(paths, more, words, capsys):
    assert main(run_flags(paths, *more)) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_flag_wins_over_the_config_file(paths):
    file = paths / "audit.yaml"
    file.write_text(yaml.safe_dump({"preset": "quick", "seed": 5, "attacks": "loss_eps", "settings": {"loss_eps": {"statistic": "median"}}}))
    request, out = request_from(_parser().parse_args(run_flags(paths, "--config", str(file), "--seed", "6", "--out", str(paths / "out"))))
    assert (request.preset, request.seed, request.attacks, request.settings) == ("quick", 6, ("loss_eps",), {"loss_eps": {"statistic": "median"}})
    assert out == paths / "out" and request.name == "checkpoint"
    file.write_text(yaml.safe_dump({"pressure": "high"}))
    with pytest.raises(RequestError, match="pressure"):
        request_from(_parser().parse_args(run_flags(paths, "--config", str(file))))


BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)) + "members: *m\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("members: 5", "members is 5. Expected text"),
        ("members: ''", "members is ''. Expected text"),
        ("checkpoint: [5]", "checkpoint is a list. Expected text"),
        ("out: 5", "out is 5. Expected text"),
        ("out: ''", "out is ''. Expected text"),
        ('out: "a\\0b"', "Expected text"),
        ("manifest: [5]", "manifest is a list. Expected text"),
        ("name: 2026", "name is 2026. Expected text"),
        ("name: 2026-01-02", "name is 2026-01-02. Expected text"),
        ("preset: {a: 1}", "preset is a mapping. Expected text"),
        ("attacks: 5", "attacks is 5. Expected names"),
        ("attacks: [5, {a: 1}]", "attacks is a list. Expected names"),
        ("attacks: [[loss_eps]]", "attacks is a list. Expected names"),
        ("settings: 5", "settings is 5. Expected attack: {name: value}"),
        ("settings: [loss_eps]", "settings is a list. Expected attack"),
        ("settings: {5: {a: 1}}", "There is no attack '5'"),
        ("settings: {loss_eps: 5}", "Expected name: value pairs"),
        ("settings: {loss_eps: {5: 1}}", "has no setting '5'"),
        ("settings: {loss_eps: {statistic: [mean]}}", "statistic is"),
        ("settings: {loss_eps: {statistic: {a: 2026-01-01}}}", "statistic is"),
        ("seed: true", "seed is True. Expected a whole number"),
        ("seed: 1.5", "seed is 1.5. Expected a whole number"),
        ("timesteps: [20]", "timesteps is a list. Expected a whole number"),
        ("batch-size: many", "batch-size is 'many'. Expected a whole number"),
        ("randomised-split: often", "randomised-split is 'often'. Expected true or false"),
        ("claimed-dp: {eps: 3}", "claimed-dp is a mapping. Expected EPS,DELTA"),
        ("claimed-dp: [[3], 1]", "Expected EPS,DELTA"),
        ("5: a\nx: b\n2026-01-01: c", "Expected only the names api"),
        ("seed: 2026-99-99", "cannot be read (ValueError)"),
        ("settings: " + "[" * 5000, "cannot be read (RecursionError)"),
        (BOMB, "Expected only the names api"),
        ("- members", "holds a list. Expected only the names"),
        ("{[1]: 2}", "cannot be read"),
        ("out: ~nobody-of-that-name/x", "Expected a path"),
    ],
)
def test_a_config_file_with_values_of_the_wrong_kind(paths, text, words, capsys):
    (paths / "audit.yaml").write_text(text)
    assert main(run_flags(paths, "--config", str(paths / "audit.yaml"))) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err and "internal" not in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": True}, "--seed is True"),
        ({"name": 5}, "name is 5. Expected text"),
        ({"members": None}, "members is None. Expected text"),
        ({"checkpoint": ["/c"]}, "checkpoint is .*Expected text"),
        ({"attacks": 5}, "attacks is 5. Expected names"),
        ({"attacks": [5]}, "attacks is .*Expected names"),
        ({"settings": 5}, "settings is 5. Expected"),
    ],
)
def test_a_request_refuses_values_of_the_wrong_kind(change, words):
    good = {"checkpoint": "/c", "members": "/m", "nonmembers": "/n", "name": "x"}
    with pytest.raises(RequestError, match=words) as caught:
        Request.from_json(good | change)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="fields"):
        Request.from_json([good])


def broken_reports():
    """(name, how report.json is spoilt) for reports that are no report."""
    yield "a list", lambda made: []
    yield "a number", lambda made: 5
    yield "only a version", lambda made: {"schema_version": 1}
    for name in ("run", "verdict", "queries", "attacks", "permutation", "controls", "checkpoint", "direction"):
        yield f"without {name}", lambda made, name=name: {k: v for k, v in made.items() if k != name}
        yield f"{name} a number", lambda made, name=name: made | {name: 5}
        yield f"{name} null", lambda made, name=name: made | {name: None}
    yield "no level", lambda made: made | {"verdict": {k: v for k, v in made["verdict"].items() if k != "level"}}
    yield "no count", lambda made: made | {"queries": {k: v for k, v in made["queries"].items() if k != "evaluation_members"}}
    yield "attacks of numbers", lambda made: made | {"attacks": [5]}
    yield "an attack without a name", lambda made: made | {"attacks": [{"status": "done"}]}
    yield "a headline that is no attack", lambda made: made | {"verdict": made["verdict"] | {"headline_attack": "none"}}
    yield "a headline that is a list", lambda made: made | {"verdict": made["verdict"] | {"headline_attack": []}}


@pytest.fixture(scope="module")
def run_folder(run_folders):
    return run_folders / "clear"


@pytest.mark.parametrize("spoil", [pytest.param(spoil, id=name) for name, spoil in broken_reports()])
def test_a_report_that_is_none_is_one_line_and_exit_2(run_folder, tmp_path, spoil, capsys):
    made = json.loads((run_folder / "report.json").read_text())
    (tmp_path / "request.json").write_text((run_folder / "request.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(spoil(made)))
    for command in (["gate", str(tmp_path), "--max-auc", "0.6"], ["report", str(tmp_path), "--html", str(tmp_path / "r.html")]):
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "is damaged: report.json" in err and "rescore" in err


def test_a_request_or_report_that_cannot_be_parsed(run_folder, tmp_path):
    made = (run_folder / "report.json").read_text()
    for report, request in ((made, "[]"), (made, "5"), (made, "["), ("[" * 100_000, "{}"), ("", "{}")):
        (tmp_path / "report.json").write_text(report)
        (tmp_path / "request.json").write_text(request)
        with pytest.raises(RunFolderError, match="is damaged"):
            open_run(tmp_path)


def test_the_budget_follows_from_the_attacks_unless_it_is_given(paths):
    def asked(*more):
        request, _ = request_from(_parser().parse_args(run_flags(paths, *more)))
        return request.attacks, request.attack_budget

    assert asked() == ((), 1) and asked("--budget", "3") == ((), 3)
    assert asked("--attacks", "all") == (tuple(ATTACKS), 10) and asked("--attacks", "all", "--budget", "2") == (tuple(ATTACKS), 2)
    assert asked("--attacks", "dime") == (("dime",), None) and asked("--attacks", "dime", "--budget", "0") == (("dime",), 0)


def test_labels_and_captions_come_from_flags_and_file(paths, tmp_path, capsys):
    files = {name: tmp_path / f"{name}.csv" for name in ("labels", "captions")}
    (tmp_path / "audit.yaml").write_text("".join(f"{name}: {file}\n" for name, file in files.items()))
    for more in ([part for name, file in files.items() for part in (f"--{name}", str(file))], ["--config", str(tmp_path / "audit.yaml")]):
        assert main(run_flags(paths, *more)) == 2
        assert "--labels: labels.csv was not found. Expected a .csv with the columns image,class" in capsys.readouterr().err
        for file in files.values():
            file.write_text("image,class\n")
        request, _ = request_from(_parser().parse_args(run_flags(paths, *more)))
        assert (request.labels, request.captions) == tuple(str(file) for file in files.values())
        for file in files.values():
            file.unlink()
    (tmp_path / "audit.yaml").write_text("labels: 3\n")
    assert main(run_flags(paths, "--config", str(tmp_path / "audit.yaml"))) == 2 and "labels is 3. Expected text" in capsys.readouterr().err


def test_rescore_report_and_export_on_a_run(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("thumbnails", "report.html", "scores.csv"))
    assert main(["rescore", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), "--html", str(tmp_path / "r.html")]) == 0
    assert main(["export", str(tmp_path / "run"), "--tables", str(tmp_path / "t.npz")]) == 0
    out, err = capsys.readouterr()
    assert "High. This checkpoint gives its training images away." in out and err == ""
    assert (tmp_path / "r.html").stat().st_size > 100_000
    with np.load(tmp_path / "t.npz") as data:
        assert data["eps_mse"].shape == (900, 20)


@pytest.mark.parametrize(("damage", "words"), [("gone", "is missing or cut"), ("cut", "is missing or cut"), ("other", "has the shape"), ("index", "do not fit each other")])
def test_rescore_of_damaged_tables(run_folder, tmp_path, capsys, damage, words):
    """One line that names the table; the report stays."""
    folder = shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("thumbnails"))
    file, index, before = folder / "tables" / "eps_mse.npy", folder / "tables" / "index.json", (folder / "report.json").read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:500])
    elif damage == "other":
        np.save(file, np.load(file)[:-1])
    else:
        held = json.loads(index.read_text())
        held["tables"]["eps_mse"]["timesteps"].pop()
        index.write_text(json.dumps(held))
    assert main(["rescore", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err and "eps_mse" in err and "Run the audit again" in err.replace("run the", "Run the")
    assert (folder / "report.json").read_bytes() == before


def test_the_result_of_few_images_counts_those_behind_each_number(run_folders, capsys):
    """Below 400 a side the AUC counts every image, a TPR the half of the first repeat."""
    print_result(run_folders / "few")
    out = capsys.readouterr().out
    assert "64 + 64 images, cross-fitted" in out and "held out" not in out and "not resolvable with n = 32 at 1" in out


def test_cards_as_json(capsys):
    assert main(["attacks", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == [*ATTACKS, *ATTACKS.derived()]


def test_version_and_help_work_as_a_module():
    done = subprocess.run([sys.executable, "-m", "audit", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("afterimage 0.") and done.stderr == ""


def test_loader_flags_reach_the_request_and_win_over_the_file(paths):
    (paths / "audit.yaml").write_text("num-heads: 2\nbeta-schedule: squaredcos_cap_v2\nrescale-timesteps: true\n")
    given = run_flags(paths, "--config", str(paths / "audit.yaml"), "--num-heads", "4", "--respacing", "100", "--no-rescale-timesteps")
    request = request_from(_parser().parse_args(given))[0]
    assert request.overrides == {"num_heads": 4, "beta_schedule": "cosine", "rescale_timesteps": False, "respacing": "100"}
    assert Request.from_json(request.to_json()) == request and request.identity() != request_from(_parser().parse_args(run_flags(paths)))[0].identity()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--num-heads", "0"], "num_heads is 0. Expected a whole number from 1 to 1024"),
        (["--beta-schedule", "straight"], "Expected one of linear, scaled_linear, cosine"),
        (["--weights", "best"], "Expected one of auto, ema, raw"),
    ],
)
def test_a_loader_flag_that_cannot_be(paths, more, words, capsys):
    assert main(run_flags(paths, *more)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err


def test_a_request_with_odd_overrides_is_refused():
    with pytest.raises(RequestError, match="overrides is"):
        Request("/c", "/m", "/n", "x", overrides={"num_heads": [4]})


def test_inspect_says_what_is_missing_and_compares_usual_values_on_pictures(tmp_path, capsys):
    from tests.models import tiny

    tiny.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "scheduler")
    (tmp_path / "model" / "model_index.json").unlink()
    np.savez(tmp_path / "pictures.npz", images=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8))
    given = ["inspect", str(tmp_path / "model"), "--train-timesteps", "50", "--beta-schedule", "linear"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "incomplete" in out and "  missing: prediction_type\n  hint: --images FOLDER compares" in out and "note: beta_start 0.0001 is diffusers' default" in out
    assert main([*given, "--images", str(tmp_path / "pictures.npz")]) == 0
    assert "  images: These images cannot tell: none of the candidates denoises them." in capsys.readouterr().out
    assert main([*given, "--images", str(tmp_path / "pictures.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == ["prediction_type"] and found["ranking"]["best"] is None
    assert sorted(name for name, _ in found["ranking"]["ratios"]) == ["prediction_type epsilon", "prediction_type sample", "prediction_type v_prediction"]
    assert main([*given, "--prediction-type", "sample", "--images", str(tmp_path / "pictures.npz")]) == 0
    assert "images: nothing is missing" in capsys.readouterr().out


def test_the_queue_lists_and_cancels_sweeps_beside_audits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    store = Store(load().prepare_home().home)
    ids = [store.submit(kind, f"{kind} of x", {}, "1", str(tmp_path))[0].id for kind in ("audit", "check", "protections")]
    assert main(["jobs", "--json"]) == 0
    assert {(job["id"], job["kind"]) for job in json.loads(capsys.readouterr().out)} == {(ids[0], "audit"), (ids[2], "protections")}
    assert main(["cancel", ids[2]]) == 0 and [store.get(id).state for id in ids] == ["queued", "queued", "cancelled"]
    assert main(["cancel", ids[1]]) == 2
    store.claim("worker")
    assert main(["cancel", ids[0]]) == 0 and store.get(ids[0]).state == "running"
    capsys.readouterr()
    assert main(["jobs"]) == 0 and f"{ids[0]}  cancelling" in capsys.readouterr().out
