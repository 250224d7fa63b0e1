"""Confidence of one answer: votes, candidates, likelihoods, words; clusters of sampled answers and their entropy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from medvqa_cli.errors import DataError
from medvqa_cli.records import AnswerSample
from medvqa_cli.scoring.clusters import (
    cluster_answers,
    measure_agreement,
    measure_entropy,
    measure_weighted_entropy,
)
from medvqa_cli.scoring.confidence import (
    compare_true_false,
    measure_likelihood,
    parse_verbalized,
    vote_candidates,
    vote_yes_no,
    weigh_candidates,
)


def sampled(counts, probabilities=None):
    return [AnswerSample(text, count, math.log(probabilities[text]) if probabilities else None)
            for text, count in counts.items()]


def test_votes_for_candidates():
    choice = vote_candidates({"Left.": 5, "right": 3, "both sides": 2, "LEFT": 1}, ("right", "left", "both"))
    assert (choice.answer, choice.confidence) == ("left", 6 / 9)
    assert choice.probabilities == {"right": 3 / 9, "left": 6 / 9, "both": 0.0}


@given(st.integers(0, 50), st.integers(0, 50))
def test_two_candidates_vote_as_yes_and_no(yes, no):
    vote, choice = vote_yes_no(yes, no), vote_candidates({"yes": yes, "no": no}, ("yes", "no"))
    assert choice.answer == (vote.answer if vote.is_valid else None)
    assert (choice.confidence, choice.probabilities["yes"]) == pytest.approx((vote.confidence, vote.p_yes))


def test_no_valid_vote_is_no_answer():
    choice = vote_candidates({"lung": 10}, ("left", "right", "both"))
    assert (choice.answer, choice.confidence) == (None, pytest.approx(1 / 3))
    for wrong in ((), ("left", "Left.")):
        with pytest.raises(ValueError, match="missing or doubled"):
            vote_candidates({"left": 1}, wrong)


def test_candidates_weigh_as_softmax():
    logprobs = {"left": -1.0, "right": -2.0, "both lungs": -900.0}
    choice = weigh_candidates(logprobs)
    assert list(choice.probabilities.values()) == pytest.approx(softmax(list(logprobs.values())))
    assert choice.answer == "left"
    per_token = weigh_candidates({"left": -1.0, "both lungs": -1.5}, {"left": 1, "both lungs": 3})
    assert per_token.answer == "both lungs"
    assert per_token.confidence == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert weigh_candidates({"yes": -math.inf, "no": -3.0}).confidence == 1.0


@pytest.mark.parametrize(("logprobs", "text"), [
    ({"yes": math.nan, "no": -1.0}, "The log-probability of candidate 'yes' is 'nan'"),
    ({"yes": 0.5, "no": -1.0}, "of candidate 'yes' is '0.5'"),
    ({"yes": -math.inf, "no": -math.inf}, "No candidate has a probability above 0")])
def test_wrong_logprobs_are_refused(logprobs, text):
    with pytest.raises(DataError, match=text) as caught:
        weigh_candidates(logprobs)
    assert caught.value.hint


def test_likelihood():
    assert measure_likelihood(math.log(0.25)) == pytest.approx(0.25)
    assert measure_likelihood(math.log(0.25), 2) == pytest.approx(0.5)
    assert (measure_likelihood(-math.inf), measure_likelihood(1e-6)) == (0.0, 1.0)
    with pytest.raises(DataError, match="'nan'"):
        measure_likelihood(math.nan)
    with pytest.raises(ValueError, match="at least one token"):
        measure_likelihood(-1.0, 0)


def test_p_true():
    assert compare_true_false(math.log(0.6), math.log(0.2)) == pytest.approx(0.75)
    assert compare_true_false(-math.inf, -1.0) == 0.0
    with pytest.raises(DataError, match="'True' is 'nan'"):
        compare_true_false(math.nan, -1.0)


@pytest.mark.parametrize(("text", "value"), [
    ("90%", 0.9), ("0.9", 0.9), (".5", 0.5), ("9/10", 0.9), ("9 out of 10", 0.9), ("90 percent", 0.9), ("100%", 1.0),
    ("Yes. I am 85% sure.", 0.85), ("The answer is yes (0.75)", 0.75), ("**Confidence:** 85%", 0.85),
    ("Confidence: high", 0.8), ("**Confidence**: Very High", 0.95), ("Certainty is low", 0.2),
    ("<answer>yes</answer><confidence>0.8</confidence>", 0.8), ("yes\n0.7", 0.7), ("confidence = 1.0", 1.0), ("1", 1.0),
    ("Confidence: 60%. Confidence: 70%", 0.7), ("70% stenosis, confidence 0.9", 0.9),
    ("Confidence: high. There is a 70% stenosis", 0.8), ("I'd say 60%, no, 80%", 0.8),
])
def test_stated_confidence(text, value):
    assert parse_verbalized(text) == pytest.approx(value)


@pytest.mark.parametrize("text", [
    "", "yes", "90", "150%", "11/10", "0/0", "-0.5", "80-90%", "0.3-0.4", "T2", "1.5.2024", "1/2/2024", "0,9",
    "There is 1 nodule", "a lesion of 0.9 cm", "confidence: high-resolution CT", "highly confident", "95% CI 3.2",
    "Confidence: 9", "confidence 150%", "x0.9", "0.9x"])
def test_no_confidence_is_stated(text):
    assert parse_verbalized(text) is None


def test_lexical_clusters():
    clusters = cluster_answers(sampled({"Lung": 3, "heart": 4, "lung.": 2, "": 5, "Liver": 1}))
    assert [(cluster.answers, cluster.count) for cluster in clusters] == [
        (("Lung", "lung."), 5), (("heart",), 4), (("Liver",), 1)]
    assert measure_agreement(clusters) == 0.5
    assert measure_entropy(clusters) == pytest.approx(
        -sum(share * math.log(share) for share in (0.5, 0.4, 0.1)))


def test_a_model_of_meaning_merges_both_ways_only():
    """An X-ray of the chest entails an X-ray, not the other way round: two meanings."""
    entailed = {("chest film", "chest x-ray"), ("chest x-ray", "chest film"), ("chest x-ray", "x-ray")}
    asked = []

    def entails(first, second):
        asked.append((first, second))
        return (first, second) in entailed

    clusters = cluster_answers(sampled({"chest x-ray": 5, "chest film": 2, "x-ray": 3}), entails)
    assert [(cluster.answers, cluster.count) for cluster in clusters] == [
        (("chest x-ray", "chest film"), 7), (("x-ray",), 3)]
    assert ("chest x-ray", "Chest X-ray") not in asked


def test_entropy_of_probabilities():
    probabilities = {"lung": 0.3, "Lung": 0.1, "heart": 0.2}
    clusters = cluster_answers(sampled({"lung": 1, "Lung": 1, "heart": 98}, probabilities))
    assert {cluster.answers[0]: math.exp(cluster.logprob) for cluster in clusters} == pytest.approx(
        {"heart": 0.2, "lung": 0.4})
    assert measure_weighted_entropy(clusters) == pytest.approx(-(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3)))


def test_entropy_is_0_for_one_meaning_and_most_for_all_different():
    assert str(measure_entropy(cluster_answers(sampled({"lung": 100})))) == "0.0"
    assert measure_entropy(cluster_answers(sampled({str(n): 1 for n in range(8)}))) == pytest.approx(math.log(8))


def test_nothing_to_cluster():
    for function in (measure_agreement, measure_entropy, measure_weighted_entropy):
        with pytest.raises(ValueError, match="at least one answer"):
            function(cluster_answers(sampled({"": 3, "lung": 0})))


def test_unknown_or_wrong_logprobs_of_samples():
    with pytest.raises(DataError, match="carry no log-probabilities"):
        measure_weighted_entropy(cluster_answers(sampled({"lung": 3})))
    with pytest.raises(DataError, match="carry no log-probabilities"):
        measure_weighted_entropy(cluster_answers([AnswerSample("lung", 1, -math.inf)]))
    with pytest.raises(DataError, match="of a sampled answer is 'nan'"):
        cluster_answers([AnswerSample("lung", 1, math.nan)])
