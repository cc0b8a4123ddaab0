"""From the stored tables of a run to its numbers, in the order of work of docs/statistics.md: split, calibrate, evaluate, permute, decide.

Nothing here needs a model: `python -m audit rescore DIR` runs the same function on a finished run folder and gives the same report.json.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audit.attacks import ATTACKS, choose
from audit.errors import AttackError, RunFolderError
from audit.files import csv_cell, csv_text, write_json, write_text
from audit.request import Request
from audit.selection import Selection, select
from audit.stats.auc import Interval, auc, auc_interval
from audit.stats.controls import Control, at_chance
from audit.stats.evaluate import Evaluation, evaluate
from audit.stats.permutation import PermutationResult, permutation_test
from audit.stats.power import minimum_detectable_auc
from audit.stats.split import half_split
from audit.stats.streams import stream
from audit.stats.tpr import tpr_at_fpr
from audit.stats.verdict import Decision, Evidence, decide
from audit.tables import Tables

TAIL_FPR = 0.05  # the tail attack is the best calibration TPR at this FPR (docs/verdict.md)


@dataclass
class AttackResult:
    """One attack of one run; `status` done, failed or skipped with `reason`."""

    name: str
    status: str = "done"
    reason: str | None = None
    selection: Selection | None = None
    scores: np.ndarray | None = None
    calibration_tail: float | None = None
    evaluation: Evaluation | None = None
    noise_sd: float | None = None
    calls_at_setting: int | None = None
    calls_per_image: int | None = None


@dataclass(frozen=True)
class Direction:
    """Do members score lower than non-members? attack, settings: the strongest such reading; auc: on the evaluation half; z, point: rank z and its 0.1 % point."""

    attack: str
    settings: dict
    auc: Interval
    z: float
    point: float


@dataclass
class Analysis:
    """Everything that report.json is built from."""

    request: Request
    queries: dict
    measurement: dict
    is_member: np.ndarray
    calibration: np.ndarray
    kept: np.ndarray
    attacks: dict = field(default_factory=dict)
    permutation: PermutationResult | None = None
    headline: str | None = None
    tail: str | None = None
    direction: Direction | None = None
    control: Control | None = None
    mda: float | None = None
    decision: Decision | None = None

    @property
    def evaluation(self):
        """bool (N,): evaluation images with finite scores in every attack."""
        return ~self.calibration & self.kept

    @property
    def done(self):
        """{name: AttackResult} of the attacks with scores."""
        return {n: a for n, a in self.attacks.items() if a.status == "done"}


def read_inputs(folder):
    """(Request, queries, measurement, Tables) of a run folder. Raises RunFolderError."""
    folder = Path(folder)
    try:
        request = Request.from_json(json.loads((folder / "request.json").read_text(encoding="utf-8")))
        queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
        measurement = json.loads((folder / "measurement.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{folder.name} is not a measured run: {Path(error.filename).name} is missing. Expected a run folder with its tables.") from None
    except ValueError:
        raise RunFolderError(f"{folder.name} is damaged: request.json, queries.json or measurement.json cannot be read. Run the audit again.") from None
    return request, queries, measurement, Tables.load(folder / "tables")


def analyse(folder):
    """Compute every number of a run and write scores.csv, report.json and report.html.

    Args: folder: a run folder with request.json, queries.json, measurement.json and tables/.
    Returns: the report as a dict.
    Raises: RunFolderError.
    """
    from audit.report.build import build_report
    from audit.report.html import render
    from audit.report.run import open_run

    folder = Path(folder)
    result = compute(*read_inputs(folder))
    report = build_report(result)
    write_text(folder / "scores.csv", scores_csv(result))
    write_json(folder / "report.json", report)
    run = open_run(folder)
    write_text(folder / "report.html", render(run))
    return run.report


def compute(request, queries, measurement, tables):
    """The Analysis of one run; pure. Args as `read_inputs` returns them."""
    is_member = np.array([image["is_member"] for image in queries["images"]], dtype=bool)
    out = Analysis(request, queries, measurement, is_member, half_split(is_member, request.seed), np.ones(len(is_member), bool))
    for name in choose(request.attacks):
        out.attacks[name] = _score(ATTACKS[name], tables, out)
    for attack in out.done.values():
        out.kept &= np.isfinite(attack.scores)
    usable = out.done
    if not usable:
        raise RunFolderError("No attack could be scored: " + "; ".join(f"{n} {a.reason}" for n, a in out.attacks.items()) + ".")
    for name, attack in usable.items():
        _evaluate(ATTACKS[name], attack, tables, out)
    out.headline = max(usable, key=lambda n: usable[n].selection.calibration_auc)
    out.tail = max(usable, key=lambda n: usable[n].calibration_tail)
    inside = out.evaluation
    out.permutation = permutation_test({n: a.scores[inside] for n, a in usable.items()}, is_member[inside], request.seed)
    out.direction = _direction(tables, out)
    out.control = _shuffled_control(tables, out)
    members, nonmembers = int(is_member[inside].sum()), int((~is_member[inside]).sum())
    out.mda = minimum_detectable_auc(members, nonmembers, out.permutation.critical_z)
    out.decision = decide(_evidence(out, members, nonmembers))
    return out


def _score(attack, tables, out):
    """Choose settings on the calibration half and score every image."""
    result = AttackResult(attack.card.name)
    try:
        result.selection = select(attack, tables, out.is_member, out.calibration, out.request.settings.get(result.name))
        choice = result.selection.choice
        result.scores = attack.score(tables, choice)
        result.calls_at_setting, result.calls_per_image = attack.calls_at_setting(tables, choice), attack.calls_per_image(tables)
    except AttackError as error:
        return AttackResult(attack.card.name, status="failed", reason=str(error))
    return result


def _evaluate(attack, result, tables, out):
    """Held-out figures of one attack, on the images that all attacks can score."""
    inside, before = out.evaluation, out.calibration & out.kept
    result.calibration_tail = tpr_at_fpr(result.scores[before], out.is_member[before], TAIL_FPR).tpr or 0.0
    result.evaluation = evaluate(result.scores[inside], out.is_member[inside])
    draws = out.measurement["measurement"]["draws"]
    if draws > 1:
        per_draw = [auc(attack.score_draw(tables, result.selection.choice, d, inside), out.is_member[inside]) for d in range(draws)]
        result.noise_sd = float(np.std(per_draw, ddof=1))


def _direction(tables, out):
    """The direction check of rule 1, on the settings that rank members lowest on the calibration half.

    Chosen settings alone cannot see swapped folders: the sweep would settle where nothing shows. A leak in the declared direction may rank members a little
    lower somewhere else; so the check speaks only where the reverse is the stronger of the two.
    """
    inside, perm = out.evaluation, out.permutation
    labels = out.is_member[inside]
    scores = {n: ATTACKS[n].score(tables, a.selection.lowest)[inside] for n, a in out.done.items()}
    finite = {n: s for n, s in scores.items() if np.isfinite(s).all()}
    reverse = permutation_test(finite, labels, out.request.seed)
    name = min(finite, key=lambda n: reverse.z[n]["rank"])
    strongest = max(z["rank"] for z in perm.z.values())
    if -reverse.lowest_rank_z <= strongest:  # the declared direction is at least as strong
        name = min(perm.z, key=lambda n: perm.z[n]["rank"])
        choice, lowest = out.attacks[name].selection.choice, perm
        return Direction(name, choice.settings(), auc_interval(out.attacks[name].scores[inside], labels), lowest.lowest_rank_z, lowest.lowest_rank_point)
    return Direction(name, out.attacks[name].selection.lowest.settings(), auc_interval(finite[name], labels), reverse.lowest_rank_z, reverse.lowest_rank_point)


def _shuffled_control(tables, out):
    """The headline attack's whole procedure, settings included, on labels mixed at random within each half."""
    mixed = out.is_member.copy()
    for part, name in ((out.calibration, "calibration"), (~out.calibration, "evaluation")):
        mixed[part] = stream(out.request.seed, f"shuffled labels {name}").permutation(mixed[part])
    attack = ATTACKS[out.headline]
    choice = select(attack, tables, mixed, out.calibration, out.request.settings.get(out.headline)).choice
    scores, inside = attack.score(tables, choice), out.evaluation
    return at_chance("shuffled_labels", scores[inside], mixed[inside])


def _evidence(out, members, nonmembers):
    lead, tail = out.attacks[out.headline].evaluation, out.attacks[out.tail].evaluation
    at_one_percent = next(p for p in tail.tpr_at_fpr if p.fpr == 0.01)
    return Evidence(
        p_leak=out.permutation.p_value,
        auc_low=lead.auc.low,
        tpr_low=at_one_percent.low,
        mda=out.mda,
        evaluation_members=members,
        evaluation_nonmembers=nonmembers,
        controls_passed=out.control.passed,
        lowest_rank_z=out.direction.z,
        lowest_rank_point=out.direction.point,
    )


def scores_csv(out):
    """scores.csv as text: image_id, path, is_member, half, then a column per attack that was scored."""
    names = list(out.done)
    columns = [out.attacks[n].scores for n in names]
    rows = (
        [image["image_id"], csv_cell(image["path"]), bool(image["is_member"]), "calibration" if out.calibration[i] else "evaluation", *(_number(c[i]) for c in columns)]
        for i, image in enumerate(out.queries["images"])
    )
    return csv_text(["image_id", "path", "is_member", "half", *names], rows)


def _number(value):
    return repr(float(value)) if np.isfinite(value) else ""
