"""Every fault of a file is one DataError that names file, row, key and value."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from medvqa_cli.data.files import tables
from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import (
    Row,
    find_folder,
    is_hub_layout,
    join_path,
    quote,
    read_csv_rows,
    read_hub_rows,
    read_json,
    read_json_rows,
    read_jsonl_rows,
    read_parquet_rows,
    read_rows,
)
from medvqa_cli.errors import DataError

FEW = settings(max_examples=200, deadline=None)
MANY = settings(FEW, max_examples=10_000)
VALUES = {"float": 5.0, "half_float": 0.5, "nan": float("nan"), "list": [" a  b", "c"], "mixed": ["a", 1],
          "files": ["a.png", "b/c.png"], "escapes": ["a.png", "/etc/x"],
          "name": "  a\t b ", "count": 3, "flag": True, "none": None, "half": "\ud800", "empty": " ",
          "file": "a  b/c.png", "escape": "../c.png"}
ROW = Row(VALUES, Path("f.json"), 812)


def write(tmp_path, content: bytes, name: str = "f.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def fault_of(call, *arguments, **options) -> str:
    """The message of the error; what a reader yields is used up, for it may stand in the last row."""
    with pytest.raises(DataError) as failure:
        use_up(call(*arguments, **options))
    return failure.value.message


def use_up(result) -> None:
    for _ in result if isinstance(result, Iterator) else ():
        pass


def test_values_are_tidied():
    assert ROW.text("name") == "a b"
    assert ROW.text("missing", default="x") == "x"
    assert ROW.integer("count") == 3
    assert (ROW.text_or_integer("name"), ROW.text_or_integer("count")) == ("a b", "3")
    assert ROW.path("file", Path("/data")) == Path("/data/a  b/c.png")
    assert ROW.choice("name", ("A B", "c")) == "A B"


def test_values_that_may_be_missing():
    assert [ROW.optional(key) for key in ("count", "none", "missing")] == [3, None, None]
    assert ROW.optional("none", default=7) == 7
    assert [ROW.optional_text(key) for key in ("name", "none", "missing")] == ["a b", "", ""]


def test_numbers_and_lists():
    assert [ROW.number_text(key) for key in ("name", "count", "float", "half_float")] == ["a b", "3", "5", "0.5"]
    assert [ROW.real(key) for key in ("count", "half_float")] == [3.0, 0.5]
    assert ROW.texts("list") == ("a b", "c")
    assert ROW.paths("files", Path("/d")) == (Path("/d/a.png"), Path("/d/b/c.png"))
    assert ROW.paths("file", Path("/d")) == (Path("/d/a  b/c.png"),)


@pytest.mark.parametrize(("method", "arguments", "message"), [
    ("text", ("nam",), "f.json, row 812: the key 'nam' is missing."),
    ("text", ("count",), "f.json, row 812: 'count' should be a text, but is 3."),
    ("text", ("none",), "f.json, row 812: 'none' should be a text, but is null."),
    ("text", ("half",), "f.json, row 812: 'half' should be valid Unicode, but is \"\\ud800\"."),
    ("required_text", ("empty",), "f.json, row 812: 'empty' should be a text that is not empty, but is \" \"."),
    ("integer", ("flag",), "f.json, row 812: 'flag' should be a whole number, but is true."),
    ("integer", ("name",), "f.json, row 812: 'name' should be a whole number, but is \"  a\\t b \"."),
    ("text_or_integer", ("flag",), "f.json, row 812: 'flag' should be a text or a whole number, but is true."),
    ("optional_text", ("count",), "f.json, row 812: 'count' should be a text, but is 3."),
    ("number_text", ("flag",), "f.json, row 812: 'flag' should be a text or a number, but is true."),
    ("number_text", ("nan",), "f.json, row 812: 'nan' should be a text or a number, but is NaN."),
    ("number_text", ("none",), "f.json, row 812: 'none' should be a text or a number, but is null."),
    ("real", ("nan",), "f.json, row 812: 'nan' should be a number, but is NaN."),
    ("real", ("flag",), "f.json, row 812: 'flag' should be a number, but is true."),
    ("texts", ("mixed",), "f.json, row 812: 'mixed' should be a list of texts, but is [\"a\", 1]."),
    ("texts", ("count",), "f.json, row 812: 'count' should be a list of texts, but is 3."),
    ("paths", ("mixed", "/d"), "f.json, row 812: 'mixed' should be a path or a list of paths, but is [\"a\", 1]."),
    ("paths", ("escapes", Path("/d")), "f.json, row 812: the path \"/etc/x\" in 'escapes' does not stay inside '/d'."),
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


def test_a_csv_without_header_or_quotes(tmp_path):
    path = write(tmp_path, b'synpic1|is it "big"?|yes\n\nsynpic2|"what|no')
    rows = list(read_csv_rows(path, delimiter="|", header=("image", "question", "answer"), quotes=False))
    assert [(row.number, row.values["question"]) for row in rows] == [(1, 'is it "big"?'), (2, '"what')]
    assert fault_of(read_csv_rows, path, delimiter="|", header=("a", "b"), quotes=False) == (
        f"{path}, row 1: 3 values under 2 columns.")
    assert fault_of(read_csv_rows, write(tmp_path, b"\n"), header=("a",)) == f"{path}: the file is empty."


def test_a_value_of_a_csv_file_is_bounded(tmp_path):
    """A quotation mark that is never closed must not swallow the file."""
    path = write(tmp_path, b'a,b\n1,"2\n' + b"x,y\n" * 100_000)
    assert fault_of(read_csv_rows, path).endswith("not valid CSV (field larger than field limit (131072)).")


@pytest.mark.parametrize("read", [read_jsonl_rows, read_csv_rows])
@pytest.mark.parametrize(("content", "fault"), [
    (b'{"a": 1}\n{"b": "\xe9"}\n', "line 2: not UTF-8 text (byte 0xe9)."),
    (b'{"a": 1}\r{"a": 2}\r{"b": "\xe9"}', "line 3: not UTF-8 text (byte 0xe9)."),
    ('{"a": 1}\n'.encode("utf-16"), "line 1: not UTF-8 text (byte 0xff)."),
    ('{"a": 1}\n'.encode("utf-16-le"), "line 1: a NUL byte: the file is damaged, or not UTF-8."),
    (b'{"a": 1}\n{"a": "\0"}\n', "line 2: a NUL byte: the file is damaged, or not UTF-8."),
])
def test_wrong_bytes_are_named_by_line(tmp_path, read, content, fault):
    path = write(tmp_path, content)
    assert fault_of(read, path) == f"{path}, {fault}"


def test_a_line_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 1 << 20)
    path = write(tmp_path, b'{"a": 1}\n{"b": 2}\n"' + b"x" * (4 << 20))
    for read in (read_jsonl_rows, read_csv_rows):
        assert fault_of(read, path) == f"{path}, line 3: longer than 1 MiB."


def test_json_too_large_for_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_JSON_BYTES", 1 << 20)
    path = write(tmp_path, b"[" + b" " * (1 << 20) + b"]")
    assert fault_of(read_json_rows, path) == f"'{path}' is larger than 1 MiB: too large for one JSON document."


def test_the_rows_before_a_fault_are_given(tmp_path):
    rows = read_jsonl_rows(write(tmp_path, b'{"a": 1}\n{"a": 2}\n{"a"'))
    assert [next(rows).values, next(rows).values] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match="line 3: the JSON is cut off"):
        next(rows)


@pytest.mark.parametrize("read", [read_jsonl_rows, read_csv_rows])
def test_rows_are_read_one_at_a_time(tmp_path, read):
    """11 MB of rows in a fraction of that."""
    with (tmp_path / "rows").open("wb") as stream:
        stream.write(b"q,a\n" if read is read_csv_rows else b"")
        line = b"is there a lesion?" * 20 + b",no\n"
        stream.writelines(line if read is read_csv_rows else b'{"a": "%s"}\n' % line[:-4] for _ in range(30_000))
    tracemalloc.start()
    count = sum(1 for _ in read(tmp_path / "rows"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000
    assert peak < 5_000_000


def write_parquet(path: Path, columns: dict, **options) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def test_parquet(tmp_path):
    values = {"q": [f"question {n}" for n in range(200)], "a": [None, *range(199)], "l": [["x", "y"]] * 200}
    path = write_parquet(tmp_path / "a.parquet", values, row_group_size=70)
    rows = list(read_parquet_rows(path))
    assert [row.number for row in rows] == list(range(1, 201))
    assert rows[150].values == {"q": "question 150", "a": 149, "l": ["x", "y"]}
    assert next(read_parquet_rows(path, ["a"])).values == {"a": None}
    assert fault_of(read_parquet_rows, path, ["b"]) == f"{path}: the column 'b' is missing."


def test_bad_parquet_files(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"q": ["text"] * 100}, compression="snappy")
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-10], whole[:len(whole) // 2], whole[:20] + b"\xff" * 40 + whole[60:]):
        assert fault_of(read_parquet_rows, write(tmp_path, content, "b.parquet")).startswith(f"'{tmp_path}/b.parquet' ")
    assert fault_of(read_parquet_rows, tmp_path / "c") == f"'{tmp_path}/c' cannot be read: No such file or directory."
    twice = pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"])
    parquet.write_table(twice, path)
    assert fault_of(read_parquet_rows, path) == (
        f'{path}: every column needs a name of its own, but the columns are ["a", "a"].')


def test_tables_are_read_by_their_names(tmp_path):
    write(tmp_path, b'[{"a": "1"}]', "t.json")
    write(tmp_path, b'{"a": "1"}', "t.JSONL")
    write(tmp_path, b"a,b\n1,2", "t.csv")
    write(tmp_path, b"a\tb\n1\t2", "t.tsv")
    write_parquet(tmp_path / "t.parquet", {"a": ["1"]})
    for name in ("t.json", "t.JSONL", "t.csv", "t.tsv", "t.parquet"):
        assert [row.text("a") for row in read_rows(tmp_path / name)] == ["1"]
    assert fault_of(read_rows, tmp_path / "t.xlsx") == (
        f"'{tmp_path}/t.xlsx' is no table: its name should end in one of .json, .jsonl, .csv, .tsv, .parquet.")


def write_hub(folder: Path, facts: str = '{"splits": {"train": 2, "test": 1}}') -> Path:
    (folder / "hub.json").write_text(facts)
    (folder / "train.jsonl").write_text('{"q": 1}\n{"q": 2}\n')
    (folder / "test.jsonl").write_text('{"q": 3}\n')
    return folder


def test_a_hub_layout(tmp_path):
    assert not is_hub_layout(tmp_path)
    assert is_hub_layout(write_hub(tmp_path))
    assert [(split, row.values["q"], row.number) for split, row in read_hub_rows(tmp_path)] == [
        ("train", 1, 1), ("train", 2, 2), ("test", 3, 1)]


@pytest.mark.parametrize(("facts", "fault"), [
    ("[]", "hub.json: 'splits' should give each split's number of rows, but is null."),
    ('{"splits": {"train": "2"}}', "'splits' should give each split's number of rows, but is {\"train\": \"2\"}."),
    ('{"splits": {"train": 3}}', "train.jsonl: 2 rows, but hub.json says 3."),
    ('{"splits": {"dev": 1}}', "dev.jsonl' cannot be read: No such file or directory."),
    ('{"splits": {"../train": 2}}', "The path \"../train.jsonl\" does not stay inside '{folder}'."),
    ("{", "hub.json: the JSON is cut off (Expecting property name enclosed in double quotes: line 1 column 2"),
])
def test_a_damaged_hub_layout(tmp_path, facts, fault):
    assert fault.replace("{folder}", str(tmp_path)) in fault_of(read_hub_rows, write_hub(tmp_path, facts))


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


READERS = {"json": read_json_rows, "jsonl": read_jsonl_rows, "csv": read_csv_rows, "parquet": read_parquet_rows}


def check_bytes(folder: Path, content: bytes) -> None:
    """Whatever the bytes, a reader gives rows or one error that names the file."""
    path = write(folder, content, "fuzz")
    for read in READERS.values():
        rows, fault = [], ""
        try:
            rows.extend(read(path))
        except DataError as error:
            fault = error.message
        assert str(path) in fault or all(row.file == path and row.number > 0 for row in rows)


PIECES = st.lists(st.sampled_from([
    b'{"a": 1}', b"\n", b"\r", b"\r\n", b",", b'"', b"\0", b"\xff", b"\xef\xbb\xbf", b"[", b"]", b"a,b", b"1,2",
    b'{"a": "', b"\xe2\x80", b"\xa8", b" ", b"PAR1"])).map(b"".join)


@FEW
@given(content=st.binary(max_size=60) | PIECES)
def test_no_bytes_bring_down_the_readers(tmp_path_factory, content):
    check_bytes(tmp_path_factory.getbasetemp(), content)


@pytest.mark.slow
@MANY
@given(content=st.binary(max_size=60) | PIECES)
def test_no_bytes_bring_down_the_readers_10_000_times(tmp_path_factory, content):
    check_bytes(tmp_path_factory.getbasetemp(), content)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@FEW
@given(records=st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=5), end=st.sampled_from(["\n", "\r\n", "\r"]),
       delimiter=st.sampled_from([",", "\t", "#", "|"]), chunk=st.integers(1, 40))
def test_what_csv_wrote_is_read(tmp_path_factory, records, end, delimiter, chunk):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["q", "a"], *records])
    path = write(tmp_path_factory.getbasetemp(), stream.getvalue().encode(), "written.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK", chunk)
        assert [list(row.values.values()) for row in read_csv_rows(path, delimiter=delimiter)] == records


@FEW
@given(records=st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=5), is_ascii=st.booleans(),
       end=st.sampled_from(["\n", "\r\n", "\r"]), cut=st.booleans(), chunk=st.integers(1, 40))
def test_what_json_lines_wrote_is_read(tmp_path_factory, records, is_ascii, end, cut, chunk):
    text = "".join(json.dumps(record, ensure_ascii=is_ascii) + end for record in records)
    path = write(tmp_path_factory.getbasetemp(), text.removesuffix(end if cut else "").encode(), "written.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK", chunk)
        assert [row.values for row in read_jsonl_rows(path)] == records


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


def test_a_file_is_no_folder(tmp_path):
    path = write(tmp_path, b"", "mark")
    assert fault_of(find_folder, CARD, path, find_fault) == f"'{path}' is a file, but Toy is a folder."


def test_one_file_is_enough_where_the_card_says_so(tmp_path):
    card = dataclasses.replace(CARD, single_file=True, default_roots=(str(tmp_path / "toy.csv"),))
    path = write(tmp_path, b"", "toy.csv")
    assert find_folder(card, path, lambda found: "" if found.is_file() else "no file") == path
    assert find_folder(card, None, lambda found: "" if found.is_file() else "no file") == path
    assert fault_of(find_folder, card, path, lambda found: "a column is missing") == (
        f"'{path}' is not laid out like Toy: a column is missing.")
    assert fault_of(find_folder, card, tmp_path / "no", find_fault) == (
        f"The file or folder '{tmp_path}/no' does not exist.")


def test_a_root_that_is_no_path(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for root in (Path("~no-such-user/x"), tmp_path / "a\0b", tmp_path / "loop"):
        assert fault_of(find_folder, CARD, root, find_fault).startswith(f"The path '{root}' cannot be used: ")


def test_a_set_without_default_folders(tmp_path):
    card = dataclasses.replace(CARD, default_roots=())
    assert fault_of(find_folder, card, None, find_fault) == "The files of Toy were not found."
