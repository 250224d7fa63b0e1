"""Rows, and the files they live in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.errors import RunError
from medvqa_cli.records import (
    AnswerSample,
    Box,
    JsonlWriter,
    Prediction,
    VQASample,
    prediction_from_json,
    read_jsonl,
    sample_from_json,
    to_json,
    write_atomically,
    write_json,
    write_jsonl,
)

SAMPLE = VQASample(dataset="d", split="test", question_id="q1", image_id="i1", question="Où?", answer="left",
                   answer_type="open")
FULL = VQASample(dataset="d", split="test", question_id="q2", image_id="i2", question="?", answer="yes",
                 answer_type="closed", images=("/a.png", "/b.png"), question_type="side", modality="CT", organ="Lung",
                 language="zh", alternatives=("yeah",), options=("yes", "no"), boxes=(Box("lesion", 1, 2, 3.5, 4),),
                 masks=("/m.png",), triples=(("a", "b", "c"),), scene_graph={"nodes": [1]}, labels={"x": 0.5},
                 output_images=("/o.png",), answer_probabilities={"yes": 0.7, "no": 0.3}, extra={"k": "v"})


def test_fields_at_their_default_are_left_out():
    assert to_json(SAMPLE) == {"dataset": "d", "split": "test", "question_id": "q1", "image_id": "i1",
                               "question": "Où?", "answer": "left", "answer_type": "open"}


@pytest.mark.parametrize("sample", [SAMPLE, FULL])
def test_a_sample_survives_json(sample):
    assert sample_from_json(json.loads(json.dumps(to_json(sample)))) == sample


def test_a_prediction_survives_json():
    prediction = Prediction(sample=FULL, answer="yes", logprob=-0.25, num_tokens=2, candidates={"yes": 0.8, "no": 0.2},
                            candidate_scores={"yes": (-0.25, 2), "no": (-3.0, 2)}, margin=1.375, route="yesno",
                            samples=(AnswerSample("yes", 80, -0.2), AnswerSample("no", 20)),
                            boxes=(Box("x", 0, 0, 1, 1),), attention="/a.npz", output_images=("/o.png",))
    assert prediction_from_json(json.loads(json.dumps(to_json(prediction)))) == prediction


def test_a_prediction_made_before_there_were_routes_is_still_read():
    row = {"sample": to_json(SAMPLE), "answer": "yes", "candidates": {"yes": 0.8, "no": 0.2}}
    found = prediction_from_json(row)
    assert (found.route, found.margin, found.candidate_scores) == ("", None, None)


@given(st.builds(VQASample, dataset=st.text(), split=st.text(), question_id=st.text(), image_id=st.text(),
                 question=st.text(), answer=st.text(), answer_type=st.sampled_from(["open", "closed"]),
                 images=st.lists(st.text()).map(tuple), options=st.lists(st.text()).map(tuple),
                 answer_probabilities=st.none() | st.dictionaries(st.text(), st.floats(0, 1)),
                 extra=st.dictionaries(st.text(), st.text())))
def test_any_text_survives_json(sample):
    assert sample_from_json(json.loads(json.dumps(to_json(sample)))) == sample


@pytest.mark.parametrize(("row", "message"), [({"dataset": "d"}, "missing"),
                                              (to_json(SAMPLE) | {"x": 1}, "unexpected")])
def test_rows_of_another_shape_are_refused(row, message):
    with pytest.raises(TypeError, match=message):
        sample_from_json(row)


def test_lines_are_appended_and_flushed(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(SAMPLE)
        assert len(list(read_jsonl(path))) == 1, "readable before the writer is closed"
    with JsonlWriter(path) as writer:
        writer.write({"line": "a\nb\u2028c"})
    assert list(read_jsonl(path)) == [to_json(SAMPLE), {"line": "a\nb\u2028c"}]


@pytest.mark.parametrize("torn", ['{"a": 3', '{"a": 3}', "\u00e9".encode()[:1].decode("latin-1")])
def test_a_torn_last_line_is_not_read_and_is_cut_off_before_writing_on(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n' + torn, encoding="latin-1")
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}]
    with JsonlWriter(path) as writer:
        writer.write({"a": 4})
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_a_file_of_one_torn_line_is_empty(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a"')
    assert list(read_jsonl(path)) == []
    with JsonlWriter(path):
        assert path.read_text() == ""


@pytest.mark.parametrize(("line", "message"), [("{oops}", "line 2: not valid JSON ("), ("", "line 2: not valid JSON ("),
                                               ("[1]", "line 2: expected a JSON object, found list.")])
def test_a_damaged_line_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 3}}\n')
    with pytest.raises(RunError) as caught:
        list(read_jsonl(path))
    assert caught.value.message.startswith(f"{path}, {message}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"The file '.*none\.jsonl' does not exist\."):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [SAMPLE])

    def rows():
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert list(read_jsonl(path)) == [to_json(SAMPLE)]


def test_atomic_writes_make_folders_and_leave_no_part_behind(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"ü": [1, None], "path": tmp_path})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": [1, None], "path": str(tmp_path)}
    write_atomically(path, "second")
    assert path.read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
