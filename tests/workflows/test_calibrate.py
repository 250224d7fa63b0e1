"""Confidence by every method, asked of a real tiny model: rows, numbers, resumption, what cannot be had."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.evaluation.questions import is_asked_for
from medvqa_cli.inference.protocol import Generation, Intake
from medvqa_cli.progress import SILENT
from medvqa_cli.records import AnswerSample, VQASample, prediction_from_json, read_jsonl
from medvqa_cli.reporting.contents import choose_calibration
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows import calibrate
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.data import load_samples
from medvqa_cli.workflows.elicitation.statements import JUDGE_ANSWER, STATE_CONFIDENCE, read_stated
from medvqa_cli.workflows.engines import build_engine, open_engine
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.recalibrating import Recalibration, warn_of_fall
from tests.workflows.conftest import merge

FILES = {"metrics.json", "detailed_results.json", "summary.txt"}


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


def rows_of(run, name):
    return [prediction_from_json(row) for row in read_jsonl(run.path / f"{name}.jsonl")]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def asked(monkeypatch):
    """How often engines are asked."""
    from medvqa_cli.inference.transformers_engine import TransformersEngine

    calls = []
    for name in ("generate", "sample", "score_candidates"):
        own = getattr(TransformersEngine, name)
        monkeypatch.setattr(TransformersEngine, name,
                            lambda self, *args, _own=own, _name=name: calls.append(_name) or _own(self, *args))
    return calls


def test_all_methods_stand_side_by_side_and_are_asked_once(own_run, asked, listener):
    settings, run = own_run
    settings = change(settings, calibration={"method": "all"})
    target, found = evaluate_calibration(settings, run="small", progress=listener)
    assert target == run
    number = sum(is_asked_for(sample, "yes_no") for sample in load_samples(settings, "test"))
    methods = {"sampling", "entropy", "logits", "likelihood", "p_true"}
    assert set(found["own"]) | set(found["left_out"]) == methods | {"verbalized"}
    assert methods <= set(found["own"])
    for method in methods:
        part = found["own"][method]
        assert part["n"] == number
        assert part["accuracy"]["low"] is None  # a handful of images
        block = read(run.path / found["folders"][method] / "metrics.json")
        assert {path.name for path in (run.path / found["folders"][method]).iterdir()} == FILES
        assert {"ece", "mce", "overconfidence", "accuracy", "mean_confidence", "num_samples", "bin_data"} <= set(block)
        assert (block["method"], block["num_questions"], block["ece"]) == (method, number, part["ece"]["value"])
        assert block["protocol"]["rules"]["confidence"] == found["protocol"]["confidence"][method]
        assert {f"{method}: {text}" for text in block["warnings"]} <= set(found["warnings"])
    assert any("drawn as one tree" in text for text in listener.said)
    assert set(asked) == {"generate", "sample", "score_candidates"}
    files = {path: path.read_bytes() for path in run.path.glob("*.jsonl")}
    assert {path.name for path in files} >= {"samples.jsonl", "logits.jsonl", "likelihood.jsonl", "p_true.jsonl"}
    asked.clear()
    assert evaluate_calibration(settings, run="small")[1] == found
    assert asked == []
    assert {path: path.read_bytes() for path in files} == files


def test_rows_of_each_method_hold_what_the_model_says(own_run):
    """Every stored number is the engine's own, asked question by question."""
    settings, run = own_run
    for method in ("logits", "likelihood", "p_true"):
        evaluate_calibration(change(settings, calibration={"method": method}), run="small")
    engine = open_engine(settings, "small", SILENT)[1]
    for row in rows_of(run, "logits")[:3]:
        assert {name.lower() for name in row.candidates} == {"yes", "no"}
        scores = engine.score_candidates([row.sample], [list(row.candidates)])[0]
        assert {name: value for name, (value, _) in row.candidate_scores.items()} == pytest.approx(scores, abs=1e-4)
    law = read(run.path / "calibration-logits" / "detailed_results.json")[0]
    first = rows_of(run, "logits")[0]
    weights = {name.lower(): math.exp(first.candidate_scores[name][0]) for name in first.candidates}
    assert law["p_yes"] == pytest.approx(weights["yes"] / sum(weights.values()), abs=1e-6)
    prompt = settings.prompt.model_copy(update={"instruction": JUDGE_ANSWER})
    judge = build_engine(engine.loaded, settings.model_copy(update={"prompt": prompt}))
    for proposed, row in zip(rows_of(run, "likelihood")[:3], rows_of(run, "p_true"), strict=False):
        assert (row.answer, row.logprob) == (proposed.answer, proposed.logprob)
        put = row.sample.question + f"\nProposed answer: {row.answer}"
        scores = judge.score_candidates([dataclasses.replace(row.sample, question=put)], [["True", "False"]])[0]
        assert {name: value for name, (value, _) in row.candidate_scores.items()} == pytest.approx(scores, abs=1e-4)
    detail = read(run.path / "calibration-p_true" / "detailed_results.json")[0]
    true, false = (math.exp(rows_of(run, "p_true")[0].candidate_scores[name][0]) for name in ("True", "False"))
    assert detail["confidence"] == pytest.approx(true / (true + false), abs=1e-6)


@pytest.mark.parametrize("method", ["logits", pytest.param("likelihood", marks=pytest.mark.slow),
                                    pytest.param("p_true", marks=pytest.mark.slow)])
def test_a_kill_loses_nothing(own_run, method):
    settings, run = own_run
    settings = change(settings, calibration={"method": method})
    evaluate_calibration(settings, run="small")
    path = run.path / f"{method}.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30])
    evaluate_calibration(settings, run="small")
    assert path.read_bytes() == whole


def test_open_questions_are_judged_by_exact_match_and_kept_apart(own_run):
    settings, run = own_run
    evaluate_calibration(settings, run="small")
    before = (run.path / "samples.jsonl").read_bytes()
    for questions in ("open", "all"):
        chosen = change(settings, calibration={"questions": questions})
        metrics = evaluate_calibration(chosen, run="small")[1]
        wanted = [sample for sample in load_samples(settings, "test") if is_asked_for(sample, questions)]
        assert metrics["num_questions"] == len(wanted)
        assert metrics["protocol"]["questions"] == questions
        assert metrics["protocol"]["rules"]["correct"].endswith("others: exact match once normalized")
        assert metrics["protocol"]["clusters"] == "answers are the same that are equal once normalized"
        rows = {row.sample.question_id: row for row in rows_of(run, f"samples-{questions}")}
        details = read(run.path / f"calibration-{questions}" / "detailed_results.json")
        assert {detail["kind"] for detail in details} == ({"open"} if questions == "open" else
                                                          {detail["kind"] for detail in details} | {"open", "yes_no"})
        for detail in details:
            if detail["kind"] == "open":
                row = rows[detail["question_id"]]
                assert detail["is_correct"] == (detail["predicted"] == detail["ground_truth"])
                assert detail["valid_count"] + detail["unknown_count"] == sum(part.count for part in row.samples) == 12
    assert (run.path / "samples.jsonl").read_bytes() == before
    assert read(run.path / "samples-open.meta.json")["decoding"]["max_new_tokens"] == 4  # infer's, which is more than 3


def test_only_open_questions_in_the_data_means_open_questions(own_run):
    settings, run = own_run
    metrics = evaluate_calibration(change(settings, data={"question_type": "open"}), run="small")[1]
    assert metrics["protocol"]["questions"] == "open"
    assert (run.path / "calibration-open" / "metrics.json").exists()
    closed = change(settings, data={"question_type": "closed"}, calibration={"questions": "open"})
    again = evaluate_calibration(closed, run="small")[1]  # a run's own choice of questions is no hindrance
    assert {**again, "protocol": None} == {**metrics, "protocol": None}


def test_stored_answers_are_measured_unless_the_model_is_to_be_asked(own_run, asked, listener):
    settings, run = own_run
    infer_split(settings, run="small")
    asked.clear()
    settings = change(settings, calibration={"method": "likelihood"})
    stored = evaluate_calibration(settings, run="small", progress=listener)[1]
    assert asked == []
    assert any("Measuring the answers of predictions.jsonl" in text for text in listener.said)
    again = evaluate_calibration(settings, run="small", overwrite=True)[1]
    assert set(asked) == {"generate"}
    assert (again["accuracy"], again["num_questions"]) == (stored["accuracy"], stored["num_questions"])
    assert again["protocol"]["inference"]["decoding"]["max_new_tokens"] == 3


class Scribe:
    """An engine of a server: it writes, and scores nothing."""

    name, facts, scores_candidates = "openai", {"checkpoint": "m"}, False

    def __init__(self, reply):
        self.intake, self.reply, self.prompts = Intake(by_image=False), reply, []

    def with_prompt(self, prompt):
        self.prompts.append(prompt)
        return self

    def generate(self, samples, decoding):
        return [Generation(self.reply, None, None) for _ in samples]

    def sample(self, samples, count, decoding):
        return [(AnswerSample(self.reply, count),) for _ in samples]

    def count_usage(self):
        return {}


def test_a_server_without_log_probabilities(own_run, monkeypatch, listener):
    settings, run = own_run
    scribe = Scribe("Answer: Yes\nConfidence: 80%")
    monkeypatch.setattr(calibrate, "open_engine", lambda *_: (run, scribe))
    found = evaluate_calibration(change(settings, calibration={"method": "all"}), progress=listener)[1]
    assert set(found["own"]) == {"sampling", "entropy", "verbalized"}
    assert found["left_out"]["logits"] == "engine 'openai' tells no log-probabilities of given answers"
    assert "has a confidence by 'likelihood'" in found["left_out"]["likelihood"]
    assert found["own"]["verbalized"]["mean_confidence"]["value"] == pytest.approx(0.8)
    assert scribe.prompts[0].instruction == STATE_CONFIDENCE
    assert {row.answer for row in rows_of(run, "verbalized")} == {"Yes"}
    assert {row["predicted"] for row in read(run.path / "calibration-verbalized" / "detailed_results.json")} == {"yes"}
    assert any("drawn by engine 'openai'" in text for text in listener.said)
    with pytest.raises(SettingsError, match=r"calibration\.method 'p_true' cannot be had: engine 'openai' tells no"):
        evaluate_calibration(change(settings, calibration={"method": "p_true"}))


def test_words_without_a_confidence_are_counted_and_left_out(own_run, monkeypatch, listener):
    settings, run = own_run
    scribe = Scribe("yes")
    monkeypatch.setattr(calibrate, "open_engine", lambda *_: (run, scribe))
    with pytest.raises(DataError, match="has a confidence by 'verbalized'") as caught:
        evaluate_calibration(change(settings, calibration={"method": "verbalized"}), progress=listener)
    assert "Take another method" in caught.value.hint
    number = len(rows_of(run, "verbalized"))
    assert listener.warnings == [f"{number} of {number} replies state no confidence: these answers are left out."]


@pytest.mark.parametrize(("text", "answer"), [
    ("Answer: left lung\nConfidence: 90%", "left lung"), ("answer: Yes, confidence: 0.7", "Yes"),
    ("Pneumonia (confidence 60%)", "Pneumonia"), ("no\n70%", "no"), ("Answer: no", "no"), ("", "")])
def test_what_stands_before_a_confidence_is_the_answer(text, answer):
    sample = VQASample(dataset="d", split="test", question_id="1", image_id="i", question="q", answer="",
                       answer_type="open")
    assert read_stated(text, sample, make_settings()) == answer


def test_one_calibrator_is_not_for_all_methods(own_run):
    settings, _ = own_run
    wanted = Recalibration(calibrator=Path("calibrator.json"))
    with pytest.raises(SettingsError, match="--calibrator and --method all exclude each other"):
        evaluate_calibration(change(settings, calibration={"method": "all"}), run="small", wanted=wanted)


def test_open_questions_offer_no_candidates(own_run):
    settings, _ = own_run
    with pytest.raises(SettingsError, match="'logits' cannot be had: open questions offer no candidates"):
        evaluate_calibration(change(settings, calibration={"method": "logits", "questions": "open"}), run="small")


def test_a_calibrator_is_for_the_kind_of_questions_it_was_learnt_from(own_run, asked, listener):
    settings, run = own_run
    wanted = Recalibration(calibrator=store(run, "likelihood"))
    with pytest.raises(DataError, match="learnt from yes/no questions: it says nothing about open questions"):
        evaluate_calibration(change(settings, calibration={"method": "likelihood", "questions": "open"}), run="small",
                             wanted=wanted)
    with pytest.raises(DataError, match="by 'likelihood', these are by 'sampling'"):
        evaluate_calibration(settings, run="small", wanted=wanted)
    assert not asked  # both are found before a model is asked
    every = change(settings, calibration={"method": "likelihood", "questions": "all"})
    found = evaluate_calibration(every, run="small", wanted=wanted, progress=listener)[1]["recalibration"]
    details = read(run.path / "calibration-all-likelihood" / "detailed_results.json")
    others = sum(row["kind"] != "yes_no" for row in details)
    assert 0 < others < len(details)
    assert {row["kind"] for row in details if row["calibrated"] is not None} == {"yes_no"}
    assert (found["not_recalibrated"], found["n"]) == (others, len(details) - others)
    expected = (f"{others} of {len(details)} answers are not recalibrated: the calibrator was learnt from yes/no "
                "questions and says nothing about others. Before and after are of the rest.")
    assert [text for text in listener.warnings if "not recalibrated" in text] == [expected]


def store(run, source, **options):
    from medvqa_cli.scoring.recalibration import fit_calibrator, write_calibrator

    file = run.path / f"stored-{source}.json"
    write_calibrator(file, fit_calibrator("platt", [0.9, 0.6, 0.8, 0.5], [True, False, True, False], kinds=["yes_no"],
                                          source=source, **options))
    return file


@pytest.mark.parametrize(("right", "warns"), [([True, True, False, False], False), ([False, False, True, True], True)])
def test_a_calibrator_that_turns_the_order_around_is_warned_of(right, warns, listener):
    from medvqa_cli.scoring.recalibration import fit_calibrator

    warn_of_fall(fit_calibrator("platt", [0.9, 0.8, 0.6, 0.5], right, kinds=["yes_no"]), listener)
    assert len(listener.warnings) == warns
    assert all(text.startswith("The surer answers are the less often right") for text in listener.warnings)


def test_numbers_of_a_control_lie_beside_the_main_ones(own_run, listener):
    settings, run = own_run
    split = settings.data.validation_split
    evaluate_calibration(settings, run="small")
    kept = {path: path.read_bytes() for path in [*run.path.glob("samples*"), *run.path.glob("calibration/*")]}
    main = run.read_json("metrics.json")["calibration"]
    for infer, name in (({"blank_images": True}, "blank"), ({"control": "shuffled"}, "shuffled")):
        controlled = change(settings, infer=infer)
        evaluate_calibration(controlled, run="small", overwrite=True)
        assert {path.name for path in (run.path / f"calibration-{name}").iterdir()} == FILES
        assert read(run.path / f"samples-{name}.meta.json")["control"] == name
        evaluate_calibration(controlled, run="small", wanted=Recalibration(fit="platt"))
        assert (run.path / f"calibrator-{name}.json").exists()
        assert (run.path / f"calibration-{name}-{split}" / "metrics.json").exists()
    assert not (run.path / "calibrator.json").exists()
    assert {path: path.read_bytes() for path in kept} == kept
    metrics = run.read_json("metrics.json")
    assert metrics["calibration"] == main
    assert metrics["calibration-blank"]["protocol"]["inference"]["control"] == "blank"
    assert choose_calibration({name: block for name, block in metrics.items() if name != "calibration"})[1] == {}
    evaluate_calibration(settings, run="small", wanted=Recalibration(calibrator=run.path / "calibrator-blank.json"),
                         progress=listener)
    assert ("The calibrator was learnt from answers to the control blank, these are to the images: the one says little "
            "about the other.") in listener.warnings


def test_answers_to_a_control_are_measured_from_their_own_file(own_run, asked):
    settings, run = own_run
    blank = change(settings, infer={"control": "blank"}, calibration={"method": "likelihood", "questions": "all"})
    infer_split(blank, run="small")
    infer_split(change(blank, infer={"control": "off"}), run="small")
    asked.clear()
    evaluate_calibration(blank, run="small")
    assert not asked
    sure = {row["question_id"]: row["confidence"] for row in
            read(run.path / "calibration-blank-all-likelihood" / "detailed_results.json")}
    for row in rows_of(run, "predictions-blank"):
        assert sure[row.sample.question_id] == pytest.approx(math.exp(row.logprob / row.num_tokens))


@pytest.mark.slow
def test_without_a_shared_image_the_same_is_said(own_run, listener):
    """Trees and batches: equal log-probabilities of candidates, answers and beliefs."""
    settings, run = own_run
    options = {"method": "all", "samples": 4}
    found = {}
    for shared in ("on", "off"):
        evaluate_calibration(change(settings, calibration=options, infer={"shared_prefix": shared, "batch_size": 3}),
                             run="small", overwrite=True, progress=listener)
        found[shared] = {name: rows_of(run, name) for name in ("logits", "likelihood", "p_true")}
    assert any("row by row in batches" in text for text in listener.said)
    for name, rows in found["on"].items():
        for tree, batch in zip(rows, found["off"][name], strict=True):
            assert tree.answer == batch.answer
            assert tree.logprob == pytest.approx(batch.logprob, abs=1e-4)
            for form, (value, tokens) in (tree.candidate_scores or {}).items():
                assert batch.candidate_scores[form] == (pytest.approx(value, abs=1e-4), tokens)
