"""Plotly figures of an open run; no Streamlit, so that pages and the offline document draw the same ones.

Every figure is drawn from stored scores or tables (`audit.report.series`), never from a number of report.json, and works on light and dark ground:
the ground is transparent, series colours come from one palette, text and grid follow the page. A figure carries its own description for screen
readers, `alt(fig)`, and the buttons that it may show, `config(fig)`.
"""

from audit.report.figures.along_t import UNITS, auc_figure, image_figure, trajectories_figure, trajectories_legend
from audit.report.figures.base import alt, config, look, score_text, style
from audit.report.figures.costs import ladder_figure, pareto_figure
from audit.report.figures.features import features_figure
from audit.report.figures.roc import comparison_figure, roc_figure
from audit.report.figures.scores import histogram_figure
from audit.report.figures.windows import heat_figure

__all__ = [
    "UNITS", "alt", "auc_figure", "comparison_figure", "config", "features_figure", "heat_figure", "histogram_figure",
    "image_figure", "ladder_figure", "look", "pareto_figure", "roc_figure", "score_text", "style", "trajectories_figure",
    "trajectories_legend",
]
