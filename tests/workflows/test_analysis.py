"""The analysis and the gate before training: nothing is trained on data that were not looked at, unless asked for."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.errors import DataError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows import analysis
from medvqa_cli.workflows.analysis import UNCHECKED, analyze_data, check_data, find_analysis, find_page, find_warnings
from medvqa_cli.workflows.data import open_data, prepare_data
from tests.data.builders import Notes, build_rad, build_slake, slake_record, write_json


@pytest.fixture
def slake(configure, tmp_path):
    settings = configure("slake", build_slake(tmp_path / "slake"))
    prepare_data(settings)
    return settings


def change(settings, **data):
    return settings.model_copy(update={"data": settings.data.model_copy(update=data)})


def test_a_cheap_analysis_is_made_by_itself(slake):
    notes = Notes()
    check = check_data(slake, notes)
    assert check.state == "passed"
    assert notes.said == ["'slake' has not been analysed yet: analysing 4 images."]
    document = find_analysis(slake, open_data(slake))
    assert document["verdict"]["ready"]
    assert check_data(slake, notes) == check
    assert len(notes.said) == 1


def test_an_analysis_of_something_else_is_not_called_none(slake):
    analyze_data(change(slake, language="zh"), page=False)
    notes = Notes()
    with pytest.raises(DataError, match=r"was analysed with other settings \(language zh instead of en\)\."):
        check_data(change(slake, analyze="never"))
    check_data(slake, notes)
    assert notes.said == ["'slake' was analysed with other settings (language zh instead of en): analysing 4 images."]


def test_the_page_is_drawn_of_the_analysis_that_is_there(slake):
    analyze_data(slake)
    assert find_page(slake).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    analyze_data(change(slake, limit=1), page=False)
    assert not find_page(slake).exists()


def test_a_missing_analysis_refuses_training(slake):
    with pytest.raises(DataError) as caught:
        check_data(change(slake, analyze="never"))
    assert caught.value.message == ("DATA ANALYSIS NOT FOUND: 'slake' (6 questions, 4 images) has not been analysed "
                                    "yet.")
    assert caught.value.hint == "Run `medvqa data analyze slake`, or train without it: --skip-data-check."


@pytest.mark.parametrize("bound", ["MAX_CHEAP_QUESTIONS", "MAX_CHEAP_IMAGES"])
def test_a_costly_analysis_is_not_made_by_itself(slake, monkeypatch, bound):
    monkeypatch.setattr(analysis, bound, 3)
    with pytest.raises(DataError, match="DATA ANALYSIS NOT FOUND"):
        check_data(slake)


def test_an_analysis_counts_for_what_it_covers(slake):
    never = change(slake, analyze="never")
    analyze_data(slake)
    assert check_data(never).state == "passed"
    assert check_data(change(never, question_type="closed", subsample=1, limit=1)).state == "passed"
    with pytest.raises(DataError, match="DATA ANALYSIS NOT FOUND") as caught:
        check_data(change(never, language="all"))
    assert "`medvqa data analyze slake --language all`" in caught.value.hint
    analyze_data(change(slake, limit=1))
    with pytest.raises(DataError, match="DATA ANALYSIS NOT FOUND"):
        check_data(never)


def test_an_analysis_of_other_files_does_not_count(slake, tmp_path):
    analyze_data(slake)
    write_json(tmp_path / "slake" / "test.json", [slake_record(4, 4)])
    prepare_data(slake)
    with pytest.raises(DataError, match="DATA ANALYSIS NOT FOUND"):
        check_data(change(slake, analyze="never"))


def test_a_fault_refuses_training_and_can_be_overridden(configure, tmp_path):
    root = build_slake(tmp_path / "slake")
    settings = configure("slake", root)
    prepare_data(settings)
    path = root / "imgs" / "xmlab1" / "source.jpg"
    path.unlink()
    with pytest.raises(DataError) as caught:
        check_data(settings)
    assert caught.value.message.startswith("The data set 'slake' is not ready for training: Missing or unreadable "
                                           "images: 1, such as:")
    assert str(path) in caught.value.message
    assert "--skip-data-check" in caught.value.hint
    notes = Notes()
    check = check_data(change(settings, skip_check=True), notes)
    assert (check.state, check.warnings[0], notes.said) == ("skipped", UNCHECKED, [UNCHECKED])


def test_leakage_warns_and_travels(configure, tmp_path):
    settings = configure("vqa_rad", build_rad(tmp_path / "rad"))
    prepare_data(settings)
    assert find_warnings(settings) == ()
    check = check_data(settings)
    assert check.state == "passed"
    assert any("images of 'test' are also in 'train'" in warning for warning in check.warnings)
    assert find_warnings(settings) == check.warnings


def test_other_data_sets_are_compared(configure, tmp_path):
    root = build_rad(tmp_path / "rad")
    tree = {"paths": {"prepared": str(tmp_path / "prepared")}, "data": {"dataset": "vqa_rad", "root": str(root)},
            "datasets": {"copy": {"reader": "vqa_rad", "root": str(root)}}}
    document = analyze_data(make_settings(tree), against=["copy"])
    assert [entry["dataset"] for entry in document["against"]] == ["copy"]
    assert json.loads((tmp_path / "prepared" / "vqa_rad" / "analysis.json").read_text())["against"]


def test_text_alone_must_be_meant(configure, tmp_path):
    (tmp_path / "rows.csv").write_text("question,answer\nIs it contagious?,yes\n", encoding="utf-8")
    settings = configure("table", tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"No question has an image \(if that is meant, set data\.text_only\)"):
        check_data(settings)
    assert check_data(change(settings, text_only=True)).state == "passed"
