from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from medvqa_cli.data import phantoms
from medvqa_cli.data.sources.demo import PLUGIN
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.progress import SILENT, SilentProgress
from medvqa_cli.settings.options import read_options

SMALL = PLUGIN.Options(train_images=24, validation_images=6, test_images=12, size=40, questions=7)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    PLUGIN.generate(directory, SMALL, SILENT)
    return directory


@pytest.fixture(scope="module")
def samples(root):
    return list(PLUGIN.read(PLUGIN.find_root(root), SMALL))


def read_bytes(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_same_options_give_the_same_bytes(root, tmp_path):
    PLUGIN.generate(tmp_path / "again", SMALL, SILENT)
    first = read_bytes(root)
    assert read_bytes(tmp_path / "again") == first
    assert len(first) == 24 + 6 + 12 + 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 41}])
def test_other_options_give_other_pictures(root, tmp_path, change):
    PLUGIN.generate(tmp_path, SMALL.model_copy(update=change), SILENT)
    first, second = read_bytes(root), read_bytes(tmp_path)
    assert [name for name in first if first[name] == second[name]] == []


def test_more_images_leave_the_first_ones_as_they_are(root, tmp_path):
    PLUGIN.generate(tmp_path, SMALL.model_copy(update={"train_images": 25}), SILENT)
    first, second = read_bytes(root), read_bytes(tmp_path)
    assert [name for name in first if name.endswith(".png") and first[name] != second[name]] == []


def test_splits_share_no_image(samples, root):
    images = {split: {sample.images[0] for sample in samples if sample.split == split}
              for split in ("train", "validation", "test")}
    assert {split: len(paths) for split, paths in images.items()} == {"train": 24, "validation": 6, "test": 12}
    contents = [Path(path).read_bytes() for paths in images.values() for path in paths]
    assert len(set(contents)) == len(contents) == 42
    assert len({sample.question_id for sample in samples}) == len(samples) == 42 * 7


def test_samples_carry_everything(samples, root):
    for sample in samples:
        assert sample.dataset == "demo"
        assert sample.image_id.startswith(sample.split)
        assert Path(sample.images[0]).parent == root.resolve() / "images"
        with Image.open(sample.images[0]) as picture:
            assert picture.size == (40, 40)
        assert sample.modality in {"CT", "MRI", "X-Ray"}
        assert sample.organ in {"Chest", "Abdomen", "Head"}
        assert sample.answer in sample.answer_probabilities
        assert all(0 <= box.x1 < box.x2 <= 40 and 0 <= box.y1 < box.y2 <= 40 for box in sample.boxes)
        is_sure = sample.answer_probabilities == {sample.answer: 1.0}
        assert sample.extra == ({} if is_sure else {"ambiguous": "true"})
        assert set(sample.options) in ({"left", "right"}, {"upper", "lower"}, set())
        if sample.answer_type == "closed" and not sample.options:
            assert sample.answer in {"yes", "no"}
    assert {sample.question_type for sample in samples} == {
        "Presence", "Normality", "Count", "Modality", "Region", "Organ", "Side", "Height", "Size", "Position"}
    assert {box.label for sample in samples for box in sample.boxes} == {"lesion", "possible lesion"}
    assert any(sample.extra for sample in samples)


def test_progress_counts_images(tmp_path):
    class Counting(SilentProgress):
        total, done = 0, 0

        def start(self, stage, total, unit="it"):
            self.total += total

        def advance(self, steps=1, note=""):
            self.done += steps

    progress = Counting()
    options = SMALL.model_copy(update={"train_images": 2, "validation_images": 1, "test_images": 3})
    PLUGIN.generate(tmp_path, options, progress)
    assert (progress.total, progress.done) == (6, 6)


def test_no_root_and_a_wrong_root(tmp_path):
    with pytest.raises(DataError, match="The demo's files have not been made yet") as failure:
        PLUGIN.find_root(None)
    assert "medvqa data prepare demo" in failure.value.hint
    with pytest.raises(DataError, match="is not laid out like Phantom demo: 'demo.jsonl' and 'images' are missing"):
        PLUGIN.find_root(tmp_path)


def test_an_interrupted_generation_leaves_nothing_that_reads(root, tmp_path, monkeypatch):
    """Not even over a whole set made before: new pictures must never meet old answers."""
    PLUGIN.generate(tmp_path, SMALL, SILENT)
    drawn = []

    def fail_late(case, size):
        drawn.append(case)
        if len(drawn) > 3:
            raise KeyboardInterrupt
        return Image.new("L", (size, size))

    monkeypatch.setattr(phantoms, "draw_picture", fail_late)
    with pytest.raises(KeyboardInterrupt):
        PLUGIN.generate(tmp_path, SMALL.model_copy(update={"seed": 4}), SILENT)
    with pytest.raises(DataError, match=r"'demo\.jsonl' is missing"):
        PLUGIN.find_root(tmp_path)


def edit(root: Path, tmp_path: Path, number: int, **changes: object) -> Path:
    """Copy the question file with some values of one row changed; None takes a key away."""
    rows = [json.loads(line) for line in (root / "demo.jsonl").read_text().splitlines()]
    row = rows[number - 1] | changes
    rows[number - 1] = {key: value for key, value in row.items() if value is not None}
    (tmp_path / "demo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(("changes", "fault"), [
    ({"answer": None}, "the key 'answer' is missing"),
    ({"answer": ""}, "'answer' should be a text that is not empty, but is \"\""),
    ({"split": "dev"}, "'split' should be one of train, validation, test, but is \"dev\""),
    ({"answer_type": "maybe"}, "'answer_type' should be one of open, closed, but is \"maybe\""),
    ({"answer_probabilities": {"yes": 0.7, "no": 0.4}, "answer": "yes"},
     ("'answer_probabilities' should be probabilities of answers, above 0 and summing to 1, but is "
      '{"yes": 0.7, "no": 0.4}')),
    ({"answer_probabilities": {"yes": 1.5, "no": -0.5}, "answer": "yes"}, "'answer_probabilities' should be"),
    ({"answer_probabilities": {"yes": True}, "answer": "yes"}, "'answer_probabilities' should be"),
    ({"answer_probabilities": {}}, "'answer_probabilities' should be"),
    ({"answer_probabilities": [1.0]}, "'answer_probabilities' should be"),
    ({"answer_probabilities": {"no": 1.0}, "answer": "yes"}, 'the answer "yes" has no probability in {"no": 1.0}'),
    ({"options": "left"}, "'options' should be a list of texts, but is \"left\""),
    ({"boxes": [["lesion", 5, 5, 3, 9]]},
     "'boxes' should be a list of [label, x1, y1, x2, y2] in pixels, but is [[\"lesion\", 5, 5, 3, 9]]"),
    ({"boxes": [["lesion", 1, 2, 3]]}, "'boxes' should be"),
    ({"boxes": 3}, "'boxes' should be"),
])
def test_an_edited_row_is_named(root, tmp_path, changes, fault):
    folder = edit(root, tmp_path, 5, **changes)
    with pytest.raises(DataError) as failure:
        list(PLUGIN.read(folder, SMALL))
    assert f"{folder / 'demo.jsonl'}, row 5: {fault}" in failure.value.message


def test_an_image_path_must_stay_inside(root, tmp_path):
    folder = edit(root, tmp_path, 1, image="../secret.png")
    with pytest.raises(DataError, match=r"The path \"\.\./secret\.png\" does not stay inside"):
        list(PLUGIN.read(folder, SMALL))


def test_a_cut_off_file(root, tmp_path):
    (tmp_path / "demo.jsonl").write_bytes((root / "demo.jsonl").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"demo\.jsonl, line \d+: the JSON is cut off"):
        list(PLUGIN.read(tmp_path, SMALL))


@pytest.mark.parametrize(("tree", "fault"), [
    ({"size": 8}, "data.options.size' is 8: input should be greater than or equal to 32"),
    ({"train_images": 0}, "data.options.train_images' is 0: input should be greater than or equal to 1"),
    ({"questions": 11}, "data.options.questions' is 11: input should be less than or equal to 10"),
    ({"seed": -1}, "data.options.seed' is -1: input should be greater than or equal to 0"),
    ({"test_images": "many"}, "data.options.test_images' is \"many\": input should be a valid integer"),
    ({"colour": 3}, "Unknown setting 'data.options.colour'"),
])
def test_options_are_checked(tree, fault):
    with pytest.raises(SettingsError) as failure:
        read_options(PLUGIN.Options, tree, "data.options")
    assert fault in failure.value.message
    assert "Options here: train_images, validation_images, test_images, size, questions, seed." in failure.value.hint
