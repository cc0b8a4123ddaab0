"""The document on the page and as a file, and the files behind it."""

import base64
import hashlib
import html as markup
import io
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest

from audit import format as fmt
from audit import gate
from audit.cli import main
from audit.report import html, sections, words
from audit.report.run import open_run
from pages.frame.files import npz_bytes
from tests.evidence_home import open_page, specs
from tests.synthetic import synthetic_run

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'.png"


class Elements(HTMLParser):
    """Start tags with attributes, and the text outside style and script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._inside = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text += data + " "


def shown(text):
    """Text of a document with single spaces."""
    return " ".join(Elements(text).text.split())


def downloads(at):
    return {b.proto.label.partition(" · ")[0]: b.proto for b in at.get("download_button")}


@pytest.fixture(scope="module")
def run(run_folders):
    return open_run(run_folders / "clear")


@pytest.fixture(scope="module")
def document(run):
    return html.render(run)


@pytest.mark.parametrize("name", ["clear", "few"])
def test_the_page_shows_every_section_of_the_document(home, name):
    opened = open_run(home / "runs" / name)
    at = open_page("report", run=name)
    bodies = [h.proto.body for h in at.get("html")]
    for part in sections.sections(opened):
        assert not part.html or part.html in bodies
        assert not part.title or part.title in [h.value for h in at.header]
    assert len(specs(at)) == sum(len(part.figures) for part in sections.sections(opened)) >= 3


def test_what_can_be_downloaded(home):
    offered = downloads(open_page("report", run="clear"))
    assert list(offered) == ["Report, HTML", "Report, JSON", "Scores, CSV", "Loss tables, NPZ"]
    assert offered["Report, JSON"].label.endswith(fmt.size((home / "runs" / "clear" / "report.json").stat().st_size))


def gate_panel(at):
    """(command, sentence, [what stands for each limit]) of the gate panel."""
    said = next(m.value for m in at.markdown if m.value.startswith("**With these limits"))
    rows = [t.value for t in at.text if re.search(r": (kept|broken|undecided)\. ", t.value)]
    return at.code[0].value, said, rows


@pytest.mark.parametrize("name", ["clear", "few"])
def test_the_gate_panel_says_what_the_command_says(home, name, capsys):
    at = open_page("report", run=name)
    command, said, rows = gate_panel(at)
    assert command.startswith("python -m audit gate DIR --max-auc 0.6 --max-tpr 0.05@0.01")
    code = main([str(home / "runs" / name) if part == "DIR" else part for part in shlex.split(command)[3:]])
    assert f"(exit code {code})" in said
    printed = capsys.readouterr().out
    found = gate.check(open_run(home / "runs" / name).report, gate.Limits(0.6, ((0.01, 0.05),), at.number_input(key="gate_epsilon").value))
    assert [row.partition(":")[0] for row in rows] == [row.limit for row in found.rows]
    for row, shown in zip(found.rows, rows, strict=True):
        assert row.outcome in shown and row.value in shown and row.value in printed
        assert " ".join(part for part in (row.words, row.needs) if part) in [t.value for t in at.text]


def test_limits_can_be_tried_in_the_panel(home):
    at = open_page("report", run="clear")
    assert gate_panel(at)[1] == "**With these limits this run would fail (exit code 1).**"
    at.number_input(key="gate_auc").set_value(1.0)
    at.number_input(key="gate_tpr").set_value(100.0)
    at.number_input(key="gate_epsilon").set_value(None).run()
    command, said, rows = gate_panel(at)
    assert command == "python -m audit gate DIR --max-auc 1 --max-tpr 1@0.01" and said == "**With these limits this run would pass (exit code 0).**" and len(rows) == 3
    at.number_input(key="gate_tpr").set_value(30.0).run()
    assert gate_panel(at)[1] == "**With these limits this run would stay undecided (exit code 3).**"
    for key in ("gate_auc", "gate_tpr"):
        at.number_input(key=key).set_value(None)
    at.run()
    assert "Give at least one limit." in [t.value for t in at.text] and not at.code


def test_the_tables_are_those_of_the_run(run):
    with np.load(io.BytesIO(npz_bytes(run.folder)), allow_pickle=False) as tables:
        assert tables["eps_mse"].shape == (900, 20) and tables["is_member"].sum() == 450
        assert np.array_equal(tables["eps_mse"], run.tables["eps_mse"].values.T)


def test_the_document_asks_the_network_for_nothing(document):
    assert len(document.encode()) < 6_000_000
    tags = Elements(document).tags
    assert not [attrs for _, attrs in tags if {"src", "href", "srcset", "action"} & set(attrs)]
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe-eval" not in policy and "http" not in policy
    style = re.search(r"<style>(.*?)</style>", document, re.S).group(1)
    assert "url(" not in style and "@import" not in style


def test_the_policy_names_the_scripts_that_are_there_and_no_other(document):
    scripts = re.findall(r"<script>(.*?)</script>", document, re.S)
    allowed = re.findall(r"'sha256-([^']+)'", document.partition("</head>")[0])
    assert [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts] == allowed and len(scripts) == 2
    assert not [attrs for _, attrs in Elements(document).tags if any(name.startswith("on") for name in attrs)]


def test_the_document_holds_the_report_s_numbers(run, document):
    text, made = shown(document), run.report
    said, q = words.verdict_words(made), made["queries"]
    for sentence in (said.headline, said.reason, said.next, *said.for_, *said.against, *said.not_seen, *made["verdict"]["not_tested"], *words.LIMITS):
        assert " ".join(sentence.split()) in text, sentence
    for row in made["attacks"]:
        for printed in (fmt.value_interval(row["auc"]), *(fmt.tpr(p, q["evaluation_members"], q["evaluation_nonmembers"]) for p in row["tpr_at_fpr"])):
            assert " ".join(printed.split()) in text, printed
    assert made["checkpoint"]["sha256"] in text and "notes.txt" in text and "not an image file" in text
    assert fmt.auc_interval(made["controls"][0]["auc"], made["controls"][0]["low"], made["controls"][0]["high"]) in text
    assert all(version in text for version in made["versions"].values())


def test_an_attack_that_did_not_run_stays_with_its_reason(run_folders, tmp_path):
    opened = open_run(run_folders / "clear")
    made = json.loads(json.dumps(opened.report))
    made["attacks"][1] |= {"status": "failed", "reason": "out of memory at batch 1", "auc": None, "tpr_at_fpr": None, "settings": None, "selection": None, "p_value": None}
    assert "failed: out of memory at batch 1" in shown(sections._attacks(made))


def test_names_from_outside_are_text(tmp_path):
    synthetic_run(tmp_path / "run", members=40, nonmembers=40, name=HOSTILE)
    opened = open_run(tmp_path / "run")
    opened.report["queries"]["left_out"].append({"path": HOSTILE, "set": "members", "reason": HOSTILE})
    opened.report["checkpoint"]["architecture"] = HOSTILE
    opened.report["verdict"]["reasons_for"] = [HOSTILE]
    opened.report["warnings"] = [HOSTILE]
    opened.__dict__["paths"] = np.array([HOSTILE] * len(opened.is_member))  # the cached property
    document = html.render(opened, thumbnails=True)
    tags = Elements(document).tags
    assert not [attrs for tag, attrs in tags if tag == "img" and not attrs["src"].startswith("data:image/png;base64,")]
    assert len([tag for tag, _ in tags if tag == "script"]) == 2 and "onerror=alert" not in document.replace(markup.escape(HOSTILE), "")
    assert document.count(markup.escape(HOSTILE)) > 20


def test_thumbnails_are_off_unless_asked_for_and_are_then_the_most_exposed_members(run, document):
    assert not [tag for tag, _ in Elements(document).tags if tag == "img"]
    pictures = [attrs for tag, attrs in Elements(html.render(run, thumbnails=True)).tags if tag == "img"]
    scores = run.scores_of(run.report["verdict"]["headline_attack"])
    inside = run.evaluation & run.is_member
    top = run.image_ids[inside][np.argsort(-scores[inside])][: sections.THUMBNAILS]
    assert [p["alt"] for p in pictures] == [f"member {image_id}" for image_id in top]
    stored = (run.folder / "thumbnails" / f"{top[0]}.png").read_bytes()
    assert base64.b64decode(pictures[0]["src"].partition(",")[2]) == stored


def test_the_toggle_puts_them_on_the_page(home):
    at = open_page("report", run="few")
    assert not [h for h in at.get("html") if "data:image" in h.proto.body]
    assert "The report itself could leak training images." in [c.value for c in at.caption]
    at.toggle(key="thumbnails").set_value(True).run()
    assert [h for h in at.get("html") if "data:image" in h.proto.body]


def test_no_picture_is_taken_from_outside_the_folder(run, tmp_path):
    assert sections._picture(run.folder, "../../x") == "<p>no thumbnail</p>"
    assert sections._picture(run.folder, "0" * 16) == "<p>no thumbnail</p>"


def test_settings_in_words():
    assert words.settings_words({"statistic": "mean", "truncate_by": "time", "keep_from": 82, "keep_until": 265}) == "mean, by time, t = 82 … 265"
    assert words.settings_words({"statistic": "max", "truncate_by": "value", "keep_share": 0.6}) == "max, by value, smallest 60\u202f% kept"
    assert words.settings_words({"gamma": 0.2}) == "gamma 0.2"
