"""`infer` answers closed questions by the likeliest candidate, and says so."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.inference import transformers_engine
from medvqa_cli.inference.shared_prefix import PrefixTree
from medvqa_cli.inference.vocabulary import read_vocabulary, write_vocabulary
from medvqa_cli.records import prediction_from_json, read_jsonl
from medvqa_cli.reporting.protocol import list_protocol
from medvqa_cli.runs import Run
from medvqa_cli.workflows.closed_questions import (
    VOCABULARY_FILE,
    build_closed_objective,
    find_vocabulary,
    open_router,
)
from medvqa_cli.workflows.data import load_samples, open_data
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.train import train_sft
from tests.workflows.test_infer import change


def with_candidates(settings, mode="auto", **more):
    return change(settings, infer={"closed_candidates": mode, **more})


def read_predictions(run, name="predictions"):
    return [prediction_from_json(row) for row in read_jsonl(run.path / f"{name}.jsonl")]


def test_closed_questions_get_the_best_candidate_and_open_ones_are_answered_as_before(own_run):
    settings, run = own_run
    infer_split(settings, run="small", tag="free")
    infer_split(with_candidates(settings), run="small")
    free = {row.sample.question_id: row for row in read_predictions(run, "predictions-free")}
    routes = set()
    for found in read_predictions(run):
        if found.sample.answer_type == "open":
            other = free[found.sample.question_id]
            assert (found.answer, found.route, found.candidates) == (other.answer, "", None)
            assert found.logprob == pytest.approx(other.logprob, abs=1e-4)
            continue
        routes.add(found.route)
        assert sum(found.candidates.values()) == pytest.approx(1.0)
        means = sorted((logprob / tokens for logprob, tokens in found.candidate_scores.values()), reverse=True)
        logprob, tokens = found.candidate_scores[found.answer]
        assert (logprob, tokens) == (found.logprob, found.num_tokens)
        assert logprob / tokens == pytest.approx(means[0])
        assert found.margin == pytest.approx(means[0] - means[1])
    assert routes == {"options", "yesno"}


def test_an_image_is_prefilled_once_for_all_its_questions(own_run, monkeypatch):
    settings, _ = own_run
    planted = []
    monkeypatch.setattr(transformers_engine, "PrefixTree", lambda *args: planted.append(args) or PrefixTree(*args))
    run = infer_split(with_candidates(settings), run="small")
    rows = read_predictions(run)
    assert len(planted) == len({row.sample.images for row in rows})
    assert {bool(row.route) for row in rows} == {True, False}


def test_the_protocol_says_how_closed_questions_were_answered(own_run):
    settings, run = own_run
    infer_split(with_candidates(settings), run="small")
    stated = run.read_json("predictions.meta.json")["closed_candidates"]
    assert (stated["mode"], stated["score"]) == ("auto", "log-probability per token")
    assert stated["vocabulary"]["fingerprint"] == open_data(settings).fingerprint
    protocol = {"inference": run.read_json("predictions.meta.json")}
    assert "the best of the candidates" in dict(list_protocol(protocol))["Closed questions"]
    protocol["inference"]["closed_candidates"] = None
    assert dict(list_protocol(protocol))["Closed questions"] == "answered freely"
    del protocol["inference"]["closed_candidates"]  # rows of an older version
    assert "Closed questions" not in dict(list_protocol(protocol))


def test_rows_answered_in_both_ways_are_not_mixed_and_older_rows_go_on(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    side = run.path / "predictions.meta.json"
    meta = json.loads(side.read_text("utf-8"))
    assert meta.pop("closed_candidates") is None
    side.write_text(json.dumps(meta), encoding="utf-8")
    before = (run.path / "predictions.jsonl").read_bytes()
    infer_split(settings, run="small")
    assert (run.path / "predictions.jsonl").read_bytes() == before
    with pytest.raises(RunError, match="another closed_candidates: None, now") as caught:
        infer_split(with_candidates(settings), run="small")
    assert "--tag NAME" in caught.value.hint


def test_a_killed_inference_with_candidates_resumes_to_the_same_rows(own_run):
    settings, run = own_run
    settings = with_candidates(settings)
    infer_split(settings, run="small")
    path = run.path / "predictions.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + lines[9][:30])
    infer_split(settings, run="small")
    assert path.read_bytes() == whole


def test_the_vocabulary_is_that_of_the_training_split_and_is_kept_with_the_run(own_run, listener):
    settings, run = own_run
    made = find_vocabulary(settings, run, listener)
    closed = [sample.answer for sample in load_samples(settings, "train") if sample.answer_type == "closed"]
    assert made.list_answers("en") == {answer: closed.count(answer) for answer in made.list_answers("en")}
    assert sum(made.list_answers("en").values()) == len(closed)
    kept = (run.path / VOCABULARY_FILE).stat().st_mtime_ns
    assert find_vocabulary(settings, run, listener) == made
    assert (run.path / VOCABULARY_FILE).stat().st_mtime_ns == kept


def test_a_stale_vocabulary_is_noticed(own_run, listener, tmp_path):
    import dataclasses

    settings, run = own_run
    made = find_vocabulary(settings, run, listener)
    stale = dataclasses.replace(made, fingerprint="of yesterday", answers={"en": {"maybe": 1}})
    write_vocabulary(run.path / VOCABULARY_FILE, stale)
    assert find_vocabulary(settings, run, listener) == made
    assert any("was made from other data: making it anew" in text for text in listener.said)
    assert read_vocabulary(run.path / VOCABULARY_FILE) == made
    named = tmp_path / "named.json"
    write_vocabulary(named, stale)
    assert find_vocabulary(with_candidates(settings, closed_vocab=str(named)), run, listener) == stale
    assert any("fingerprint of yesterday), not from demo/train" in text for text in listener.warnings)


def test_a_named_vocabulary_that_is_missing_is_an_error(own_run, listener):
    settings, run = own_run
    with pytest.raises(DataError, match=r"'/no/where\.json' cannot be read"):
        find_vocabulary(with_candidates(settings, closed_vocab="/no/where.json"), run, listener)


def test_an_engine_without_log_probabilities_is_refused(own_run, listener):
    class Mute:
        name = "openai"
        scores_candidates = False

    settings, run = own_run
    with pytest.raises(SettingsError, match="engine 'openai' tells no log-probabilities"):
        open_router(with_candidates(settings), run, Mute(), listener)
    assert open_router(settings, run, Mute(), listener) is None


def test_training_with_choices_says_so_and_keeps_its_vocabulary(trained, tmp_path):
    settings = change(trained[0], paths={"runs": str(tmp_path)},
                      train={"max_steps": 2, "closed_objective": "hybrid", "choice_weight": 0.5})
    run = train_sft(settings, name="hybrid")
    stated = run.read_json("manifest.json")["closed_objective"]
    closed = [sample for sample in load_samples(settings, "train") if sample.answer_type == "closed"]
    assert (stated["objective"], stated["choice_weight"]) == ("hybrid", 0.5)
    assert stated["questions"] + stated["as_text_alone"] == len(closed)
    assert stated["questions"] > 0
    assert read_vocabulary(run.path / VOCABULARY_FILE).describe() == stated["vocabulary"]
    assert "closed_objective" not in trained[1].read_json("manifest.json")


def test_a_training_without_choices_to_teach_is_refused(trained, tmp_path, listener):
    settings = change(trained[0], train={"closed_objective": "mc"})
    samples = [sample for sample in load_samples(settings, "train") if sample.answer_type == "open"]
    with pytest.raises(DataError, match="no training question is closed and offers its answer") as caught:
        build_closed_objective(settings, Run(tmp_path), samples, listener)
    assert "--closed-objective sft" in caught.value.hint
    assert build_closed_objective(trained[0], Run(tmp_path), samples, listener) is None
