"""Every fault of a file is one DataError that names file, row, key and value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import (
    Row,
    find_folder,
    join_path,
    quote,
    read_csv_rows,
    read_json,
    read_json_rows,
    read_jsonl_rows,
)
from medvqa_cli.errors import DataError

VALUES = {"name": "  a\t b ", "count": 3, "flag": True, "none": None, "half": "\ud800", "empty": " ",
          "file": "a  b/c.png", "escape": "../c.png"}
ROW = Row(VALUES, Path("f.json"), 812)


def write(tmp_path, content: bytes, name: str = "f.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def fault_of(call, *arguments, **options) -> str:
    """The message of the error; what a reader yields is used up, for it may stand in the last row."""
    with pytest.raises(DataError) as failure:
        result = call(*arguments, **options)
        list(result) if isinstance(result, Iterator) else None
    return failure.value.message


def test_values_are_tidied():
    assert ROW.text("name") == "a b"
    assert ROW.text("missing", default="x") == "x"
    assert ROW.integer("count") == 3
    assert (ROW.text_or_integer("name"), ROW.text_or_integer("count")) == ("a b", "3")
    assert ROW.path("file", Path("/data")) == Path("/data/a  b/c.png")
    assert ROW.choice("name", ("A B", "c")) == "A B"


@pytest.mark.parametrize(("method", "arguments", "message"), [
    ("text", ("nam",), "f.json, row 812: the key 'nam' is missing."),
    ("text", ("count",), "f.json, row 812: 'count' should be a text, but is 3."),
    ("text", ("none",), "f.json, row 812: 'none' should be a text, but is null."),
    ("text", ("half",), "f.json, row 812: 'half' should be valid Unicode, but is \"\\ud800\"."),
    ("required_text", ("empty",), "f.json, row 812: 'empty' should be a text that is not empty, but is \" \"."),
    ("integer", ("flag",), "f.json, row 812: 'flag' should be a whole number, but is true."),
    ("integer", ("name",), "f.json, row 812: 'name' should be a whole number, but is \"  a\\t b \"."),
    ("text_or_integer", ("flag",), "f.json, row 812: 'flag' should be a text or a whole number, but is true."),
    ("path", ("escape", "/data"), "f.json, row 812: the path \"../c.png\" in 'escape' does not stay inside '/data'."),
    ("path", ("count", "/data"), "f.json, row 812: 'count' should be a text, but is 3."),
    ("choice", ("name", ("x", "y")), "f.json, row 812: 'name' should be one of x, y, but is \"  a\\t b \"."),
])
def test_a_wrong_value_is_named(method, arguments, message):
    assert fault_of(getattr(ROW, method), *arguments) == message


def test_a_missing_key_lists_the_keys_there_are():
    with pytest.raises(DataError) as failure:
        Row({"a": 1, "b": 2}, Path("f"), 1).value("c")
    assert failure.value.hint == "The keys found are: a, b."


@pytest.mark.parametrize(("content", "message"), [
    (b"", "{path}: the file is empty (Expecting value: line 1 column 1 (char 0))."),
    (b'[{"a": 1}, {"a"', "{path}: the JSON is cut off (Expecting ':' delimiter: line 1 column 16 (char 15))."),
    (b'[{"a": "lun', "{path}: the JSON is cut off (Unterminated string starting at: line 1 column 8 (char 7))."),
    (b'[{"a" 1}]', "{path}: not valid JSON (Expecting ':' delimiter: line 1 column 7 (char 6))."),
    (b'{"a": 1}', "{path}: expected a list of records, found an object."),
    (b'[{"a": 1}, 7]', "{path}, row 2: expected an object, found a number 7."),
    (b'[{"a": 1}, null]', "{path}, row 2: expected an object, found null null."),
    ('[\n\n"é"]'.encode("latin-1"), "{path}, line 3: not UTF-8 text (byte 0xe9)."),
    ("[]".encode("utf-16"), "{path}, line 1: not UTF-8 text (byte 0xff)."),
])
def test_a_bad_json_file_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    assert fault_of(read_json_rows, path) == message.format(path=path)


def test_json_that_breaks_the_parser_is_one_error(tmp_path):
    assert "not usable JSON" in fault_of(read_json, write(tmp_path, b"[" * 200_000))
    assert "not usable JSON" in fault_of(read_json, write(tmp_path, b"1" * 5000))


def test_a_byte_order_mark_is_dropped(tmp_path):
    rows = read_json_rows(write(tmp_path, b'\xef\xbb\xbf[{"a": "b"}]'))
    assert [(row.values, row.number) for row in rows] == [({"a": "b"}, 1)]
    (row,) = read_csv_rows(write(tmp_path, b"\xef\xbb\xbfa,b\r\n1,2\r\n"))
    assert row.values == {"a": "1", "b": "2"}


def test_a_missing_file_is_named(tmp_path):
    assert fault_of(read_json, tmp_path / "x.json") == f"'{tmp_path}/x.json' cannot be read: No such file or directory."


def test_json_lines(tmp_path):
    path = write(tmp_path, '{"a": "x\\u2028y"}\r\n\n{"a": "z\u2028"}'.encode())
    assert [(row.values["a"], row.number) for row in read_jsonl_rows(path)] == [("x\u2028y", 1), ("z\u2028", 3)]
    broken = write(tmp_path, b'{"a": 1}\n{"a": \n{"a": 2}\n')
    assert fault_of(read_jsonl_rows, broken).startswith(f"{broken}, line 2: the JSON is cut off")


def test_csv(tmp_path):
    rows = list(read_csv_rows(write(tmp_path, b'q,a\n"one, ""two""\nlines",yes\n\nthree,no\n')))
    assert [row.values for row in rows] == [{"q": 'one, "two"\nlines', "a": "yes"}, {"q": "three", "a": "no"}]
    assert rows[1].error("x").message.endswith("row 2: x.")
    assert next(read_csv_rows(write(tmp_path, b"a#b\n1,2#3"), delimiter="#")).values == {"a": "1,2", "b": "3"}


@pytest.mark.parametrize(("content", "message"), [
    (b"", "{path}: the file is empty."),
    (b"a,b\n1,2\n3\n", "{path}, row 2: 1 values under 2 columns."),
    (b"a,a\n1,2\n", '{path}: every column needs a name of its own, but the header is ["a", "a"].'),
    (b"a,\n1,2\n", '{path}: every column needs a name of its own, but the header is ["a", ""].'),
    (b'a,b\n"1,2\n', "{path}, line 2: not valid CSV (unexpected end of data)."),
])
def test_a_bad_csv_file_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    assert fault_of(read_csv_rows, path) == message.format(path=path)


@pytest.mark.parametrize("relative", ["../x.png", "a/../../x", "/etc/passwd", "\\\\host\\x", "C:\\x.png",
                                      "a\\..\\..\\x", "", "  ", "a\0b", ".."])
def test_a_path_may_not_leave_its_folder(relative):
    with pytest.raises(DataError, match=r"does not stay inside '/data'\.") as failure:
        join_path(Path("/data"), relative)
    assert failure.value.hint == "Paths in a data set must be relative and must not contain '..'."


@given(st.text(alphabet="ab./\\:\0", max_size=12))
def test_joined_paths_stay_inside(relative):
    folder = Path("/data/set")
    try:
        joined = join_path(folder, relative)
    except DataError:
        return
    assert joined.resolve().is_relative_to(folder)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_quotes_are_short_and_printable(value):
    text = quote(value)
    assert len(text) <= 83
    assert "\n" not in text
    text.encode()


@given(st.binary(max_size=60))
def test_no_bytes_bring_down_the_readers(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), content, "fuzz")
    for read in (read_json_rows, read_jsonl_rows, read_csv_rows):
        rows, fault = [], ""
        try:
            rows = list(read(path))
        except DataError as error:
            fault = error.message
        assert str(path) in fault or all(row.file == path and row.number > 0 for row in rows)


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=3), max_size=4))
def test_what_json_wrote_is_read(tmp_path_factory, records):
    path = write(tmp_path_factory.getbasetemp(), json.dumps(records).encode(), "list.json")
    assert [row.values for row in read_json_rows(path)] == records


CARD = DatasetCard(title="Toy", summary="s", licence="l", citation="c", homepage="h", obtain="Get it.",
                   closed_definition="d", default_roots=("~/toy", "toy"))


def find_fault(folder: Path) -> str:
    return "" if (folder / "mark").exists() else "mark is missing"


def test_a_default_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as failure:
        find_folder(CARD, None, find_fault)
    assert failure.value.message == f"The files of Toy were not found. Tried: {tmp_path}/home/toy, {tmp_path}/toy."
    assert failure.value.hint == "Get it. Name the folder with --root DIR."
    (tmp_path / "home" / "toy").mkdir(parents=True)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "mark").touch()
    assert find_folder(CARD, None, find_fault) == tmp_path / "toy"


def test_a_named_folder_is_checked(tmp_path):
    assert fault_of(find_folder, CARD, tmp_path / "no", find_fault) == f"The folder '{tmp_path}/no' does not exist."
    fault = fault_of(find_folder, CARD, tmp_path, find_fault)
    assert fault == f"'{tmp_path}' is not laid out like Toy: mark is missing."
    (tmp_path / "mark").touch()
    assert find_folder(CARD, tmp_path / "." / "x" / "..", find_fault) == tmp_path
