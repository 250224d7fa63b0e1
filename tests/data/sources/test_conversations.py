"""Conversations: both forms, all four shapes of UniMedVL, marks, turns, options, and what is wrong with bad rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvqa_cli.data.sources.conversations import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample

PAIR = [{"from": "human", "value": "<image>\nIs it normal?"}, {"from": "gpt", "value": "Yes"}]


def turns(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def llava(*texts, **changes):
    return {"id": "a", "image": "x.png", "conversations": turns(*texts)} | changes


def unimedvl(task, *texts, inputs=(), outputs=()):
    row = {"main_task_type": task, "message": turns(*texts)}
    for key, names in (("input_img", inputs), ("output_img", outputs)):
        if names:
            row[key] = [{"path": name, "height": 10, "width": 20} for name in names]
    return row


def write(path: Path, rows, *, lines=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl" if lines is None else lines
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


def read(root, **options):
    return list(PLUGIN.read(PLUGIN.find_root(root), PLUGIN.Options(**options)))


def read_rows(folder, *rows, **options):
    return read(write(folder / "data.json", list(rows)), **options)


def find_fault(folder, *rows, **options) -> DataError:
    with pytest.raises(DataError) as failure:
        read_rows(folder, *rows, **options)
    return failure.value


def test_a_llava_row_is_a_sample(tmp_path):
    row = {"id": 7, "image": "scans/x.png", "conversations": PAIR, "modality": "CT", "source": "hospital", "score": 0.5}
    assert read_rows(tmp_path, row) == [VQASample(
        dataset="conversations", split="train", question_id="7", image_id="scans/x.png", question="Is it normal?",
        answer="Yes", answer_type="closed", images=(f"{tmp_path}/scans/x.png",), modality="CT",
        extra={"source": "hospital", "score": "0.5"})]


@pytest.mark.parametrize(("name", "as_lines"), [("d.json", False), ("d.json", True), ("d.jsonl", True),
                                                ("d.jsonl", False)])
def test_a_list_or_lines_whatever_the_name_says(tmp_path, name, as_lines):
    path = write(tmp_path / name, [llava(*"qa", image=None), llava(*"QA", id="b", image=None)], lines=as_lines)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [(sample.question_id, sample.question) for sample in read(path)] == [("a", "q"), ("b", "Q")]


def test_the_four_shapes_of_unimedvl(tmp_path):
    path = write(tmp_path / "rows.jsonl", [
        unimedvl("multimodal_input_output", "<image>\n\nWhat changes?", "It clears. <image>", inputs=["a.png"],
                 outputs=["b.png"]),
        unimedvl("text_only", "What is pneumonia?", "An infection."),
        unimedvl("image_understanding", "<image>\n\nDescribe\nit.", "Findings:\n\nclear", inputs=["c.png"]),
        unimedvl("image_to_image", "<image>\n\nStain it.", "<image>", inputs=["/d.png"], outputs=["sub/e.png"]),
    ])
    samples = read(path)
    assert [(s.question, s.answer) for s in samples] == [
        ("What changes?", "It clears."), ("What is pneumonia?", "An infection."),
        ("Describe\nit.", "Findings:\n\nclear"), ("Stain it.", "")]
    found = [[[Path(p).relative_to(tmp_path).as_posix() for p in paths] for paths in (s.images, s.output_images)]
             for s in samples]
    assert found == [[["a.png"], ["b.png"]], [[], []], [["c.png"], []], [["d.png"], ["sub/e.png"]]]
    assert [s.question_id for s in samples] == ["1", "2", "3", "4"]
    assert [s.extra["main_task_type"] for s in samples] == ["multimodal_input_output", "text_only",
                                                            "image_understanding", "image_to_image"]
    assert samples[1].image_id == "text train 2"


def test_other_names_of_speakers_and_a_system_turn(tmp_path):
    row = {"conversations": [{"from": "System", "value": " You are a radiologist. "}, {"from": "user", "value": "q"},
                             {"from": "assistant", "value": 4}]}
    [sample] = read_rows(tmp_path, row)
    assert (sample.question, sample.answer, sample.context) == ("q", "4", ("You are a radiologist.",))


MANY = llava("<image>\n<image>\nq1", "a1", "<image> q2", "a2", "q3", "No.", image=["x.png", "y.png", "z.png"])


def test_earlier_turns_become_history(tmp_path):
    samples = read_rows(tmp_path, MANY)
    assert [s.question_id for s in samples] == ["a_1", "a_2", "a_3"]
    assert [s.history for s in samples] == [(), (("q1", "a1"),), (("q1", "a1"), ("q2", "a2"))]
    assert [s.image_id for s in samples] == ["x.png + y.png", *["x.png + y.png + z.png"] * 2]
    assert [s.answer_type for s in samples] == ["open", "open", "closed"]
    assert [s.extra for s in samples] == [{}, {"marked_question": "<image> q2"}, {}]


def test_turns_alone_or_only_the_first(tmp_path):
    history = read_rows(tmp_path, MANY)
    assert read_rows(tmp_path, MANY, turns="separate") == [dataclasses.replace(s, history=()) for s in history]
    assert read_rows(tmp_path, MANY, turns="first") == [dataclasses.replace(history[0], question_id="a")]


def test_output_pictures_belong_to_their_own_answer(tmp_path):
    row = unimedvl("multimodal_input_output", "<image> q1", "<image>", "q2", "no picture", "q3", "two <image><image>",
                   inputs=["i.png"], outputs=["1.png", "2.png", "3.png"])
    samples = read_rows(tmp_path, row)
    assert [[Path(p).name for p in s.output_images] for s in samples] == [["1.png"], [], ["2.png", "3.png"]]
    assert samples[2].answer == "two"


@pytest.mark.parametrize(("text", "question", "is_kept"), [
    ("<image>\nq", "q", False), ("q <image>", "q", False), ("<image>  q\n<image>", "q", False),
    ("Compare <image>\nwith <image>: what?", "Compare with : what?", True), ("q<image>\nr", "q r", True)])
def test_marks_inside_a_text_are_taken_out_and_kept_beside_it(tmp_path, text, question, is_kept):
    images = [f"{number}.png" for number in range(text.count("<image>"))]
    [sample] = read_rows(tmp_path, llava(text, "a", image=images))
    assert sample.question == question
    assert [Path(path).name for path in sample.images] == images
    assert sample.extra == ({"marked_question": text} if is_kept else {})


def test_repeated_ids_are_told_apart(tmp_path):
    rows = [llava(*"qa", image=None, id=name) for name in ("a", "a", "a (2)", "a", "b")]
    assert [s.question_id for s in read_rows(tmp_path, *rows)] == ["a", "a (2)", "a (2) (2)", "a (3)", "b"]
    rows = [llava(*"qaqa", image=None), llava(*"qa", image=None, id="a_1")]
    assert [s.question_id for s in read_rows(tmp_path, *rows)] == ["a_1", "a_2", "a_1 (2)"]


@pytest.mark.parametrize(("closed", "expected"), [("auto", ["closed", "open", "closed", "closed"]),
                                                  ("yes_no", ["closed", "closed", "open", "closed"]),
                                                  ("never", ["open"] * 4)])
def test_what_makes_a_question_closed(tmp_path, closed, expected):
    rows = [llava("q", "yes", image=None), llava("q", "no", image=None, answer_type="OPEN"),
            llava("q", "left", image=None, answer_type="closed"), llava("q", "No.", image=None, answer_type=None)]
    assert [s.answer_type for s in read_rows(tmp_path, *rows, closed=closed)] == expected
    assert "yes_no" in PLUGIN.card.closed_definition


def test_a_folder_has_a_file_for_each_split(tmp_path):
    write(tmp_path / "radiology_val_annotations.jsonl", [llava(*"qa", image=None)])
    write(tmp_path / "Train.json", [llava(*"qa", image=None), llava(*"qa", image=None)])
    write(tmp_path / "test-set.json", [llava(*"qa", image=None)])
    write(tmp_path / "latest.json", {"about": "not a split"})
    assert [(s.split, s.question_id) for s in read(tmp_path)] == [("train", "a"), ("train", "a (2)"),
                                                                  ("validation", "a"), ("test", "a")]
    with pytest.raises(DataError, match=r"options\.split is 'dev', but '.*' is a folder"):
        read(tmp_path, split="dev")
    write(tmp_path / "train_2.json", [])
    with pytest.raises(DataError, match=r"'Train\.json' and 'train_2\.json' are both of the split 'train'"):
        PLUGIN.find_root(tmp_path)


@pytest.mark.parametrize(("name", "split", "expected"), [
    ("x.json", "", "train"), ("val.json", "", "validation"), ("val.json", "holdout", "holdout"),
    ("train_and_test.json", "", "train")])
def test_the_split_of_one_file(tmp_path, name, split, expected):
    path = write(tmp_path / name, [llava(*"qa", image=None)])
    assert [s.split for s in read(path, split=split)] == [expected]


def test_a_wrong_root_says_what_is_missing(tmp_path):
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(tmp_path)
    assert failure.value.message == (f"'{tmp_path}' is not laid out like Conversations: no .json or .jsonl file there "
                                     "has train, validation or test in its name.")
    assert "--root PATH" in failure.value.hint
    (tmp_path / "x.txt").touch()
    with pytest.raises(DataError, match=r"its name should end in \.json or \.jsonl"):
        PLUGIN.find_root(tmp_path / "x.txt")
    with pytest.raises(DataError, match="The files of Conversations were not found"):
        PLUGIN.find_root(None)


def test_pictures_lie_below_the_image_root(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = write(tmp_path / "rows" / "d.json", [llava("<image>q", "a")])
    for root in (Path("../pictures"), tmp_path / "pictures"):
        [sample] = read(path, image_root=root)
        assert Path(sample.images[0]).resolve() == tmp_path / "pictures" / "x.png"
        assert sample.image_id == "x.png"
    with pytest.raises(DataError, match=r"The folder of pictures '.*/rows/nowhere' does not exist"):
        read(path, image_root=Path("nowhere"))


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "a/../../x.png", "C:\\x.png", "..\\x.png", "a\0b", ""])
def test_a_path_out_of_the_folder_is_refused(tmp_path, path):
    fault = find_fault(tmp_path, llava("<image>q", "a", image=[path]))
    assert fault.message.startswith(f"{tmp_path}/data.json, row 1: the path ")
    assert fault.message.endswith(f" in 'image' does not stay inside '{tmp_path}'.")
    assert "options.absolute_paths" in fault.hint


def test_absolute_paths_are_an_option(tmp_path):
    [sample] = read_rows(tmp_path, llava("<image>q", "a", image="/elsewhere/x.png"), absolute_paths=True)
    assert sample.images == ("/elsewhere/x.png",)
    row = unimedvl("image_understanding", "<image>q", "a", inputs=["/x.png"])
    assert read_rows(tmp_path, row, absolute_paths=True)[0].images == ("/x.png",)
    assert read_rows(tmp_path, row)[0].images == (f"{tmp_path}/x.png",)  # as UniMedVL joins it


TURN_FAULT = ("turn {} in 'conversations' should have a 'from' (human, gpt or system) and a text as 'value', but is "
              "{}")


@pytest.mark.parametrize(("row", "message"), [
    ({"id": 1}, "neither 'conversations' (LLaVA) nor 'message' (UniMedVL) is there"),
    (llava(), "'conversations' should be a list of turns, but is []"),
    (llava(conversations={"a": 1}), "'conversations' should be a list of turns, but is {\"a\": 1}"),
    (llava(*"q", image=None), "'conversations' ends without an answer"),
    (llava(conversations=[{"from": "system", "value": "x"}]), "'conversations' ends without an answer"),
    (llava(conversations=PAIR[::-1]), "turn 1 in 'conversations' is from gpt, where human should speak"),
    (llava(conversations=[PAIR[0], PAIR[0]]), "turn 2 in 'conversations' is from human, where gpt should speak"),
    (llava(conversations=[*PAIR, {"from": "system", "value": "x"}]),
     "turn 3 in 'conversations' is from system, where human should speak"),
    (llava(conversations=[{"from": "robot", "value": "x"}]),
     TURN_FAULT.format(1, '{"from": "robot", "value": "x"}')),
    (llava("q", None), TURN_FAULT.format(2, '{"from": "gpt", "value": null}')),
    (llava("q", "\ud800", image=None), "turn 2 in 'conversations' should be valid Unicode, but is \"\\ud800\""),
    (llava("q", "a"), "the questions have 0 <image> marks, but the row has 1 input picture"),
    (llava("<image><image>q", "a"), "the questions have 2 <image> marks, but the row has 1 input picture"),
    (llava("<image>q", "a", image=None), "the questions have 1 <image> mark, but the row has 0 input pictures"),
    (llava("<image>q", "a <image>"), "the answers have 1 <image> mark, but the row has 0 output pictures"),
    (llava("<image>", "a"), "question 1 has no text"),
    (llava("<image>q", "a", image=5), "'image' should be a path or a list of paths, but is 5"),
    (llava("<image>q", "a", image=[{"file": 1}]),
     "a picture in 'image' should be a path, or an object with one, but is {\"file\": 1}"),
    (llava("<image>q", "a", id=1.5), "'id' should be a text or a whole number, but is 1.5"),
    (llava("<image>q", "a", answer_type="maybe"), "'answer_type' should be one of OPEN, CLOSED, but is \"maybe\""),
    (llava("<image>q", "a", note="\ud800"), "a text in it is not valid Unicode"),
    ({"message": turns("q", "a")}, "the key 'main_task_type' is missing"),
    (unimedvl("text_only", "<image>q", "a", inputs=["x.png"]),
     "a row of main_task_type 'text_only' has 1 input pictures and 0 output pictures"),
    (unimedvl("image_to_image", "<image>q", "a", inputs=["x.png"]),
     "a row of main_task_type 'image_to_image' has 1 input pictures and 0 output pictures"),
    (unimedvl("image_understanding", "q", "a"),
     "a row of main_task_type 'image_understanding' has 0 input pictures and 0 output pictures"),
    (llava("<image>q", "a", medvqa=3), "'medvqa' should be an object, but is 3"),
    (llava("<image>q", "a", medvqa={"colour": 3}), '"medvqa.colour" is no field of a sample'),
    (llava("<image>q", "a", medvqa={"organ": 3}), '"medvqa.organ" is 3: input should be a valid string'),
    (llava("<image>q", "a", medvqa={"boxes": [{"label": "x"}]}),
     '"medvqa.boxes.0.x1" is {"label": "x"}: field required'),
    (llava("<image>q", "a", medvqa={"scene_graph": {"a": "\ud800"}}), "'medvqa.scene_graph' cannot be kept as JSON: "),
    (llava("<image>q", "a", medvqa={"": 1}), '"medvqa." is no field of a sample'),
    (llava("<image>q", "a", medvqa={"labels": {"a": float("nan")}}), "'medvqa.labels' cannot be kept as JSON: "),
    (llava("<image>q", "a", medvqa={"masks": ["../x"]}), "the path \"../x\" in 'masks' does not stay inside"),
])
def test_a_bad_row_is_named(tmp_path, row, message):
    fault = find_fault(tmp_path, llava("q", "a", image=None), row)
    assert fault.message.startswith(f"{tmp_path}/data.json, row 2: {message}")


def test_marks_in_the_system_turn_are_refused(tmp_path):
    row = llava(conversations=[{"from": "system", "value": "<image>"}, *PAIR], image=["x.png", "y.png"])
    fault = find_fault(tmp_path, row)
    assert "the system turn in 'conversations' has an <image> mark" in fault.message
    assert fault.hint.startswith("Put one <image> for each picture")


def test_broken_files_are_one_clear_error(tmp_path):
    for content, message in ((b"", "the file is empty"), (b'{"a": ', "line 1: the JSON is cut off"),
                             (b"[1]", "row 1: expected an object, found a number 1"), (b"5", "expected a list"),
                             (b"{\xff}", "not UTF-8")):
        path = tmp_path / "d.json"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as failure:
            read(path)
        assert str(path) in failure.value.message


scalars = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
           | st.sampled_from(["<image>", "a <image>", "x.png", "../x", "/x", "human", "gpt", "OPEN", "\ud800"]))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["from", "value", "path", "masks", "boxes", "history", "organ"]) | st.text(max_size=3), inner,
    max_size=3), max_leaves=8)
speakers = st.sampled_from(["human", "gpt", "user", "system"]) | scalars
some_turns = st.lists(st.fixed_dictionaries({"from": speakers, "value": scalars}), max_size=4)
good_turns = st.lists(st.sampled_from(["q", "<image>\nq", "a <image>", "yes", ""]), max_size=4).map(
    lambda texts: turns(*texts))
pictures = st.lists(st.sampled_from(["x.png", "y.png"]) | scalars, max_size=2)
rows = st.fixed_dictionaries({}, optional={
    "id": scalars, "image": pictures | values, "conversations": good_turns | some_turns | values,
    "message": good_turns | some_turns, "input_img": pictures | values, "output_img": pictures | values,
    "main_task_type": st.sampled_from(["text_only", "image_understanding", "image_to_image"]) | scalars,
    "answer_type": st.sampled_from(["OPEN", "closed"]) | scalars, "medvqa": values, "modality": scalars})


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=rows | st.dictionaries(st.text(max_size=4), values, max_size=3))
def test_any_row_is_a_sample_or_an_error_that_names_it(tmp_path, row):
    path = write(tmp_path / "d.jsonl", [row])
    fault = None
    try:
        samples = read(path)
    except DataError as error:
        fault = error
    if fault:
        assert fault.message.startswith(f"{path}, row 1: ")
        assert (fault.message + fault.hint).encode()
        return
    num_answers = len(row.get("conversations", row.get("message"))) // 2
    assert len(samples) == (1 if "medvqa" in row else num_answers)
    for sample in samples:
        json.dumps(dataclasses.asdict(sample))
        assert all(Path(image).is_absolute() for image in (*sample.images, *sample.masks, *sample.output_images))
        assert all(isinstance(text, str) for text in sample.extra.values())
