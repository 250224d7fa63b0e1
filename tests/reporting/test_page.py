"""The whole page: its parts, what it loads, what it escapes, and that it comes out the same twice."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from medvqa_cli.reporting.answers import build_summary
from medvqa_cli.reporting.blocks import Note, Section, Table, Warnings
from medvqa_cli.reporting.page import DISCLAIMER, Page, embed_json, render_page
from medvqa_cli.workflows.report import write_report

SECTIONS = ["summary", "results", "closed", "calibration", "training", "data", "questions", "provenance"]


def test_every_section_is_there_titled_and_linked(page):
    sections = page.one("main").find("section")
    assert [section.attributes["id"] for section in sections] == SECTIONS
    assert [link.attributes["href"] for link in page.one("nav").find("a")] == [f"#{name}" for name in SECTIONS]
    for section in sections:
        title = section.one("h2")
        assert section.attributes["aria-labelledby"] == title.attributes["id"]
        assert title.text


def test_disclaimer_stands_above_and_below(page):
    assert page.one("header").one(class_="disclaimer").text == DISCLAIMER
    assert DISCLAIMER in page.one("footer").text


def test_headlines_carry_interval_number_and_protocol(page, metrics):
    items = {item.one("h3").text: item for item in page.one("ul", class_="headlines").find("li")}
    main = metrics["answers"]["main"]
    closed = main["closed"]["accuracy@medvqa"]
    card = items["Closed accuracy"]
    assert card.one(class_="value").text == f"{closed['value']:.3f}"
    assert card.one(class_="interval").text == f"{closed['low']:.3f} to {closed['high']:.3f}"
    assert card.one(class_="basis").text == f"{main['closed']['n']} questions on {main['closed']['images']} images"
    assert items["Closed accuracy, unambiguous"].one(class_="value").text == (
        f"{main['synthetic']['unambiguous']['accuracy@medvqa']['value']:.3f}")
    error = items["Calibration error (ECE)"]
    assert error.one(class_="value").text == f"{metrics['calibration']['ece']:.3f}"
    assert f"{metrics['calibration']['bias_floor']:.3f} if perfectly calibrated" in error.one(class_="basis").text
    of_answers, of_confidence = (part.text for part in page.one("section", id="summary").find("p", class_="protocol"))
    shared = [name for name in items if name != "Calibration error (ECE)"]
    assert of_answers.startswith(f"{'; '.join(shared)}: Measured on demo, test split; greedy, at most 8 tokens")
    assert of_confidence.startswith("Calibration error (ECE): Measured on demo, test split; 100 answers a question "
                                    "sampled at temperature 1")


def test_several_warnings_are_folded_behind_their_number(parse_page, tmp_path):
    texts = [f"Warning <{number}>." for number in range(6)]
    section = build_summary({}, {}, texts)
    path = tmp_path / "page.html"
    path.write_text(render_page(Page("t", "", "2026-01-01T00:00:00+00:00", [section])), encoding="utf-8")
    page = parse_page(path)
    folded = page.one("details", class_="warning")
    assert "6 warnings about data and training" in folded.one("summary").text
    assert [item.text for item in folded.find("li")] == texts
    assert not any(isinstance(block, Warnings) for block in build_summary({}, {}, texts[:1]).blocks)


def test_comparison_shows_controls_baselines_and_the_best_possible(page, metrics):
    rows = read_table(page, "Beside what it has to beat")
    answers = metrics["answers"]
    assert list(rows) == ["This model", "Before training", "Blank images", "Majority answer (no picture)",
                          "Majority per question type (no picture)", "Same question in training (no picture)",
                          "Best possible (Bayes)"]
    for label, tag in (("This model", "main"), ("Before training", "before"), ("Blank images", "blank")):
        score = answers[tag]["closed"]["accuracy@medvqa"]
        assert rows[label][0] == f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
    assert rows["Best possible (Bayes)"][0] == f"{answers['main']['synthetic']['bayes_accuracy']:.3f}"
    majority = [answers["main"]["baselines"][kind]["majority"] for kind in ("closed", "open")]
    assert rows["Majority answer (no picture)"] == [*(f"{share:.3f}" for share in majority), "-", "-", "-"]
    kept = [answers["blank"][kind][f"{metric}@medvqa"]["value"] / answers["main"][kind][f"{metric}@medvqa"]["value"]
            for kind, metric in (("closed", "accuracy"), ("open", "exact_match"))]
    for cell, share in zip(rows["Blank images"][3:], kept, strict=True):
        assert cell.startswith(f"{100 * share:.0f} % [")
    assert rows["Before training"][3:] == ["-", "-"]  # what an untrained model reaches is not kept of anything


def test_results_show_every_part_with_interval_baseline_and_controls(page, metrics):
    rows = read_table(page, "By question type")
    groups = metrics["answers"]["main"]["groups"]["question_type"]
    assert set(rows) == set(groups)
    for name, block in groups.items():
        score = block["accuracy@medvqa"]
        baseline = metrics["answers"]["main"]["baselines"]["question_type"][name]["majority_per_question_type"]
        blank = metrics["answers"]["blank"]["groups"]["question_type"][name]["accuracy@medvqa"]["value"]
        assert rows[name][0] == f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        assert rows[name][1:4] == [str(block["n"]), str(block["images"]), f"{baseline:.3f}"]
        assert rows[name][-1].startswith(f"{blank:.3f} [")
    known = metrics["answers"]["main"]["synthetic"]
    assert {name: cells[1] for name, cells in read_table(page, "By ambiguity of closed questions").items()} == {
        name: str(known[name]["n"]) for name in ("unambiguous", "ambiguous")}
    assert set(read_table(page, "By modality")) == {"CT", "MRI", "X-ray"}
    assert set(read_table(page, "By answer type")) == {"closed", "open"}


def test_every_table_and_figure_of_numbers_states_its_protocol(page):
    for key in ("results", "closed", "calibration"):
        section = page.one("section", id=key)
        for figure in section.find("figcaption"):
            assert "Measured on demo, test split" in figure.text or "by construction" in figure.text
        tables = [table.one("caption").text for table in section.find("table")]
        notes = [note.text for note in section.find("p", class_="fine")]
        assert len(notes) == len(tables)
        assert sum("Measured on demo, test split" in note for note in notes) == len(tables) - (key == "calibration")
    terms = [term.text for term in page.one("section", id="summary").find("dt")]
    for term in ("Data set", "Split", "Closed definition", "Decoding", "Accuracy", "Intervals", "Pictures", "Seed"):
        assert terms.count(term) == 3  # this model, before training, blank images


def test_meters_draw_the_numbers_beside_them(page, metrics):
    row = next(row for row in page.find("tr") if row.find("th") and row.find("th")[0].text == "This model")
    score = metrics["answers"]["main"]["closed"]["accuracy@medvqa"]
    fill, span = row.find("rect", class_="fill")[0], row.find("rect", class_="range")[0]
    assert float(fill.attributes["width"]) == pytest.approx(100 * score["value"], abs=0.006)
    assert float(span.attributes["x"]) == pytest.approx(100 * score["low"], abs=0.006)
    assert float(span.attributes["width"]) == pytest.approx(100 * (score["high"] - score["low"]), abs=0.006)


def test_nothing_is_loaded_from_anywhere(page, full_run):
    for element in page.find():
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            assert element.attributes.get(name, "#").startswith("#"), (element.tag, element.attributes)
        assert element.tag not in {"link", "iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") for name in element.attributes)
    text = full_run.report.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", text)
    pictures = json.loads(page.one("script", id="gallery-data").text)["pictures"]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in pictures.values())


def test_policy_allows_our_script_only(page):
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    script = next(element for element in page.find("script") if "type" not in element.attributes)
    source = "".join(piece for piece in script.pieces if isinstance(piece, str))
    expected = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{expected}'" in policy


def test_page_is_accessible(page):
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("meta", name="viewport")
    identifiers = [element.attributes["id"] for element in page.find() if "id" in element.attributes]
    assert len(identifiers) == len(set(identifiers))
    assert page.one("a", class_="skip").attributes["href"] == "#" + page.one("main").attributes["id"]
    for table in page.find("table"):
        assert table.one("caption").text
        assert {head.attributes.get("scope") for head in table.one("thead").find("th")} == {"col"}
        assert all(row.find("th")[0].attributes.get("scope") == "row" for row in table.one("tbody").find("tr"))
    for control in [*page.find("input"), *page.find("select")]:
        assert control.parent.tag == "label"
    for drawing in page.find("svg"):
        assert drawing.attributes.get("aria-label") or drawing.attributes.get("aria-hidden") == "true"
    assert page.one(class_="status").attributes["role"] == "status"


def test_text_from_data_and_models_is_shown_not_run(nasty_run, parse_page):
    run, nasty = nasty_run
    page = parse_page(run.report)
    assert len(page.find("script")) == 2
    assert not page.find("b")
    assert not page.find("img")
    questions = json.loads("".join(page.one("script", id="gallery-data").pieces))["questions"]
    assert len(questions) == 21
    assert any(question["question"] == question["id"] == nasty for question in questions)
    assert "<b>odd</b>" in read_table(page, "By question type")
    assert '"><b>x</b>' in [option.text for option in page.one("select", name="modality").find("option")]
    assert " ".join(nasty.split()) in page.one("section", id="provenance").text


def test_embedded_json_cannot_end_its_script_and_stays_the_same():
    content = {"text": "</script><!-- <script> \u2028 \u2029 & \"quoted\" 'single'", "plain": "ä", "number": 0.5}
    text = str(embed_json(content))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == content


def test_same_run_gives_the_same_bytes_but_for_the_stated_time(full_run, monkeypatch):
    before = full_run.report.read_bytes()
    figures = {path.name: path.read_bytes() for path in full_run.figures.iterdir()}
    assert {"reliability.svg", "reliability.png", "loss.svg", "probabilities.svg", "accuracy-question-type.svg",
            "accuracy-modality.svg"} <= set(figures)
    monkeypatch.setattr("medvqa_cli.workflows.report.now", lambda: "2027-01-02T03:04:05+00:00")
    after = write_report(full_run).read_bytes()
    time = re.compile(rb"<time.*?</time>")
    assert time.search(after)[0] == b'<time datetime="2027-01-02T03:04:05+00:00">2027-01-02 03:04 UTC</time>'
    assert before != after
    assert time.sub(b"", before) == time.sub(b"", after)
    assert figures == {path.name: path.read_bytes() for path in full_run.figures.iterdir()}


def test_new_section_needs_no_new_template():
    table = Table("Any table", ["Name", "Number", "Words"], [["row", "1", "some"]], textual=("Words",), folded=True)
    section = Section("own", "Own", "Lead.", [table, Note("N")])
    html = render_page(Page("Any", "thing", "2026-01-01T00:00:00", [section]))
    assert '<section id="own" aria-labelledby="own-title">' in html
    assert "<details><summary>Any table</summary>" in html
    assert '<th scope="col" class="number">Number</th>' in html
    assert "gallery-data" not in html.split("<script>")[0]


def read_table(page, title: str) -> dict[str, list[str]]:
    """The body of the table with this caption: row name -> cells."""
    table = next(table for table in page.find("table") if table.one("caption").text == title)
    return {row.find("th")[0].text: [cell.text for cell in row.find("td")] for row in table.one("tbody").find("tr")}
