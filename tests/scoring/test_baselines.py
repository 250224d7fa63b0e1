"""Baselines that never see the picture: by hand, and the two known figures of SLAKE."""

from __future__ import annotations

import pytest

from medvqa_cli.data.sources.slake import PLUGIN as SLAKE
from medvqa_cli.scoring.baselines import Example, guess_answers, score_baselines

TRAIN = [Example("Is it big?", "Size", "Yes"), Example("Is it big?", "Size", "No"),
         Example("is it  big", "Size", "no."), Example("Is it left?", "Side", "Left"),
         Example("Is it left?", "Side", "yes"), Example("Where?", "Side", "yes")]
TEST = [Example("Is it big?", "Size", "no"), Example("IS IT LEFT", "Side", "left"), Example("New?", "Size", "no"),
        Example("New?", "Unseen", "yes")]


@pytest.mark.parametrize(("baseline", "guesses"), [
    ("majority", ["yes", "yes", "yes", "yes"]),
    ("majority_per_question_type", ["no", "yes", "no", "yes"]),
    ("same_question_text", ["no", "left", "yes", "yes"]),
])
def test_guesses_by_hand(baseline, guesses):
    assert guess_answers(TRAIN, TEST, baseline) == guesses


def test_scores_by_hand():
    assert score_baselines(TRAIN, TEST) == {"majority": 0.25, "majority_per_question_type": 0.75,
                                            "same_question_text": 0.75}


def test_of_equally_frequent_answers_the_first_is_taken():
    train = [Example("Q", "t", "b"), Example("Q", "t", "a"), Example("Q", "t", "a"), Example("Q", "t", "b")]
    assert guess_answers(train, [Example("Q", "t", "")], "same_question_text") == ["b"]


def test_the_gold_answer_of_a_test_question_is_not_looked_at():
    hidden = [example._replace(answer="?") for example in TEST]
    for baseline in ("majority", "majority_per_question_type", "same_question_text"):
        assert guess_answers(TRAIN, hidden, baseline) == guess_answers(TRAIN, TEST, baseline)


def test_nothing_to_learn_from_or_to_answer():
    nothing = {"majority": None, "majority_per_question_type": None, "same_question_text": None}
    assert score_baselines([], TEST) == score_baselines(TRAIN, []) == nothing
    with pytest.raises(ValueError, match="a baseline needs at least one training question"):
        guess_answers([], TEST, "majority")


def test_the_known_figures_of_slake(real_data):
    """English closed test questions: 47.6 % by content type, 66.1 % by question text."""
    samples = [sample for sample in SLAKE.read(SLAKE.find_root(real_data / "slake"), None)
               if (sample.language, sample.answer_type) == ("en", "closed")]
    train, test = ([Example(sample.question, sample.question_type, sample.answer) for sample in samples
                    if sample.split == split] for split in ("train", "test"))
    scores = score_baselines(train, test)
    assert len(test) == 416
    assert scores["majority_per_question_type"] == 198 / 416
    assert scores["same_question_text"] == 275 / 416
    assert {name: round(100 * score, 1) for name, score in scores.items()} == {
        "majority": 42.1, "majority_per_question_type": 47.6, "same_question_text": 66.1}
