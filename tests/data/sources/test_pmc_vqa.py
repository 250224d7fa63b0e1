"""PMC-VQA: both versions, choices and letters, rows that contradict themselves, every fault."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvqa_cli.data.sources.pmc_vqa import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample

CHOICES = {"Choice A": " A:Diffuse uptake pattern ", "Choice B": " B:Focal uptake pattern ",
           "Choice C": "C: No uptake pattern", "Choice D": " D:Cannot determine from the information given "}
V1 = ("Figure_path", "Question", "Answer", *CHOICES, "Answer_label")
V2 = ("index", "Figure_path", "Caption", "Question", *CHOICES, "Answer", "split")


def make_row(**changes):
    row = {"Figure_path": "PMC1064097_F1.jpg", "Question": " What is the uptake pattern in the breast? ",
           "Answer": "Focal uptake pattern", **CHOICES, "Answer_label": "B"}
    return row | {key.replace("_", " ") if key.startswith("Choice") else key: value for key, value in changes.items()}


def make_row_v2(**changes):
    return make_row(**{"index": "62", "Caption": 'CT shows, "quoted",\nencasement.', "Answer": "B", "split": "test"}
                    | changes)


def write_csv(path, rows, columns=V1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def root(tmp_path):
    write_csv(tmp_path / "train.csv", [make_row(), make_row(Figure_path="PMC2_F2.jpg", Answer_label="A",
                                                            Answer="Diffuse uptake pattern")])
    write_csv(tmp_path / "test.csv", [make_row()])
    write_csv(tmp_path / "test_clean.csv", [make_row()])
    (tmp_path / "images").mkdir()
    return tmp_path


@pytest.fixture
def root_v2(tmp_path):
    write_csv(tmp_path / "train_2.csv", [make_row_v2()], V2)
    write_csv(tmp_path / "test_2.csv", [make_row_v2(index="7", Answer=" c ")], V2)
    (tmp_path / "figures").mkdir()
    return tmp_path


def read(root, **options):
    return list(PLUGIN.read(PLUGIN.find_root(root), PLUGIN.Options(**options)))


def fail(root, **options):
    with pytest.raises(DataError) as failure:
        read(root, **options)
    return failure.value.message


def test_every_field_of_version_1(root):
    samples = read(root)
    assert samples[0] == VQASample(
        dataset="pmc_vqa", split="train", question_id="train-1", image_id="PMC1064097_F1",
        question="What is the uptake pattern in the breast?", answer="Focal uptake pattern", answer_type="closed",
        images=(f"{root}/images/PMC1064097_F1.jpg",),
        options=("Diffuse uptake pattern", "Focal uptake pattern", "No uptake pattern",
                 "Cannot determine from the information given"), extra={"letter": "B", "version": "v1"})
    assert Counter(sample.split for sample in samples) == {"train": 2, "test": 1, "test_clean": 1}
    assert len({sample.question_id for sample in samples}) == 4


def test_every_field_of_version_2(root_v2):
    train, test = read(root_v2)
    assert (train.answer, train.split, train.question_id) == ("Focal uptake pattern", "train", "train_2-1")
    assert train.extra == {"letter": "B", "version": "v2", "index": "62", "caption": 'CT shows, "quoted", encasement.'}
    assert (test.answer, test.extra["letter"], test.split) == ("No uptake pattern", "C", "test")
    assert test.images == (f"{root_v2}/figures/PMC1064097_F1.jpg",)


def test_the_version_is_chosen(root, root_v2):
    assert root == root_v2
    assert {sample.extra["version"] for sample in read(root)} == {"v1"}
    assert {sample.extra["version"] for sample in read(root, version="v2")} == {"v2"}
    (root / "images").rmdir()
    assert {sample.extra["version"] for sample in read(root)} == {"v2"}
    assert fail(root, version="v1") == (f"'{root}' does not hold version 'v1' of PMC-VQA: the picture folder 'images' "
                                        "is missing.")


def test_splits_may_be_missing_and_names_vary(root, root_v2):
    (root / "train.csv").unlink()
    (root / "test.csv").unlink()
    (root / "images" / "images").mkdir()
    assert [sample.images for sample in read(root)] == [(f"{root}/images/images/PMC1064097_F1.jpg",)]
    (root_v2 / "test_2.csv").rename(root_v2 / "test2.csv")
    assert [sample.split for sample in read(root_v2, version="v2")] == ["train", "test"]


def test_a_wrong_layout_says_what_is_missing(tmp_path):
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(tmp_path)
    assert failure.value.message == (
        f"'{tmp_path}' is not laid out like PMC-VQA: none of train.csv, test.csv, test_clean.csv is there (version 1), "
        "and none of train_2.csv, test_2.csv is there (version 2).")
    assert "xmcmic/PMC-VQA" in failure.value.hint
    write_csv(tmp_path / "train_2.csv", [make_row_v2()], V2)
    with pytest.raises(DataError, match=r"the picture folder 'figures' is missing \(version 2\)"):
        PLUGIN.find_root(tmp_path)


@pytest.mark.parametrize(("changes", "answer", "letter"), [
    ({"Answer": "B: Focal uptake pattern"}, "Focal uptake pattern", "B"),
    ({"Answer": "focal uptake pattern."}, "Focal uptake pattern", "B"),
    ({"Answer": "B"}, "Focal uptake pattern", "B"),
    ({"Answer": ""}, "Focal uptake pattern", "B"),
    ({"Answer_label": " b: "}, "Focal uptake pattern", "B"),
    ({"Choice_B": "Focal uptake pattern"}, "Focal uptake pattern", "B"),
    ({"Choice_B": "B:B: a second prefix", "Answer": "B: a second prefix"}, "B: a second prefix", "B"),
    ({"Choice_B": "\xa0B\u200a: Focal\xa0uptake pattern"}, "Focal uptake pattern", "B"),
    ({"Choice_B": "B:A. fumigatus 1:2", "Answer": "A. fumigatus 1:2"}, "A. fumigatus 1:2", "B"),
])
def test_rows_that_agree(root, changes, answer, letter):
    write_csv(root / "train.csv", [make_row(**changes)])
    sample = read(root, conflicts="error")[0]
    assert (sample.answer, sample.extra) == (answer, {"letter": letter, "version": "v1"})
    assert sample.answer in sample.options


def test_an_empty_choice_is_left_out(root):
    write_csv(root / "train.csv", [make_row(Choice_A=" A: ", Choice_D="")])
    assert read(root)[0].options == ("Focal uptake pattern", "No uptake pattern")


def test_rows_that_contradict_themselves_are_kept_and_marked(root):
    write_csv(root / "train.csv", [make_row(Answer="No uptake pattern"), make_row(Answer="Uptake"),
                                   make_row(Answer_label="E"), make_row(Answer_label="")])
    samples = read(root)[:4]
    assert [sample.answer for sample in samples] == ["Focal uptake pattern"] * 4
    assert [{**sample.extra} for sample in samples] == [
        {"letter": "B", "version": "v1", "answer_text": "No uptake pattern"},
        {"letter": "B", "version": "v1", "answer_text": "Uptake"},
        {"letter": "B", "version": "v1", "answer_label": "E"}, {"letter": "B", "version": "v1", "answer_label": ""}]


OFFERED = ('the choices are A: "Diffuse uptake pattern", B: "Focal uptake pattern", C: "No uptake pattern", D: "Cannot '
           'determine from the information given".')


def test_a_contradiction_can_be_an_error(root):
    write_csv(root / "train.csv", [make_row(), make_row(Answer="No uptake pattern")])
    assert fail(root, conflicts="error") == (
        f"{root}/train.csv, row 2: 'Answer_label' is \"B\" and 'Answer' is \"No uptake pattern\", but {OFFERED}")


def test_a_row_without_a_right_choice_is_an_error(root, root_v2):
    write_csv(root / "train.csv", [make_row(Answer_label="E", Answer="Nothing")])
    fault = f"'Answer_label' is \"E\" and 'Answer' is \"Nothing\", but {OFFERED}"
    assert fail(root) == f"{root}/train.csv, row 1: {fault}"
    write_csv(root / "train.csv", [make_row(Answer_label="E", Choice_A="A:Focal uptake pattern")])
    assert "'Answer_label' is \"E\" and 'Answer' is \"Focal uptake pattern\", but the choices" in fail(root)
    write_csv(root / "train.csv", [make_row(Choice_B="B:")])
    assert "'Answer_label' is \"B\" and 'Answer' is \"Focal uptake pattern\", but" in fail(root)
    write_csv(root_v2 / "train_2.csv", [make_row_v2(Answer="F")], V2)
    assert fail(root, version="v2") == f"{root}/train_2.csv, row 1: 'Answer' is \"F\", but {OFFERED}"


@pytest.mark.parametrize(("changes", "fault"), [
    ({"Question": " "}, "'Question' should be a text that is not empty, but is \" \"."),
    ({"Figure_path": ""}, "'Figure_path' should be a text that is not empty, but is \"\"."),
    ({"Figure_path": "../../x.jpg"}, "the path \"../../x.jpg\" in 'Figure_path' does not stay inside '"),
])
def test_a_faulty_row_is_named(root, changes, fault):
    write_csv(root / "train.csv", [make_row(), make_row(**changes)])
    assert fail(root).startswith(f"{root}/train.csv, row 2: {fault}")


def test_a_missing_column_is_named(root):
    write_csv(root / "train.csv", [make_row()], [name for name in V1 if name != "Choice C"])
    assert fail(root) == f"{root}/train.csv, row 1: the key 'Choice C' is missing."


def test_files_that_cannot_be_read(root):
    content = (root / "train.csv").read_bytes()
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert len(read(root)) == 4
    (root / "train.csv").write_bytes(content.replace(b"breast", b"br\xe4st"))
    assert fail(root).startswith(f"{root}/train.csv, line 2: not UTF-8 text (byte 0xe4)")
    (root / "train.csv").write_bytes(content.replace(b"breast", b"br\0st"))
    assert fail(root).startswith(f"{root}/train.csv, line 2: a NUL byte")
    (root / "train.csv").write_bytes(content[:-20])
    assert fail(root) == f"{root}/train.csv, row 2: 7 values under 8 columns."


CELL = st.one_of(st.sampled_from(["A", "B: x", "x", " C:y", "", "A:x", "a.jpg"]),
                 st.text(st.characters(codec="utf-8"), max_size=6))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(dict.fromkeys(V1, CELL)), min_size=1, max_size=3),
       conflicts=st.sampled_from(["letter", "error"]))
def test_any_rows_are_samples_or_an_error(tmp_path_factory, rows, conflicts):
    folder = tmp_path_factory.getbasetemp() / "fuzz-pmc"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write_csv(folder / "train.csv", rows)
    try:
        samples = read(folder, conflicts=conflicts)
    except DataError as error:
        samples, fault = [], error.message
    else:
        fault = ""
    assert len(samples) == len(rows) or fault.startswith(f"{folder}/train.csv, ")
    assert all(sample.answer in sample.options for sample in samples)
