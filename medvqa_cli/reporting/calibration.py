"""The report's section on how far the model's confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Plots, Section, Table
from medvqa_cli.reporting.estimates import read_bins, read_protocol
from medvqa_cli.reporting.figures import draw_probabilities, draw_reliability
from medvqa_cli.reporting.formatting import MISSING, format_count, format_value
from medvqa_cli.reporting.protocol import (
    describe_floor,
    describe_interval,
    describe_shortly,
    list_protocol,
    name_metric,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block
    from medvqa_cli.reporting.estimates import Bin

MEANINGS = {
    "accuracy": "share of questions whose majority answer is right",
    "mean_confidence": "mean share of the majority answer",
    "ece": "mean distance of confidence and accuracy; 0 is best",
    "bias_floor": "what a perfectly calibrated model would show here: the part that is chance",
    "ece_debiased": "the ECE without what chance is expected to add; may fall below 0",
    "mce": "the worst bin, however few answers it holds",
    "overconfidence": "part of the ECE from bins that are too sure",
    "underconfidence": "part of the ECE from bins that are not sure enough",
    "brier": "mean squared distance of p(yes) and the truth; 0 is best, 0.25 is a coin",
    "nll": "mean negative log-probability of being right or wrong; 0 is best, 0.693 is a coin",
    "auroc": "chance that a right answer is surer than a wrong one; 0.5 is none",
    "aurc": "share of wrong answers among the surest, averaged over how many are given; 0 is best",
    "valid_response_rate": "share of sampled answers that say yes or no",
}
LEAD = "If the model is 80 % sure, is it right 80 % of the time? Each yes/no question is answered many times."


def build_calibration(block: Mapping[str, Any], details: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section. `block` is the calibration metrics, `details` what each question's sampled answers say.

    Raises:
        RunError: If the metrics have another shape.
    """
    if not block:
        return Section("calibration", "Calibration", LEAD,
                       [Note("Confidence is not measured in this run yet: `medvqa eval calibration`.")])
    protocol = read_protocol(block)
    if protocol is None:
        return Section("calibration", "Calibration", LEAD, [Note(
            "The numbers are not shown: metrics.json does not say how they were measured.", "warning")])
    bins = read_bins(block)
    figures = [draw_reliability(bins, _note_error(block), "Confidence against accuracy",
                                _caption_reliability(block, protocol))]
    points = find_ambiguous(details)
    if points:
        figures.append(draw_probabilities(points, "Ambiguous questions", _caption_truth(block, len(points))))
    blocks: list[Block] = [Plots(figures), _tabulate(block, protocol)]
    if block.get("questions_without_valid_answer"):
        blocks.append(Note(f"{format_count(block['questions_without_valid_answer'])} questions have no sampled answer "
                           "that says yes or no: they count as wrong with confidence 0.5.", "warning"))
    blocks += [_tabulate_bins(bins), Facts("Protocol: calibration", list(list_protocol(protocol)), folded=True)]
    return Section("calibration", "Calibration", LEAD, blocks)


def find_ambiguous(details: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return (true, found) probability of yes of the questions whose truth is known and is neither 0 nor 1."""
    return [(row["true_p_yes"], row["p_yes"]) for row in details
            if row.get("true_p_yes") is not None and 0 < row["true_p_yes"] < 1]


def _note_error(block: Mapping[str, Any]) -> str:
    lines = [f"ECE {dict(list_measures(block)).get('ece', MISSING)}"]
    if block.get("bias_floor") is not None:
        lines.append(f"{format_value(block['bias_floor'])} if perfectly calibrated")
    return "\n".join(lines)


def _caption_reliability(block: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    return ("One mark a bin of confidence, its area by the number of answers below; the orange bar is the gap to "
            f"perfect calibration. {describe_floor(block)} {describe_shortly(protocol)}")


def _caption_truth(block: Mapping[str, Any], count: int) -> str:
    law = block.get("known_law") or {}
    return (f"{format_count(count)} questions whose answer is uncertain by construction: a well calibrated model says "
            "“yes” as often as the truth does. Mean absolute error "
            f"{format_value(law.get('mean_absolute_error_ambiguous'))}; over all questions with a known truth "
            f"{format_value(law.get('mean_absolute_error'))}.")


def _tabulate(block: Mapping[str, Any], protocol: Mapping[str, Any]) -> Table:
    rows = [[name_metric(name), text, MEANINGS[name]] for name, text in list_measures(block)]
    return Table("Measures", ["Measure", "Value", "What it says"], rows,
                 f"{format_count(block.get('num_questions'))} questions on {format_count(protocol.get('images'))} "
                 f"images{_count_samples(block)}. {describe_shortly(protocol)} In "
                 f"brackets: {describe_interval(protocol)}.", textual=("What it says",))


def _count_samples(block: Mapping[str, Any]) -> str:
    return f", {format_count(block['num_samples'])} answers each" if block.get("num_samples") else ""


def list_measures(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every measure a calibration block holds, as key and text with its interval."""
    intervals = block.get("intervals", {})
    for name in MEANINGS:
        if block.get(name) is not None:
            interval = intervals.get(name, {})
            yield name, format_value(block[name], interval.get("low"), interval.get("high"))


def _tabulate_bins(bins: Sequence[Bin]) -> Table:
    rows = [[f"({format_value(item.lower, digits=2)}, {format_value(item.upper, digits=2)}]", format_count(item.count),
             format_value(item.confidence), format_value(item.accuracy), _show_gap(item)]
            for item in bins if item.count]
    return Table("Bins", ["Confidence", "Answers", "Mean confidence", "Accuracy", "Confidence minus accuracy"], rows,
                 "Bins without an answer are left out.", folded=True)


def _show_gap(item: Bin) -> str:
    if item.confidence is None or item.accuracy is None:
        return MISSING
    return f"{item.confidence - item.accuracy:+.3f}"
