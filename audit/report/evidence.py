"""Where a number comes from: its images, half, settings, model calls, stored file with hash, and a command that computes it again.

One entry per headline number. Hashes are computed when somebody asks, once per open run. In the commands DIR is the run folder, and they run where
`python -m audit` runs; `rescore` makes every number again from the stored tables, the second command prints one number from the scores alone.
"""

import hashlib
from dataclasses import dataclass

from audit import format as fmt
from audit.known_leak import FILE
from audit.report import series
from audit.report.parts import CONTROL_NAMES, attack_of, blind_of, comparison_cells, control_row, curve_images, settings_words, terms_words, title_of, tpr_of
from audit.sources import REFERENCE, TARGET
from audit.tables import stem

FPR = 0.01
RESCORE = "python -m audit rescore DIR"
IN_SCORES = "import csv; r=[x for x in csv.DictReader(open('DIR/scores.csv')) if all(list(x.values())[4:])]; m=[x['is_member']=='True' for x in r]; "
BLIND_AUC = (
    "import csv; import numpy as np; from audit.stats.auc import auc; s={x['image_id']: x['is_member']=='True' for x in csv.DictReader(open('DIR/scores.csv'))}; "
    "b=[(x['blind_fold'], float(x['blind']), s[x['image_id']]) for x in csv.DictReader(open('DIR/images.csv')) if x['blind']]; "
    "print(np.mean([auc(np.array([v for f, v, _ in b if f==k]), np.array([y for f, _, y in b if f==k])) for k in {f for f, _, _ in b}]))"
)
COMPARED = (
    "from audit.stats.paired import paired_difference; import numpy as np; e=np.array([x['half']=='evaluation' for x in r]); "
    "print(paired_difference(*(np.array([float(x[k]) for x in r])[e] for k in ('{b}', '{a}')), np.array(m)[e]).value)"
)
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Evidence:
    """key: name in `evidence`; what, value, interval, n, half, settings, calls: words ("" = does not apply); files: under the run folder; recompute: commands."""

    key: str
    what: str
    value: str
    interval: str
    n: str
    half: str
    settings: str
    calls: str
    files: tuple[str, ...]
    recompute: tuple[str, ...]

    def rows(self, run):
        """[(name, words)] to show, the files with their SHA-256; empty ones are left out."""
        named = (
            ("value", f"{self.value} {self.interval}".strip()),
            ("images", self.n),
            ("measured on", self.half),
            ("settings", self.settings),
            ("model calls per image", self.calls),
        )
        return [(name, text) for name, text in named if text] + [(f"SHA-256 of {file}", sha256(run, file)) for file in self.files]


def evidence(run):
    """Evidence of every headline number that the report holds.

    Args: run: audit.report.run.Run.
    Returns: {key: Evidence} in the order of the document: auc, tpr, p_value, blind, one per control, set_level, epsilon, comparisons.
    """
    report = run.report
    found = [_auc(run), _tpr(run), _p_value(run), _blind(report), *(_control(run, c) for c in report["controls"]), _set_level(run), _epsilon(run), _compared(run)]
    return {entry.key: entry for entry in found if entry is not None}


def sha256(run, file):
    """Hex SHA-256 of a file of the run folder, computed once per open run; `missing` where it is not there."""

    def make():
        path = run.folder / file
        if not path.is_file():
            return "missing"
        with open(path, "rb") as handle:
            digest = hashlib.sha256()
            while block := handle.read(READ_BYTES):
                digest.update(block)
        return digest.hexdigest()

    return series.cached(run, ("sha256", file), make)


def _python(code):
    return f'python -c "{code}"'


def _files_of(run, attack):
    """The stored tables that an attack reduces, those that are in the run."""
    from audit.attacks import ATTACKS

    names = ATTACKS[attack].card.tables if attack in ATTACKS else ()
    if ((run.attack(attack)["settings"] or {}).get("filter")) == "low-pass":
        names = [f"{name}_low" for name in names]
    names = [source + name for source in (TARGET, REFERENCE) for name in names]
    return tuple(f"tables/{stem(name)}.npy" for name in names if name in run.tables)


def _every_table(run):
    """Tables that any finished attack reads, once each."""
    return tuple(dict.fromkeys(file for name in run.scored for file in _files_of(run, name)))


def _half(report):
    if report["queries"]["split"] == "cross-fitted":
        return "every image, by settings that it did not choose: two-fold cross-fitting, ten times"
    return "evaluation half; the calibration half chose attack and settings"


def _judged(report):
    q = report["queries"]
    return f"{fmt.count(q['evaluation_members'])} members + {fmt.count(q['evaluation_nonmembers'])} non-members"


def _calls(row):
    alone, grid = row["model_calls_at_setting"], row["model_calls_per_image"]
    if grid is None:
        return ""
    if (row.get("needed") or {}).get("model_calls_once"):
        return f"{fmt.count(alone)} once for all images"
    return f"{fmt.count(grid)} as run" if alone is None else f"{fmt.count(alone)} at this setting, {fmt.count(grid)} as run"


def _auc(run):
    report = run.report
    row = attack_of(report, report["verdict"]["headline_attack"])
    commands = [RESCORE]
    if report["queries"]["split"] == "half":  # under cross-fitting scores.csv holds the first repeat alone
        held = "[x['half'] for x in r]"
        commands.append(_python(f"{IN_SCORES}from audit.stats import evaluate; print(evaluate([float(x['{row['name']}']) for x in r], m, {held}).auc.value)"))
    interval = f"95 % {fmt.auc_bounds(row['auc']['low'], row['auc']['high'])}"
    what, settings = f"AUC of {title_of(row['name'])}, the attack with the best AUC on the calibration half", settings_words(row["settings"])
    files = _files_of(run, row["name"])
    return Evidence("auc", what, fmt.auc(row["auc"]["value"]), interval, _judged(report), _half(report), settings + terms_words(report), _calls(row), files, tuple(commands))


def _tpr(run):
    report = run.report
    row, (members, n) = attack_of(report, report["verdict"]["tail_attack"]), curve_images(report)
    point = tpr_of(row, FPR)
    code = f"{IN_SCORES}from audit.stats import evaluate; e=evaluate([float(x['{row['name']}']) for x in r], m, [x['half'] for x in r]); "
    code += f"print(next(p.tpr for p in e.tpr_at_fpr if p.fpr=={FPR}))"
    half = "evaluation half" if report["queries"]["split"] == "half" else "evaluation half of the first repeat"
    what = f"TPR at {fmt.fpr(FPR)} FPR of {title_of(row['name'])}, the attack with the best TPR at 5{fmt.NARROW}% FPR on the calibration half"
    value, interval = fmt.tpr_value(point, members, n), fmt.tpr_bounds(point, members)
    judged = f"{fmt.count(members)} members + {fmt.count(n)} non-members"
    settings = settings_words(row["settings"]) + terms_words(report)
    return Evidence("tpr", what, value, interval, judged, half, settings, _calls(row), _files_of(run, row["name"]), (RESCORE, _python(code)))


def _p_value(run):
    report = run.report
    test, commands = report["permutation"], [RESCORE]
    if report["queries"]["split"] == "half":
        code = f"{IN_SCORES}import numpy as np; from audit.stats.permutation import permutation_test; e=np.array([x['half']=='evaluation' for x in r]); "
        code += "a={k: np.array([float(x[k]) for x in r])[e] for k in list(r[0])[4:]}; "
        commands.append(_python(f"{code}print(permutation_test(a, np.array(m)[e], {report['run']['seed']}).p_value)"))
    what = f"p of the permutation test over {len(run.scored)} attacks, a rank and a tail score each; the largest is {title_of(test['attack'])}, {test['score']} score"
    settings = f"{fmt.count(test['draws'])} relabellings, seed {report['run']['seed']}"
    return Evidence("p_value", what, fmt.p_value(test["p_value"]), "", _judged(report), _half(report), settings, "", _every_table(run), tuple(commands))


def _blind(report):
    blind = blind_of(report)
    if blind is None:
        return None
    images = f"{fmt.count(blind['images'])} images" if blind.get("images") else ""
    interval = f"95 % {fmt.auc_bounds(blind['auc']['low'], blind['auc']['high'])}, {fmt.p_value(blind['p_value'])}"
    half = "both halves; each image by a classifier that was fitted without it, five folds"
    settings = "ridge on image features and single features, p by permutation with refit"
    return Evidence("blind", "AUC of the blind baseline", fmt.auc(blind["auc"]["value"]), interval, images, half, settings, "0", ("features.npz",), (RESCORE, _python(BLIND_AUC)))


def _control(run, control):
    _, result, outcome = control_row(run.report, control)
    q, name = run.report["queries"], control["name"]
    judged = f"{fmt.count(q['evaluation_nonmembers'])} non-members" if name == "nonmembers_twice" else _judged(run.report)
    if name == "bundled_leaky":
        how = "this run's settings on the bundled leaky checkpoint and its own images, in a job of its own"
        return Evidence(name, f"Control: {CONTROL_NAMES[name]}", result, outcome, "its own query images", "evaluation half", how, "", (FILE,), ("python -m audit control DIR",))
    how = {
        "shuffled_labels": "labels mixed at random before the settings were chosen",
        "nonmembers_twice": "half of the non-members, drawn at random, play the members",
        "planted_leak": "labels mixed at random, then the headline attack's scores shifted for the members of that draw",
    }.get(name, "")
    files = _every_table(run) if name == "planted_leak" else _files_of(run, run.report["verdict"]["headline_attack"])
    return Evidence(name, f"Control: {CONTROL_NAMES.get(name, name)}", result, outcome, judged, _half(run.report), how, "", files, (RESCORE,))


def _set_level(run):
    found = run.report.get("set_level") or {}
    if found.get("p_value") is None:
        return None
    how = "mean of all attacks, each standardised by the calibration non-members; one-sided Welch test"
    what, p = "p of members against non-members as whole sets", fmt.p_value(found["p_value"])
    members, n = curve_images(run.report)
    return Evidence("set_level", what, p, "", f"{fmt.count(members)} members + {fmt.count(n)} non-members", "evaluation half", how, "", _every_table(run), (RESCORE,))


def _epsilon(run):
    bound = run.report.get("epsilon_lower_bound") or {}
    if bound.get("value") is None:
        return None
    head = run.report["verdict"]["headline_attack"]
    value = fmt.epsilon(bound["value"], bound["confidence"], bound.get("ceiling"))
    judged, how = f"{fmt.count_of(bound['correct'], bound['guesses'])} guesses right", f"{bound['method']}, δ = {fmt.delta(bound['delta'])}"
    return Evidence("epsilon", "Lower bound on ε", value, "", judged, "evaluation half; the calibration half set both thresholds", how, "", _files_of(run, head), (RESCORE,))


def _compared(run):
    """The attack that comes nearest to the headline attack, for all comparisons."""
    rows = run.report.get("comparisons")
    if not rows:
        return None
    row = max(rows, key=lambda row: row["difference"])
    difference, p, _ = comparison_cells(row)
    members, n = curve_images(run.report)
    half = f"evaluation half{'' if run.report['queries']['split'] == 'half' else ' of the first repeat'}; the calibration half chose both"
    what = f"AUC of {title_of(row['a'])} minus that of {title_of(row['b'])}, the largest of {fmt.count(len(rows))} differences"
    files = tuple(dict.fromkeys((*_files_of(run, row["a"]), *_files_of(run, row["b"]))))
    how, judged = f"paired DeLong on the same images, Holm over {fmt.count(len(rows))}", f"{fmt.count(members)} members + {fmt.count(n)} non-members"
    value, _, interval = difference.partition(" ")
    alone = _python(IN_SCORES + COMPARED.format(a=row["a"], b=row["b"]))
    return Evidence("comparisons", what, value, f"95 % {interval}, {p}" if interval else p, judged, half, how, "", files, (RESCORE, alone))
