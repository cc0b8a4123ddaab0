"""`python -m audit gate`: limits against a finished report, as a table, JUnit XML and Markdown. Exit codes 0 kept, 1 broken, 3 undecided, 2 could not run."""

import argparse
import re
from pathlib import Path
from xml.etree import ElementTree

from audit.errors import AuditError, RequestError

OK = 0
ENDINGS = {"kept": "Every limit is kept", "broken": "A limit is broken", "undecided": "Undecided"}
MARKUP = re.compile(r"([!-$&(-+/:-@\[-`{-~-]|\.(?![\s\d]|$))")  # every ASCII sign but % ' , and a decimal point: Markdown takes a backslash before each


def gate_flags(parser):
    """Add the flags of `gate` to its parser."""
    parser.add_argument("folder", type=path_given, metavar="DIR", nargs="?", help="run folder; without it the images that the limits need are printed")
    parser.add_argument("--policy", type=path_given, metavar="F.yaml", help="max_auc, max_tpr, max_epsilon, attacks, min_images; a flag wins")
    parser.add_argument("--max-auc", type=_number, metavar="A", help="largest AUC, such as 0.60")
    parser.add_argument("--max-tpr", type=_tpr, action="append", default=[], metavar="TPR@FPR", help="largest TPR at a false positive rate, such as 0.05@0.01; once for each rate")
    parser.add_argument("--max-epsilon", type=_number, metavar="E", help="largest ε, such as 1; needs a random split, and can break the gate but never keep it")
    parser.add_argument("--junit", type=path_given, metavar="F", help="JUnit XML to write: a failure is a broken limit, an error an undecided one")
    parser.add_argument("--md", type=path_given, metavar="F", help="Markdown summary to write")


def path_given(text):
    """A path as it was given; an empty one would quietly mean the current folder, or no file at all."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty. Expected a path")
    return text


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None


def _tpr(text):
    from audit.gate import parse_tpr_limit

    try:
        return parse_tpr_limit(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def gate(args):
    """Run the command. Returns the exit code.  Raises: AuditError."""
    from audit.gate import Limits, check, needs, read_policy
    from audit.report.run import open_run

    limits = (read_policy(args.policy) if args.policy else Limits()).overridden(args.max_auc, tuple(args.max_tpr), args.max_epsilon)
    if args.folder is None:
        if args.junit or args.md or not args.policy:
            raise RequestError("DIR is missing. Expected a run folder; only --policy without --junit and --md does without one.")
        for limit, sentence in needs(limits):
            print(f"{limit}: {sentence}")
        return OK
    report = open_run(args.folder).report
    found = check(report, limits)
    for file, make in ((args.junit, junit), (args.md, markdown)):
        if file:
            _write(file, make(report, found))
    print(table(report, found), end="")
    return found.exit_code


def _write(file, text):
    from audit.files import write_text

    try:
        write_text(file, text)
    except OSError as error:
        raise AuditError(f"{Path(file).name} cannot be written ({error.strerror}). Choose another place.") from None


def head(report):
    """`leaky · 250 + 250 images held out · checkpoint 9c41e07b`."""
    from audit import format as fmt
    from audit.gate import clean

    return f"{clean(report['run']['name'])} · {fmt.evaluated(report['queries'])} · checkpoint {clean(fmt.fingerprint(str(report['checkpoint']['sha256'])))}"


def ending(found):
    """`A limit is broken: exit code 1.`"""
    return f"{ENDINGS[found.outcome]}: exit code {found.exit_code}."


def table(report, found):
    """Plain text: a line per limit, the reason below it, the result last."""
    cells = [("limit", "value", "outcome", "attack")] + [(row.limit, row.value, row.outcome, row.attack or "") for row in found.rows]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    out = [head(report), "", lines[0]]
    for line, row in zip(lines[1:], found.rows, strict=True):
        out += [line, *(f"    {text}" for text in (row.words, row.needs) if text)]
    return "\n".join([*out, "", ending(found)]) + "\n"


def junit(report, found):
    """JUnit XML: one test case per limit and one for the verdict. Undecided is an <error>: <skipped> would be drawn as if nothing were wrong.

    ElementTree escapes; what XML cannot hold at all is gone from the rows (audit.gate.clean).
    """
    count = {name: str(sum(row.outcome == name for row in found.rows)) for name in ENDINGS}
    totals = {"tests": str(len(found.rows)), "failures": count["broken"], "errors": count["undecided"], "skipped": "0"}
    suites = ElementTree.Element("testsuites", name="audit gate", **totals)
    suite = ElementTree.SubElement(suites, "testsuite", name=f"audit gate: {head(report)}", time="0", **totals)
    for row in found.rows:
        case = ElementTree.SubElement(suite, "testcase", classname=f"gate.{row.key}", name=row.limit, time="0")
        said = ": ".join(part for part in (row.attack, row.value) if part) + f". {row.words}"
        if row.outcome != "kept":
            kind = ElementTree.SubElement(case, "failure" if row.outcome == "broken" else "error", type=row.outcome, message=said)
            kind.text = row.needs
        else:
            ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def markdown(report, found):
    """A summary for $GITHUB_STEP_SUMMARY: heading, table, reasons."""
    rows = [("limit", "value", "attack", "outcome"), ("---",) * 4]
    rows += [tuple(_escaped(cell) for cell in (row.limit, row.value, row.attack or "", row.outcome)) for row in found.rows]
    lines = [f"### Audit gate: {_escaped(ending(found))}", "", _escaped(head(report)), "", *("| " + " | ".join(row) + " |" for row in rows), ""]
    lines += [f"- **{_escaped(row.limit)}**: {_escaped(' '.join(part for part in (row.words, row.needs) if part))}" for row in found.rows if row.words or row.needs]
    return "\n".join(lines) + "\n"


def _escaped(text):
    """Text that Markdown shows as it is: no link, tag, image or new table cell can come out of it."""
    return MARKUP.sub(r"\\\1", text)
