"""Statistics of an audit, one idea a file. NumPy and SciPy only; no model, no torch."""

from audit.stats.evaluate import evaluate

__all__ = ["evaluate"]
