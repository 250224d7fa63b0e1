"""Agreement and entropy of sampled answers to questions of every kind, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.calibration import CORRECT, summarize_confidence
from medvqa_cli.evaluation.details import NoConfidenceError, list_details, read_confidence, read_law
from medvqa_cli.evaluation.methods import compare_sources
from medvqa_cli.evaluation.questions import classify_question, is_asked_for
from medvqa_cli.evaluation.sampled import Reading, read_samples
from medvqa_cli.records import AnswerSample, Prediction, VQASample
from medvqa_cli.scoring.calibration import simulate_share_floor
from medvqa_cli.scoring.confidence import count_options
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings(resamples=50)
OPTIONS = {"q": (("left", "left lung"), ("right", "right lung"))}


def sampled(gold, counts, kind="open", number="q", image="i", **values):
    sample = VQASample(dataset="d", split="test", question_id=number, image_id=image, question="Where?", answer=gold,
                       answer_type=kind, **values)
    return Prediction(sample=sample, answer="", samples=tuple(AnswerSample(text, n) for text, n in counts.items()))


def entropy(*counts):
    return -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts)


def test_kinds_of_questions():
    samples = [sampled("Yes", {}, "closed").sample, sampled("left", {}, "closed").sample, sampled("yes", {}).sample]
    assert [classify_question(sample) for sample in samples] == ["yes_no", "choice", "open"]
    assert {questions: [is_asked_for(sample, questions) for sample in samples]
            for questions in ("yes_no", "closed", "open", "all")} == {
        "yes_no": [True, False, False], "closed": [True, True, False], "open": [False, False, True], "all": [True] * 3}


def test_open_answers_agree_where_they_are_equal_once_normalized():
    (detail,) = read_samples([sampled("left lung", {"Left lung.": 5, "left lung": 2, "heart": 2, " ": 1})], "open")
    assert (detail.predicted, detail.is_correct, detail.kind) == ("left lung", True, "open")
    assert detail.confidence == pytest.approx(7 / 9)
    assert (detail.valid_count, detail.unknown_count, detail.num_meanings) == (9, 1, 2)
    assert detail.entropy == pytest.approx(entropy(7, 2))
    assert detail.p_yes is None


def test_answers_of_one_meaning_count_together_by_the_most_frequent():
    together = {"heart", "the cardiac silhouette"}
    reading = Reading(compare=lambda question: lambda a, b: question == "Where?" and {a, b} == together)
    rows = [sampled("the cardiac silhouette", {"heart": 4, "lung": 3, "the cardiac silhouette": 3})]
    (detail,) = read_samples(rows, "open", reading)
    assert (detail.predicted, detail.confidence, detail.is_correct) == ("heart", 0.7, False)  # exact match, as stated
    assert detail.entropy == pytest.approx(entropy(7, 3))


def test_options_are_counted_by_any_of_their_forms():
    (detail,) = read_samples([sampled("left lung", {"left lung": 3, "Left": 2, "right": 4, "heart": 1}, "closed")],
                             "closed", Reading(OPTIONS))
    assert (detail.predicted, detail.is_correct, detail.kind) == ("left lung", True, "choice")
    assert detail.confidence == pytest.approx(5 / 9)
    assert (detail.valid_count, detail.unknown_count) == (9, 1)
    assert detail.entropy == pytest.approx(entropy(5, 4))
    (none,) = read_samples([sampled("left", {"heart": 3}, "closed")], "closed", Reading(OPTIONS))
    assert (none.confidence, none.is_valid, none.is_correct, none.unknown_count) == (0.5, False, False, 3)
    (free,) = read_samples([sampled("left", {"left": 2, "heart": 3}, "closed")], "closed")
    assert (free.predicted, free.confidence) == ("heart", 0.6)  # without candidates: by equality


def test_votes_for_options():
    assert count_options({"a": 2, "A.": 1, "c": 4}, [("a", "b"), ("b", "d")]) == {"a": 3, "d": 0}
    assert count_options({"b": 2, "a": 1}, [("a", "b"), ("b", "d")]) == {"b": 3, "d": 0}


@pytest.mark.parametrize(("counts", "confidence"), [({"yes": 10}, 1.0), ({"yes": 5, "no": 5}, 0.5), ({"hm": 10}, 0.5)])
def test_entropy_of_yes_and_no(counts, confidence):
    (detail,) = list_details([sampled("yes", counts, "closed")], "entropy")
    assert detail.confidence == pytest.approx(confidence)
    assert (detail.entropy is None) == ("hm" in counts)


def test_entropy_ranks_open_answers():
    rows = [sampled("a", {"a": 6, "b": 2, "c": 2}, number="1"), sampled("a", {"a": 6, "b": 4}, number="2")]
    first, second = list_details(rows, "entropy", questions="open")
    assert first.confidence == pytest.approx(math.exp(-entropy(6, 2, 2)))
    assert first.confidence < second.confidence  # which agreement does not tell apart
    assert [d.confidence for d in list_details(rows, "sampling", questions="open")] == [0.6, 0.6]


def test_no_answer_at_all_to_an_open_question():
    details = list_details([sampled("a", {"": 10}, number="1"), sampled("b", {"b": 10}, number="2")], "sampling",
                           questions="open")
    assert (details[0].confidence, details[0].is_valid, details[0].is_correct) == (0.0, False, False)
    summary = summarize_confidence(details, SETTINGS, num_bins=10, num_samples=10)
    assert (summary["valid_response_rate"], summary["questions_without_valid_answer"]) == (0.5, 1)
    assert (summary["num_valid_responses"], summary["num_unparsed_responses"]) == (10, 10)
    assert summary["ece"] == 0.0
    assert summary["protocol"]["rules"]["correct"] == CORRECT
    assert "another answer may win the vote" in summary["protocol"]["rules"]["bias_floor"]


def test_questions_that_are_not_there():
    with pytest.raises(DataError, match="There is no open question among the sampled ones"):
        read_samples([sampled("yes", {"yes": 1}, "closed")], "open")


def test_candidates_weigh_as_the_model_has_them():
    """Rows keep the softmax per token; calibration takes whole log-probabilities."""
    row = Prediction(sample=sampled("left lung", {}, "closed").sample, answer="left lung",
                     candidates={"left lung": 0.6, "right": 0.4},
                     candidate_scores={"left lung": (math.log(0.1), 3), "right": (math.log(0.3), 2),
                                       "right lung": (math.log(0.01), 3)})
    assert read_law(row) == pytest.approx({"left lung": 0.25, "right": 0.75})
    assert read_confidence(row, "logits") == pytest.approx(0.25)
    wrong = Prediction(sample=row.sample, answer="right", candidates={"right": 1.0},
                       candidate_scores={"right": (math.nan, 2)})
    with pytest.raises(DataError, match="log-probability of candidate 'right' is 'nan'"):
        read_confidence(wrong, "logits")


def test_belief_in_an_answer():
    row = Prediction(sample=sampled("a", {}).sample, answer="A", candidate_scores={"True": (math.log(0.3), 2),
                                                                                  "False": (math.log(0.1), 2)})
    (detail,) = list_details([row], "p_true", questions="open")
    assert detail.confidence == pytest.approx(0.75)
    assert detail.is_correct
    with pytest.raises(NoConfidenceError, match="None of 1 answers to open questions has a confidence by 'likelihood'"):
        list_details([row], "likelihood", questions="open")


def test_sources_side_by_side_on_their_own_and_on_shared_questions():
    counts = [{"a": 10}, {"a": 8, "b": 2}, {"b": 9, "a": 1}, {"a": 6, "b": 4}]
    rows = [sampled("a", drawn, number=str(n), image=str(n)) for n, drawn in enumerate(counts)]
    details = list_details(rows, "sampling", questions="open")
    found = compare_sources({"sampling": details, "likelihood": details[1:]}, SETTINGS, num_bins=10, num_samples=10)
    assert {name: {source: part["n"] for source, part in block.items()} for name, block in found.items()} == {
        "own": {"sampling": 4, "likelihood": 3}, "shared": {"sampling": 3, "likelihood": 3}}
    assert found["own"]["sampling"]["accuracy"]["value"] == 0.75
    assert found["own"]["sampling"]["auroc"]["value"] == pytest.approx(1 / 3)  # 1 above 0.9, 0.8 and 0.6 below
    assert found["own"]["sampling"]["ece"]["value"] == pytest.approx((0 + 0.2 + 0.9 + 0.4) / 4)
    apart = compare_sources({"sampling": details[:1], "likelihood": details[1:]}, SETTINGS, num_bins=10, num_samples=10)
    assert apart["shared"] == {}


def test_floor_of_shares_is_what_a_calibrated_model_shows():
    random = np.random.default_rng(3)
    truth = random.uniform(0.2, 1.0, 300)
    shown = []
    for _ in range(60):
        share, right = random.binomial(20, truth) / 20, random.random(300) < truth
        shown.append(sum(abs(share[b].mean() - right[b].mean()) * b.mean() for low in np.arange(10) / 10
                         if (b := (share > low + 1e-9) & (share <= low + 0.1 + 1e-9)).any()))
    assert simulate_share_floor(list(truth), 20, 10) == pytest.approx(np.mean(shown), abs=0.006)
    assert simulate_share_floor([1.0] * 5, 20, 10) == 0.0
    with pytest.raises(ValueError, match="at least one question"):
        simulate_share_floor([], 20, 10)
