"""scores.csv and images.csv of a run, as text: one row per image, in the order of queries.json."""

import numpy as np

from audit.files import csv_cell, csv_text


def scores_csv(out):
    """image_id, path, is_member, half, then a column per attack that was scored. Args: out: audit.analysis.Analysis."""
    names = list(out.done)
    columns = [out.attacks[n].scores for n in names]
    rows = (
        [image["image_id"], csv_cell(image["path"]), bool(image["is_member"]), "calibration" if out.halves.calibration[i] else "evaluation", *(_number(c[i]) for c in columns)]
        for i, image in enumerate(out.measured.queries["images"])
    )
    return csv_text(["image_id", "path", "is_member", "half", *names], rows)


def images_csv(out):
    """image_id, conformal_p, flagged (headline attack, evaluation rows only), blind, blind_fold (rows that the blind baseline saw), cluster (near duplicates share one)."""
    count = len(out.is_member)
    p, flagged, blind, fold = np.full(count, np.nan), np.zeros(count, bool), np.full(count, np.nan), np.full(count, -1)
    p[out.evaluation], flagged[out.evaluation] = out.flags.p, out.flags.flagged
    blind[out.kept], fold[out.kept] = out.blind.scores, out.blind.fold
    rows = (
        [image["image_id"], _number(p[i]), bool(flagged[i]) if out.evaluation[i] else "", _number(blind[i]), int(fold[i]) if fold[i] >= 0 else "", int(out.measured.clusters[i])]
        for i, image in enumerate(out.measured.queries["images"])
    )
    return csv_text(["image_id", "conformal_p", "flagged", "blind", "blind_fold", "cluster"], rows)


def _number(value):
    return repr(float(value)) if np.isfinite(value) else ""
