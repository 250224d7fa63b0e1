"""The page of an analysis: the verdict, the numbers of the document, its figures; harmless whatever the data hold."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from medvqa_cli.data.analysis.audit import ImageReport, audit_samples, compare_datasets
from medvqa_cli.data.analysis.readiness import CHECKS
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample
from medvqa_cli.reporting import analysis
from medvqa_cli.reporting.analysis import list_pictures, render_analysis
from medvqa_cli.reporting.charts import About, draw_bars, draw_histogram, draw_matrix, draw_shares

NASTY = "</script><script>alert(1)</script> & <b>"
PNG = b"\x89PNG\r\n\x1a\n"
ABOUT = About("figure", "Title", "Caption.")


def make_sample(number: int, split: str, **changes) -> VQASample:
    values = {"dataset": "d", "split": split, "question_id": f"{split}-{number}", "image_id": str(number // 3),
              "question": f"Is there {('air', 'fluid', 'bone')[number % 3]}?",
              "answer": ("yes", "no", "lung")[number % 3],
              "answer_type": "open" if number % 3 == 2 else "closed", "images": (f"/p/{split}/{number // 3}.png",),
              "modality": ("CT", "MRI")[number % 2], "question_type": ("presence", "count")[number % 2]}
    return VQASample(**values | changes)


@pytest.fixture(scope="module")
def splits():
    return {"train": [make_sample(number, "train") for number in range(30)],
            "test": [make_sample(number, "test") for number in range(9)]}


@pytest.fixture(scope="module")
def images(splits):
    """The first picture of the test split is one of the training split, the second nearly so."""
    paths = list(dict.fromkeys(path for samples in splits.values() for sample in samples for path in sample.images))
    looks = {path: f"{number * 7919 % 65536:04x}" * 16 for number, path in enumerate(paths)}
    hashes = {path: path for path in paths} | {"/p/test/0.png": "/p/train/0.png"}
    looks["/p/test/0.png"] = looks["/p/train/0.png"]
    looks["/p/test/1.png"] = f"{int(looks['/p/train/1.png'], 16) ^ 0b111:064x}"
    return ImageReport(hashes, {}, looks)


@pytest.fixture(scope="module")
def document(splits, images):
    other = compare_datasets(splits, {"all": splits["train"]}, images, images, "twin")
    return {"dataset": "small", "fingerprint": "f00d", "selection": {"language": "en", "question_type": "all",
                                                                     "limit": None, "subsample": None, "seed": 0},
            "skipped": 0, **audit_samples(splits, images, against=[other])}


@pytest.fixture(scope="module")
def render(tmp_path_factory, parse_page):
    """Renders a document and parses the page strictly."""

    def rendered(document, thumbnails=None):
        path = tmp_path_factory.mktemp("page") / "analysis.html"
        path.write_text(render_analysis(document, thumbnails, written="2026-11-21T10:00:00+00:00"), encoding="utf-8")
        return parse_page(path)

    return rendered


@pytest.fixture(scope="module")
def page(render, document):
    return render(document, {"/p/train/1.png": PNG})


def read_table(page, title):
    table = next(table for table in page.find("table") if table.one("caption").text == title)
    return [[cell.text for cell in row.children] for row in table.one("tbody").find("tr")]


def test_the_verdict_comes_first(page, document):
    sections = [section.attributes["id"] for section in page.one("main").find("section")]
    assert sections == ["verdict", "counts", "overlap", "others", "answers", "kinds", "files", "method"]
    values = {item.one("h3").text: item.one(class_="value").text for item in page.one(class_="headlines").find("li")}
    assert values == {"Verdict": "Ready", "Questions": "39", "Pictures": "13", "Questions a picture": "3.0"}
    assert page.one("head").one("title").text == "small · medvqa data analysis"
    assert page.one(class_="subtitle").text == "train, test: language “en”, closed and open questions"


def test_warnings_stand_with_value_and_threshold_and_the_rest_as_passed(page, document):
    rows = read_table(page, "Warnings")
    warnings = document["verdict"]["warnings"]
    assert [row[1] for row in rows] == [warning["message"] for warning in warnings]
    assert [rows[0][0], *rows[0][2:]] == ["Pictures in two splits", "1", "above 0"]
    shares = {row[0]: row[2:] for row in rows}
    assert shares["Closed questions answered without the picture"] == ["100 %", "above 60 %"]
    found = {warning["code"] for warning in warnings}
    passed = next(table for table in page.find("table") if table.one("caption").text.startswith("Checked and in order"))
    assert len(passed.one("tbody").find("tr")) == len(CHECKS) - len(found)
    assert "outside 30 % to 70 %" in passed.text


def test_every_check_has_a_name():
    assert set(analysis.CHECKS) == set(CHECKS)
    assert set(CHECKS) >= analysis.SHARES


def test_faults_are_told_and_refuse(render, splits):
    gone = ImageReport({}, {f"/p/{number}.png": f"The image '/p/{number}.png' is missing." for number in range(60)})
    page = render(audit_samples(splits, gone))
    assert page.one(class_="headlines").find(class_="value")[0].text == "Not ready"
    assert page.find(class_="warning")[0].text == ("Beware. Missing or unreadable images: 60, such as: The image "
                                                   "'/p/0.png' is missing.")
    rows = read_table(page, "Missing or unreadable (60)")
    assert rows[0] == ["/p/0.png", "The image '/p/0.png' is missing."]
    assert len(rows) == 50
    assert "10 more are in analysis.json." in page.one("section", id="files").text


def test_counts_and_overlaps_are_those_of_the_document(page, document):
    assert read_table(page, "Splits") == [["train", "30", "10", "3.0", "3", "20", "10", "50 %", "0"],
                                          ["test", "9", "3", "3.0", "3", "6", "3", "50 %", "0"]]
    assert read_table(page, "What one split shares with another") == [
        ["test in train", "1 of 3", "1 of 3", "9", "3", "3", "3", "9"]]
    assert read_table(page, "What stands in twin") == [
        ["train in all of twin", "10 of 10", "0 of 10", "30", "30", "0", "30", "30"],
        ["test in all of twin", "1 of 3", "1 of 3", "9", "3", "3", "3", "9"]]
    assert read_table(page, "Balance")[0] == ["train, closed", "yes", "50 %", "2", "2.0", "20"]


def test_near_duplicates_are_shown_side_by_side(page, document):
    paths = list_pictures(document)
    assert set(paths) >= {"/p/train/1.png", "/p/test/1.png"}
    item = page.find("ul", class_="twins")[0].find("li")[0]
    assert item.one(class_="tags").text == "3 bits differ"
    assert [caption.text for caption in item.find("figcaption")] == ["train/1.png (train)", "test/1.png (test)"]
    assert item.one("img").attributes["src"].startswith("data:image/png;base64,")
    assert item.one(class_="absent").text == "The picture is not shown."


def test_nothing_is_loaded_and_the_same_document_gives_the_same_page(document):
    first, second = (render_analysis(document, written="2026-11-21T10:00:00") for _ in range(2))
    assert first == second
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", first)
    assert 'http-equiv="Content-Security-Policy"' in first


def test_what_data_hold_does_no_harm(render, images):
    splits = {"train": [make_sample(number, "train", answer=NASTY, answer_type="closed", modality=NASTY, organ="肺",
                                    question_type=f"{NASTY}{number % 2}", question=NASTY) for number in range(6)]}
    report = ImageReport({}, {NASTY: NASTY}, {}, {NASTY: NASTY})
    page = render(audit_samples(splits, report) | {"dataset": NASTY})
    assert len(page.find("script")) == 1
    assert page.one("h1").text == NASTY
    assert not page.find("b")


@pytest.mark.parametrize("splits", [{}, {"train": []}, {"train": [], "test": [make_sample(1, "test", images=())]}])
def test_little_data_make_a_page(render, splits):
    page = render(audit_samples(splits, ImageReport()))
    assert page.one(class_="headlines").find(class_="value")[0].text == "Not ready"


def test_a_data_set_with_nothing_but_questions_says_what_it_does_not_state(render):
    samples = [make_sample(number, "train", modality="", question_type="") for number in range(6)]
    page = render(audit_samples({"train": samples}, ImageReport()))
    kinds = page.one("section", id="kinds")
    assert "Not stated by this data set: modalities, question types, organs." in kinds.text
    assert "Languages" in kinds.one(class_="facts").text


@pytest.mark.parametrize("document", [{}, {"splits": {}, "verdict": {}}, {"splits": [], "verdict": None}])
def test_another_versions_document_is_one_clear_error(document):
    with pytest.raises(DataError, match="The analysis has another shape than this version of medvqa writes") as caught:
        render_analysis(document)
    assert caught.value.hint == "Analyse the data again: medvqa data analyze."


def words(figure):
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", figure.inline)]


def test_shares_are_marked_once_a_series():
    figure = draw_shares(ABOUT, ["one", "a very long name of an answer, indeed"],
                         {"train": [0.5, None], "test": [0.25, 0.1]}, limit=0.6)
    assert {"one", "a very long name of an answer…", "train", "test", "60 %"} <= set(words(figure))
    assert "train" not in words(draw_shares(ABOUT, ["one"], {"train": [0.5]}))
    assert words(draw_shares(ABOUT, ["one"], {"train": [None]}))


def test_a_long_tail_is_cut_off():
    counts = Counter(dict.fromkeys(range(1, 11), 100)) + Counter({5000: 1})
    ticks = [int(word) for word in words(draw_histogram(ABOUT, {"train": counts}, "words")) if word.isdigit()]
    assert max(ticks) <= 12
    assert "words" in words(draw_histogram(ABOUT, {"train": {}}, "words"))
    assert "words" in words(draw_histogram(ABOUT, {}, "words"))


def test_fields_and_bars_carry_their_numbers():
    cells = {("test", "train"): (1.0, "202 of 203"), ("test", "validation"): (0.0, "0 of 203")}
    assert {"202 of 203", "0 of 203", "train", "validation", "test"} <= set(
        words(draw_matrix(ABOUT, ["test"], ["train", "validation"], cells)))
    assert {"1,234", "4", "bits", "pairs"} <= set(words(draw_bars(ABOUT, {"2": 0, "4": 1234}, "bits", "pairs")))
