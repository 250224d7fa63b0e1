"""Verdicts are asked once, kept, and never made up."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import RunError
from medvqa_cli.evaluation.judging import BATCH, Claim, Judge, judge_claims

CLAIMS = [Claim("What is shown?", "lung", answer) for answer in ("lung", "left lung", "liver", "lung")]


@pytest.fixture
def asked() -> list[list[Claim]]:
    return []


@pytest.fixture
def judge(asked) -> Judge:
    def ask(claims):
        asked.append(list(claims))
        return [None if claim.answer == "hm" else claim.gold in claim.answer for claim in claims]
    return Judge("model-x", ask)


def test_equal_claims_are_judged_once_and_verdicts_are_kept(tmp_path, judge, asked):
    cache = tmp_path / "judgements.jsonl"
    assert judge_claims(CLAIMS, judge, cache) == [True, True, False, True]
    assert asked == [CLAIMS[:3]]
    assert judge_claims(CLAIMS[::-1], judge, cache) == [True, False, True, True]
    assert len(asked) == 1


def test_another_judge_is_asked_anew(tmp_path, judge, asked):
    cache = tmp_path / "judgements.jsonl"
    judge_claims(CLAIMS, judge, cache)
    assert judge_claims(CLAIMS, Judge("model-y", lambda claims: [False] * len(claims)), cache) == [False] * 4
    assert judge_claims(CLAIMS, judge, cache)[0] is True


def test_a_kill_loses_at_most_one_batch(tmp_path, judge):
    cache, answered = tmp_path / "judgements.jsonl", []
    claims = [Claim("q", "g", str(number)) for number in range(BATCH + 5)]

    def stop(batch):
        if answered:
            raise KeyboardInterrupt
        answered.extend(batch)
        return [True] * len(batch)

    with pytest.raises(KeyboardInterrupt):
        judge_claims(claims, Judge("model-x", stop), cache)
    rest = []
    judge_claims(claims, Judge("model-x", lambda batch: rest.extend(batch) or [True] * len(batch)), cache)
    assert rest == claims[BATCH:]


def test_no_verdict_is_not_kept(tmp_path, judge, asked):
    claim = [Claim("q", "g", "hm")]
    assert judge_claims(claim, judge, tmp_path / "c.jsonl") == [None]
    judge_claims(claim, judge, tmp_path / "c.jsonl")
    assert len(asked) == 2


def test_too_few_verdicts_and_a_damaged_cache_are_one_error_each(tmp_path, judge):
    with pytest.raises(RunError, match="The judge 'short' gave 1 verdicts on 3 answers"):
        judge_claims(CLAIMS, Judge("short", lambda claims: [True]), tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"key": "k", "verdict": "yes"}\n', encoding="utf-8")
    with pytest.raises(RunError, match="line 1: not a verdict") as caught:
        judge_claims(CLAIMS, judge, tmp_path / "b.jsonl")
    assert caught.value.hint == "Delete the file: the judge is then asked anew."
