from __future__ import annotations

import pytest

from medvqa_cli.records import VQASample
from medvqa_cli.scoring.bayes import bayes_accuracy


def make_sample(law, answer_type="closed") -> VQASample:
    return VQASample(dataset="d", split="test", question_id="q7", image_id="i", question="?", answer="yes",
                     answer_type=answer_type, answer_probabilities=law)


def test_mean_of_the_most_probable_answer():
    samples = [make_sample({"yes": 1.0}), make_sample({"yes": 0.3, "no": 0.7}), make_sample({"yes": 0.5, "no": 0.5})]
    assert bayes_accuracy(samples) == pytest.approx((1.0 + 0.7 + 0.5) / 3)


def test_open_questions_do_not_count():
    assert bayes_accuracy([make_sample({"yes": 0.6, "no": 0.4}), make_sample(None, "open")]) == pytest.approx(0.6)


def test_equals_the_accuracy_of_the_best_guesser_on_every_outcome():
    """Weigh each joint outcome of two ambiguous questions by its probability and count the best guesser's hits."""
    laws = [{"yes": 0.2, "no": 0.8}, {"left": 0.55, "right": 0.45}]
    guesses = ["no", "left"]
    expected = sum(p * q * ((a == guesses[0]) + (b == guesses[1])) / 2
                   for a, p in laws[0].items() for b, q in laws[1].items())
    assert bayes_accuracy(map(make_sample, laws)) == pytest.approx(expected)


@pytest.mark.parametrize("law", [None, {}, {"yes": 0.6, "no": 0.6}])
def test_an_unknown_law_is_refused(law):
    with pytest.raises(ValueError, match="question 'q7': the law of its answer is unknown or does not sum to 1"):
        bayes_accuracy([make_sample(law)])


def test_no_closed_question():
    with pytest.raises(ValueError, match="needs at least one closed question"):
        bayes_accuracy([make_sample({"one": 1.0}, "open")])
