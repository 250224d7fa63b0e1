"""Results published elsewhere: marked as such, with source and protocol, and never silently comparable."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from medvqa_cli.errors import SettingsError
from medvqa_cli.reporting.blocks import Facts, Note, Plots, Table
from medvqa_cli.reporting.published import build_published, list_obstacles, read_studies
from medvqa_cli.settings.yaml_reading import parse_yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "published.yaml"
STUDY = {
    "name": "Theirs", "source": "A paper, table 2",
    "protocol": {"split": "test", "languages": "en", "prompt": "plain", "decoding": "greedy",
                 "closed_definition": "yes/no", "scoring": "accuracy"},
    "measures": {"closed": {"label": "Closed", "ours": "closed.accuracy"},
                 "ece": {"label": "ECE", "ours": "calibration.ece", "whole": 1}, "judge": {"label": "Judged"}},
    "results": {"demo": [{"system": "A", "closed": 71.5, "ece": 0.2}, {"system": "B", "judge": 50}],
                "slake": [{"system": "C", "closed": 1}]}}


def build(studies, metrics):
    return build_published(read_studies({"studies": studies}, "f.yaml"), metrics["answers"]["main"],
                           metrics["calibration"])


def read_cells(table: Table) -> list[list[str]]:
    return [[cell if isinstance(cell, str) else cell.text for cell in row] for row in table.rows]


def test_own_numbers_stand_above_those_of_others(metrics):
    section = build([STUDY], metrics)
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    own = metrics["answers"]["main"]["closed"]["accuracy@medvqa"]
    ece = metrics["calibration"]["intervals"]["ece"]
    assert read_cells(table) == [
        ["This run (measured here)", f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]",
         f"{metrics['calibration']['ece']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}]", "-"],
        ["A", "0.715", "0.200", "-"], ["B", "-", "-", "0.500"]]
    assert table.note.startswith("Published elsewhere, not measured here. Source: A paper, table 2. Comparable as far "
                                 "as both protocols say. This run: Measured on demo, test split")
    (figure,) = next(block for block in section.blocks if isinstance(block, Plots)).figures
    assert (figure.name, figure.caption) == ("published-1", table.note)
    facts = next(block for block in section.blocks if isinstance(block, Facts))
    assert ("Closed definition", "yes/no") in facts.rows


@pytest.mark.parametrize(("protocol", "differs", "found"), [
    ({}, [], []),
    ({"split": "validation"}, [], ["its split is validation, ours test"]),
    ({"languages": "en, zh"}, ["a judge"], ["a judge", "its languages is en, zh, ours en"]),
])
def test_what_keeps_numbers_apart_is_listed(protocol, differs, found):
    (study,) = read_studies({"studies": [STUDY | {"protocol": STUDY["protocol"] | protocol, "differs": differs}]}, "f")
    ours = {"dataset": "demo", "split": "test", "languages": "en"}
    assert list_obstacles(study, "demo", ours) == found
    assert list_obstacles(study, "demo, slake", ours) == [*found[:len(differs)],
                                                          "its numbers are over demo, slake together",
                                                          *found[len(differs):]]


def test_what_a_study_leaves_unsaid_is_named(metrics):
    section = build([STUDY | {"protocol": {"split": "test"}}], metrics)
    note = next(block for block in section.blocks if isinstance(block, Table)).note
    assert "Not comparable: it does not state its languages, prompt, decoding, closed definition, scoring." in note


def test_studies_on_other_data_are_left_out(metrics):
    section = build([STUDY | {"results": {"slake": STUDY["results"]["slake"]}}], metrics)
    assert [type(block) for block in section.blocks] == [Note]
    assert section.blocks[0].text == "The file holds no published result on demo."


def test_own_numbers_without_a_protocol_are_not_beside(metrics):
    metrics = copy.deepcopy(metrics)
    del metrics["answers"]["main"]["protocol"]["decoding"]
    tables = [block for block in build([STUDY], metrics).blocks if isinstance(block, Table)]
    assert [table.title for table in tables] == ["Theirs: demo", "Theirs: slake"]  # all studies, on their own
    assert [row[0] for row in tables[0].rows] == ["A", "B"]


@pytest.mark.parametrize(("content", "message"), [
    ([], "f.yaml: the document should be a mapping with a list 'studies', not '[]'."),
    ({"studies": ["x"]}, "f.yaml, study 1: a study should be a mapping, not 'x'."),
    ({"studies": [STUDY | {"source": ""}]}, "f.yaml, study 1: 'source' should be text, not ''."),
    ({"studies": [STUDY | {"protocol": {}}]},
     "f.yaml, study 1: 'protocol' should be a mapping that is not empty, not '{}'."),
    ({"studies": [STUDY | {"measures": {"closed": {"label": "C", "whole": 10}}}]},
     "f.yaml, study 1, measure 'closed': 'whole' should be 100 (percent) or 1 (share), not '10'."),
    ({"studies": [STUDY | {"results": {"demo": [{"system": "A", "closd": 3}]}}]},
     "f.yaml, study 1, results of 'demo': 'closd' should be one of the measures closed, ece, judge, not '3'."),
    ({"studies": [STUDY | {"results": {"demo": [{"system": "A", "ece": 20}]}}]},
     "f.yaml, study 1, results of 'demo': 'ece' of 'A' should be a number in 0-1, not '20'."),
    ({"studies": [STUDY | {"results": {"demo": [{"closed": 3}]}}]},
     "f.yaml, study 1, results of 'demo': a row should be a mapping with a 'system', not '{'closed': 3}'."),
])
def test_a_file_of_another_form_is_one_clear_error(content, message):
    with pytest.raises(SettingsError) as caught:
        read_studies(content, "f.yaml")
    assert caught.value.message == message
    assert caught.value.hint == "See examples/published.yaml for the form."


def test_the_example_holds_what_was_published_and_names_measures_that_exist(metrics):
    studies = read_studies(parse_yaml(EXAMPLE.read_text(encoding="utf-8"), "published.yaml"), "published.yaml")
    found = {(study.name, data, row["system"], key): row[key] for study in studies
             for data, rows in study.results.items() for row in rows for key in row if key != "system"}
    assert found["LLaVA-Med, fine-tuned on each data set", "vqa_rad", "LLaVA-Med from LLaVA", "closed"] == 84.19
    assert found["Med-PaLM M", "vqa_rad", "Med-PaLM M 562B", "f1"] == 62.06
    assert found["BLIP-2 with LoRA, a guide's expected results", "vqa_rad", "fine-tuned", "bleu"] == 26.16
    for study in studies:
        assert study.differs  # none of them was measured by our protocol
        for measure in study.measures.values():
            part, _, metric = measure.ours.partition(".")
            block = metrics["calibration"] if part == "calibration" else metrics["answers"]["main"].get(part, {})
            assert not metric or any(key == metric or key.startswith(f"{metric}@") for key in block), measure
