"""The report workflow: what it reads, writes and says of a run that lacks things or is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.records import Prediction, VQASample, write_json, write_jsonl
from medvqa_cli.runs import Run
from medvqa_cli.workflows.report import write_report
from medvqa_cli.workflows.report_extras import Extras
from tests.data.builders import Notes


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has begun: a manifest and nothing else."""
    run = Run(tmp_path / "begun")
    write_json(run.manifest, {"created": "2026-11-21", "model": {"family": "llava"}})
    return run


def predict(number: int, picture: Path | None, answer: str = "yes") -> Prediction:
    sample = VQASample(dataset="d", split="test", question_id=f"q{number}", image_id=f"i{number}", question="Is it?",
                       answer="yes", answer_type="closed", images=(str(picture),) if picture else ())
    return Prediction(sample=sample, answer=answer, logprob=-0.5)


def draw(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (400, 300), "red").save(path)
    return path


def read_gallery(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('id="gallery-data">')[1].split("</script>")[0])


def test_begun_run_has_a_report_that_names_what_is_missing(run):
    html = write_report(run).read_text(encoding="utf-8")
    assert '<p class="subtitle">llava</p>' in html
    for text in ("Nothing is scored in this run yet", "no training events", "Confidence is not measured",
                 "no analysis of its data", "No question is answered", "no settings.json"):
        assert text in html
    for name, maker in (("predictions.jsonl", "medvqa infer"), ("metrics.json", "medvqa eval answers"),
                        ("calibration/detailed_results.json", "medvqa eval calibration")):
        assert f"<dt>{name}</dt><dd>written by: {maker}</dd>" in html
    assert not list(run.figures.iterdir())


def test_folder_without_a_manifest_is_still_reported(tmp_path):
    (tmp_path / "bare").mkdir()
    html = write_report(Run(tmp_path / "bare")).read_text(encoding="utf-8")
    assert "A run that is not scored yet." in html
    assert "no manifest.json" in html


def test_answers_before_they_are_scored(run, tmp_path):
    write_jsonl(run.path / "predictions.jsonl", [predict(1, draw(tmp_path / "a.png"))])
    question = read_gallery(write_report(run))["questions"][0]
    assert (question["outcome"], question["confidence"], question["basis"]) == ("not scored", 0.6065,
                                                                                "probability of its text")


def test_outcome_other_answers_and_confidence_come_from_the_other_files(run, tmp_path):
    picture = draw(tmp_path / "a.png")
    write_jsonl(run.path / "predictions.jsonl", [predict(1, picture, "No."), predict(2, picture)])
    write_jsonl(run.path / "predictions-blank.jsonl", [predict(1, picture, "maybe")])
    write_jsonl(run.path / "scores.jsonl", [{"question_id": "q1", "values": {"accuracy": 0.0}},
                                            {"question_id": "q2", "values": {"accuracy": 1.0}}])
    write_json(run.path / "calibration" / "detailed_results.json", [
        {"question_id": "q1", "p_yes": 0.25, "p_no": 0.75, "is_valid": True, "yes_count": 10, "no_count": 30,
         "unknown_count": 60, "true_p_yes": 0.4}])
    gallery = read_gallery(write_report(run))
    first, second = gallery["questions"]
    assert (first["outcome"], first["confidence"], first["basis"]) == ("wrong", 0.75, "share of the samples")
    votes = "yes 10, no 30, neither 60; in truth yes with probability 0.40"
    assert first["others"] == [["Blank images", "maybe"], ["Sampled", votes]]
    assert (second["outcome"], second["others"]) == ("right", [])
    assert list(gallery["pictures"]) == ["p0"]


def test_pictures_are_small_and_only_those_shown_are_read(run, tmp_path):
    import base64
    import io

    from PIL import Image

    pictures = [draw(tmp_path / f"{number}.png") for number in range(6)]
    write_jsonl(run.path / "predictions.jsonl", [predict(number, picture) for number, picture in enumerate(pictures)])
    gallery = read_gallery(write_report(run, extras=Extras(max_questions=2)))
    assert len(gallery["questions"]) == len(gallery["pictures"]) == 2
    data = base64.b64decode(gallery["pictures"]["p0"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (192, 144)


def test_unreadable_picture_is_said_and_does_not_stop_the_report(run, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_jsonl(run.path / "predictions.jsonl", [predict(1, tmp_path / "gone.png"), predict(2, tmp_path / "torn.png"),
                                                 predict(3, draw(tmp_path / "a.png")), predict(4, None)])
    listener = Notes()
    gallery = read_gallery(write_report(run, progress=listener))
    assert listener.warnings == [
        f"2 of 3 pictures are missing in the report; the first: The image '{tmp_path / 'gone.png'}' is missing."]
    assert [bool(question["picture"]) for question in gallery["questions"]] == [False, False, True, False]


def test_row_under_way_counts_as_no_answer_yet(run):
    (run.path / "predictions.jsonl").write_text('{"sample": {"data', encoding="utf-8")
    assert "No question is answered" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("metrics.json", "{", r"metrics\.json is damaged"),
    ("metrics.json", '{"answers": {"main": 3}}', "a block of metrics is not what it should be"),
    ("scores.jsonl", "[1]\n", r"scores\.jsonl, line 1: expected a JSON object, found list"),
    ("scores.jsonl", '{"question_id": "q"}\n', r"scores\.jsonl: row 1 has no values"),
    ("events.jsonl", "nonsense\n", r"events\.jsonl, line 1: not valid JSON"),
    ("predictions.jsonl", '{"answer": "yes"}\n', r"predictions\.jsonl, line 1: not a prediction"),
    ("settings.json", "[]", r"settings\.json: expected an object, found list"),
    ("calibration/detailed_results.json", "{}", r"detailed_results\.json: expected a list, found dict"),
    ("calibration/detailed_results.json", "[1]", r"detailed_results\.json: row 1 has no question_id, p_yes"),
])
def test_damaged_file_is_one_clear_error_and_the_old_report_stays(run, name, content, message):
    before = write_report(run).read_bytes()
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=message):
        write_report(run)
    assert run.report.read_bytes() == before


def test_folder_that_cannot_be_written_is_one_clear_error(run):
    run.figures.write_text("a file in the way", encoding="utf-8")
    with pytest.raises(RunError, match="File exists"):
        write_report(run)


def score(run: Run, answers: list[str]) -> Run:
    """Answer one question about each of some images in a run, and score it."""
    from medvqa_cli.settings.schema import make_settings
    from medvqa_cli.workflows.evaluate import evaluate_answers

    write_json(run.manifest, {"created": "2026-11-21"})
    write_jsonl(run.path / "predictions.jsonl", [predict(number, None, text) for number, text in enumerate(answers)])
    evaluate_answers(run, make_settings({"evaluation": {"resamples": 50}}))
    return run


@pytest.fixture
def pair(tmp_path):
    """Two runs on the same 40 questions, the second right on 20 more, and settings that know where they are."""
    from medvqa_cli.settings.schema import make_settings

    for name, right in (("first", 10), ("second", 30)):
        score(Run(tmp_path / "runs" / name), ["yes"] * right + ["no"] * (40 - right))
    return Run(tmp_path / "runs" / "first"), make_settings({"paths": {"runs": str(tmp_path / "runs")}})


def test_runs_stand_side_by_side_and_are_compared_in_pairs(pair, tmp_path):
    run, settings = pair
    extras = Extras(others=["second"], markdown=tmp_path / "out" / "t.md", latex=tmp_path / "out" / "t.tex",
                    output=tmp_path / "out" / "page.html")
    assert write_report(run, settings=settings, extras=extras) == tmp_path / "out" / "page.html"
    assert not run.report.exists()
    html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert '<section id="comparison"' in html
    text = (tmp_path / "out" / "t.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| closed: Accuracy |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["40", "0.250", "0.750"]
    assert cells[4].startswith("+0.500 ")
    assert cells[7] == "0 / 20"
    assert "40 questions on 40 images that every system answered" in text
    assert "](<../runs/first/figures/difference-1.svg>)" in text
    assert (run.figures / "difference-1.png").read_bytes().startswith(b"\x89PNG")
    assert r"\detokenize{../runs/first/figures/difference-1.png}" in (tmp_path / "out" / "t.tex").read_text("utf-8")


def test_a_system_that_is_not_scored_is_compared_all_the_same(pair, tmp_path):
    run, settings = pair
    (tmp_path / "runs" / "second" / "metrics.json").unlink()
    html = write_report(run, settings=settings, extras=Extras(others=["second"])).read_text(encoding="utf-8")
    assert "not scored" in html
    assert "+0.500" in html


def test_published_results_stand_beside(pair, tmp_path):
    run, settings = pair
    file = tmp_path / "known.yaml"
    file.write_text("studies:\n  - name: Theirs\n    source: A paper\n    protocol: {split: test}\n    measures:\n"
                    "      closed: {label: Closed, ours: closed.accuracy}\n    results:\n      d:\n"
                    "        - {system: Known, closed: 90}\n", encoding="utf-8")
    html = write_report(run, settings=settings, extras=Extras(published=file)).read_text(encoding="utf-8")
    assert "Published elsewhere, not measured here. Source: A paper. Not comparable: it does not state" in html
    assert (run.figures / "published-1.svg").exists()


@pytest.mark.parametrize(("content", "message"), [
    (None, "The file of published results '{file}' cannot be read"),
    ("studies: 3\n", "the document should be a mapping with a list 'studies'"),
    ("studies: [\n", "known.yaml"),
])
def test_a_bad_file_of_published_results_is_one_clear_error(run, tmp_path, content, message):
    file = tmp_path / "known.yaml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        write_report(run, extras=Extras(published=file))
    assert message.format(file=file) in caught.value.message
    assert not run.report.exists()


def test_an_unknown_run_to_compare_with_is_one_clear_error(pair):
    run, settings = pair
    with pytest.raises(RunError, match="There is no run 'third'"):
        write_report(run, settings=settings, extras=Extras(others=["third"]))


def test_pictures_that_do_not_fit_are_left_out_and_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr("medvqa_cli.workflows.report.PICTURE_BYTES", 100)
    write_jsonl(run.path / "predictions.jsonl", [predict(n, draw(tmp_path / f"{n}.png")) for n in range(3)])
    path = write_report(run)
    gallery = read_gallery(path)
    assert [bool(question["picture"]) for question in gallery["questions"]] == [True, False, False]
    assert "2 of them are without their picture: the page would be too large." in path.read_text(encoding="utf-8")


def test_characters_without_a_font_are_warned_of(run, monkeypatch):
    from medvqa_cli.reporting.figures import Figure
    from medvqa_cli.workflows.report import _write_figure

    run.figures.mkdir()
    listener = Notes()
    _write_figure(run, Figure("organ", "T", "C", "", "<svg/>", b"png", {"[1]": "肺部"}), listener)
    (warning,) = listener.warnings
    assert warning == ("No font here has all characters of figures/organ: in its files [1] is 肺部 (the page shows "
                       "them). Install one that has, such as Noto Sans CJK, and write the report again.")


def test_details_of_another_split_say_nothing_about_these_questions(run):
    write_jsonl(run.path / "predictions.jsonl", [predict(1, None)])
    write_json(run.path / "metrics.json", {"calibration-validation": {"protocol": {"split": "validation"}}})
    write_json(run.path / "calibration-validation" / "detailed_results.json", [
        {"question_id": "q1", "p_yes": 0.9, "p_no": 0.1, "yes_count": 9, "no_count": 1, "is_valid": True}])
    question = read_gallery(write_report(run))["questions"][0]
    assert question["basis"] == "probability of its text"
    assert question["others"] == []
