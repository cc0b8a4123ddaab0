"""From the stored tables of a run to its numbers, in the order of work of docs/statistics.md: split, calibrate, evaluate, permute, look without the model, decide.

Nothing here needs a model: `python -m audit rescore DIR` runs the same function on a finished run folder and gives the same report.json.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audit.attacks import ATTACKS, as_run, choose
from audit.attacks.windowed import WindowedAttack
from audit.csvs import images_csv, scores_csv
from audit.errors import AttackError, NotMeasuredError, RunFolderError
from audit.files import write_json, write_text
from audit.halves import Halves, plan_halves
from audit.measured import Measured, read_measured
from audit.sources import REFERENCE, TARGET
from audit.stats.auc import Interval, auc, auc_interval
from audit.stats.blind import Blind, blind_baseline
from audit.stats.controls import Control, at_chance, nonmembers_labels, planted_leak
from audit.stats.crossfit import cross_fitted_auc
from audit.stats.epsilon import EpsilonBound, default_delta, epsilon_lower_bound
from audit.stats.evaluate import Evaluation, evaluate
from audit.stats.flags import Flags, flag
from audit.stats.paired import compare_all
from audit.stats.paper_protocol import paper_protocol
from audit.stats.permutation import PermutationResult, permutation_test
from audit.stats.power import CRITICAL_Z_ONE_TEST, minimum_detectable_auc, minimum_detectable_share
from audit.stats.set_level import SetLevel, set_level
from audit.stats.streams import stream
from audit.stats.threshold import ThresholdPoint, at_thresholds
from audit.stats.tpr import tpr_at_fpr
from audit.stats.verdict import Decision, Evidence, decide
from audit.sweep import Jury, Sweep, sweep

TAIL_FPR = 0.05  # the tail attack is the best calibration TPR at this FPR (docs/verdict.md)
RANDOM = ("manifest", "stated-random")  # splits that an ε may rest on


@dataclass
class AttackResult:
    """One attack of one run; `status` done, failed or skipped with `reason`. Under cross-fitting `choice`, `scores` and `reference` (the AUC
    of the reference's own score) are those of the first repeat."""

    name: str
    status: str = "done"
    reason: str | None = None
    sweep: Sweep | None = None
    choice: object = None
    scores: np.ndarray | None = None
    calibration_auc: float | None = None
    best_of_sweep_auc: float | None = None
    calibration_tail: float | None = None
    auc: Interval | None = None
    evaluation: Evaluation | None = None
    at_threshold: tuple[ThresholdPoint, ...] = ()
    noise_sd: float | None = None
    reference: Interval | None = None
    calls_at_setting: int | None = None
    calls_per_image: int | None = None


@dataclass(frozen=True)
class Direction:
    """Do members score lower than non-members?

    attack, settings: the strongest such reading; auc: on the images judged; z, point: rank z and its 0.1 % point;
    counts: False where the declared direction is the stronger one in a sweep that holds settings of both kinds.
    """

    attack: str
    settings: dict
    auc: Interval
    z: float
    point: float
    counts: bool = True

    @property
    def passed(self):
        """False: direction or labels are wrong."""
        return not (self.counts and self.z < self.point)


@dataclass
class Analysis:
    """Everything that report.json is built from."""

    measured: Measured
    halves: Halves
    kept: np.ndarray
    attacks: dict = field(default_factory=dict)
    permutation: PermutationResult | None = None
    headline: str | None = None
    lead_low: float | None = None
    tail: str | None = None
    direction: Direction | None = None
    controls: list[Control] = field(default_factory=list)
    blind: Blind | None = None
    mda: float | None = None
    mds: float | None = None
    flags: Flags | None = None
    set_level: SetLevel | None = None
    epsilon: EpsilonBound | None = None
    comparisons: list[dict] = field(default_factory=list)
    paper_protocol: dict | None = None
    decision: Decision | None = None

    @property
    def is_member(self):
        """bool (N,)."""
        return self.measured.is_member

    @property
    def seed(self):
        """The run's."""
        return self.measured.request.seed

    @property
    def calibration(self):
        """bool (N,): images that chose settings, with finite scores in every attack."""
        return self.halves.calibration & self.kept

    @property
    def evaluation(self):
        """bool (N,): the other half, with finite scores in every attack."""
        return ~self.halves.calibration & self.kept

    @property
    def judged(self):
        """bool (N,): images behind the AUCs: the evaluation half, or all under cross-fitting."""
        return self.kept if self.halves.crossed else self.evaluation

    @property
    def done(self):
        """{name: AttackResult} of the attacks with scores."""
        return {n: a for n, a in self.attacks.items() if a.status == "done"}

    def attack(self, name):
        """The Attack as this audit runs it."""
        return as_run(name, self.measured.request.reference is not None)

    def clusters(self, inside):
        """int (n,) near-duplicate clusters of some images, or None where each image stands alone."""
        clusters = self.measured.clusters[inside]
        return clusters if len(np.unique(clusters)) < len(clusters) else None


def analyse(folder, check=None):
    """Compute every number of a run and write scores.csv, images.csv, report.json and report.html.

    Args: folder: a run folder with request.json, queries.json, measurement.json, features.npz and tables/; check(): called between steps, may raise to stop.
    Returns: the report as a dict.
    Raises: RunFolderError.
    """
    from audit.report.build import build_report
    from audit.report.html import render
    from audit.report.run import open_run

    folder = Path(folder)
    result = compute(read_measured(folder), check)
    report = build_report(result)
    write_text(folder / "scores.csv", scores_csv(result))
    write_text(folder / "images.csv", images_csv(result))
    write_json(folder / "report.json", report)
    run = open_run(folder)
    write_text(folder / "report.html", render(run))
    return run.report


def compute(measured, check=None):
    """The Analysis of one measured run; pure. Args: check(): see `analyse`. Raises RunFolderError: no attack could be scored."""
    check = check or (lambda: None)
    is_member, seed = measured.is_member, measured.request.seed
    clusters = measured.clusters if len(np.unique(measured.clusters)) < len(is_member) else None
    attacks, kept = _usable(measured)
    out = Analysis(measured, plan_halves(is_member, seed, clusters, kept), kept, attacks)
    juries = _juries(out)
    for name in out.done:
        check()
        out.attacks[name] = _score(out.attack(name), out, juries)
    usable = out.done
    if not usable:
        raise RunFolderError("No attack could be scored: " + "; ".join(f"{n}: {a.reason.removesuffix('.')}" for n, a in out.attacks.items()) + ".")
    for name, attack in usable.items():
        check()
        _evaluate(out.attack(name), attack, out)
    out.headline = max(usable, key=lambda n: usable[n].calibration_auc)
    out.tail = max(usable, key=lambda n: usable[n].calibration_tail)
    check()
    _permute(out)
    check()
    _control(out, juries)
    check()
    features = measured.blind_features
    out.blind = blind_baseline(features.values[out.kept], features.names, features.scalar, is_member[out.kept], seed, clusters=out.clusters(out.kept))
    check()
    _per_image_and_set(out)
    out.comparisons = _compare(out)
    out.lead_low = _lead_low(out)
    out.decision = decide(_evidence(out))
    return out


def _usable(measured):
    """({name: AttackResult}, kept bool (N,)): an image with a loss that is not finite leaves all attacks, before anything is chosen; an attack that would cost
    more than half of a class fails instead; one that was beyond the budget is skipped."""
    is_member, kept, attacks = measured.is_member, np.ones(len(measured.is_member), bool), {}
    skipped, failed = measured.facts["measurement"].get("skipped") or {}, measured.facts.get("failed") or {}
    for name in choose(measured.request.attacks):
        if name in failed:
            attacks[name] = AttackResult(name, status="failed", reason=failed[name])
            continue
        if name in skipped:
            attacks[name] = AttackResult(name, status="skipped", reason=skipped[name])
            continue
        finite = np.ones(len(is_member), bool)
        for table in (source + table for source in (TARGET, REFERENCE) for table in ATTACKS[name].card.tables):
            if table in measured.tables:
                finite &= measured.tables[table].finite
        if min(finite[is_member].mean(), finite[~is_member].mean()) < 0.5:
            attacks[name] = AttackResult(name, status="failed", reason=f"{np.count_nonzero(~finite)} of {len(finite)} images have losses that are not finite")
        else:
            attacks[name], kept = AttackResult(name), kept & finite
    return attacks, kept


def _juries(out):
    """{what for: [Jury]}: who chooses settings, and the two controls that run the whole procedure on labels that say nothing."""
    is_member, kept, first = out.is_member, out.kept, out.halves.calibration
    mixed, halved = is_member.copy(), np.zeros(len(is_member), bool)
    for part, name in ((first & kept, "calibration"), (~first & kept, "evaluation")):
        mixed[part] = stream(out.seed, f"shuffled labels {name}").permutation(mixed[part])
        halved |= nonmembers_labels(part & ~is_member, out.seed, name)
    return {
        "choose": [Jury(half & kept, is_member) for half in out.halves.choosing],
        "all": [Jury(kept, is_member)],
        "shuffled_labels": [Jury(first & kept, mixed)],
        "nonmembers_twice": [Jury(first & kept & ~is_member, halved)],
    }


def _score(attack, out, juries):
    """Try all settings and score every image at those that the calibration half chose."""
    result, tables = AttackResult(attack.card.name), out.measured.tables
    try:
        result.sweep = sweep(attack, tables, [j for group in juries.values() for j in group], out.measured.request.settings.get(result.name), keep=out.halves.crossed)
        best = result.sweep.best(0)
        result.choice = result.sweep.candidates[best]
        result.scores = np.where(out.kept, attack.score(tables, result.choice), np.nan)
        if np.ptp(result.scores[out.kept]) == 0:
            raise AttackError("all images score alike")
        result.calibration_auc = float(result.sweep.aucs[0, best])
        result.best_of_sweep_auc = float(result.sweep.aucs[len(juries["choose"])].max())
        result.calls_at_setting, result.calls_per_image = attack.calls_at_setting(tables, result.choice), attack.calls_per_image(tables)
    except AttackError as error:
        return AttackResult(attack.card.name, status="skipped" if isinstance(error, NotMeasuredError) else "failed", reason=str(error))
    return result


def _evaluate(attack, result, out):
    """Held-out figures of one attack, on the images that all attacks can score."""
    inside, before, is_member = out.evaluation, out.calibration, out.is_member
    result.calibration_tail = tpr_at_fpr(result.scores[before], is_member[before], TAIL_FPR).tpr or 0.0
    result.evaluation = evaluate(result.scores[inside], is_member[inside], clusters=out.clusters(inside))
    result.auc = result.evaluation.auc
    if out.halves.crossed:
        result.auc = cross_fitted_auc(_folds(out, lambda fold: result.sweep))
    result.at_threshold = at_thresholds(result.scores[before], is_member[before], result.scores[inside], is_member[inside])
    if hasattr(attack, "alone"):
        result.reference = _interval(out, attack.alone(out.measured.tables, result.choice, inside), inside)
    draws = max(out.measured.facts["measurement"]["draws"], *(out.measured.tables[t].draws for t in attack.card.tables))
    if draws > 1 and not getattr(attack, "one_draw", False):
        per_draw = [auc(attack.score_draw(out.measured.tables, result.choice, d, inside), is_member[inside]) for d in range(draws)]
        result.noise_sd = float(np.std(per_draw, ddof=1))


def _folds(out, trial_of):
    """Per repeat the two (scores, labels, clusters) of its halves, each at the settings that the other half chose. Args: trial_of(fold): the Sweep that is read there."""
    pairs = []
    for fold, half in enumerate(out.halves.choosing):
        trial, judged = trial_of(fold), ~half & out.kept
        pairs.append((trial.scores[trial.best(fold)][judged], out.is_member[judged], out.clusters(judged)))
    return list(zip(pairs[::2], pairs[1::2], strict=True))


def _lead_low(out):
    """Lower bound of the headline AUC that the verdict reads. Under cross-fitting the attack, too, must be chosen on the other half, or its own images choose it."""
    low = out.attacks[out.headline].auc.low
    if not out.halves.crossed:
        return low
    trials = [attack.sweep for attack in out.done.values()]
    chosen = cross_fitted_auc(_folds(out, lambda fold: max(trials, key=lambda trial: trial.aucs[fold].max()))).low
    return None if low is None or chosen is None else min(low, chosen)


def _permute(out):
    """One test over all attacks. Under a half split each attack is one frozen score; under cross-fitting every setting that was tried, on all images."""
    inside, usable = out.judged, out.done
    labels = out.is_member[inside]
    columns = {n: (a.sweep.scores[:, inside] if out.halves.crossed else a.scores[inside]) for n, a in usable.items()}
    out.permutation = permutation_test(columns, labels, out.seed, clusters=out.clusters(inside))
    members, nonmembers = int(labels.sum()), int((~labels).sum())
    critical = max(out.permutation.critical_z, CRITICAL_Z_ONE_TEST)  # heavy ties can make chance look smaller than it is
    out.mda, out.mds = minimum_detectable_auc(members, nonmembers, critical), minimum_detectable_share(members, nonmembers, critical)
    out.direction = _crossed_direction(columns, out) if out.halves.crossed else _direction(out)


def _direction(out):
    """The direction check of rule 1, on the settings that rank members lowest on the calibration half.

    Chosen settings alone cannot see swapped folders: the sweep would settle where nothing shows. A leak in the declared direction may rank members a little
    lower somewhere else; so the check speaks only where the reverse is the stronger of the two.
    """
    inside, perm = out.evaluation, out.permutation
    labels = out.is_member[inside]
    lowest = {n: a.sweep.candidates[a.sweep.worst(0)] for n, a in out.done.items()}
    scores = {n: out.attack(n).score(out.measured.tables, choice)[inside] for n, choice in lowest.items()}
    reverse = permutation_test(scores, labels, out.seed, clusters=out.clusters(inside))
    if -reverse.lowest_rank_z > perm.highest_rank_z:  # the declared direction is the weaker one
        name = min(scores, key=lambda n: reverse.z[n]["rank"])
        return Direction(name, lowest[name].settings(), _interval(out, scores[name], inside), reverse.lowest_rank_z, reverse.lowest_rank_point)
    name = min(perm.z, key=lambda n: perm.z[n]["rank"])
    return Direction(name, out.attacks[name].choice.settings(), _interval(out, out.attacks[name].scores[inside], inside), perm.lowest_rank_z, perm.lowest_rank_point)


def _interval(out, scores, inside):
    return auc_interval(scores, out.is_member[inside], out.clusters(inside))


def _crossed_direction(columns, out):
    """The same where the test saw every setting: the setting that ranks members lowest on all images."""
    perm, everybody = out.permutation, len(out.halves.choosing)
    name = min(columns, key=lambda n: out.attacks[n].sweep.aucs[everybody].min())
    trial = out.attacks[name].sweep
    row = trial.worst(everybody)
    counts = -perm.lowest_rank_z > perm.highest_rank_z
    return Direction(name, trial.candidates[row].settings(), _interval(out, columns[name][row], out.judged), perm.lowest_rank_z, perm.lowest_rank_point, counts)


def _control(out, juries):
    """The controls: labels mixed at random, and non-members against non-members, each through the whole procedure; and a planted leak that must be found."""
    first = len(juries["choose"]) + 1
    for row, (name, everybody) in enumerate((("shuffled_labels", True), ("nonmembers_twice", False)), start=first):
        labels = juries[name][0].labels
        lead = max(out.done, key=lambda n: out.attacks[n].sweep.aucs[row].max())
        trial = out.attacks[lead].sweep
        scores = out.attack(lead).score(out.measured.tables, trial.candidates[trial.best(row)])
        inside = out.evaluation & (everybody | ~out.is_member)
        out.controls.append(at_chance(name, scores[inside], labels[inside]))
    inside = out.evaluation
    columns = {n: a.scores[inside] for n, a in out.done.items()}
    critical = permutation_test(columns, out.is_member[inside], out.seed).critical_z if out.halves.crossed else out.permutation.critical_z
    out.controls.append(planted_leak(columns, out.is_member[inside], out.headline, critical, out.seed))
    if out.measured.known_leak is not None:
        out.controls.append(out.measured.known_leak)


def _per_image_and_set(out):
    """Flags on single images, the set-level test, ε and the paper's own protocol; all on the halves of the first repeat."""
    inside, before, is_member, request = out.evaluation, out.calibration, out.is_member, out.measured.request
    lead = out.attacks[out.headline]
    out.flags = flag(lead.scores[before & ~is_member], lead.scores[inside], is_member[inside])
    out.set_level = set_level({n: a.scores[out.kept] for n, a in out.done.items()}, is_member[out.kept], out.halves.calibration[out.kept], out.seed, out.clusters(out.kept))
    if out.measured.provenance["kind"] in RANDOM:
        alone = np.zeros(len(is_member), bool)
        alone[np.unique(out.measured.clusters, return_index=True)[1]] = True  # near duplicates shared one coin: one image stands for them
        delta, a, b = default_delta(int(is_member.sum())), before & alone, inside & alone
        out.epsilon = epsilon_lower_bound(lead.scores[a], is_member[a], lead.scores[b], is_member[b], delta, out.seed, request.claimed_dp)
    windowed = [n for n in (out.headline, *out.done) if isinstance(ATTACKS[n], WindowedAttack)]  # the protocol is about losses along the schedule
    table = out.measured.tables[ATTACKS[windowed[0]].card.tables[0]] if windowed else None
    if table is not None and len(table.scored_index) > 1:
        losses = np.asarray(table.values[table.scored_index][:, out.kept], dtype=np.float64).T
        out.paper_protocol = {"table": table.name} | paper_protocol(losses, table.scored_timesteps, is_member[out.kept], out.seed)


def _compare(out):
    """The other attacks against the headline attack, on images that chose neither; under cross-fitting those are the evaluation half of the first repeat."""
    inside = out.evaluation
    return compare_all({n: a.scores[inside] for n, a in out.done.items()}, out.headline, out.is_member[inside], out.clusters(inside))


def _evidence(out):
    tail = out.attacks[out.tail]
    labels = out.is_member[out.judged]
    return Evidence(
        p_leak=out.permutation.p_value,
        auc_low=out.lead_low,
        tpr_low=next(p for p in tail.evaluation.tpr_at_fpr if p.fpr == 0.01).low,
        mda=out.mda,
        evaluation_members=int(labels.sum()),
        evaluation_nonmembers=int((~labels).sum()),
        controls_passed=all(c.passed for c in out.controls),
        lowest_rank_z=out.direction.z,
        lowest_rank_point=out.direction.point if out.direction.counts else -np.inf,
        split_random=out.measured.provenance["kind"] == "manifest",
        p_blind=out.blind.p_value,
        blind_auc=out.blind.auc.value,
        blind_sd=out.blind.sd,
        blind_tpr_high=out.blind.tpr_high,
    )
