"""VQA-Med 2019: the release's folders, reference answers with alternatives and optional parts, every fault."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvqa_cli.data.sources.vqa_med_2019 import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample

CATEGORY_FILES = ("C1_Modality", "C2_Plane", "C3_Organ", "C4_Abnormality")
TRAIN, VALIDATION, TEST = "ImageClef-2019-VQA-Med-Training", "ImageClef-2019-VQA-Med-Validation", "VQAMed2019Test"
TEST_FILE = f"{TEST}/VQAMed2019_Test_Questions_w_Ref_Answers.txt"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def build(root, *, train=TRAIN, validation=VALIDATION):
    """Two training pictures with four questions each, one validation picture with four, three test questions."""
    for folder, suffix, images in ((train, "train", ("synpic1", "synpic2")), (validation, "val", ("synpic3",))):
        for name in CATEGORY_FILES:
            lines = [f"{image}|what about {name.lower()}?|no" for image in images]
            write(root / folder / "QAPairsByCategory" / f"{name}_{suffix}.txt", "\n".join(lines) + "\n")
        (root / folder / f"{suffix.title()}_images").mkdir(parents=True)
    write(root / TEST_FILE, 'synpic4|modality|is \tthis a t1 weighted image?|yes\n'
                            'synpic5|organ|what organ?|face, sinuses, and neck#skull and contents\n'
                            'synpic6|abnormality|what is most alarming?|incompetent cervix, "hourglass membranes."\n')
    (root / TEST / "VQAMed2019_Test_Images").mkdir()
    return root


@pytest.fixture
def root(tmp_path):
    return build(tmp_path / "VQA-Med-2019")


def read(root):
    return list(PLUGIN.read(PLUGIN.find_root(root), None))


def try_to_read(root):
    """The samples, or the error's text; any other exception is a failure."""
    try:
        return read(root), ""
    except DataError as error:
        return [], error.message


def test_every_field(root):
    samples = read(root)
    assert samples[0] == VQASample(
        dataset="vqa_med_2019", split="train", question_id="train-modality-1", image_id="synpic1",
        question="what about c1_modality?", answer="no", answer_type="closed",
        images=(f"{root}/{TRAIN}/Train_images/synpic1.jpg",), question_type="modality")
    assert samples[8].images == (f"{root}/{VALIDATION}/Val_images/synpic3.jpg",)
    assert samples[14] == VQASample(
        dataset="vqa_med_2019", split="test", question_id="test-abnormality-3", image_id="synpic6",
        question="what is most alarming?", answer='incompetent cervix, "hourglass membranes."', answer_type="open",
        images=(f"{root}/{TEST}/VQAMed2019_Test_Images/synpic6.jpg",), question_type="abnormality")
    assert (samples[12].question, samples[12].answer_type) == ("is this a t1 weighted image?", "closed")
    assert Counter(sample.split for sample in samples) == {"train": 8, "validation": 4, "test": 3}
    assert Counter(sample.question_type for sample in samples[:12]) == dict.fromkeys(
        ("modality", "plane", "organ", "abnormality"), 3)
    assert len({sample.question_id for sample in samples}) == 15


@pytest.mark.parametrize(("written", "answer", "alternatives"), [
    ("axial", "axial", ()),
    ("anaplastic oligodendroglioma#multi-cystic complex mass", "anaplastic oligodendroglioma",
     ("multi-cystic complex mass",)),
    ("(angioinvasive aspergillosis with) septic cerebral emboli",
     "(angioinvasive aspergillosis with) septic cerebral emboli",
     ("septic cerebral emboli", "angioinvasive aspergillosis with septic cerebral emboli")),
    ("medulloblastoma (pnet)", "medulloblastoma (pnet)", ("medulloblastoma", "medulloblastoma pnet")),
    ("(avm)", "(avm)", ("avm",)),
    ("a (b) c (d)#e (f)", "a (b) c (d)", ("e (f)", "a c", "a b c d", "e", "e f")),
    ("half (open", "half (open", ()),
    ('"hourglass membranes."', '"hourglass membranes."', ()),
    ('"unpaired', '"unpaired', ()),
    ("()", "()", ()),
    ("a#a", "a", ()),
    ("#", "#", ()),
    ("##3rd#", "3rd", ()),
])
def test_reference_answers(root, written, answer, alternatives):
    write(root / TEST_FILE, f"synpic4|plane|what is it?|{written}\n")
    sample = read(root)[-1]
    assert (sample.answer, sample.alternatives) == (answer, alternatives)
    assert sample.extra == ({} if written == answer else {"written_answer": written})


def test_only_yes_and_no_are_closed(root):
    answers = ("Yes", "no", "contrast", "no (mri)")
    write(root / TEST_FILE, "".join(f"synpic4|modality|which?|{answer}\n" for answer in answers))
    assert [sample.answer_type for sample in read(root)[-4:]] == ["closed", "closed", "open", "open"]


def test_splits_may_be_missing_and_folders_renamed(tmp_path):
    root = build(tmp_path / "data", train="train", validation="val")
    assert len(read(root)) == 15
    assert len(read(build(tmp_path / "deep" / "er", train=f"train/{TRAIN}").parent)) == 15
    assert Counter(sample.split for sample in read(root / TEST)) == {"test": 3}


def test_an_archive_inside_its_own_folder(root):
    inner = root / TEST / "VQAMed2019_Test_Images" / "VQAMed2019_Test_Images"
    inner.mkdir()
    assert read(root)[-1].images == (f"{inner}/synpic6.jpg",)


def test_without_files_by_category_there_is_no_question_type(root):
    for name in CATEGORY_FILES:
        (root / TRAIN / "QAPairsByCategory" / f"{name}_train.txt").unlink()
    write(root / TRAIN / "All_QA_Pairs_train.txt", "synpic1|what?|ct\nsynpic2|is it?|no\n")
    samples = [sample for sample in read(root) if sample.split == "train"]
    assert [(sample.question_id, sample.question_type) for sample in samples] == [("train-1", ""), ("train-2", "")]


def test_byte_order_mark_carriage_returns_and_empty_lines(root):
    (root / TEST_FILE).write_bytes(b"\xef\xbb\xbfsynpic4|plane|what?|axial \r\n\r\n synpic5|organ|what?|l5-s1\r\n")
    assert [(sample.image_id, sample.answer) for sample in read(root)[-2:]] == [("synpic4", "axial"),
                                                                                ("synpic5", "l5-s1")]


def test_a_wrong_layout_says_what_is_missing(tmp_path, root):
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(tmp_path / "VQA-Med-2019" / TEST / "VQAMed2019_Test_Images")
    assert failure.value.message.endswith(
        "is not laid out like VQA-Med 2019: neither 'C1_Modality_train.txt', 'C1_Modality_val.txt' nor "
        "'VQAMed2019_Test_Questions_w_Ref_Answers.txt' is in it.")
    assert "https://zenodo.org/records/10499039" in failure.value.hint
    (root / VALIDATION / "Val_images").rmdir()
    with pytest.raises(DataError, match="the picture folder 'Val_images' is missing"):
        PLUGIN.find_root(root)
    (root / VALIDATION / "Val_images").mkdir()
    (root / TRAIN / "QAPairsByCategory" / "C3_Organ_train.txt").unlink()
    with pytest.raises(DataError, match=r"'C3_Organ_train\.txt' is missing"):
        PLUGIN.find_root(root)


@pytest.mark.parametrize(("line", "fault"), [
    ("synpic4|plane|axial or coronal|a|b", "row 1: 5 values under 4 columns."),
    ("synpic4|plane|axial", "row 1: 3 values under 4 columns."),
    ("synpic4|x|how?|big", "row 1: 'category' should be one of modality, plane, organ, abnormality, but is \"x\"."),
    ("synpic4|plane||axial", "row 1: 'question' should be a text that is not empty, but is \"\"."),
    ("synpic4|plane|what?| ", "row 1: 'answer' should be a text that is not empty, but is \" \"."),
    ("|plane|what?|axial", "row 1: 'image' should be a text that is not empty, but is \"\"."),
    ("synpic4|plane|what?|a\0", "line 1: a NUL byte: the file is damaged, or not UTF-8."),
])
def test_a_faulty_line_is_named(root, line, fault):
    path = write(root / TEST_FILE, line + "\n")
    with pytest.raises(DataError) as failure:
        read(root)
    assert failure.value.message == f"{path}, {fault}"


def test_files_that_cannot_be_read(root):
    (root / TEST_FILE).write_bytes(b"synpic4|plane|what?|fi\xe8vre\n")
    with pytest.raises(DataError, match=r"Ref_Answers\.txt, line 1: not UTF-8 text \(byte 0xe8\)"):
        read(root)
    (root / TEST_FILE).write_bytes(b"")
    with pytest.raises(DataError, match=r"Ref_Answers\.txt: the file is empty"):
        read(root)


@pytest.mark.parametrize("image", ["../../secret", "/etc/passwd", " ../x"])
def test_a_path_out_of_the_folder_is_refused(root, image):
    write(root / TEST_FILE, f"{image}|plane|what?|axial\n")
    with pytest.raises(DataError) as failure:
        read(root)
    assert failure.value.message == (f"{root}/{TEST_FILE}, row 1: the path \"{image.strip()}.jpg\" in 'image' does not "
                                     f"stay inside '{root}/{TEST}/VQAMed2019_Test_Images'.")


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.lists(st.one_of(st.sampled_from(["synpic4", "plane", "what?", "yes", "a#b (c)", ""]),
                                         st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8)),
                               min_size=1, max_size=5).map("|".join), min_size=1, max_size=4))
def test_any_lines_are_samples_or_an_error(tmp_path_factory, lines):
    folder = tmp_path_factory.getbasetemp() / "fuzz-vqa-med"
    (folder / "VQAMed2019_Test_Images").mkdir(parents=True, exist_ok=True)
    write(folder / "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "\n".join(lines))
    samples, fault = try_to_read(folder)
    if fault:
        assert str(folder) in fault
    else:
        assert len(samples) == sum(bool(line) for line in lines)
        assert all(sample.answer and sample.question and sample.answer not in sample.alternatives for sample in samples)
