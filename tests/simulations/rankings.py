"""How often the self-test's ranking names the truth, a wrong one, or says that it cannot tell."""

from tests.simulations.common import Row


def said_of(found, truth):
    """Args: found: what models.selftest.rank returns; truth: the key of the right candidate."""
    return "right" if found.best == truth else "cannot tell" if found.best is None else f"WRONG: {found.best}"


def rows_of(cases):
    """One line per truth, then the sums.

    Args: cases: an iterable of (words, truth, rankings, one for each seed, remarks on each of them).
    """
    named, wrong, first_wrong, tried = 0, 0, 0, 0
    for words, truth, rankings, remarks in cases:
        said = [said_of(found, truth) for found in rankings]
        bad = sum(s.startswith("WRONG") for s in said)
        named, wrong, tried = named + said.count("right"), wrong + bad, tried + len(said)
        first_wrong += sum(found.ratios[0][0] != truth for found in rankings)
        yield Row(f"{words}: wrong names", bad, most=0, note=", ".join(s + remark for s, remark in zip(said, remarks, strict=True)))
    yield Row("wrong names", wrong, most=0, note=f"of {tried}")
    yield Row("right names", named, note=f"of {tried}; cannot tell {tried - named - wrong}")
    yield Row("the least error alone is wrong", first_wrong, note=f"of {tried}")
