"""What figures and evidence pages draw, computed from an open run: curves, bands, thresholds and windows. NumPy only, no Plotly.

Everything comes from stored scores or stored tables, never from a number of report.json. What costs more than a few milliseconds is kept in the
Run that it was computed from (`cached`), so a slider step never computes it twice.
"""

import math
from dataclasses import dataclass

import numpy as np

from audit.attacks import ATTACKS
from audit.errors import WindowError
from audit.report.parts import reference_of
from audit.stats.auc import auc_interval, auc_many
from audit.stats.roc import fast_roc
from audit.stats.threshold import calibrated_threshold
from audit.stats.tpr import band, clopper_pearson, tpr_at_fpr
from audit.stats.window import Window, kept_rows, reduce
from audit.tables import UNTRAINED

POINTS = 300  # the most that is drawn of one curve
BAND_POINTS = 48  # false positive rates at which a curve's band is computed
LOSSES = ("eps_mse", "x0_mse", "vlb_bits", "x0_8bit_mse")
BLOCK_ROWS = 64  # timesteps read at once: 10 MB at N = 20,000
FPR_STOPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def cached(run, key, make):
    """`make()` once per open run and key; the run's own lifetime bounds the memory."""
    memo = run.__dict__.setdefault("_series", {})
    if key not in memo:
        memo[key] = make()
    return memo[key]


# --- attacks, tables and windows -------------------------------------------------------------------------------------------------------------


def done(run):
    """Names of the attacks with scores, the headline first, then by AUC."""
    headline = run.report["verdict"]["headline_attack"]
    return sorted(run.scored, key=lambda name: (name != headline, -run.attack(name)["auc"]["value"]))


def card(name):
    """(short, title, threat model) of an attack; its name stands in where no card exists."""
    if name in ATTACKS:
        known = ATTACKS[name].card
        return known.short, known.title, known.threat_model
    return name[:12], name, "no model"


def loss_tables(run):
    """Names of the stored tables that hold a loss per timestep, lower = better known: first those that an attack of this run cuts to a window, then those
    that one reads at single timesteps; the headline's first among its kind."""
    read = [t for t in (table_read(run, name) for name in done(run)) if t]
    read = [t for t in read if attack_of(run, t)] + read
    usable = [n for n, table in run.tables.items() if table.axis == "timestep" and len(table.scored_index) and (n in read or n.rpartition("/")[2] in LOSSES)]
    usable = [n for n in usable if n != UNTRAINED]  # features of the blind baseline, no loss of this model
    return [t for t in dict.fromkeys(read) if t in usable] + [t for t in usable if t not in read]


def table_of(attack):
    """The single loss table that an attack reduces, or None."""
    tables = ATTACKS[attack].card.tables if attack in ATTACKS else ()
    return tables[0] if len(tables) == 1 else None


def table_read(run, attack):
    """The single table that an attack reduced in this run, or None: with its filter that of the coarse structure."""
    name, settings = table_of(attack), run.attack(attack)["settings"] or {}
    return name and name + ("_low" if settings.get("filter") == "low-pass" else "")


def signal_table(run):
    """The table that shows best where along t the signal sits, or None: the headline's where it has a calibrated window, else that of the best attack with one."""
    return next(iter(loss_tables(run)), None)


def attack_of(run, table):
    """The finished attack of this run that reduces `table` alone, or None: with a reference no attack does."""
    if reference_of(run.report):
        return None
    return next((name for name in done(run) if table_read(run, name) == table and calibrated_window(run, name)), None)


def calibrated_window(run, attack):
    """The Window that the calibration half chose for `attack`, or None where it has none."""
    chosen = (run.attack(attack).get("selection") or {}).get("chosen") or {}
    fields = {k: chosen[k] for k in ("statistic", "truncate_by", "keep_from", "keep_until", "keep_share") if chosen.get(k) is not None}
    return Window(**fields) if "statistic" in fields and "truncate_by" in fields else None


def kept_count(table, window):
    """(kept, of): how many scored timesteps the window keeps. Raises WindowError."""
    lo, hi = kept_rows(table, window)
    return hi - lo, len(table.scored_index)


# --- scores and curves ----------------------------------------------------------------------------------------------------------------------


def held_out_members(run):
    """bool (n,): labels of the held-out images, those behind every number of report.json."""
    return cached(run, "held_out_members", lambda: np.asarray(run.is_member)[run.evaluation])


def held_out_clusters(run):
    """int64 (n,): near duplicates share a number; None where each held-out image stands alone, or images.csv does not say."""

    def make():
        labels = (run.image_rows or {}).get("cluster")
        mine = labels[run.evaluation] if labels is not None and (labels >= 0).all() else None
        return mine if mine is not None and len(np.unique(mine)) < len(mine) else None

    return cached(run, "held_out_clusters", make)


def held_out_counts(run):
    """(members, non-members) held out."""
    labels = held_out_members(run)
    return int(labels.sum()), int((~labels).sum())


def held_out_index(run):
    """int64 (n,): positions of the held-out images among all N."""
    return cached(run, "held_out_index", lambda: np.flatnonzero(run.evaluation))


def held_out_scores(run, attack):
    """float64 (n,): the attack's scores on the held-out images, higher = more like a member."""
    return cached(run, ("scores", attack), lambda: np.asarray(run.scores_of(attack), dtype=np.float64)[run.evaluation])


def attack_roc(run, attack):
    """audit.stats.roc.Roc of an attack on the held-out images, all its corners."""
    return cached(run, ("roc", attack), lambda: fast_roc(held_out_scores(run, attack), held_out_members(run)))


def attack_band(run, attack):
    """(fpr, low, high): pointwise 95 % band of an attack's curve at up to BAND_POINTS false positive rates from 1/n to 1."""

    def make():
        _, n = held_out_counts(run)
        fprs = np.unique(np.concatenate([np.geomspace(1 / n, 0.999, BAND_POINTS * 2 // 3), np.linspace(1 / n, 0.999, BAND_POINTS // 3)]))
        low, high = band(held_out_scores(run, attack), held_out_members(run), fprs)
        return np.append(fprs, 1.0), np.append(low, 1.0), np.append(high, 1.0)  # at FPR 1 everybody is found

    return cached(run, ("band", attack), make)


def drawn(roc, limit=POINTS):
    """At most `limit` corners of a curve, with its area where that many can have it.

    Args: roc: audit.stats.roc.Roc; limit: >= 3. Returns: Roc.
    """
    few = roc.points(limit)
    if len(few.fpr) <= limit:
        return few
    along = few.fpr + few.tpr
    pick = np.unique(np.append(np.searchsorted(along, np.linspace(0, 2, limit - 1)).clip(0, len(along) - 1), len(along) - 1))
    return type(roc)(few.fpr[pick], few.tpr[pick], few.thresholds[pick])


# --- thresholds -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flagged:
    """What flagging every held-out image with score >= `threshold` does; threshold is +inf where nothing may be flagged.

    tp, fn: members flagged, missed; fp, tn: non-members flagged, cleared.
    """

    threshold: float
    tp: int
    fn: int
    fp: int
    tn: int

    @property
    def tpr(self):
        """Share of members flagged."""
        return self.tp / (self.tp + self.fn)

    @property
    def fpr(self):
        """Share of non-members flagged."""
        return self.fp / (self.fp + self.tn)

    def precision(self, prior):
        """(share, at_least): members among the flagged where a share `prior` of all images are members; None where nothing is flagged.

        Without a false accusation the share would be 1 whatever n is: then the lower end of TPR and the upper end of FPR (Clopper-Pearson) give
        a bound, and at_least is True.
        """
        if self.tp + self.fp == 0:
            return None, False
        tpr, fpr, bound = self.tpr, self.fpr, self.fp == 0
        if bound:
            tpr, fpr = clopper_pearson(self.tp, self.tp + self.fn)[0], clopper_pearson(0, self.tn)[1]
        return tpr * prior / (tpr * prior + fpr * (1 - prior)), bound


def flag(scores, is_member, threshold):
    """Flagged counts at score >= threshold. Args: scores float (n,); is_member bool (n,)."""
    hit = scores >= threshold
    tp, fp = int((hit & is_member).sum()), int((hit & ~is_member).sum())
    return Flagged(float(threshold), tp, int(is_member.sum()) - tp, fp, int((~is_member).sum()) - fp)


def flag_at_fpr(run, attack, fpr):
    """Flagged with the most members found at a false positive rate of at most `fpr` on the held-out images: the point that the ROC shows there.

    The threshold is the smallest score above the (k+1)-th largest non-member score, k = floor(n fpr + 1e-9).
    """
    scores, labels = held_out_scores(run, attack), held_out_members(run)
    outsiders = np.sort(scores[~labels])[::-1]
    k = math.floor(len(outsiders) * fpr + 1e-9)
    above = scores[scores > outsiders[k]] if k < len(outsiders) else scores
    return flag(scores, labels, above.min() if len(above) else np.inf)


def flag_calibrated(run, attack):
    """(fpr, Flagged): a threshold set on the calibration non-members, counted on the held-out images; None where there are too few of them.

    The threshold is audit.stats.threshold's. `fpr` is the smallest of 1 % and 10 % that the calibration half can carry.
    """
    scores = np.asarray(run.scores_of(attack), dtype=np.float64)
    before = (np.asarray(run.half) == "calibration") & np.isfinite(scores)
    outsiders = scores[before & ~np.asarray(run.is_member)]
    for fpr in (0.01, 0.1):
        threshold = calibrated_threshold(outsiders, fpr)
        if threshold is not None:
            return fpr, flag(held_out_scores(run, attack), held_out_members(run), threshold)
    return None


def fpr_stops(run):
    """False positive rates that a slider may offer: those of FPR_STOPS from 1/n up."""
    _, n = held_out_counts(run)
    return [f for f in FPR_STOPS if f * n >= 1 - 1e-9]


# --- along t ----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Along:
    """AUC of each timestep alone, on the held-out images. Arrays (J,): timesteps, auc, low, high (95 %), noise_sd (NaN with one draw).

    best: position of the largest AUC among all measured timesteps; it is always one of the J.
    """

    timesteps: np.ndarray
    auc: np.ndarray
    low: np.ndarray
    high: np.ndarray
    noise_sd: np.ndarray
    best: int


def by_rows(rows, compute):
    """`compute(some of rows)` for blocks of rows, joined: a large table is never in memory as a whole."""
    return np.concatenate([compute(rows[first : first + BLOCK_ROWS]) for first in range(0, len(rows), BLOCK_ROWS)])


def thinned(count, keep=(), limit=POINTS):
    """Positions 0..count-1, at most `limit` of them, evenly spread, with those in `keep` among them."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.concatenate([np.round(np.linspace(0, count - 1, limit - len(keep))).astype(int), np.asarray(keep, dtype=int)]))


def auc_along(run, table):
    """Along of one table: score = - loss at that timestep, mean over draws; noise_sd = SD (ddof 1) of the single draws' AUCs."""

    def make():
        stored, index, labels = run.tables[table], held_out_index(run), held_out_members(run)
        rows = stored.scored_index
        full = by_rows(rows, lambda some: auc_many(-np.asarray(stored.values[some][:, index]), labels))
        pick = thinned(len(rows), keep=(int(np.argmax(full)),))
        rows = rows[pick]
        limits = [auc_interval(-stored.values[row][index].astype(np.float64), labels, held_out_clusters(run)) for row in rows]
        low, high = (np.array([np.nan if getattr(i, end) is None else getattr(i, end) for i in limits]) for end in ("low", "high"))
        noise = np.full(len(rows), np.nan)
        if stored.draws > 1:
            single = np.stack([by_rows(rows, lambda some, s=s: auc_many(-np.asarray(stored.per_draw[s][some][:, index]), labels)) for s in range(stored.draws)])
            noise = single.std(axis=0, ddof=1)
        return Along(stored.scored_timesteps[pick], full[pick], low, high, noise, int(np.argmax(full[pick])))

    return cached(run, ("along", table), make)


@dataclass(frozen=True)
class Spread:
    """Quantiles over all images of one class, arrays (J,): low, median, high."""

    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def spreads(run, table, share, gap):
    """(timesteps, members, nonmembers): Spread of the loss at each timestep over all images of a class.

    Args: share: 0.5 or 0.8, the central share that the band holds; gap: in % of the non-member median instead of the table's unit.
    Returns: int64 (J,) and two Spreads.
    """

    def make():
        stored = run.tables[table]
        rows = stored.scored_index[thinned(len(stored.scored_index))]
        members, levels = np.asarray(run.is_member), (0.5 - share / 2, 0.5, 0.5 + share / 2)
        inside, outside = (by_rows(rows, lambda some, who=who: np.nanquantile(stored.values[some][:, who].astype(np.float64), levels, axis=1).T) for who in (members, ~members))
        return stored.timesteps[rows], inside.T, outside.T

    timesteps, members, nonmembers = cached(run, ("spreads", table, share), make)
    if gap:
        middle = nonmembers[1]
        members, nonmembers = gap_to(members, middle), gap_to(nonmembers, middle)
    return timesteps, Spread(*members), Spread(*nonmembers)


def gap_to(values, middle):
    """Percent above or below `middle`; NaN where it is 0."""
    safe = np.where(middle == 0, np.nan, middle)
    return 100 * (values - middle) / np.abs(safe)


def image_losses(run, table, position):
    """(timesteps, losses): one image's row at the timesteps that `spreads` draws."""
    stored = run.tables[table]
    rows = stored.scored_index[thinned(len(stored.scored_index))]
    return stored.timesteps[rows], np.asarray(stored.values[rows][:, position], dtype=np.float64)


# --- one step of the truncation slider -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What one position of the slider shows: scores (n,), the whole curve, its area = AUC, TPR at the asked FPR, and the curve to draw."""

    scores: np.ndarray
    roc: object
    auc: float
    tpr: float
    points: object


def slider_step(table, window, index, is_member, fpr=0.01):
    """Window -> statistic -> score -> ROC -> AUC -> TPR -> at most 300 points; no interval, so that it stays below 10 ms.

    Args: table: audit.tables.Table; window: Window; index: int (n,) images or slice; is_member: bool (n,); fpr in (0, 1).
    Returns: Step.
    Raises: WindowError.
    """
    scores = -reduce(table, window, index)
    if not np.isfinite(scores).all():
        raise WindowError("The window holds losses that were not measured. Choose another window or table.")
    roc = fast_roc(scores, is_member)
    return Step(scores, roc, roc.area, roc.tpr_at(fpr), drawn(roc))


def figures_of(run, scores, fpr=0.01):
    """(Interval of the AUC, TprPoint at `fpr`) of scores (n,) on the held-out images."""
    labels = held_out_members(run)
    return auc_interval(scores, labels, held_out_clusters(run)), tpr_at_fpr(scores, labels, fpr)


def histogram_edges(scores):
    """(edges, beyond): equal bins over the scores, or over their middle where a few lie far out; beyond: how many those are.

    Args: scores: float (n,). Returns: float64 (bins+1,), 12 to 48 bins, more with more images; int.
    """
    bins = int(np.clip(1.6 * len(scores) ** 0.5, 12, 48))
    low, q01, q99, high = np.quantile(scores, [0, 0.01, 0.99, 1])
    room = 0.35 * (q99 - q01)
    low, high = max(low, q01 - room), min(high, q99 + room)
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, bins + 1), int(((scores < low) | (scores > high)).sum())


# --- what the pages offer ------------------------------------------------------------------------------------------------------------------


def exposed(run, limit):
    """{short hash: position among the N images}, at most `limit`, the highest score of the headline attack first.

    The label is the first 8 digits of the image id, or all 16 where two images share them.
    """

    def make():
        scores = np.nan_to_num(run.scores_of(run.report["verdict"]["headline_attack"]), nan=-np.inf)
        short, count = np.unique([i[:8] for i in run.image_ids], return_counts=True)
        twice = set(short[count > 1].tolist())
        order = np.argsort(-scores, kind="stable")[:limit]
        return {image if image[:8] in twice else image[:8]: int(p) for p, image in ((p, str(run.image_ids[p])) for p in order)}

    return cached(run, ("exposed", limit), make)


def measured_timesteps(run):
    """The run's grid as a list of int, the same for every loss table."""
    return [int(t) for t in run.report["measurement"]["timesteps"]]


def snap(timesteps, window):
    """(first, last) of `timesteps` that a time window keeps; the nearest ones where it keeps none."""
    kept = [t for t in timesteps if window.keep_from <= t <= window.keep_until]
    return (kept[0], kept[-1]) if kept else (min(timesteps, key=lambda t: abs(t - window.keep_from)),) * 2


def kept_timesteps(table, window):
    """(first, last) scored timestep that a time window keeps. Raises WindowError."""
    lo, hi = kept_rows(table, window)
    return int(table.scored_timesteps[lo]), int(table.scored_timesteps[hi - 1])


def same_window(table, a, b):
    """Whether two windows keep the same losses and reduce them in the same way."""
    try:
        return (a.statistic, a.truncate_by, kept_rows(table, a)) == (b.statistic, b.truncate_by, kept_rows(table, b))
    except WindowError:
        return False
