"""Calibrators against scikit-learn, known truths and damaged files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from medvqa_cli.errors import DataError
from medvqa_cli.scoring.calibration import measure_calibration, negative_log_likelihood
from medvqa_cli.scoring.recalibration import METHODS, fit_calibrator, read_calibrator, write_calibrator
from medvqa_cli.scoring.recalibration.logistic import logit, sigmoid, soften, take_logs

CLIP = 0.005


def draw(number=400, temperature=3.0, seed=0):
    """Confidences of a model that is too sure: the truth is its logit / temperature."""
    random = np.random.default_rng(seed)
    sure = np.round(sigmoid(random.normal(1.5, 1.5, number)), 2)
    right = random.random(number) < sigmoid(logit(sure, CLIP) / temperature)
    return sure, right


def fit(method, sure, right, **options):
    return fit_calibrator(method, sure, right, kinds=["yes_no"], clip=CLIP, **options)


def test_platt_equals_scikit_learn():
    sure, right = draw()
    theirs = _SigmoidCalibration().fit(logit(sure, CLIP), right)
    assert fit("platt", sure, right).apply(sure) == pytest.approx(theirs.predict(logit(sure, CLIP)), abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=40))
def test_isotonic_equals_scikit_learn(pairs):
    sure, right = np.array([k / 10 for k, _ in pairs]), np.array([hit for _, hit in pairs])
    if right.min() == right.max():
        return
    theirs = IsotonicRegression(out_of_bounds="clip").fit(sure, right)
    points = np.linspace(0, 1, 41)
    assert fit("isotonic", sure, right).apply(points) == pytest.approx(theirs.predict(points))


def test_beta_equals_scikit_learn():
    """Soft targets are each answer twice, weighed by its target and the rest."""
    sure, right = draw()
    logs, targets = take_logs(sure, CLIP), soften(right.astype(float))
    theirs = LogisticRegression(C=1e10, tol=1e-10, max_iter=5000).fit(
        np.concatenate([logs, logs]), [1] * len(sure) + [0] * len(sure),
        sample_weight=np.concatenate([targets, 1 - targets]))
    found = fit("beta", sure, right)
    assert min(found.curve.parameters["a"][0], found.curve.parameters["b"][0]) > 0
    assert found.apply(sure) == pytest.approx(theirs.predict_proba(logs)[:, 1], abs=1e-4)


def test_beta_never_falls():
    """The surest answers are wrong: a slope would be negative, and is set to 0."""
    random = np.random.default_rng(0)
    sure = random.random(300)
    for right in (random.random(300) < np.where(sure > 0.9, 0.1, sure), random.random(300) < 1 - sure):
        found = fit("beta", sure, right)
        assert min(found.curve.parameters[name][0] for name in "ab") == 0.0
        assert np.all(np.diff(found.apply(np.linspace(0, 1, 50))) >= 0)


def test_temperature_is_the_likeliest_one_and_near_the_truth():
    sure, right = draw(4000)
    found = fit("temperature", sure, right).curve.parameters["temperature"][0]
    assert found == pytest.approx(3.0, rel=0.1)
    losses = {t: negative_log_likelihood(sigmoid(logit(sure, CLIP) / t), right) for t in np.linspace(2, 4, 201)}
    assert found == pytest.approx(min(losses, key=losses.get), abs=0.011)


def test_temperature_of_perfect_order_is_bounded():
    found = fit("temperature", [0.9] * 5 + [0.1] * 5, [True] * 5 + [False] * 5)
    assert found.curve.parameters["temperature"][0] == pytest.approx(0.01, rel=1e-3)
    assert np.all(np.isfinite(found.apply([0.0, 0.5, 1.0])))


def test_histogram_by_hand_keeps_what_it_never_saw():
    found = fit("histogram", [0.7, 0.7, 0.61, 0.9], [True, False, True, True])
    assert found.apply([0.65, 0.7, 0.9, 0.3]).tolist() == pytest.approx([2 / 3, 2 / 3, 1.0, 0.3])


@pytest.mark.parametrize("method", METHODS)
def test_new_questions_are_better_calibrated(method):
    found = fit(method, *draw(800, seed=1))
    sure, right = draw(4000, seed=2)
    images = list(range(len(sure)))
    before = measure_calibration(sure, right, images, resamples=1)["ece"].estimate
    after = measure_calibration(found.apply(sure), right, images, resamples=1)["ece"].estimate
    assert before > 0.1
    assert after < 0.04


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("sure", "right"), [
    ([0.7] * 6, [True, False] * 3), ([1.0, 1.0, 0.0], [True, False, False]), ([0.5, 0.5], [False, True]),
    ([0.9] * 50 + [0.1] * 50, [True] * 50 + [False] * 50)])
def test_hard_cases_stay_in_range(method, sure, right):
    found = fit(method, sure, right).apply(np.linspace(0, 1, 101))
    assert np.all((found >= 0) & (found <= 1))
    if set(sure) == {0.7}:
        assert fit(method, sure, right).apply([0.7])[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("right", "text"), [
    ([True, True], "all 2 answers are right"), ([False, False], "all 2 answers are wrong"), ([True], "1 answers"),
    ([], "0 answers")])
def test_nothing_to_learn_from(right, text):
    with pytest.raises(DataError, match=f"A calibrator cannot be learnt: {text}") as caught:
        fit("platt", [0.8] * len(right), right)
    assert "validation" in caught.value.hint


def test_groups_get_their_own_map_where_there_are_enough():
    sure, right = [0.8] * 210, [True] * 100 + [False] * 100 + [True] * 9 + [False]
    groups = ["ct"] * 100 + ["mri"] * 100 + ["x-ray"] * 10
    right[0], right[100] = False, True
    found = fit("histogram", sure, right, groups=groups, group_by="modality")
    assert sorted(found.groups) == ["ct", "mri"]
    assert found.apply([0.8] * 4, ["ct", "mri", "x-ray", "new"]).tolist() == pytest.approx(
        [0.99, 0.01, 109 / 210, 109 / 210])
    with pytest.raises(ValueError, match="needs each answer's modality"):
        found.apply([0.8])


@pytest.mark.parametrize("method", METHODS)
def test_files_keep_everything(method, tmp_path):
    sure, right = draw(200)
    groups = (["a", "b"] * 100)[:200]
    found = fit(method, sure, right, groups=groups, group_by="organ", source="sampling", provenance={"split": "dev"})
    write_calibrator(tmp_path / "c.json", found)
    again = read_calibrator(tmp_path / "c.json")
    assert again == found
    assert again.apply(sure, groups).tolist() == found.apply(sure, groups).tolist()
    assert (tmp_path / "c.json").stat().st_size < 20_000


@pytest.mark.parametrize(("change", "text"), [
    ({"format": "other"}, "is no calibrator"), ({"version": 3}, "version '3'"), ({"clip": 0.7}, "clip is 0.7"),
    ({"curve": {"method": "magic", "parameters": {}, "n": 3}}, "method is 'magic'"),
    ({"curve": {"method": "temperature", "parameters": {"temperature": [-1.0]}, "n": 3}}, "parameters of temperature"),
    ({"curve": {"method": "temperature", "parameters": {"temperature": []}, "n": 3}}, "parameters of temperature"),
    ({"curve": {"method": "platt", "parameters": {"a": [1.0]}, "n": 3}}, "'b'"),
    ({"curve": {"method": "platt", "parameters": {"a": [math.nan], "b": [0.0]}, "n": 3}}, "parameters of platt"),
    ({"curve": {"method": "isotonic", "parameters": {"confidence": [0.5, 0.4], "accuracy": [0.1, 0.2]}, "n": 3}},
     "parameters of isotonic"),
    ({"curve": {"method": "isotonic", "parameters": {"confidence": [0.1, 0.4], "accuracy": [0.1, 1.2]}, "n": 3}},
     "parameters of isotonic"),
    ({"curve": {"method": "beta", "parameters": {"a": "x", "b": [1], "c": [1]}, "n": 3}}, "damaged"),
    ({"groups": []}, "damaged"), ({"kinds": []}, "kinds are"), ({"kinds": ["yes_no", "odd"]}, "kinds are")])
def test_damaged_files_are_refused(change, text, tmp_path):
    path = tmp_path / "c.json"
    write_calibrator(path, fit("platt", *draw(50)))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=text) as caught:
        read_calibrator(path)
    assert "--fit-calibrator" in caught.value.hint


@pytest.mark.parametrize(("source", "provenance", "kinds"), [
    ("sampling", {}, ("yes_no",)), ("sampling", {"asked_for": "all"}, ("yes_no", "choice", "open")),
    ("logits", {"asked_for": "closed"}, ("yes_no", "choice")), ("likelihood", {"asked_for": "open"}, ("open",))])
def test_files_of_an_older_version_tell_what_was_asked_for(source, provenance, kinds, tmp_path):
    path = write_older(tmp_path / "c.json", source, provenance)
    assert read_calibrator(path).kinds == kinds


def test_an_older_file_that_does_not_tell_its_questions_is_refused(tmp_path):
    with pytest.raises(DataError, match="older version and does not say from which kind of questions") as caught:
        read_calibrator(write_older(tmp_path / "c.json", "logits", {}))
    assert "--fit-calibrator" in caught.value.hint


def write_older(path, source, provenance):
    write_calibrator(path, fit("platt", *draw(50), source=source, provenance=provenance))
    content = json.loads(path.read_text()) | {"version": 1}
    del content["kinds"]
    path.write_text(json.dumps(content))
    return path


def test_missing_or_torn_files(tmp_path):
    with pytest.raises(DataError, match="There is no calibrator"):
        read_calibrator(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"format": "medvqa')
    with pytest.raises(DataError, match="cannot be read"):
        read_calibrator(tmp_path / "torn.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="is no calibrator"):
        read_calibrator(tmp_path / "list.json")
