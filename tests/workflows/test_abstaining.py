"""Confidence of answers as they are given: recalibrated, marked, refused where it cannot be had."""

from __future__ import annotations

import json
import math

import pytest

from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.records import Prediction, VQASample, prediction_from_json, read_jsonl, to_json
from medvqa_cli.scoring.recalibration import fit_calibrator, write_calibrator
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.abstaining import describe_doubt, open_doubt
from medvqa_cli.workflows.infer import infer_split

LEVELS = [0.9] * 10 + [0.6] * 10
HITS = [True] * 7 + [False] * 3 + [True] * 2 + [False] * 8


def answer(modality="", **facts):
    sample = VQASample(dataset="d", split="test", question_id="1", image_id="1", question="q?", answer="yes",
                       answer_type="closed", modality=modality)
    return Prediction(sample=sample, answer="yes", **facts)


def store(path, source, **options):
    write_calibrator(path, fit_calibrator("histogram", LEVELS, HITS, source=source, **options))
    return {"calibrator": str(path)}


def doubt(**settings):
    return open_doubt(make_settings({"infer": settings}))


def test_nothing_is_said_unless_asked():
    assert doubt() is None
    assert describe_doubt(None) == {"calibrator": None, "abstain_below": None}


def test_raw_confidence_and_threshold():
    candidates = answer(candidates={"yes": 0.7, "no": 0.3}, logprob=-0.1, num_tokens=1)
    found = [doubt(abstain_below=least).judge(candidates) for least in (0.7, 0.71)]
    assert [(row.confidence, row.abstains) for row in found] == [(0.7, False), (0.7, True)]
    free = doubt(abstain_below=0.5).judge(answer(logprob=math.log(0.16), num_tokens=2))
    assert (free.confidence, free.abstains) == (pytest.approx(0.4), True)
    silent = doubt(abstain_below=0.0).judge(answer())
    assert (silent.confidence, silent.abstains, silent.answer) == (None, True, "yes")
    assert prediction_from_json(json.loads(json.dumps(to_json(free)))) == free


def test_recalibrated_confidence(tmp_path):
    asked = doubt(**store(tmp_path / "c.json", "likelihood"), abstain_below=0.5)
    found = [asked.judge(answer(logprob=math.log(sure), num_tokens=1)) for sure in (0.9, 0.6)]
    assert [row.confidence for row in found] == pytest.approx([0.7, 0.2])
    assert [row.abstains for row in found] == [False, True]
    facts = describe_doubt(asked)
    assert facts["abstain_below"] == 0.5
    assert json.loads(json.dumps(facts))["calibrator"]["source"] == "likelihood"


def test_groups_of_questions(tmp_path):
    options = store(tmp_path / "c.json", "logits", groups=["CT"] * 20, group_by="modality", min_group=10)
    found = doubt(**options).judge(answer("CT", candidates={"yes": 0.9, "no": 0.1}))
    assert (found.confidence, found.abstains) == (pytest.approx(0.7), False)


def test_calibrators_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="learnt from confidences by 'sampling', which a single answer") as caught:
        doubt(**store(tmp_path / "c.json", "sampling"))
    assert "--method logits --fit-calibrator" in caught.value.hint
    with pytest.raises(SettingsError, match="goes by 'weather'"):
        doubt(**store(tmp_path / "c.json", "logits", groups=["sun"] * 20, group_by="weather"))
    with pytest.raises(DataError, match="There is no calibrator"):
        doubt(calibrator=str(tmp_path / "none.json"))
    with pytest.raises(DataError, match="log-probability of an answer is 'nan'"):
        doubt(abstain_below=0.5).judge(answer(logprob=math.nan, num_tokens=1))
    with pytest.raises(SettingsError, match=r"infer\.abstain_below"):
        doubt(abstain_below=1.5)


def test_answers_of_a_split_state_their_confidence(own_run):
    settings, run = own_run
    data = settings.data.model_copy(update={"limit": 6})

    def configure(least):
        infer = settings.infer.model_copy(update={"abstain_below": least})
        return settings.model_copy(update={"infer": infer, "data": data})

    infer_split(configure(0.6), run=run.name, tag="sure")
    rows = [prediction_from_json(row) for row in read_jsonl(run.path / "predictions-sure.jsonl")]
    assert len(rows) == 6
    for row in rows:
        assert row.confidence == pytest.approx(math.exp(row.logprob / row.num_tokens))
        assert row.abstains == (row.confidence < 0.6)
    assert run.read_json("predictions-sure.meta.json")["abstain_below"] == 0.6
    with pytest.raises(RunError, match="another abstain_below: 0.6, now 0.9"):
        infer_split(configure(0.9), run=run.name, tag="sure")
