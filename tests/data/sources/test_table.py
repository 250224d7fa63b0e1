"""Tables of one's own: every format and option, splits by image, and any fault as one clear error."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvqa_cli.data.sources.table import PLUGIN
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.records import VQASample
from medvqa_cli.settings.options import read_options

SUFFIXES = ("csv", "tsv", "json", "jsonl", "parquet")


def write_table(path, rows):
    """Write rows in the format of the file's name; lists and numbers become texts where there is no other way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(rows[0])
            writer.writerows(["|".join(value) if isinstance(value, list) else value for value in row.values()]
                             for row in rows)
    return path


def ask(question="Is it normal?", answer="Yes", **more):
    return {"question": question, "answer": answer, **more}


def read(root, **options):
    return list(PLUGIN.read(PLUGIN.find_root(root), read_options(PLUGIN.Options, options, "data.options")))


def fail(root, **options):
    with pytest.raises(DataError) as failure:
        read(root, **options)
    return failure.value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_field_in_every_format(tmp_path, suffix):
    rows = [{"Q": " What is\tit? ", "A": "CT", "file": ["imgs/a.png", "imgs/b.png"], "id": "7", "case": "a",
             "part": "dev", "kind": "OPEN", "topic": "modality", "modality": "CT", "organ": "Lung", "language": "de",
             "choices": ["CT", " MR "], "also": ["computed tomography"], "facts": ["It is grey."]},
            {"Q": "Normal?", "A": "yes", "file": ["c.png"], "id": "8", "case": None, "part": None, "kind": None,
             "topic": None, "modality": None, "organ": None, "language": None, "choices": None, "also": None,
             "facts": None}]
    path = write_table(tmp_path / f"data.{suffix}", rows)
    columns = ("question=Q,answer=A,image=file,question_id=id,image_id=case,split=part,answer_type=kind,"
               "question_type=topic,options=choices,alternatives=also,context=facts")
    for root in (path, tmp_path):
        assert read(root, columns=columns) == [
            VQASample(dataset="table", split="validation", question_id="7", image_id="a", question="What is it?",
                      answer="CT", answer_type="open", images=(f"{tmp_path}/imgs/a.png", f"{tmp_path}/imgs/b.png"),
                      question_type="modality", modality="CT", organ="Lung", language="de", options=("CT", "MR"),
                      alternatives=("computed tomography",), context=("It is grey.",)),
            VQASample(dataset="table", split="train", question_id="8", image_id="c.png", question="Normal?",
                      answer="yes", answer_type="closed", images=(f"{tmp_path}/c.png",))]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_only_questions_and_answers_are_needed(tmp_path, suffix):
    path = write_table(tmp_path / f"data.{suffix}", [ask(), ask("What?", "CT")])
    first, second = read(path)
    assert first == VQASample(
        dataset="table", split="train", question_id=f"data.{suffix}-1", image_id=f"text data.{suffix}-1",
        question="Is it normal?", answer="Yes", answer_type="closed")
    assert (second.question_id[-2:], second.answer_type) == ("-2", "open")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_numbers_are_written_out(tmp_path, suffix):
    path = write_table(tmp_path / f"data.{suffix}", [ask(answer=5.0, question_id=1, organ=3, options=[5, 2])])
    sample, = read(path)
    assert (sample.answer, sample.question_id, sample.organ, sample.options) == ("5", "1", "3", ("5", "2"))
    write_table(path, [ask(answer=0.25)])
    assert read(path)[0].answer == "0.25"


def test_columns_are_a_text_or_a_mapping(tmp_path):
    path = write_table(tmp_path / "data.csv", [{"Q=1": "What?", "A": "CT", "question": "wrong", "image": "x.png"}])
    for columns in ("question=Q=1, answer = A,image=", {"question": "Q=1", "answer": "A", "image": ""}):
        sample, = read(path, columns=columns)
        assert (sample.question, sample.answer, sample.images) == ("What?", "CT", ())


@pytest.mark.parametrize(("option", "value", "fault"), [
    ("columns", "question", "it should be a text such as 'question=Q,answer=A', with each name once"),
    ("columns", "question=a,question=b", "with each name once"),
    ("columns", {"qestion": "Q"}, "there is no field 'qestion'; the fields are question, answer, image, image_id"),
    ("columns", "answer=", "the field 'answer' needs a column"),
    ("columns", {"answer": 3}, "data.options.columns.answer"),
    ("split_fractions", "train=0.9", "it should give each split a share, together 1, such as 'train=0.9,test=0.1'"),
    ("split_fractions", {"train": 1.5, "test": -0.5}, "together 1"),
    ("split_fractions", "val=0.5,dev=0.5", "together 1"),
    ("split_fractions", "a b=1", "together 1"),
    ("split_fractions", "train=x", "could not convert string to float: 'x'"),
    ("list_separator", "", "at least 1 character"),
    ("split", "a b", "pattern"),
    ("closed", "sometimes", "'auto', 'yes_no', 'options' or 'never'"),
    ("colums", "question=Q", "colums"),
])
def test_wrong_options_are_explained(option, value, fault):
    with pytest.raises(SettingsError) as failure:
        read_options(PLUGIN.Options, {option: value}, "data.options")
    assert fault in failure.value.message


def test_options_come_back_from_their_own_json():
    typed = {"split_fractions": "train=0.8,val=0.2", "columns": "answer=A"}
    options = read_options(PLUGIN.Options, typed, "data.options")
    assert options.split_fractions == {"train": 0.8, "validation": 0.2}
    assert read_options(PLUGIN.Options, options.model_dump(mode="json"), "data.options") == options
    assert read_options(PLUGIN.Options, PLUGIN.Options().model_dump(mode="json"), "data.options") == PLUGIN.Options()


def test_a_missing_column_lists_those_found_and_the_nearest(tmp_path):
    path = write_table(tmp_path / "data.csv", [{"Question": "a", "reply": "b", "image_file": "c"}])
    error = fail(path)
    assert error.message == (f"{path}: the column 'question' is missing; the columns are "
                             '["Question", "reply", "image_file"].')
    assert error.hint.startswith("Did you mean 'Question'? Say which column holds what with options.columns")
    error = fail(path, columns="question=Question,answer=reply,image=imagefile")
    assert error.message == (f"{path}: the column 'imagefile' for 'image' is missing; the columns are "
                             '["Question", "reply", "image_file"].')
    assert error.hint.startswith("Did you mean 'image_file'?")


def test_a_row_of_json_may_lack_an_optional_column_but_not_all_rows(tmp_path):
    path = write_table(tmp_path / "data.jsonl", [ask(), ask(part="test")])
    assert [sample.split for sample in read(path, columns="split=part")] == ["train", "test"]
    assert fail(path, columns="split=prt").message == (
        f"{path}: the column 'prt' for 'split' is missing; the columns are [\"question\", \"answer\"].")
    write_table(path, [ask(), {"question": "Why?"}])
    assert fail(path).message == f"{path}, row 2: the key 'answer' is missing."


@pytest.mark.parametrize(("name", "split"), [
    ("train.csv", "train"), ("my_Validation-set.csv", "validation"), ("val.csv", "validation"),
    ("test-00000-of-00001.csv", "test"), ("dev.csv", "validation"), ("contest.csv", "train"), ("data.csv", "train"),
    ("train_val.csv", ""),
])
def test_file_names_decide_the_split(tmp_path, name, split):
    path = write_table(tmp_path / name, [ask()])
    if split:
        assert read(path)[0].split == split
    else:
        assert fail(path).message == f"{path}, row 1: neither a column nor the file's name says its split."
    assert read(path, split="val")[0].split == "validation"


def test_a_folder_of_tables(tmp_path):
    for number, name in enumerate(("train.csv", "val.jsonl", "test.json", ".hidden.csv", "hub.json", "notes.txt")):
        write_table(tmp_path / name, [ask(str(number))])
    assert [(sample.split, sample.question, sample.question_id) for sample in read(tmp_path)] == [
        ("test", "2", "test.json-1"), ("train", "0", "train.csv-1"), ("validation", "1", "val.jsonl-1")]
    write_table(tmp_path / "extra.csv", [ask()])
    assert fail(tmp_path).message == (
        f"{tmp_path}/extra.csv, row 1: neither a column nor the file's name says its split.")
    assert len(read(tmp_path, files="t*")) == 2
    assert fail(tmp_path, files="x.csv").message == f"'{tmp_path}' has no table 'x.csv'."
    write_table(tmp_path / "extra.csv", [ask(split="test")])
    assert Counter(sample.split for sample in read(tmp_path)) == {"test": 2, "train": 1, "validation": 1}


def test_a_split_needs_a_name(tmp_path):
    path = write_table(tmp_path / "data.csv", [ask(split="fold 1")])
    assert fail(path).message == (
        f"{path}, row 1: 'split' should be a name of letters, digits and '_', but is \"fold 1\".")


FRACTIONS = "train=0.8,validation=0.1,test=0.1"


def test_split_fractions_keep_an_image_in_one_split(tmp_path):
    rows = [ask(f"{number}?", image=f"{number % 500}.png") for number in range(1500)]
    path = write_table(tmp_path / "train.csv", rows)
    samples = read(path, split_fractions=FRACTIONS)
    splits = {sample.image_id: sample.split for sample in samples}
    assert all(splits[sample.image_id] == sample.split for sample in samples)
    counts = Counter(splits.values())
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(counts[split] - 500 * share) < 4 * math.sqrt(500 * share * (1 - share))
    other_order = {sample.image_id: sample.split
                   for sample in read(write_table(path, rows[::-1]), split_fractions=FRACTIONS)}
    assert other_order == splits
    other_seed = {sample.image_id: sample.split for sample in read(path, split_fractions=FRACTIONS, split_seed=1)}
    assert other_seed != splits


def test_split_fractions_keep_equal_questions_of_texts_together(tmp_path):
    path = write_table(tmp_path / "data.csv", [ask(f"{number % 50}?") for number in range(100)])
    samples = read(path, split_fractions="train=0.5,test=0.5")
    assert len({(sample.question, sample.split) for sample in samples}) == 50
    assert {sample.split for sample in samples} == {"train", "test"}


def test_split_fractions_refuse_what_they_cannot_split(tmp_path):
    path = write_table(tmp_path / "data.csv", [ask(image="a.png|b.png", case="", split="test")])
    assert fail(path, split_fractions=FRACTIONS).message == (
        f"{path}, row 1: 'split' names the split \"test\", but options.split_fractions is to make the splits.")
    ignored = {"split_fractions": FRACTIONS, "columns": "split="}
    assert fail(path, **ignored).message.endswith(
        "row 1: it has several images, so that options.split_fractions cannot keep each in one split.")
    write_table(path, [ask(image="a.png|b.png", case="7"), ask(image="c.png", case="7")])
    assert len({sample.split for sample in read(path, split_fractions=FRACTIONS, columns="image_id=case")}) == 1
    write_table(tmp_path / "test.csv", [ask()])
    assert fail(tmp_path, split_fractions=FRACTIONS).message == (
        f"'{tmp_path}' has several splits already, which options.split_fractions would mix.")


@pytest.mark.parametrize(("closed", "expected"), [
    ("auto", "ccoco"), ("yes_no", "cooco"), ("options", "ococo"), ("never", "oooco"),
])
def test_closed(tmp_path, closed, expected):
    path = write_table(tmp_path / "data.jsonl", [
        ask(answer="No"), ask(answer="CT", options=["CT", "MR"]), ask(answer="CT"),
        ask(answer="CT", answer_type=" Closed "), ask(answer="yes", answer_type=False)])
    assert "".join(sample.answer_type[0] for sample in read(path, closed=closed)) == expected
    write_table(path, [ask(answer_type="binary")])
    assert fail(path).message == f"{path}, row 1: 'answer_type' should be open or closed, but is \"binary\"."


def test_images_lie_below_the_image_root(tmp_path):
    (tmp_path / "imgs").mkdir()
    path = write_table(tmp_path / "tables" / "data.csv", [ask(image=" a/./b.png ; c.png ;")])
    options = {"list_separator": ";", "image_root": "../imgs"}
    assert read(path, **options)[0].images == (f"{tmp_path}/imgs/a/b.png", f"{tmp_path}/imgs/c.png")
    assert read(path, **options)[0].image_id == "a/b.png"
    assert read(path, **options | {"image_root": f"{tmp_path}/imgs"}) == read(path, **options)
    assert fail(path, image_root="nowhere").message == (
        f"The folder of images '{tmp_path}/tables/nowhere' does not exist.")


@pytest.mark.parametrize(("value", "fault"), [
    ("../b.png", "the path \"../b.png\" in 'image' does not stay inside"),
    (["a.png", "/etc/passwd"], "the path \"/etc/passwd\" in 'image' does not stay inside"),
    ("c:\\b.png", "the path \"c:\\\\b.png\" in 'image' does not stay inside"),
    ("a\0.png", "the path \"a\\u0000.png\" in 'image' does not stay inside"),
    (7, "'image' should be a path or several, but is 7."),
    ([["a.png"]], "'image' should be a path or several, but is [[\"a.png\"]]."),
    ("\ud800.png", "'image' should be a path or several, but is"),
])
def test_a_wrong_image_is_named(tmp_path, value, fault):
    path = write_table(tmp_path / "data.jsonl", [ask(image=value)])
    assert fail(path).message.startswith(f"{path}, row 1: {fault}")


def test_pictures_inside_a_parquet_file_are_refused(tmp_path):
    for number, picture in enumerate((b"\x89PNG", {"bytes": b"\x89PNG", "path": "a.png"})):
        path = write_table(tmp_path / f"{number}.parquet", [ask(image=picture)])
        error = fail(path)
        assert error.message == f"{path}, row 1: 'image' holds a picture itself, not the path of one."
        assert error.hint == "Write each picture to a file, and its path into the table instead of the picture."
    path = write_table(tmp_path / "path.parquet", [ask(image={"bytes": None, "path": "a.png"})])
    assert read(path)[0].images == (f"{tmp_path}/a.png",)


@pytest.mark.parametrize(("changes", "fault"), [
    ({"answer": ""}, "'answer' should be a text or a number that is not empty, but is \"\"."),
    ({"question": " \t"}, "'question' should be a text or a number that is not empty, but is \" \\t\"."),
    ({"answer": None}, "'answer' should be a text or a number, but is null."),
    ({"answer": True}, "'answer' should be a text or a number, but is true."),
    ({"answer": float("nan")}, "'answer' should be a text or a number, but is NaN."),
    ({"answer": ["yes", "no"]}, "'answer' should be a text or a number, but is [\"yes\", \"no\"]."),
    ({"options": {"A": "yes"}}, "'options' should be a text or a number, but is {\"A\": \"yes\"}."),
    ({"options": ["yes", None]}, "'options' should be a text or a number, but is null."),
    ({"organ": ["Lung"]}, "'organ' should be a text or a number, but is [\"Lung\"]."),
    ({"question_id": "1"}, "the question_id \"1\" stands in split 'train' already."),
])
def test_a_faulty_row_is_named(tmp_path, changes, fault):
    path = write_table(tmp_path / "data.jsonl", [ask(question_id=1), ask(question_id=2) | changes])
    assert fail(path).message == f"{path}, row 2: {fault}"


def test_ids_may_return_in_another_split(tmp_path):
    path = write_table(tmp_path / "data.csv", [ask(question_id="1", split=split) for split in ("train", "test")])
    assert [sample.question_id for sample in read(path)] == ["1", "1"]


def test_odd_bytes(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbfquestion,answer\r\n"Which, if any,\r\n""finding""?",none\r\n')
    assert [(sample.question, sample.answer) for sample in read(path)] == [('Which, if any, "finding"?', "none")]
    path.write_bytes(b"question,answer\nWo?,M\xfcnchen\n")
    assert fail(path).message == f"{path}, line 2: not UTF-8 text (byte 0xfc)."
    path.write_bytes("question,answer\nWo?,hier\n".encode("utf-16"))
    assert "UTF-8" in fail(path).message
    path.write_bytes(b"question,answer\nWhy?,\0\n")
    assert fail(path).message.startswith(f"{path}, line 2: a NUL byte")
    path.write_bytes(b"question,answer\n")
    assert fail(path).message == f"{path}: the table has no rows."
    path.write_bytes(b"")
    assert fail(path).message == f"{path}: the file is empty."
    path.write_bytes(b"question,answer\nWhy?,a,b\n")
    assert fail(path).message == f"{path}, row 1: 3 values under 2 columns."


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("question,answer\n")
    for root in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError) as failure:
            PLUGIN.find_root(root)
        assert failure.value.message == (f"'{root}' is not laid out like Table: there is no file whose name ends in "
                                         ".csv, .tsv, .jsonl, .json, .parquet.")
    with pytest.raises(DataError, match=r"The files of Table were not found\."):
        PLUGIN.find_root(None)


def test_rows_are_streamed(tmp_path):
    path = write_table(tmp_path / "data.csv", [ask(f"{number}?") for number in range(3)])
    with path.open("a") as stream:
        stream.write("too,many,values\n")
    samples = PLUGIN.read(PLUGIN.find_root(path), PLUGIN.Options())
    assert [next(samples).question for _ in range(3)] == ["0?", "1?", "2?"]
    with pytest.raises(DataError, match="row 4: 3 values under 2 columns"):
        next(samples)


TEXT = st.text(max_size=8) | st.sampled_from(["yes", "a.png", "a|b", "", " ", "train", "../x", "\ud800", "open", "1e5"])
VALUE = st.recursive(TEXT | st.none() | st.booleans() | st.integers() | st.floats(),
                     lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=3)
USUAL = {"question": st.just("What?") | VALUE, "answer": st.sampled_from(["yes", 5, 0.5]) | VALUE}
FIELDS = ("image", "image_id", "question_id", "split", "answer_type", "options", "alternatives", "context", "language",
          "question_type", "modality", "organ", "", "other")
OPTIONS = st.sampled_from([{}, {"split_fractions": FRACTIONS}, {"split": "test"}, {"columns": "organ=,image=other"},
                           {"closed": "options"}])


def check(path, count, options):
    try:
        samples = read(path, **options)
    except DataError as error:
        assert str(path) in error.message  # noqa: PT017 - either is right
    else:
        assert len(samples) == count
        assert all(sample.question and sample.answer and sample.split for sample in samples)
        assert all(image.startswith(f"{path.parent}/") for sample in samples for image in sample.images)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(USUAL, optional=dict.fromkeys(FIELDS, VALUE)), min_size=1, max_size=3),
       options=OPTIONS)
def test_any_json_is_samples_or_an_error(tmp_path_factory, rows, options):
    path = tmp_path_factory.getbasetemp() / "fuzz-table" / "data.jsonl"
    check(write_table(path, rows), len(rows), options)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=40) | st.text('",\n\r |aä\0', max_size=40).map(str.encode), options=OPTIONS)
def test_any_csv_is_samples_or_an_error(tmp_path_factory, content, options):
    path = tmp_path_factory.getbasetemp() / "fuzz-table-csv" / "data.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"question,answer,image\n" + content)
    try:
        count = sum(bool(row) for row in csv.reader(content.decode().splitlines(keepends=True)))
    except (UnicodeDecodeError, csv.Error):
        count = None
    check(path, count, options)


@pytest.mark.parametrize(("answer", "meant"), [("B", "MR"), ("a", "CT"), ("MR", "MR"), ("C", "C"), ("AB", "AB")])
def test_a_letter_stands_for_an_option(tmp_path, answer, meant):
    path = write_table(tmp_path / "t.csv", [ask("Which is it?", answer, options=["CT", "MR"])])
    assert read(path)[0].answer == meant


def test_a_letter_that_is_an_option_or_has_none_is_an_answer(tmp_path):
    rows = [ask("Which vitamin?", "B", options=["B", "A"]), ask("Which?", "B", options=[])]
    path = write_table(tmp_path / "t.csv", rows)
    assert [sample.answer for sample in read(path)] == ["B", "B"]
