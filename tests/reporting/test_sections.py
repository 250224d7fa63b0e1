"""What the sections say of odd, partial and missing numbers."""

from __future__ import annotations

import copy
import math

import pytest

from medvqa_cli.errors import RunError
from medvqa_cli.evaluation.protocol import REQUIRED
from medvqa_cli.reporting.answers import build_results, build_summary
from medvqa_cli.reporting.blocks import Facts, Headlines, Note, Plots, Table
from medvqa_cli.reporting.calibration import build_calibration
from medvqa_cli.reporting.contents import Contents, list_warnings
from medvqa_cli.reporting.data import build_data
from medvqa_cli.reporting.estimates import ANSWER_TERMS, CONFIDENCE_TERMS
from medvqa_cli.reporting.provenance import build_provenance, flatten
from medvqa_cli.reporting.training import build_training, read_curve


def notes(section, level: str = "warning") -> list[str]:
    return [block.text for block in section.blocks if isinstance(block, Note) and block.level == level]


def kinds(section) -> set[type]:
    return {type(block) for block in section.blocks}


@pytest.fixture
def own(metrics):
    """A copy of the metrics that a test may change."""
    return copy.deepcopy(metrics)


def test_numbers_without_protocol_are_not_shown(own):
    del own["answers"]["main"]["protocol"]
    own["answers"]["blank"]["protocol"] = {}
    own["calibration"]["protocol"] = None
    summary = build_summary(own["answers"], own["calibration"], [])
    assert Headlines not in kinds(summary)
    missing = ", ".join(REQUIRED)
    assert notes(summary) == [
        f"The numbers of “{name}” are not shown: metrics.json does not say how they were measured (missing: "
        f"{missing}). Score the run again: `medvqa eval`." for name in ("This model", "Blank images")]
    table = next(block for block in summary.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["Before training"]
    assert kinds(build_results(own["answers"])) == {Note}
    calibration = build_calibration(own["calibration"], [])
    (refusal,) = notes(calibration)
    assert refusal == ("The numbers of the calibration are not shown: metrics.json does not say how they were measured "
                       f"(missing: {', '.join(CONFIDENCE_TERMS)}). Score the run again: `medvqa eval`.")


def test_a_whole_protocol_is_what_scoring_writes():
    assert ANSWER_TERMS == REQUIRED


@pytest.mark.parametrize("term", ["decoding", "judge", "intervals"])
def test_a_protocol_with_one_gap_is_no_protocol(own, term):
    del own["answers"]["main"]["protocol"][term]
    summary = build_summary(own["answers"], {}, [])
    assert Headlines not in kinds(summary)
    assert notes(summary)[0].startswith("The numbers of “This model” are not shown: metrics.json does not say how they "
                                        f"were measured (missing: {term}).")


def test_doubts_about_the_answers_are_said(own):
    main = own["answers"]["main"]
    main["incomplete"] = own["answers"]["blank"]["incomplete"] = own["calibration"]["incomplete"] = True
    main["checks"] = {"collapsed": ["open"], "top_answer": {"open": {"answer": "chest", "share": 0.973}},
                      "yes_no_unparsed": 3, "yes_no_questions": 90}
    main["warnings"] = ["The model says 'chest' to 97 % of the open questions, whatever they ask."]
    assert notes(build_summary(own["answers"], own["calibration"], ["Leak."])) == [
        "This model: only some of the questions are answered; these are not the final numbers.",
        "The model says 'chest' to 97 % of the open questions, whatever they ask.",
        "3 of 90 answers to yes/no questions say neither yes nor no; they count as wrong.",
        "Blank images: only some of the questions are answered; these are not the final numbers.",
        "Calibration: only some of the questions are sampled; these are not the final numbers.",
        "Leak."]
    del main["warnings"]  # a run of an older version
    assert "The model says “chest” to 97 % of the open questions." in notes(build_summary(own["answers"], {}, []))


def test_share_kept_with_blank_images(own):
    del own["answers"]["main"]["controls"]  # as of an older version
    own["answers"]["main"]["closed"]["accuracy@medvqa"]["value"] = 0.8
    own["answers"]["blank"]["closed"]["accuracy@medvqa"]["value"] = 0.6
    table = next(block for block in build_summary(own["answers"], {}, []).blocks if isinstance(block, Table))
    assert table.note.startswith("Of its closed accuracy the model keeps 75 % with blank images: that much is guessed")
    assert next(row for row in table.rows if row[0] == "Blank images")[4] == "75 %"


def test_every_control_stands_beside_the_result(own):
    answers = own["answers"]
    answers["shuffled"], answers["text-only"] = copy.deepcopy(answers["blank"]), copy.deepcopy(answers["blank"])
    answers["main"]["closed"]["accuracy@medvqa"]["value"] = 0.8
    answers["main"]["controls"]["images"] = {}
    for tag, value in (("blank", 0.6), ("shuffled", 0.4), ("text-only", 0.2)):
        answers[tag]["closed"]["accuracy@medvqa"]["value"] = value
    table = next(block for block in build_summary(answers, {}, []).blocks if isinstance(block, Table))
    assert {row[0]: row[4] for row in table.rows[:5]} == {
        "This model": "-", "Before training": "-", "Blank images": "75 %", "Another image of the split": "50 %",
        "No image": "25 %"}
    assert table.note.startswith("Of its closed accuracy the model keeps 75 % with blank images, 50 % with another "
                                 "image of the split, 25 % with no image: that much is guessed, not seen.")


def test_protocol_that_says_little_is_shown_as_such(own):
    block = own["answers"]["main"]
    block["protocol"] = dict.fromkeys(REQUIRED) | {"dataset": "demo", "split": "unknown", "excluded": (),
                                                   "profiles": {}, "rules": {},
                                                   "inference": {"decoding": {"max_new_tokens": 8}}}
    summary = build_summary({"main": block}, {}, [])
    headline = next(part for part in summary.blocks if isinstance(part, Headlines)).items[0]
    assert headline.protocol == "Measured on demo, unknown split."
    facts = dict(next(part for part in summary.blocks if isinstance(part, Facts) and "Protocol" in part.title).rows)
    assert (facts["Decoding"], facts["Split"], facts["Questions"]) == ("not stated", "unknown", "-")
    assert facts["Intervals"] == "intervals of an unstated kind"


def test_only_open_questions_and_no_baselines(own):
    main = own["answers"]["main"]
    for key in ("closed", "baselines", "synthetic"):
        main[key] = None
    summary = build_summary({"main": main}, {}, [])
    headlines = next(block for block in summary.blocks if isinstance(block, Headlines))
    assert [item.label for item in headlines.items] == ["Open exact match", "Open token F1"]
    assert any(isinstance(block, Table) for block in build_results({"main": main}).blocks)


def test_other_tags_are_shown_after_the_known_ones(own):
    answers = {"long-prompt": own["answers"]["before"], **own["answers"]}
    table = next(block for block in build_summary(answers, {}, []).blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows][:4] == ["This model", "Before training", "Blank images", "Long prompt"]
    by_type = next(block for block in build_results(answers).blocks if isinstance(block, Table))
    assert list(by_type.columns)[-3:] == ["Before training", "Blank images", "Long prompt"]


def test_answers_to_other_questions_do_not_stand_beside(own):
    answers = own["answers"]
    answers["before"]["protocol"]["split"] = "validation"
    answers["blank"]["protocol"]["n"] = 40
    table = next(block for block in build_summary(answers, {}, []).blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows][:3] == [
        "This model", "Before training (other questions: demo, validation split, n = 210)",
        "Blank images (other questions: demo, test split, n = 40)"]
    assert not table.note.startswith("Of its closed accuracy")
    by_type = next(block for block in build_results(answers).blocks if isinstance(block, Table))
    assert not {"Before training", "Blank images"} & set(by_type.columns)


@pytest.mark.parametrize(("change", "what"), [
    (lambda answers: answers["main"]["closed"].pop("n"), "'accuracy'"),
    (lambda answers: answers["main"]["closed"].update(accuracy=0.5), "'accuracy'"),
    (lambda answers: answers.update(main=[1]), "a block of metrics"),
])
def test_metrics_of_another_shape_are_one_clear_error(own, change, what):
    change(own["answers"])
    with pytest.raises(RunError) as caught:
        build_summary(own["answers"], {}, [])
    assert caught.value.message == f"metrics.json is not of this version: {what} is not what it should be."
    assert caught.value.hint == "Score the run again with `medvqa eval answers` and `medvqa eval calibration`."


def test_bins_of_another_shape_are_one_clear_error(own):
    del own["calibration"]["bin_data"][0]["bin_size"]
    with pytest.raises(RunError, match="'bin_data' is not what it should be"):
        build_calibration(own["calibration"], [])


def test_calibration_without_known_truth_draws_one_figure_less(own, without_files):
    own["calibration"]["known_law"] = None
    plots = next(block for block in build_calibration(own["calibration"], [{"true_p_yes": None, "p_yes": 0.3},
                                                                           {"true_p_yes": 1.0, "p_yes": 0.3}]).blocks
                 if isinstance(block, Plots))
    assert [figure.name for figure in plots.figures] == ["reliability", "risk-coverage"]


def test_measures_say_their_interval_and_meaning(own, without_files):
    block = own["calibration"]
    table = next(part for part in build_calibration(block, []).blocks if isinstance(part, Table))
    assert table.title == "Measures of confidence"
    rows = {row[0]: row[1] for row in table.rows}
    ece = block["intervals"]["ece"]
    assert rows["Calibration error (ECE)"] == f"{block['ece']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}]"
    over = block["intervals"]["overconfidence"]
    assert rows["Overconfidence"] == f"{block['overconfidence']:.3f} [{over['low']:.3f}, {over['high']:.3f}]"
    assert all(row[2] for row in table.rows)


def test_questions_without_a_valid_answer_are_said(own, without_files):
    own["calibration"]["questions_without_valid_answer"] = 16
    own["calibration"] |= {"warnings": ["Only 40 % can be read."], "readable": {
        "n": 74, "ece": {"value": 0.25, "low": 0.2, "high": 0.3}}}
    section = build_calibration(own["calibration"], [])
    assert notes(section) == ["Only 40 % can be read."]
    assert notes(section, "info")[0].startswith("Questions without a valid answer: 16 of 90. They count as wrong, with "
                                                "the confidence of a guess")
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert table.columns[2] == "Readable (74 questions)"
    assert {row[0]: row[2] for row in table.rows}["Calibration error (ECE)"] == "0.250 [0.200, 0.300]"
    assert "Calibration: Only 40 % can be read." in notes(build_summary(own["answers"], own["calibration"], []))


def test_curve_takes_the_later_event_of_a_resumed_run():
    events = [{"event": "log", "step": 10, "loss": 3.0}, {"event": "log", "step": 20, "loss": 2.0},
              {"event": "checkpoint", "step": 10}, {"event": "eval", "step": 20, "eval_loss": 2.5},
              {"event": "log", "step": 20, "loss": 1.9}, {"event": "log", "step": 30, "loss": math.nan}]
    assert read_curve(events, "log", "loss") == [(10, 3.0), (20, 1.9)]
    assert read_curve(events, "eval", "eval_loss") == [(20, 2.5)]


def test_training_facts():
    events = [{"event": "log", "step": 10, "loss": 3.0, "seconds": 40.0, "epoch": 0.5},
              {"event": "eval", "step": 10, "eval_loss": 2.0, "seconds": 50.0},
              {"event": "log", "step": 20, "loss": 1.0, "seconds": 30.0, "epoch": 1.0},
              {"event": "eval", "step": 20, "eval_loss": 2.25, "seconds": 35.0}]
    facts = next(block for block in build_training(events).blocks if isinstance(block, Facts))
    assert dict(facts.rows) == {"Optimiser steps": "20", "Epochs": "1.00",
                                "Training loss": "3.000 at first, 1.000 at the end",
                                "Validation loss": "2.250 at the end; lowest 2.000 at step 10",
                                "Time": "1 min 25 s"}  # two stretches: 50 s before it was resumed, 35 s after


def test_loss_that_is_not_a_number_is_said():
    section = build_training([{"event": "log", "step": 1, "loss": 1.0}, {"event": "log", "step": 2, "loss": math.nan}])
    assert notes(section) == ["The training loss was not a number at 1 logged steps; the curve leaves them out."]


def test_empty_run_says_what_is_missing():
    assert notes(build_summary({}, {}, []), "info") == [
        "Nothing is scored in this run yet: `medvqa infer`, then `medvqa eval answers`."]
    assert notes(build_training([]), "info") == ["This run holds no training events: its model was not trained here."]
    assert notes(build_calibration({}, []), "info") == [
        "Confidence is not measured in this run yet: `medvqa eval calibration`."]
    assert notes(build_data({}, {}), "info") == [
        "This run holds no analysis of its data: `medvqa data analyze` makes one."]
    assert notes(build_provenance({}, {}, {})) == [
        "The run holds no manifest.json: versions, seed and hardware are not known.", "The run holds no settings.json."]


def test_data_warnings_and_leakage_are_shown():
    split = {"questions": 1200, "images": 9, "answer_types": {"closed": 1200}, "question_types": {"": 1200},
             "closed": {"frequent_answers": {"yes": 900}, "majority_share": 0.75}, "open": {"frequent_answers": {}}}
    pair = {"splits": ["train", "test"], "images": 9, "shared_images": 4, "near_images": 2, "questions": 1200,
            "questions_on_shared_images": 500, "shared_questions": 3}
    section = build_data({"splits": {"test": split}, "leakage": [pair], "verdict": {
        "faults": [{"message": "Fault."}], "warnings": [{"message": "4 of 9 images leak."}]}}, {})
    assert notes(section) == ["Fault.", "4 of 9 images leak."]
    tables = {block.title: block.rows for block in section.blocks if isinstance(block, Table)}
    assert tables == {"Splits": [["test", "1,200", "9", "1,200", "0", "yes (0.750)", "-"]],
                      "In two splits at once": [["train / test", "4 of 9", "2 of 9", "500 of 1,200", "3 of 1,200"]]}


def test_settings_are_flattened_in_words():
    assert list(flatten({"seed": 1, "train": {"lora": {"r": 16, "targets": []}}, "name": None, "text": "",
                         "plugins": ["a.py"], "options": {}})) == [
        ("seed", "1"), ("train.lora.r", "16"), ("train.lora.targets", "none"), ("name", "none"), ("text", "(empty)"),
        ("plugins", '["a.py"]'), ("options", "none")]


def test_a_warning_of_the_training_stands_in_the_summary():
    contents = Contents("mine", manifest={"data": {"warnings": ["9 images leak."]},
                                          "warnings": ["The model has collapsed at step 3 of 9."]})
    assert list_warnings(contents) == ["9 images leak.", "The model has collapsed at step 3 of 9."]


@pytest.mark.parametrize(("collapsed", "told"), [
    ([], "Passed, the final answers do not show it: The model has collapsed at step 3 of 9."),
    (["closed"], "The model has collapsed at step 3 of 9.")])
def test_a_collapse_that_the_final_answers_do_not_show_has_passed(own, collapsed, told):
    own["answers"]["main"]["checks"]["collapsed"] = collapsed
    contents = Contents("mine", metrics=own, manifest={"warnings": ["The model has collapsed at step 3 of 9."]})
    assert list_warnings(contents) == [told]
