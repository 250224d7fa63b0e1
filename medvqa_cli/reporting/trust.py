"""Parts of the section on calibration beyond the measures: other sources of confidence, recalibration, abstention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Plots, Table
from medvqa_cli.reporting.charts import About
from medvqa_cli.reporting.confidence import draw_change
from medvqa_cli.reporting.estimates import CONFIDENCE_TERMS, read_bins, read_protocol
from medvqa_cli.reporting.formatting import MISSING, format_count, format_entry, format_share, format_value
from medvqa_cli.reporting.protocol import describe_interval, describe_shortly, name_control, name_metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.reporting.blocks import Block

SOURCES = {"sampling": "sampled answers", "logits": "candidates' probabilities", "likelihood": "likelihood of the text",
           "verbalized": "stated in the answer", "entropy": "semantic entropy of sampled answers", "p_true": "P(True)"}
COMPARED = ("accuracy", "mean_confidence", "ece", "bias_floor", "brier", "auroc", "aurc")
METHOD_MEASURES = tuple(name for name in COMPARED if name != "bias_floor")
CHANGED = ("ece", "overconfidence", "underconfidence", "mean_confidence", "brier", "nll", "auroc")
CHECK_COLUMNS = ("Rule", "Wrong", "Answered or covered", "Candidates named")
RULES = {"risk": "of the answers given", "error": "of all questions"}


def name_source(block: Mapping[str, Any]) -> str:
    """Return where a calibration's confidences come from, in words."""
    method = str(block.get("method", "sampling"))
    return SOURCES.get(method, method)


def name_questions(block: Mapping[str, Any]) -> str:
    """Return which questions a calibration is about, in words: "yes/no questions"."""
    kind = str((block.get("protocol") or {}).get("questions") or "yes_no")
    return {"yes_no": "yes/no questions", "all": "all questions"}.get(kind, f"{kind.replace('_', ' ')} questions")


def tabulate_sources(blocks: Mapping[str, Mapping[str, Any]], *, folded: bool = False) -> Table:
    """Return every measured source of confidence beside the others, each with its split; all state their protocol."""
    rows = [[name_source(block), f"{name_questions(block)}, {block['protocol']['split']} split{_note_control(block)}",
             format_count(block.get("num_questions")), *(show_measure(block, name) for name in COMPARED)]
            for block in blocks.values()]
    first = next(iter(blocks.values()))["protocol"]
    return Table("Confidence from each source", ["Confidence by", "On", "Questions", *map(name_metric, COMPARED)], rows,
                 "Where number or split differ the questions do: such rows are not to be compared. In brackets: "
                 f"{describe_interval(first)}.", textual=("On",), folded=folded)


def _note_control(block: Mapping[str, Any]) -> str:
    control = name_control(block.get("protocol"))
    return f", control: {control}" if control else ""


def tabulate_methods(block: Mapping[str, Any]) -> list[Block]:
    """Return the sources of confidence on the same questions, and why some are not there; empty without a protocol.

    Args:
        block: What `medvqa eval calibration --method all` measured.
    """
    protocol = read_protocol(block, ("dataset", "split", "intervals"))
    if protocol is None:
        return []
    rows = [[SOURCES.get(method, method), format_count(part["n"]),
             *(format_entry(part.get(name, {"value": None, "low": None, "high": None})) for name in METHOD_MEASURES)]
            for method, part in (block.get("shared") or {}).items()]
    found: list[Block] = [Note(f"Confidence by {text}", "warning") for text in block.get("warnings") or ()]
    if rows:
        found.append(Table("Sources of confidence on the same questions",
                           ["Confidence by", "Questions", *map(name_metric, METHOD_MEASURES)], rows,
                           f"The {name_questions(block)} for which every source tells a confidence. "
                           f"{describe_shortly(protocol)} In brackets: {describe_interval(protocol)}."))
    if block.get("left_out"):
        found.append(Facts("Sources that tell no confidence here",
                           [(SOURCES.get(method, method), str(why)) for method, why in block["left_out"].items()]))
    return found


def show_measure(block: Mapping[str, Any], name: str) -> str:
    """Return a measure of a calibration block with its interval; a dash where it is undefined."""
    interval = block.get("intervals", {}).get(name, {})
    return format_value(block.get(name), interval.get("low"), interval.get("high"))


def build_recalibration(block: Mapping[str, Any]) -> list[Block]:
    """Return what a calibrator changes: figure and table of before and after; nothing where none was used.

    Raises:
        RunError: If the bins have another shape.
    """
    change = block.get("recalibration")
    protocol = read_protocol(block, CONFIDENCE_TERMS)
    if not change or protocol is None:
        return []
    if "after" not in change:
        return [Note(f"{_describe_calibrator(change)} There are too few right or wrong answers to say what it does on "
                     "other images.", "warning")]
    note = f"{_describe_calibrator(change)} {describe_shortly(protocol)}"
    if change.get("not_recalibrated"):
        note += (f" {format_count(change['not_recalibrated'])} answers to other questions are left out here: the "
                 "calibrator says nothing about them.")
    figure = draw_change(About("recalibration", "Before and after recalibration", f"One mark a bin. {note}"),
                         {name: read_bins(change[name]) for name in ("before", "after")})
    rows = [[name_metric(name), show_measure(change["before"], name), show_measure(change["after"], name)]
            for name in CHANGED]
    return [Plots([figure]), Table("Before and after recalibration", ["Measure", "Before", "After"], rows,
                                   f"{note} In brackets: {describe_interval(protocol)}.")]


def _describe_calibrator(change: Mapping[str, Any]) -> str:
    calibrator = change["calibrator"]
    curve, origin = calibrator["curve"], calibrator.get("provenance") or {}
    text = f"Calibrator: {curve['method']}, learnt from {format_count(curve['n'])} answers"
    if change.get("questions"):
        text += f" to {change['questions']}"
    if origin.get("split"):
        text += f" of {origin.get('dataset')}, {origin['split']} split"
    if calibrator.get("groups"):
        text += f", by {calibrator['group_by']} ({', '.join(calibrator['groups'])})"
    if origin.get("shared_images"):
        text += f"; {format_count(origin['shared_images'])} of its images are in the test split too"
    return text + ("; after: each image by one learnt from the other images." if change.get("folds") else ".")


def build_abstention(block: Mapping[str, Any]) -> list[Block]:
    """Return rules to abstain: as they were chosen on this split, or what others came to here."""
    found: list[Block] = []
    if block.get("abstention"):
        rules = block["abstention"]
        found.append(Facts("Rules to abstain, chosen on this split",
                           [(f"At most {rules['wanted']:g} {RULES[name]} wrong", describe_rule(rules[name]))
                            for name in RULES]))
    check, protocol = block.get("abstention_check"), read_protocol(block, CONFIDENCE_TERMS)
    if check and protocol is not None:
        found.append(Table("Rules to abstain, and what they came to here", list(CHECK_COLUMNS),
                           list(list_checks(check)),
                           f"Chosen on the {check['chosen_on']} split, tried here. {describe_shortly(protocol)} In "
                           f"brackets: {describe_interval(protocol)}."))
    return found


def describe_rule(rule: Mapping[str, Any]) -> str:
    """Return from which confidence a rule answers and what it guarantees; or that no such rule was found."""
    if rule["threshold"] is None:
        return str(rule["guarantee"])
    return (f"answer from confidence {rule['threshold']:.2f} ({format_share(rule['coverage'])} of these questions); "
            f"{rule['guarantee']}")


def list_checks(check: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield under `CHECK_COLUMNS` what rules that were chosen on another split came to on this one."""
    for name, unit in RULES.items():
        part = check[name]
        rule = "never answer" if part["threshold"] is None else f"answer from {part['threshold']:.2f}"
        yield [f"{rule} (at most {check['wanted']:g} {unit} wrong)", format_entry(part[name]),
               format_entry(part["coverage"]), MISSING]
    for method, part in check.get("sets", {}).items():
        yield [f"{method.upper()} answer sets (at least {1 - check['wanted']:g} covered)", MISSING,
               format_entry(part["coverage"]), format_entry(part["mean_size"])]
