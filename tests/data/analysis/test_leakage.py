"""What two splits, or two data sets, share: by pixels, by looks, by words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.analysis.inspection import ImageReport, inspect_images
from medvqa_cli.data.analysis.leakage import (
    compare_datasets,
    find_leakage,
    find_neighbours,
    list_examples,
    trace_samples,
)
from medvqa_cli.data.analysis.neighbours import Neighbours
from medvqa_cli.data.selection import filter_language
from medvqa_cli.data.sources.slake import PLUGIN as SLAKE
from medvqa_cli.data.sources.vqa_rad import PLUGIN as VQA_RAD
from tests.data.builders import make_sample


def make_look(*places):
    """A hash with some bits of the first picture's changed."""
    number = int("5" * 64, 16)
    for place in places:
        number ^= 1 << place
    return f"{number:064x}"


NEAR, FAR = make_look(*range(24)), make_look(*range(100, 126))
HASHES = {"/a.png": "1", "/copy.png": "1", "/b.png": "2", "/near.png": "3", "/twin.png": "4", "/far.png": "5"}
LOOKS = {"/a.png": make_look(), "/copy.png": make_look(), "/near.png": NEAR, "/twin.png": make_look(), "/far.png": FAR}
REPORT = ImageReport(HASHES, {}, LOOKS)


def find(splits, report=REPORT):
    traces = {split: trace_samples(samples, report.hashes) for split, samples in splits.items()}
    return find_leakage(traces, find_neighbours(traces, report))


def test_leakage_is_found_by_pixels_and_by_looks():
    splits = {"train": [make_sample(1, "/a.png", question="What?"), make_sample(2, "/b.png", answer="no")],
              "test": [make_sample(3, "/copy.png", question="what"), make_sample(4, "/copy.png", question="Other?"),
                       make_sample(5, "/near.png", question="What?"), make_sample(6, "/far.png", question="What?"),
                       make_sample(7, question="Both?", images=("/near.png", "/copy.png")),
                       make_sample(8, "/twin.png", question="Question 2?")]}
    assert find(splits) == [
        {"splits": ["train", "test"], "images": 4, "shared_images": 1, "near_images": 2, "questions": 6,
         "questions_on_shared_images": 3, "questions_on_near_images": 2, "shared_questions": 1, "shared_texts": 3}]
    blind = find(splits, ImageReport())[0]
    assert (blind["images"], blind["shared_images"], blind["near_images"], blind["shared_texts"]) == (4, 0, 0, 3)


def test_every_pair_of_splits_is_compared():
    splits = {name: [make_sample(1, "/a.png")] for name in ("train", "validation", "test")}
    assert [pair["splits"] for pair in find(splits)] == [["train", "validation"], ["train", "test"],
                                                         ["validation", "test"]]
    assert all(pair["shared_images"] == pair["shared_questions"] == 1 for pair in find(splits))
    assert all(pair["near_images"] == 0 for pair in find(splits))


def test_questions_without_an_image_are_compared_by_their_words():
    splits = {"train": [make_sample(1, question="A?"), make_sample(2, "/a.png", question="B?")],
              "test": [make_sample(3, question="a"), make_sample(4, question="B?")]}
    pair = find(splits)[0]
    assert (pair["images"], pair["shared_questions"], pair["shared_texts"]) == (0, 1, 2)


def test_duplicates_are_counted():
    samples = [make_sample(1, "/a.png", question="A?"), make_sample(2, "/copy.png", question="a"),
               make_sample(3, "/a.png", question="A?", answer="no"), make_sample(4, "/b.png", question="A?")]
    assert trace_samples(samples, HASHES).duplicates == {"same_question": 2, "same_answer": 1}


SPLITS = {"train": {"1", "4", "9"}, "test": {"3", "5"}}
BY_KEY = {HASHES[path]: look for path, look in LOOKS.items()}


def test_neighbours_are_counted_as_pairs_of_pictures():
    found = Neighbours(SPLITS, BY_KEY)
    assert found.distances == {0: 1, 24: 2}
    assert found.has_near("3", "train")
    assert not found.has_near("3", "test")
    assert found.has_near("1", "train")
    assert found.has_near("1", "test")
    assert not found.has_near("5", "train")
    assert not found.has_near("9", "train")
    assert found.list_splits("4") == ["train"]
    assert Neighbours(SPLITS, BY_KEY, max_distance=22).distances == {0: 1}
    assert Neighbours(SPLITS, BY_KEY, max_distance=26).distances == {0: 1, 24: 2, 26: 2}


def test_a_pair_across_splits_comes_before_a_closer_one():
    assert list(Neighbours(SPLITS, BY_KEY).choose_examples()) == [("1", "3", 24)]
    apart = Neighbours({"train": {"1", "4", "5"}, "test": {"3", "6"}}, BY_KEY | {"6": make_look(100)})
    assert list(apart.choose_examples()) == [("1", "6", 1), ("4", "3", 24)]
    assert list(apart.choose_examples(across=True)) == [("1", "6", 1), ("4", "3", 24)]
    assert list(Neighbours({"train": {"1", "4"}}, BY_KEY).choose_examples()) == [("1", "4", 0)]
    assert list(Neighbours({"train": {"1", "4"}}, BY_KEY).choose_examples(across=True)) == []


def test_examples_name_files_and_splits():
    traces = {"train": trace_samples([make_sample(1, "/copy.png"), make_sample(2, "/a.png")], HASHES),
              "test": trace_samples([make_sample(3, "/near.png"), make_sample(4, "/a.png")], HASHES)}
    assert list_examples(find_neighbours(traces, REPORT), REPORT) == [
        {"images": ["/a.png", "/near.png"], "distance": 24, "splits": [["train", "test"], ["test"]]}]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["train", "validation", "test"])), max_size=12),
       st.lists(st.sets(st.integers(0, 40), max_size=20), min_size=6, max_size=6))
def test_neighbours_are_those_that_comparing_all_finds(places, changes):
    looks = {str(number): make_look(*change) for number, change in enumerate(changes)}
    splits = {name: {str(key) for key, split in places if split == name} for name in ("train", "validation", "test")}
    found = Neighbours(splits, looks)

    def differ(one, other):
        return (int(looks[one], 16) ^ int(looks[other], 16)).bit_count()

    keys = sorted(set().union(*splits.values()))
    assert found.distances.total() == sum(differ(one, other) <= 24 for one in keys for other in keys if one < other)
    for key in keys:
        for name, part in splits.items():
            assert found.has_near(key, name) == any(differ(key, other) <= 24 for other in part - {key})
    for left, right, distance in found.choose_examples():
        assert differ(left, right) == distance <= 24


def test_another_data_set_is_compared():
    ours = {"train": [make_sample(1, "/a.png")],
            "test": [make_sample(2, "/near.png", question="What?"), make_sample(3, "/far.png")]}
    theirs = {"train": [make_sample(4, "/their/far.png", answer="no")],
              "test": [make_sample(5, "/their/twin.png", question="what")]}
    their_images = ImageReport({"/their/far.png": "5", "/their/twin.png": "6"}, {},
                               {"/their/far.png": FAR, "/their/twin.png": make_look()})
    document = compare_datasets(ours, theirs, REPORT, their_images, "other")
    assert json.loads(json.dumps(document)) == document
    assert document["dataset"] == "other"
    found = {tuple(pair["splits"]): pair for pair in document["pairs"]}
    assert list(found) == [(f"other/{there}", here) for here in ("train", "test") for there in ("train", "test", "any")]
    assert found["other/any", "test"] == {
        "splits": ["other/any", "test"], "images": 2, "shared_images": 1, "near_images": 1, "questions": 2,
        "questions_on_shared_images": 1, "questions_on_near_images": 1, "shared_questions": 0, "shared_texts": 1}
    assert (found["other/test", "test"]["shared_images"], found["other/test", "test"]["near_images"]) == (0, 1)
    assert (found["other/any", "train"]["shared_images"], found["other/any", "train"]["near_images"]) == (0, 1)
    assert document["examples"] == [
        {"images": ["/a.png", "/their/twin.png"], "distance": 0, "splits": [["train"], ["other/test"]]}]


def by_split(samples):
    return {split: [sample for sample in samples if sample.split == split] for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def slake(real_data):
    return list(SLAKE.read(SLAKE.find_root(real_data / "slake"), None))


def test_the_real_leakage_of_vqa_rad(real_data):
    samples = by_split(list(VQA_RAD.read(VQA_RAD.find_root(real_data / "vqa_rad"), VQA_RAD.Options())))
    pair = next(pair for pair in find(samples, ImageReport()) if pair["splits"] == ["train", "test"])
    assert (pair["shared_images"], pair["images"], pair["shared_questions"]) == (202, 203, 1)
    assert trace_samples(samples["train"], {}).duplicates == {"same_question": 3, "same_answer": 3}


def test_the_real_leakage_of_slake_across_languages(slake):
    pairs = {tuple(pair["splits"]): pair for pair in find(by_split(slake), ImageReport())}
    assert (pairs["train", "test"]["shared_images"], pairs["train", "test"]["images"]) == (142, 180)
    english = find(by_split(filter_language(slake, "en")), ImageReport())
    assert [(pair["shared_images"], pair["images"]) for pair in english] == [(0, 96)] * 3


def test_slices_of_one_scan_stand_in_two_splits_of_slake(slake):
    """No picture of English SLAKE is in two splits, but one in seven of the test split is next to one in train."""
    english = by_split(filter_language(slake, "en"))
    report = inspect_images(slake, 10**7)
    pairs = {tuple(pair["splits"]): pair for pair in find(english, report)}
    assert [(pair["shared_images"], pair["images"]) for pair in pairs.values()] == [(0, 96)] * 3
    assert pairs["train", "test"]["near_images"] == 14
    assert pairs["train", "test"]["questions_on_near_images"] > 100
    traces = {split: trace_samples(samples, report.hashes) for split, samples in english.items()}
    for example in list_examples(find_neighbours(traces, report), report):
        one, other = (int(Path(path).parent.name.removeprefix("xmlab")) for path in example["images"])
        assert abs(one - other) <= 5
