"""The data jobs: prepared once, anew when something changed, filtered as the settings say, faults named."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medvqa_cli import plugins
from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.errors import DataError, PluginError, SettingsError
from medvqa_cli.records import VQASample
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.settings.section import Section
from medvqa_cli.workflows.analysis import analyze_data
from medvqa_cli.workflows.data import (
    load_plugin_options,
    load_samples,
    open_data,
    prepare_data,
)
from medvqa_cli.workflows.viewing import draw_sample, show_samples
from tests.data.builders import Notes, build_rad, build_slake, draw_image, slake_record, write_json


@pytest.fixture
def slake_root(tmp_path):
    return build_slake(tmp_path / "slake")


def ids(samples):
    return [sample.question_id for sample in samples]


def test_preparing_is_done_once(configure, slake_root, tmp_path):
    settings, notes = configure("slake", slake_root), Notes()
    first = prepare_data(settings)
    assert (first.name, first.path, first.fresh, first.skipped) == ("slake", tmp_path / "prepared" / "slake", True, [])
    assert first.counts == {"train": 3, "validation": 1, "test": 2}
    again = prepare_data(settings, progress=notes)
    assert again == dataclasses.replace(first, fresh=False)
    assert notes.said == ["'slake' is prepared and unchanged: train 3, validation 1, test 2."]
    assert prepare_data(settings, force=True).fresh
    facts = json.loads((first.path / "store.json").read_text(encoding="utf-8"))
    assert (facts["root"], facts["fingerprint"]) == (str(slake_root), first.fingerprint)
    assert set(facts["versions"]) == {"medvqa", "datasets", "pyarrow", "pillow"}


def test_changed_files_are_prepared_anew(configure, slake_root):
    settings, notes = configure("slake", slake_root), Notes()
    first = prepare_data(settings)
    write_json(slake_root / "test.json", [slake_record(4, 4)])
    assert open_data(settings, notes).fingerprint == first.fingerprint  # opening does not look at the files
    second = prepare_data(settings, progress=notes)
    assert (second.fresh, second.counts["test"]) == (True, 1)
    assert second.fingerprint != first.fingerprint
    assert notes.said == ["Preparing 'slake': its files have changed."]


def test_the_fingerprint_does_not_depend_on_the_place(configure, slake_root, tmp_path):
    first = prepare_data(configure("slake", slake_root))
    shutil.copytree(slake_root, tmp_path / "copy")
    notes = Notes()
    second = prepare_data(configure("slake", tmp_path / "copy"), progress=notes)
    assert (second.fresh, second.fingerprint) == (True, first.fingerprint)
    assert notes.said == [f"Preparing 'slake': its files were in '{slake_root}' and are now in '{tmp_path}/copy'."]
    assert load_samples(configure("slake"), "test")[0].images[0].startswith(f"{tmp_path}/copy/")


def test_the_root_is_remembered(configure, slake_root):
    prepare_data(configure("slake", slake_root))
    assert not prepare_data(configure("slake")).fresh
    assert prepare_data(configure("slake"), force=True).fresh
    shutil.rmtree(slake_root / "imgs")
    assert len(load_samples(configure("slake"), "test")) == 2


def test_an_embedded_store_serves_those_who_do_not_ask_for_one(configure, slake_root, tmp_path):
    prepare_data(configure("slake", slake_root, embed_images=True))
    plain = configure("slake", slake_root)
    assert not prepare_data(plain).fresh
    assert prepare_data(plain, force=True).fresh  # anew, and embedded again
    (tmp_path / "prepared").rename(tmp_path / "moved")
    shutil.rmtree(slake_root)
    settings = configure("slake")
    moved = settings.model_copy(update={"paths": settings.paths.model_copy(update={"prepared": tmp_path / "moved"})})
    images = load_samples(moved, "test")[0].images
    assert images[0].startswith(str(tmp_path / "moved" / "slake" / "images"))
    assert Path(images[0]).is_file()
    assert analyze_data(moved)["verdict"]["ready"]


def test_options_of_ones_own_files_are_remembered(configure, tmp_path):
    draw_image(tmp_path / "own" / "a.png")
    (tmp_path / "own" / "rows.csv").write_text("Q,A,file\nIs it?,yes,a.png\n", encoding="utf-8")
    columns = "question=Q,answer=A,image=file"
    prepare_data(configure("table", tmp_path / "own" / "rows.csv", options={"columns": columns}))
    assert not open_data(configure("table")).fresh
    assert load_samples(configure("table"), "train")[0].question == "Is it?"
    with pytest.raises(DataError, match="question"):
        prepare_data(configure("table", tmp_path / "own" / "rows.csv"))  # a file named anew is read as it is said


def test_opening_prepares_and_says_so(configure, slake_root):
    notes = Notes()
    assert open_data(configure("slake", slake_root), notes).fresh
    assert notes.said == ["Preparing 'slake'."]
    assert not open_data(configure("slake", slake_root), notes).fresh
    assert len(notes.said) == 1


@pytest.mark.parametrize(("change", "reason"), [
    ({"max_pixels": 1000}, "data.max_pixels has changed"),
    ({"missing_images": "skip"}, "data.missing_images has changed"),
    ({"options": {"closed": "yes_no"}}, "its options have changed"),
])
def test_changed_settings_are_prepared_anew(configure, tmp_path, change, reason):
    root, notes = build_rad(tmp_path / "rad"), Notes()
    assert open_data(configure("vqa_rad", root)).fresh
    assert open_data(configure("vqa_rad", root, **change), notes).fresh
    assert notes.said[0] == f"Preparing 'vqa_rad': {reason}."


def test_options_change_samples_and_fingerprint(configure, tmp_path):
    root = build_rad(tmp_path / "rad")
    by_label = configure("vqa_rad", root, question_type="closed")
    by_answer = configure("vqa_rad", root, question_type="closed", options={"closed": "yes_no"})
    assert ids(load_samples(by_label, "test")) == ["4", "5"]
    fingerprint = open_data(by_label).fingerprint
    assert ids(load_samples(by_answer, "test")) == ["5"]
    assert open_data(by_answer).fingerprint != fingerprint


def test_an_edited_reader_reads_anew(configure, tmp_path):
    source = tmp_path / "own.py"
    text = Path("medvqa_cli/data/sources/slake.py").resolve().read_text(encoding="utf-8")
    source.write_text(text, encoding="utf-8")
    build_slake(tmp_path / "files")
    settings = configure("own", tmp_path / "files").model_copy(update={"plugins": (source,)})
    try:
        assert load_samples(settings, "test")[0].modality != "edited"
        source.write_text(text.replace('describe("modality")', '"edited"'), encoding="utf-8")
        notes = Notes()
        assert load_samples(settings, "test", notes)[0].modality == "edited"
        assert notes.said == ["Preparing 'own': its reader has changed."]
    finally:
        plugins.datasets._loose.pop("own", None)


def test_language_and_type_filters(configure, slake_root):
    prepare_data(configure("slake", slake_root))
    assert ids(load_samples(configure("slake"), "train")) == ["0", "2"]
    assert ids(load_samples(configure("slake", language="all"), "train")) == ["0", "1", "2"]
    assert ids(load_samples(configure("slake", language="zh"), "train")) == ["1"]
    assert ids(load_samples(configure("slake", question_type="open"), "train")) == ["2"]
    assert ids(load_samples(configure("slake", language="all", limit=2), "train")) == ["0", "1"]


def test_only_training_is_subsampled(configure, slake_root):
    write_json(slake_root / "train.json", [slake_record(number, 1) for number in range(10, 40)])
    settings = configure("slake", slake_root, subsample=5)
    drawn = load_samples(settings, "train")
    assert len(drawn) == 5
    assert ids(drawn) == sorted(ids(drawn))
    assert len(load_samples(settings, "test")) == 2
    assert load_samples(settings.model_copy(update={"seed": 7}), "train") != drawn
    write_json(slake_root / "train.json", [slake_record(number, 1) for number in range(39, 9, -1)])
    prepare_data(settings)
    assert sorted(ids(load_samples(settings, "train"))) == ids(drawn)


def test_an_unknown_split_names_those_there_are(configure, tmp_path):
    with pytest.raises(DataError) as failure:
        load_samples(configure("vqa_rad", build_rad(tmp_path / "rad")), "validation")
    assert failure.value.message == "The data set 'vqa_rad' has no split 'validation'."
    assert failure.value.hint == "It has: train 4, test 3."


def test_nothing_left_names_the_filters(configure, slake_root):
    with pytest.raises(DataError) as failure:
        load_samples(configure("slake", slake_root, language="zh", question_type="closed"), "train")
    assert failure.value.message == ("No question of 'slake', split 'train', is left after the filters: language 'zh', "
                                     "question type 'closed'.")
    assert failure.value.hint == "The split has: en closed 1, zh open 1, en open 1."


@pytest.mark.parametrize("use", [lambda settings: load_samples(settings, "train"), analyze_data])
def test_an_unknown_language_names_those_there_are(configure, slake_root, use):
    with pytest.raises(DataError) as failure:
        use(configure("slake", slake_root, language="fr"))
    assert failure.value.message == "No question of 'slake' is in the language 'fr'."
    assert re.fullmatch(r"It has: en \d, zh \d\. Name one of them with --language, or all\.", failure.value.hint)


def test_aliases(configure, slake_root, tmp_path):
    rad = build_rad(tmp_path / "rad")
    assert prepare_data(configure("rad-vqa", rad)).path.name == "vqa_rad"
    assert prepare_data(configure("SLAKE", aliases={"roots": {"slake": str(slake_root)}})).counts["train"] == 3
    own = {"datasets": {"our-hospital": "slake"}, "roots": {"our-hospital": str(build_slake(tmp_path / "own"))}}
    prepared = prepare_data(configure("our_hospital", aliases=own))
    assert (prepared.name, prepared.path.name) == ("our_hospital", "our_hospital")
    assert load_samples(configure("our_hospital", aliases=own), "test")[0].images[0].startswith(f"{tmp_path}/own/")
    with pytest.raises(SettingsError, match=r"The data set's name '\.\./x' is none: use letters"):
        prepare_data(configure("../x", aliases={"datasets": {"../x": "slake"}}))


def test_unknown_names_and_options_are_named(configure, slake_root):
    with pytest.raises(PluginError, match=r"Unknown data set 'slak'\. Did you mean 'slake'\?"):
        prepare_data(configure("slak"))
    with pytest.raises(SettingsError) as failure:
        prepare_data(configure("vqa_rad", slake_root, options={"closed": "maybe", "open": 1}))
    assert failure.value.message == ("Setting 'data.options.closed' is \"maybe\": input should be 'auto', "
                                     "'answer_type' or 'yes_no'.\nUnknown setting 'data.options.open'.")
    with pytest.raises(SettingsError, match=r"takes no options, but data\.options has: closed"):
        prepare_data(configure("slake", slake_root, options={"closed": "yes_no"}))
    assert load_plugin_options("rad_vqa", {}).closed == "auto"
    assert load_plugin_options("slake", {}) is None


def test_a_wrong_root_is_named(configure, tmp_path):
    with pytest.raises(DataError, match=f"The folder '{tmp_path}/none' does not exist"):
        prepare_data(configure("slake", tmp_path / "none"))
    with pytest.raises(DataError, match="is not laid out like SLAKE 1.0"):
        prepare_data(configure("slake", tmp_path))
    assert not (tmp_path / "prepared").exists()


def test_missing_images(configure, slake_root, tmp_path):
    (slake_root / "imgs" / "xmlab4" / "source.jpg").unlink()
    with pytest.raises(DataError) as failure:
        prepare_data(configure("slake", slake_root))
    assert failure.value.message == (
        f"Question '4' of split 'test': The image '{slake_root}/imgs/xmlab4/source.jpg' is missing. "
        "(Unusable images in all: 1; their questions: 2.)")
    notes = Notes()
    prepared = prepare_data(configure("slake", slake_root, missing_images="skip"), progress=notes)
    assert prepared.counts == {"train": 3, "validation": 1}
    assert [row["question_id"] for row in prepared.skipped] == ["4", "5"]
    store = tmp_path / "prepared" / "slake" / "store.json"
    assert notes.said[1] == f"2 questions left out: their images are missing or unreadable (listed in {store})."
    again = open_data(configure("slake", slake_root, missing_images="skip"))
    assert (again.skipped, again.fresh) == (prepared.skipped, False)
    with pytest.raises(DataError, match=r"source\.jpg' is missing"):
        open_data(configure("slake", slake_root))


def test_force_mends_a_damaged_store(configure, slake_root, tmp_path):
    settings = configure("slake", slake_root)
    prepare_data(settings)
    (tmp_path / "prepared" / "slake" / "store.json").write_text("{", encoding="utf-8")
    for job in (prepare_data, open_data):
        with pytest.raises(DataError) as failure:
            job(settings)
        assert failure.value.hint == "Run `medvqa data prepare slake --force`."
    assert prepare_data(settings, force=True).fresh
    assert len(load_samples(settings, "test")) == 2


def test_the_store_of_another_version_is_prepared_anew(configure, slake_root, tmp_path):
    settings, notes = configure("slake", slake_root), Notes()
    prepare_data(settings)
    write_json(tmp_path / "prepared" / "slake" / "store.json", {"format": 0})
    assert open_data(settings, notes).fresh
    assert notes.said == ["Preparing 'slake': it was prepared by another version of medvqa."]


def test_ctrl_c_leaves_the_old_store(configure, slake_root, monkeypatch):
    settings = configure("slake", slake_root)
    before = prepare_data(settings)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("medvqa_cli.data.prepared.image_copies.check_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_data(settings, force=True)
    assert open_data(settings) == dataclasses.replace(before, fresh=False)
    assert sorted(path.name for path in before.path.iterdir()) == [".lock", "arrow", "store.json"]


def test_the_analysis_is_of_the_selected_questions(configure, slake_root, tmp_path):
    document = analyze_data(configure("slake", slake_root, question_type="closed"))
    assert document["selection"] == {"language": "en", "question_type": "closed", "subsample": None, "limit": None,
                                     "seed": 42, "text_only": False}
    assert document["stored"] == {"train": {"en": 2, "zh": 1}, "validation": {"en": 1}, "test": {"en": 2}}
    assert {split: counts["questions"] for split, counts in document["splits"].items()} == {
        "train": 1, "validation": 1, "test": 1}
    assert {key: document["images"][key] for key in ("distinct", "unreadable", "identical")} == {
        "distinct": 3, "unreadable": {}, "identical": 0}
    assert document["verdict"]["ready"]
    written = json.loads((tmp_path / "prepared" / "slake" / "analysis.json").read_text(encoding="utf-8"))
    assert written == document


def test_the_analysis_finds_what_has_broken_since(configure, slake_root):
    settings, path = configure("slake", slake_root), slake_root / "imgs" / "xmlab4" / "source.jpg"
    prepare_data(settings)
    path.write_bytes(path.read_bytes()[:60])
    document = analyze_data(settings)
    assert list(document["images"]["unreadable"]) == [str(path)]
    assert [fault["code"] for fault in document["verdict"]["faults"]] == ["unreadable_images"]


def test_samples_are_shown_and_drawn(configure, slake_root, tmp_path):
    settings = configure("slake", slake_root, language="all")
    shown = show_samples(settings, "train", 2, seed=1)
    assert len(shown) == 2
    assert shown == show_samples(settings, "train", 2, seed=1)
    assert len(show_samples(settings, "train", 99, seed=1)) == 3
    with pytest.raises(SettingsError, match="The number of questions to show is 0"):
        show_samples(settings, "train", 0, seed=1)
    draw_sample(shown[0], tmp_path / "new" / "sample.png")
    assert Image.open(tmp_path / "new" / "sample.png").width > 400
    with pytest.raises(DataError, match=r"sample\.txt' is no name for a picture"):
        draw_sample(shown[0], tmp_path / "sample.txt")


class ToyOptions(Section):
    """Options of the toy."""

    number: int = 2


class Toy:
    """A generated data set that counts how often it was generated."""

    card = DatasetCard(title="Toy", summary="s", licence="l", citation="c", homepage="h", obtain="o",
                       closed_definition="d", generated=True)
    Options = ToyOptions
    generated = 0
    fails = False

    def find_root(self, root):
        return root

    def generate(self, directory, options, progress):
        self.generated += 1
        for number in range(options.number):
            draw_image(directory / f"{number}.png", number)
            if self.fails:
                raise KeyboardInterrupt

    def read(self, root, options):
        for path in sorted(root.glob("*.png")):
            yield VQASample(dataset="toy", split="train", question_id=path.stem, image_id=path.stem, question="Q?",
                            answer="yes", answer_type="closed", images=(str(path),))


@pytest.fixture
def toy():
    plugin = Toy()
    plugins.datasets.add("toy", plugin)
    yield plugin
    del plugins.datasets._loose["toy"]


def test_a_generated_data_set_is_made_when_needed(configure, toy, tmp_path):
    settings = configure("toy")
    notes = Notes()
    assert prepare_data(settings, progress=notes).counts == {"train": 2}
    assert notes.said == ["Making the files of 'toy'.", "Preparing 'toy'."]
    assert not prepare_data(settings).fresh
    assert toy.generated == 1
    assert load_samples(settings, "train")[1].images == (f"{tmp_path}/prepared/toy/source/1.png",)
    assert prepare_data(configure("toy", options={"number": 5})).counts == {"train": 5}
    assert toy.generated == 2
    assert open_data(configure("toy", options={"number": 5}, max_pixels=1000)).fresh
    assert toy.generated == 2
    shutil.rmtree(tmp_path / "prepared" / "toy" / "source")
    assert not prepare_data(configure("toy", options={"number": 5}, max_pixels=1000)).fresh  # made again, the same
    assert toy.generated == 3


def test_generating_stops_cleanly(configure, toy, tmp_path):
    settings = configure("toy")
    toy.fails = True
    with pytest.raises(KeyboardInterrupt):
        prepare_data(settings)
    assert [path.name for path in (tmp_path / "prepared" / "toy").iterdir()] == [".lock"]
    toy.fails = False
    assert prepare_data(settings).counts == {"train": 2}


def test_a_generated_data_set_takes_no_root(configure, toy, tmp_path):
    with pytest.raises(SettingsError, match=f"data.root is '{tmp_path}', but the data set 'toy' makes its own files"):
        prepare_data(configure("toy", tmp_path))


def test_the_moved_store_of_a_generated_data_set_is_read_anew(configure, toy, tmp_path):
    prepare_data(configure("toy"))
    (tmp_path / "prepared").rename(tmp_path / "moved")
    settings = make_settings({"data": {"dataset": "toy"}, "paths": {"prepared": str(tmp_path / "moved")}})
    assert load_samples(settings, "train")[0].images == (f"{tmp_path}/moved/toy/source/0.png",)
    assert toy.generated == 1


@pytest.fixture(scope="module")
def real_store(real_data, tmp_path_factory):
    """Real SLAKE and VQA-RAD, prepared once for this file."""
    prepared = str(tmp_path_factory.mktemp("prepared"))

    def build(dataset: str, **data: Any):
        return make_settings({"data": {"dataset": dataset, "root": str(real_data / dataset), **data},
                              "paths": {"prepared": prepared}})

    return build


def test_real_slake_survives_its_store(real_store, real_data):
    settings = real_store("slake", language="all")
    assert prepare_data(settings).counts == {"train": 9835, "validation": 2099, "test": 2094}
    plugin = plugins.datasets.get("slake")
    stored = [sample for split in ("train", "validation", "test") for sample in load_samples(settings, split)]
    assert stored == list(plugin.read(plugin.find_root(real_data / "slake"), None))
    english = load_samples(real_store("slake"), "test")
    assert Counter(sample.answer_type for sample in english) == {"open": 645, "closed": 416}


def test_real_vqa_rad_survives_its_store(real_store, real_data):
    settings = real_store("vqa_rad")
    assert prepare_data(settings).counts == {"train": 1797, "test": 451}
    plugin = plugins.datasets.get("vqa_rad")
    stored = [sample for split in ("train", "test") for sample in load_samples(settings, split)]
    by_id = {sample.question_id: sample for sample in stored}
    assert by_id == {sample.question_id: sample
                     for sample in plugin.read(plugin.find_root(real_data / "vqa_rad"), plugin.Options())}


def test_the_real_analysis_of_vqa_rad(real_store):
    document = analyze_data(real_store("vqa_rad", limit=300))
    assert document["images"]["unreadable"] == {}
    assert document["verdict"]["ready"]
    assert "shared_images" in [warning["code"] for warning in document["verdict"]["warnings"]]
