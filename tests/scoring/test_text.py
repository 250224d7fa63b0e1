"""BLEU and ROUGE against sacrebleu and rouge-score on the same words."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvqa_cli.scoring.profiles import MEDVQA
from medvqa_cli.scoring.text import combine_bleu, count_bleu, measure_clipped_precision, score_rouge

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed: BLEU has no reference")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")

WORDS = st.lists(st.sampled_from(["the", "left", "lung", "is", "normal", "ct"]), max_size=9)
FILLED = WORDS.filter(bool)
TEXTS = ["ct", "left lung", "there is a mass in the left upper lobe", "the heart is normal in size and shape",
         "no evidence of pneumothorax or pleural effusion", "mri of the brain without contrast", "right lower lobe"]


class Splitter:
    def tokenize(self, text):
        return text.split()


def measure_bleu(found, golds, order):
    sums = np.sum([count_bleu(words, several) for words, several in zip(found, golds, strict=True)], axis=0)
    return float(combine_bleu(sums.astype(float), order))


def ask_sacrebleu(found, golds, order):
    metric = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
    most = max(map(len, golds))
    streams = [[" ".join(several[number]) if number < len(several) else None for several in golds]
               for number in range(most)]
    return metric.corpus_score([" ".join(words) for words in found], streams).score / 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FILLED, st.lists(FILLED, min_size=1, max_size=3)), min_size=1, max_size=5),
       st.integers(1, 4))
def test_corpus_bleu_equals_sacrebleu(pairs, order):
    found, golds = zip(*pairs, strict=True)
    ours = measure_bleu(found, golds, order)
    if np.isnan(ours):
        assert all(len(words) < order for words in found)
    else:
        assert ours == pytest.approx(ask_sacrebleu(found, golds, order), abs=1e-9)


def test_corpus_bleu_of_report_like_answers_equals_sacrebleu():
    draw = random.Random(1)
    golds = [[MEDVQA.split(draw.choice(TEXTS)) for _ in range(1 + n % 3)] for n in range(60)]
    found = [MEDVQA.split(draw.choice(TEXTS)) if n % 3 else golds[n][0] for n in range(60)]
    for order in (1, 2, 3, 4):
        ours = measure_bleu(found, golds, order)
        assert 0.1 < ours < 0.9
        assert ours == pytest.approx(ask_sacrebleu(found, golds, order))


def test_answers_of_one_word_have_no_bleu_4():
    assert measure_bleu([["ct"]], [[["ct"]]], 1) == 1.0
    assert np.isnan(measure_bleu([["ct"]], [[["ct"]]], 2))
    assert np.isnan(measure_bleu([[]], [[["ct"]]], 1))


def test_the_mean_precision_is_not_the_corpus_bleu_1():
    found, gold = ["left"], ["left", "lung", "lobe"]
    assert measure_clipped_precision(found, [gold]) == 1.0
    assert measure_bleu([found], [[gold]], 1) == pytest.approx(np.exp(-2))
    assert measure_clipped_precision(["lung", "lung"], [["lung"]]) == 0.5
    assert measure_clipped_precision([], [["lung"]]) == 0.0


@settings(max_examples=60, deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_rouge_equals_rouge_score(found, golds):
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False, tokenizer=Splitter())
    theirs = scorer.score_multi([" ".join(gold) for gold in golds], " ".join(found))
    for name, order in (("rouge1", 1), ("rouge2", 2), ("rougeL", None)):
        ours = score_rouge(found, golds, order)
        assert ours.f1 == pytest.approx(theirs[name].fmeasure)
        if len(golds) == 1:
            assert (ours.precision, ours.recall) == pytest.approx((theirs[name].precision, theirs[name].recall))


def test_rouge_of_plain_english_equals_rouge_score_with_its_own_words():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    for answer in TEXTS:
        for gold in TEXTS:
            theirs = scorer.score(gold, answer)["rougeL"]
            ours = score_rouge(MEDVQA.split(answer), [MEDVQA.split(gold)], None)
            assert (ours.precision, ours.recall, ours.f1) == pytest.approx(tuple(theirs))
