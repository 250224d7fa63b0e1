"""Votes, metrics and edge cases of the calibration block."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.calibration import count_votes, summarize_confidence
from medvqa_cli.records import AnswerSample, Prediction, VQASample
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings(resamples=100)


def sampled(number, gold, counts, kind="closed", law=None):
    sample = VQASample(dataset="d", split="test", question_id=str(number), image_id=str(number), question="q?",
                       answer=gold, answer_type=kind, answer_probabilities=law)
    return Prediction(sample=sample, answer="", samples=tuple(AnswerSample(text, n) for text, n in counts.items()))


def summarize(predictions, num_samples=10):
    return summarize_confidence(count_votes(predictions), SETTINGS, num_bins=10, num_samples=num_samples)


def test_counts_votes_and_leaves_out_unparsed_answers():
    detail = count_votes([sampled(0, "Yes", {"yes": 4, "Yes, a nodule": 2, "no": 2, "The image is normal": 2})])[0]
    assert (detail.yes_count, detail.no_count, detail.unknown_count) == (6, 2, 2)
    assert (detail.predicted, detail.confidence, detail.is_correct) == ("yes", 0.75, True)


def test_metrics_by_hand():
    summary = summarize([sampled(0, "yes", {"yes": 9, "no": 1}), sampled(1, "no", {"yes": 9, "no": 1}),
                         sampled(2, "no", {"no": 10}), sampled(3, "yes", {"yes": 6, "no": 4})])
    assert summary["accuracy"] == 0.75
    assert summary["mean_confidence"] == pytest.approx((0.9 + 0.9 + 1 + 0.6) / 4)
    assert summary["ece"] == pytest.approx(2 / 4 * 0.4 + 1 / 4 * 0.4)
    assert summary["overconfidence"] == pytest.approx(0.2)
    assert summary["underconfidence"] == pytest.approx(0.1)
    assert summary["mce"] == pytest.approx(0.4)
    assert summary["brier"] == pytest.approx((0.01 + 0.81 + 0 + 0.16) / 4)
    assert [item["bin_size"] for item in summary["bin_data"]] == [0, 0, 0, 0, 0, 1, 0, 0, 2, 1]
    assert summary["intervals"]["accuracy"] == {"low": None, "high": None}  # 4 images


def test_bins_and_measures_of_few_or_equal_images_claim_no_certainty():
    rows = [sampled(n, "yes", {"yes": 10}) for n in range(30)] + [sampled(40, "yes", {"yes": 6, "no": 4})]
    summary = summarize(rows)
    sure, unsure = summary["bin_data"][9], summary["bin_data"][5]
    assert (unsure["bin_size"], unsure["accuracy_low"], unsure["accuracy_high"]) == (1, None, None)
    assert (sure["accuracy_low"], sure["accuracy_high"]) == (pytest.approx(0.025 ** (1 / 30)), 1.0)
    assert summary["intervals"]["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 31))


def test_only_yes_no_questions_count():
    details = count_votes([sampled(0, "yes", {"yes": 1}), sampled(1, "left", {"left": 1}),
                           sampled(2, "yes", {"yes": 1}, "open")])
    assert [detail.question_id for detail in details] == ["0"]
    with pytest.raises(DataError, match="no closed question with a yes/no answer"):
        count_votes([sampled(1, "left", {"left": 1})])


def test_no_valid_answer_is_counted_not_guessed():
    summary = summarize([sampled(0, "yes", {"lung": 10}), sampled(1, "no", {"no": 10})])
    assert summary["questions_without_valid_answer"] == 1
    assert summary["valid_response_rate"] == 0.5
    assert summary["accuracy"] == 0.5


@pytest.mark.parametrize(("gold", "accuracy"), [("yes", 1.0), ("no", 0.0)])
def test_one_question_all_right_or_all_wrong(gold, accuracy):
    summary = summarize([sampled(0, gold, {"yes": 10})])
    assert summary["accuracy"] == accuracy
    assert summary["ece"] == pytest.approx(1 - accuracy)
    assert summary["intervals"]["ece"] == {"low": None, "high": None}


def test_distance_to_a_known_law():
    summary = summarize([sampled(0, "yes", {"yes": 8, "no": 2}, law={"yes": 0.7, "no": 0.3}),
                         sampled(1, "no", {"no": 10}, law={"yes": 0.0, "no": 1.0})])
    assert summary["known_law"]["num_ambiguous"] == 1
    assert summary["known_law"]["mean_absolute_error_ambiguous"] == pytest.approx(0.1)
    assert summary["known_law"]["mean_absolute_error"] == pytest.approx(0.05)
