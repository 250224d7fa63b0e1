"""Clinical measures against scikit-learn, and undefined where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from medvqa_cli.scoring.clinical import (
    RATIOS,
    count_confusion,
    measure_auroc,
    measure_mcc,
    score_areas,
    score_classes,
)

LABELS = ["edema", "mass", "normal"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=25)
SCORED = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.5001, 0.9, 1.0])), max_size=25)


def divide(top, bottom):
    return None if bottom == 0 else pytest.approx(top / bottom)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_ratios_equal_scikit_learn(pairs):
    golds, answers = zip(*pairs, strict=True)
    found = score_classes(golds, answers, LABELS)
    for label in LABELS:
        truth, said = [gold == label for gold in golds], [answer == label for answer in answers]
        (tn, fp), (fn, tp) = sklearn.confusion_matrix(truth, said, labels=[False, True])
        assert found[label]["sensitivity"] == divide(tp, tp + fn)
        assert found[label]["specificity"] == divide(tn, tn + fp)
        assert found[label]["ppv"] == divide(tp, tp + fp)
        assert found[label]["npv"] == divide(tn, tn + fn)
        if len(set(truth)) > 1 < len(set(said)):
            assert found[label]["mcc"] == pytest.approx(sklearn.matthews_corrcoef(truth, said))
        else:
            assert found[label]["mcc"] is None
    for name in RATIOS:
        known = [found[label][name] for label in LABELS if found[label][name] is not None]
        assert found["macro"][name] == (pytest.approx(np.mean(known)) if known else None)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", None])), min_size=2,
                max_size=25))
def test_mcc_takes_no_answer_as_a_third_one(pairs):
    cells = np.sum([count_confusion(gold, answer, "yes") for gold, answer in pairs], axis=0).astype(float)
    golds, answers = zip(*[(gold, answer or "neither") for gold, answer in pairs], strict=True)
    ours = measure_mcc(cells)
    if len(set(golds)) > 1 < len(set(answers)):
        assert float(ours) == pytest.approx(sklearn.matthews_corrcoef(golds, answers), abs=1e-12)
    else:
        assert np.isnan(ours)


def test_no_answer_is_no_way_to_look_better():
    found = score_classes(["yes", "yes", "no", "no"], ["yes", None, "no", None], ["yes", "no"])["yes"]
    assert (found["sensitivity"], found["specificity"]) == (0.5, 0.5)
    assert (found["ppv"], found["npv"]) == (1.0, 1.0)


def test_undefined_is_null_and_not_nought():
    assert score_classes(["yes", "yes"], ["yes", "yes"], ["yes"])["yes"] == {
        "sensitivity": 1.0, "specificity": None, "ppv": 1.0, "npv": None, "mcc": None}
    assert score_classes([], [], ["yes"])["macro"] == dict.fromkeys(RATIOS)


@settings(max_examples=30, deadline=None)
@given(SCORED)
def test_auroc_equals_scikit_learn(rows):
    truth, scores = [row[0] for row in rows], [row[1] for row in rows]
    ours = measure_auroc(scores, truth)
    if len(set(truth)) < 2:
        assert ours is None
    else:
        assert ours == pytest.approx(sklearn.roc_auc_score(truth, scores))


def test_auroc_comes_from_probabilities_and_not_from_answers():
    truth, sure = [True, True, False, False], [0.4, 0.3, 0.2, 0.1]
    assert measure_auroc(sure, truth) == 1.0  # though every hard answer would be no


def test_areas_by_class_and_macro_equal_scikit_learn():
    random = np.random.default_rng(0)
    law = random.dirichlet([1, 1, 1], 60)
    golds = [LABELS[place] for place in random.integers(0, 3, 60)]
    found = score_areas(golds, [dict(zip(LABELS, row, strict=True)) for row in law], LABELS)
    theirs = sklearn.roc_auc_score(golds, law, labels=LABELS, multi_class="ovr", average=None)
    assert [found[label] for label in LABELS] == pytest.approx(list(theirs))
    assert found["macro"] == pytest.approx(float(np.mean(theirs)))
    assert score_areas(["mass"], [{"mass": 1.0}], LABELS) == dict.fromkeys([*LABELS, "macro"])
