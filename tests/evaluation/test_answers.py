"""Summaries: right counts, groups, warnings, and a protocol beside every number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvqa_cli.evaluation.answers import Aids, count_answers, score_predictions, summarize_answers
from medvqa_cli.evaluation.protocol import REQUIRED, describe_inference, find_gaps
from medvqa_cli.records import Prediction, VQASample
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings(resamples=200)


def predict(number, gold, answer, kind="closed", **fields):
    sample = VQASample(dataset="d", split="test", question_id=str(number), image_id=str(number // 2), question="q?",
                       answer=gold, answer_type=kind, **fields)
    return Prediction(sample=sample, answer=answer)


def summarize(predictions, settings=SETTINGS, aids=None):
    aids = aids or Aids()
    return summarize_answers(predictions, count_answers(predictions, settings, aids), settings, aids=aids)


def score(prediction, settings=SETTINGS):
    return score_predictions([prediction], count_answers([prediction], settings))[0].values


def test_counts_by_hand():
    predictions = [predict(0, "Yes", "yes, it is", modality="CT"),
                   predict(1, "No", "the image is normal", modality="CT"),
                   predict(2, "Left", "left", modality="MRI"), predict(3, "left lung", "lung", "open", modality="MRI")]
    summary = summarize(predictions)
    assert summary["closed"]["n"] == 3
    assert summary["closed"]["accuracy@medvqa"]["value"] == pytest.approx(2 / 3)
    assert summary["open"]["accuracy@medvqa"]["value"] == 0.0
    assert summary["open"]["token_f1@medvqa"]["value"] == pytest.approx(2 / 3)
    assert summary["open"]["token_recall@medvqa"]["value"] == 0.5
    assert summary["overall"]["accuracy@medvqa"]["value"] == 0.5
    assert summary["groups"]["modality"]["CT"]["accuracy@medvqa"]["value"] == 0.5
    assert summary["groups"]["modality"]["MRI"]["n"] == 2
    assert summary["checks"]["yes_no_questions"] == 2
    assert summary["checks"]["yes_no_unparsed"] == 1
    protocol = summary["protocol"]
    wanted = {"dataset": "d", "split": "test", "n": 4, "n_closed": 3, "images": 2}
    assert {key: protocol[key] for key in wanted} == wanted
    assert list(protocol["profiles"]) == ["medvqa"]


def test_a_model_that_always_says_yes_is_told():
    summary = summarize([predict(n, "yes" if n % 2 else "no", "Yes.") for n in range(20)])
    assert summary["checks"]["collapsed"] == ["closed"]
    assert summary["checks"]["top_answer"]["closed"] == {"answer": "yes", "share": 1.0, "gold_share": 0.5}


def test_one_answer_to_all_is_no_collapse_where_it_is_the_truth_or_there_are_few_questions():
    same = [predict(n, "chest", "chest", "open") for n in range(20)]
    few = [predict(n, "yes" if n % 2 else "no", "Yes.") for n in range(9)]
    checks = summarize(same + few)["checks"]
    assert checks["collapsed"] == []
    assert checks["top_answer"]["open"] == {"answer": "chest", "share": 1.0, "gold_share": 1.0}
    assert summarize(same[:2] + [predict(n, f"organ {n}", "Chest.", "open")
                                 for n in range(20)])["checks"]["collapsed"] == ["open"]


def test_known_laws_give_the_best_possible_accuracy():
    predictions = [predict(0, "yes", "yes", answer_probabilities={"yes": 1.0}),
                   predict(1, "no", "yes", answer_probabilities={"yes": 0.7, "no": 0.3}),
                   predict(2, "no", "no", answer_probabilities={"no": 1.0}),
                   predict(3, "yes", "yes", answer_probabilities={"yes": 0.6, "no": 0.4})]
    known = summarize(predictions)["synthetic"]
    assert known["bayes_accuracy"] == pytest.approx((1 + 0.7 + 1 + 0.6) / 4)
    assert known["unambiguous"]["accuracy@medvqa"]["value"] == 1.0
    assert known["ambiguous"]["accuracy@medvqa"]["value"] == 0.5
    assert summarize([predict(0, "yes", "yes")])["synthetic"] is None


def test_alternatives_count():
    prediction = predict(0, "ct", "computed tomography", alternatives=("computed tomography",))
    assert score(prediction)["accuracy@medvqa"] == 1.0


def test_nothing_is_not_summarized():
    with pytest.raises(ValueError, match="nothing"):
        summarize_answers([], {}, SETTINGS)


def test_every_key_says_its_profile_and_two_may_stand_side_by_side():
    settings = EvaluationSettings(resamples=50, profiles=("medvqa", "squad"))
    block = summarize([predict(0, "a left lung", "the left lung", "open")], settings)["open"]
    assert (block["exact_match@medvqa"]["value"], block["exact_match@squad"]["value"]) == (0.0, 1.0)
    assert block["open_recall@llava-med"]["value"] == 1.0
    assert "open_recall@squad" not in block
    assert all("@" in key for key in block if key not in ("n", "images"))


def test_metrics_can_be_chosen():
    settings = EvaluationSettings(resamples=50, metrics=("rouge",))
    block = summarize([predict(0, "left lung", "lung", "open")], settings)["open"]
    assert {key.partition("@")[0] for key in block} == {
        "n", "images", "accuracy", "exact_match", *(f"rouge_{kind}{part}" for kind in "12l"
                                                    for part in ("", "_precision", "_recall"))}
    assert block["rouge_l_precision@medvqa"]["value"] == 1.0
    assert block["rouge_l_recall@medvqa"]["value"] == 0.5


def test_undefined_is_null_and_bounds_come_from_the_draws_that_define_it():
    short = summarize([predict(n, "ct", "mri" if n == 5 else "ct", "open") for n in range(30)])["open"]
    assert short["bleu_1@medvqa"]["low"] < short["bleu_1@medvqa"]["value"] == pytest.approx(29 / 30)
    assert short["bleu_2@medvqa"] == {"value": None, "low": None, "high": None}


def test_what_all_images_agree_on_is_not_certain_and_few_images_have_no_interval():
    block = summarize([predict(n, "left", "Left") for n in range(40)])["closed"]
    upper = 1 - 0.025 ** (1 / 20)
    assert block["accuracy@medvqa"] == {"value": 1.0, "low": pytest.approx(1 - upper), "high": 1.0}
    assert block["token_f1@medvqa"]["low"] == pytest.approx(1 - upper)
    assert block["bleu_1@medvqa"] == {"value": 1.0, "low": None, "high": None}  # no mean: no bound is known
    few = summarize([predict(n, "left", "left" if n % 3 else "right") for n in range(18)])
    assert few["closed"]["accuracy@medvqa"] == {"value": pytest.approx(2 / 3), "low": None, "high": None}
    assert "no interval below 10 images" in few["protocol"]["intervals"]["rule"]


def test_a_measure_of_some_questions_counts_the_images_of_these():
    rows = [predict(n, "yes" if n < 4 else "no", "no" if n % 5 else "yes") for n in range(60)]
    clinical = summarize(rows)["closed"]["clinical"]["yes"]
    assert clinical["sensitivity@medvqa"]["low"] is None  # 2 images ask for a yes
    assert clinical["specificity@medvqa"]["low"] < clinical["specificity@medvqa"]["value"]


def test_options_are_asked_only_where_there_are_some():
    predictions = [predict(0, "heart", "B", "closed", options=("lung", "heart")), predict(2, "yes", "yes")]
    block = summarize(predictions)["closed"]
    assert block["choice_accuracy@medvqa"]["value"] == 1.0
    assert block["choice_accuracy@medvqa"]["n"] == 1
    assert block["accuracy@medvqa"]["value"] == 0.5


def test_clinical_measures_of_yes_and_no():
    rows = [("yes", "yes"), ("yes", "no"), ("yes", "not sure"), ("no", "no"), ("no", "yes"), ("no", "no")]
    clinical = summarize([predict(n, gold, answer) for n, (gold, answer) in enumerate(rows)])["closed"]["clinical"]
    found = {label: {key: entry["value"] for key, entry in clinical[label].items()} for label in ("yes", "no", "macro")}
    assert found["yes"]["sensitivity@medvqa"] == pytest.approx(1 / 3)
    assert found["no"]["sensitivity@medvqa"] == found["yes"]["specificity@medvqa"] == pytest.approx(2 / 3)
    assert found["yes"]["ppv@medvqa"] == 0.5
    assert found["yes"]["npv@medvqa"] == pytest.approx(2 / 3)
    assert found["macro"]["sensitivity@medvqa"] == 0.5
    assert found["yes"]["auroc@medvqa"] is None
    assert clinical["without_probability"] == 6


def test_auroc_takes_candidates_then_samples_and_counts_what_has_neither():
    from medvqa_cli.records import AnswerSample

    def give(number, gold, **fields):
        return replace(predict(number, gold, "no"), **fields)

    rows = [give(0, "yes", candidates={"yes": 0.4, "no": 0.6}), give(1, "no", candidates={"Yes": 0.1, "No": 0.9}),
            give(2, "yes", samples=(AnswerSample("Yes.", 1), AnswerSample("no", 3), AnswerSample("hm", 9))),
            give(3, "no", samples=(AnswerSample("no", 4),)), give(4, "no")]
    clinical = summarize(rows)["closed"]["clinical"]
    assert clinical["without_probability"] == 1
    assert clinical["yes"]["auroc@medvqa"]["value"] == 1.0  # though every answer is no
    assert clinical["yes"]["auroc@medvqa"]["n"] == 4


def test_the_auroc_interval_equals_resampling_image_by_image():
    import random

    from medvqa_cli.scoring.clinical import combine_auroc
    from medvqa_cli.scoring.intervals import bootstrap_statistic
    from medvqa_cli.scoring.resampling import resample_levels

    draw = random.Random(0)
    truth = [n % 2 == 0 for n in range(80)]
    values = [round(draw.gauss(0.5 + 0.1 * positive, 0.2), 1) for positive in truth]
    images = [n // 4 for n in range(80)]

    def compare_pairs(rows):
        sure, positive = np.asarray(values)[rows], np.asarray(truth)[rows]
        gaps = sure[positive][:, None] - sure[~positive]
        return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))

    ours = resample_levels(values, truth, combine_auroc, images, resamples=2000)
    theirs = bootstrap_statistic(compare_pairs, images, resamples=2000)
    assert ours.value == pytest.approx(theirs.estimate)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_bertscore_names_its_encoder():
    def encode(texts):
        ends = np.array([True, False, True])
        return [(np.array([[0, 1], [1, 0] if "left" in text else [0.6, 0.8], [0, 1]], np.float32), ends)
                for text in texts]

    aids = Aids(encode, "tiny:1")
    summary = summarize([predict(0, "left lung", "right lung", "open")], aids=aids)
    assert summary["open"]["bertscore_f1@tiny:1"]["value"] == pytest.approx(2 * 0.6 * 0.8 / 1.4)
    assert summary["protocol"]["encoder"] == "tiny:1"


def test_the_judge_stands_beside_exact_match_with_their_agreement():
    answers = ["lung", "the lung", "liver", "skull"]
    predictions = [predict(n, "lung", answer, "open") for n, answer in enumerate(answers)]
    aids = Aids(verdicts=[True, True, False, None], judge="model-x")
    summary = summarize(predictions, aids=aids)
    assert summary["open"]["judged_right@model-x"]["value"] == pytest.approx(2 / 3)
    assert summary["open"]["judged_right@model-x"]["n"] == 3
    assert summary["protocol"]["judge"] == {"name": "model-x", "agreement": {
        "n": 3, "share": pytest.approx(2 / 3), "kappa": pytest.approx(0.4), "without_verdict": 1}}


def test_questions_of_two_data_sets_about_pictures_of_one_name_are_two_pictures():
    first = predict(0, "yes", "yes")
    second = replace(first, sample=replace(first.sample, dataset="e"))
    summary = summarize([first, second])
    assert summary["overall"]["images"] == 2
    assert summary["protocol"]["dataset"] == "d, e"


def test_a_protocol_says_everything_or_is_found_wanting():
    protocol = summarize([predict(0, "yes", "yes")])["protocol"]
    assert set(find_gaps(protocol)) == {"closed_definition", "prompt", "candidates", "decoding"}
    whole = protocol | describe_inference({"expected": 3, "too_long": 2, "decoding": {"temperature": 0}}, 1)
    assert find_gaps(whole) == []
    assert whole["excluded"] == [{"reason": "no answer in the file", "n": 2},
                                 {"reason": "too long for the model", "n": 2}]
    assert whole["candidates"] == "none: every answer is written freely"
    bare = describe_inference({}, 1)
    assert (bare["candidates"], bare["decoding"], bare["excluded"]) == (None, None, [])
    assert find_gaps({}) == list(REQUIRED)
