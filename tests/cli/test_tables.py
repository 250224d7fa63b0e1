"""Metrics and analyses as people read them, made by the real evaluation from rows written here."""

from __future__ import annotations

import pytest

from medvqa_cli.cli.tables import print_analysis, print_calibration
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.data.analysis.audit import ImageReport, audit_samples
from medvqa_cli.records import AnswerSample, Prediction, VQASample, write_json, write_jsonl


def make_sample(number: int, answer: str, modality: str = "CT", split: str = "test") -> VQASample:
    return VQASample(dataset="d", split=split, question_id=str(number), image_id=str(number // 2), question="Is it?",
                     answer=answer, answer_type="closed" if answer in ("yes", "no") else "open", modality=modality,
                     images=(f"/{split}/{number // 2}.png",))


@pytest.fixture
def answered(make_run):
    run = make_run("a")
    rows = [Prediction(sample=make_sample(0, "yes"), answer="Yes."),
            Prediction(sample=make_sample(1, "no"), answer="yes"),
            Prediction(sample=make_sample(2, "lung", "MRI"), answer="lung"),
            Prediction(sample=make_sample(3, "no", "MRI"), answer="No")]
    write_jsonl(run.path / "predictions.jsonl", rows)
    write_json(run.path / "predictions.meta.json", {
        "expected": 5, "baselines": {"closed": {"majority": 0.5, "same_question_text": None}, "open": None}})
    return run


def test_scores_are_shown_by_group_with_baselines_and_a_warning_if_incomplete(medvqa, answered):
    result = medvqa("eval", "answers", "--run", "a", "--resamples", "50")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.startswith("a: d, split test\n")
    assert lines[1] == ["part", "questions", "images", "accuracy", "exact", "match", "token", "F1"]
    assert "No brackets: no interval (too few images, or nothing differs between them)." in result.stdout
    assert "-: undefined here (BLEU-n needs answers of at least n words; AUROC needs probabilities" in result.stdout
    assert lines[2][:4] == ["overall", "4", "2", "0.750"]
    assert lines[3][:4] == ["closed", "3", "2", "0.667"]
    assert ["modality", "MRI", "2", "1"] in [line[:4] for line in lines]
    assert ["closed:", "majority", "answer", "-", "-", "0.500"] in [line[:6] for line in lines]
    assert "In brackets: 95 % intervals: percentile bootstrap over images, 50 resamples, seed 42." in result.stdout
    assert "warning: Only 4 of 5 questions are answered" in result.stderr
    assert result.stderr.endswith("Next: medvqa report a\n")


def test_several_warnings_of_the_data_are_one_line_and_whole_if_verbose(medvqa, answered):
    write_json(answered.path / "predictions.meta.json", {"data_warnings": ["Images leak.", "Yes is everywhere."]})
    short = medvqa("eval", "answers", "--run", "a", "--resamples", "20").stderr
    assert ("warning: 2 warnings about the data belong beside these numbers: read them with --verbose, or in the "
            "report (medvqa report a).") in short
    assert "leak" not in short
    whole = medvqa("eval", "answers", "--run", "a", "--resamples", "20", "--verbose").stderr
    assert "warning: the data: Images leak.\nwarning: the data: Yes is everywhere." in whole


def test_what_is_counted_is_named(capsys):
    part = {"questions": 2, "images": 1, "modalities": {"CT": 1, "": 1}}
    pair = {"splits": ["slake/any", "train"], **dict.fromkeys(
        ("shared_images", "images", "shared_questions", "questions", "near_images"), 0)}
    document = {"dataset": "slake", "splits": {"train": part}, "baselines": {}, "leakage": [],
                "stored": {"train": {"en": 9000, "zh": 5028}}, "selection": {"language": "en"},
                "against": [{"dataset": "slake", "pairs": [pair]}],
                "verdict": {"ready": True, "faults": [], "warnings": []}}
    print_analysis(Terminal(), document)
    shown = capsys.readouterr().out
    assert shown.startswith("slake: only questions in 'en'; --language all takes all 14,028\n")
    assert "most frequent closed answer  most frequent open answer" in shown
    assert "modality not stated  1" in shown
    assert "slake, all splits / train: 0 of 0 images" in shown
    document["selection"]["language"] = "all"
    print_analysis(Terminal(), document)
    assert capsys.readouterr().out.startswith("slake\n")


def test_a_model_that_answers_nothing_is_no_calibration(make_run, capsys):
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.evaluate import evaluate_samples

    run = make_run("a")
    texts = ["yes" if n % 2 else "no" for n in range(4)] + ["lung"] * 36
    write_jsonl(run.path / "samples.jsonl", [
        Prediction(sample=make_sample(n, "yes"), answer=text, samples=(AnswerSample(text, 10),))
        for n, text in enumerate(texts)])
    summary = evaluate_samples(run, Settings())
    assert (summary["readable"]["n"], summary["readable"]["accuracy"]["value"]) == (4, 0.5)
    assert (summary["accuracy"], summary["readable"]["ece"]["value"]) == (0.05, 0.5)
    print_calibration(Terminal(), "a", summary)
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["measure", "value", "questions", "that", "can", "be", "read"] in lines
    assert ["Questions", "40", "4"] in lines
    assert ["Questions", "without", "a", "valid", "answer", "36", "0"] in lines
    assert ("warning: Only 10 % of the sampled answers can be read; questions without a valid answer: 36 of 40."
            in err)


def test_the_document_is_whole_with_json(document, answered):
    metrics = document("eval", "answers", "--run", "a", "--resamples", "50")["metrics"]
    assert metrics["closed"]["accuracy@medvqa"]["value"] == pytest.approx(2 / 3)
    assert metrics["incomplete"] is True


def test_calibration_shows_measures_and_the_bins_in_use(make_run, capsys):
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.evaluate import evaluate_samples

    run = make_run("a")
    counts = [(8, 2, "yes"), (9, 1, "yes"), (4, 6, "yes"), (10, 0, "no")]
    write_jsonl(run.path / "samples.jsonl", [
        Prediction(sample=make_sample(n, gold), answer="yes",
                   samples=(AnswerSample("yes", yes), AnswerSample("no", no)) if no else (AnswerSample("yes", yes),))
        for n, (yes, no, gold) in enumerate(counts)])
    print_calibration(Terminal(), "a", evaluate_samples(run, Settings()))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "a: d, split test"
    assert [line.split()[:2] for line in shown[2:6]] == [["Questions", "4"], ["Answers", "a"], ["Accuracy", "0.500"],
                                                         ["Mean", "confidence"]]
    bins = [line.split() for line in shown[shown.index("") + 2:shown.index("", shown.index("") + 1)]]
    assert bins == [["(0.50,", "0.60]", "1", "0.600", "0.000"], ["(0.70,", "0.80]", "1", "0.800", "1.000"],
                    ["(0.80,", "0.90]", "1", "0.900", "1.000"], ["(0.90,", "1.00]", "1", "1.000", "0.000"]]


def test_an_analysis_shows_counts_baselines_leakage_and_the_verdict(capsys):
    train = [make_sample(0, "yes", split="train"), make_sample(1, "yes", split="train")]
    test = [make_sample(2, "yes"), make_sample(4, "lung", "MRI")]
    images = ImageReport({"/train/0.png": "same", "/test/1.png": "same", "/test/2.png": "other"})
    document = {"dataset": "d", **audit_samples({"train": train, "test": test}, images)}
    print_analysis(Terminal(), document)
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["train", "2", "1", "yes", "(100", "%)", "-"] in lines
    assert ["test", "2", "2", "yes", "(100", "%)", "lung", "(100", "%)"] in lines
    assert ["modality", "MRI", "0", "1"] in lines
    assert ["test,", "closed", *["100", "%"] * 3] in lines
    assert "train / test: 1 of 2 images and 1 of 2 questions in both" in out
    count = err.count("warning: ")
    assert f"Verdict: ready for training, with {count} warnings: 1 of 2 images of 'test' are also in 'train'" in out
    assert out.endswith(f" (and {count - 1} more, above).\n")
    assert "warning: 1 of 2 images of 'test' are also in 'train'" in err
