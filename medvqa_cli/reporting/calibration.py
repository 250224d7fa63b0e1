"""The report's section on how far the model's confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Plots, Section, Table
from medvqa_cli.reporting.charts import About
from medvqa_cli.reporting.confidence import draw_outcomes, draw_risk_coverage
from medvqa_cli.reporting.estimates import CONFIDENCE_TERMS, find_gaps, read_bins
from medvqa_cli.reporting.figures import draw_probabilities, draw_reliability
from medvqa_cli.reporting.formatting import MISSING, format_count, format_entry, format_value
from medvqa_cli.reporting.protocol import (
    describe_floor,
    describe_interval,
    describe_shortly,
    list_protocol,
    name_metric,
    refuse_numbers,
)
from medvqa_cli.reporting.trust import (
    build_abstention,
    build_recalibration,
    name_questions,
    name_source,
    show_measure,
    tabulate_methods,
    tabulate_sources,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block
    from medvqa_cli.reporting.estimates import Bin
    from medvqa_cli.reporting.figures import Figure

MEANINGS = {
    "accuracy": "share of questions whose answer is right",
    "mean_confidence": "mean confidence in the answer",
    "ece": "mean distance of confidence and accuracy; 0 is best",
    "bias_floor": "what a perfectly calibrated model would show here: the part that is chance",
    "ece_debiased": "the ECE without what chance is expected to add; may fall below 0",
    "mce": "the worst bin, however few answers it holds",
    "overconfidence": "part of the ECE from bins that are too sure",
    "underconfidence": "part of the ECE from bins that are not sure enough",
    "brier": "mean squared distance of confidence and being right; 0 is best, 0.25 is a coin",
    "nll": "mean negative log-probability of being right or wrong; 0 is best, 0.693 is a coin",
    "auroc": "chance that a right answer is surer than a wrong one; 0.5 is none",
    "aurc": "share of wrong answers among the surest, averaged over how many are given; 0 is best",
    "valid_response_rate": "share of answers that could be read",
}
LEAD = "If the model is 80 % sure, is it right 80 % of the time?"
UNMEASURED = "Confidence is not measured in this run yet: `medvqa eval calibration`."


def build_calibration(block: Mapping[str, Any], details: Sequence[Mapping[str, Any]],
                      others: Mapping[str, Mapping[str, Any]] | None = None,
                      methods: Mapping[str, Any] | None = None) -> Section:
    """Return the section.

    Args:
        block: The calibration metrics that are shown in full.
        details: What each of its questions' answers say.
        others: Calibration metrics of other sources of confidence, or of other splits, by name.
        methods: All sources of confidence side by side.

    Raises:
        RunError: If the metrics have another shape.
    """
    if not block:
        return Section("calibration", "Calibration", LEAD, [Note(UNMEASURED)])
    if gaps := find_gaps(block, CONFIDENCE_TERMS):
        return Section("calibration", "Calibration", LEAD, [Note(refuse_numbers("the calibration", gaps), "warning")])
    protocol = block["protocol"]
    blocks: list[Block] = [Note(text, "warning") for text in block.get("warnings") or ()]
    blocks += _note_unread(block)
    blocks += [Plots(list(_draw_figures(block, protocol, details))), _tabulate(block, protocol)]
    blocks += [*build_recalibration(block), *build_abstention(block), *tabulate_methods(methods or {}),
               *_list_sources(block, others or {}, folded=bool(methods)),
               _tabulate_bins(read_bins(block)),
               Facts("Protocol: calibration", list(list_protocol(protocol)), folded=True)]
    return Section("calibration", "Calibration",
                   f"{LEAD} Confidence by {name_source(block)}, {name_questions(block)}.", blocks)


def _note_unread(block: Mapping[str, Any]) -> Iterator[Note]:
    """Yield how questions count that no sampled answer answers."""
    if unread := block.get("questions_without_valid_answer"):
        yield Note(f"Questions without a valid answer: {format_count(unread)} of "
                   f"{format_count(block.get('num_questions'))}. They count as wrong, with the confidence of a guess: "
                   "1 over the number of candidates, 0 where the question is open.")


def _draw_figures(block: Mapping[str, Any], protocol: Mapping[str, Any],
                  details: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    yield draw_reliability(read_bins(block), _note_error(block), "Confidence against accuracy",
                           _caption_reliability(block, protocol))
    sure = [(row["confidence"], row["is_correct"]) for row in details
            if row.get("confidence") is not None and "is_correct" in row]
    if sure:
        yield draw_outcomes(About("confidences", "Confidence of right and wrong answers",
                                  f"{_count(block)}, right ones upwards, wrong ones downwards. "
                                  f"{describe_shortly(protocol)}"), sure)
    points = [(point["coverage"], point["risk"]) for point in block.get("risk_coverage", ())]
    if points:
        yield draw_risk_coverage(About("risk-coverage", "What abstaining buys", (
            "How many answers are wrong if only the surest are given. Area under the curve (AURC): "
            f"{show_measure(block, 'aurc')}. {describe_shortly(protocol)}")), points)
    truths = find_ambiguous(details)
    if truths:
        yield draw_probabilities(truths, "Ambiguous questions", _caption_truth(block, len(truths)))


def _list_sources(block: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], *,
                  folded: bool) -> Iterator[Block]:
    """Yield the sources side by side, and a warning for each whose numbers cannot be shown."""
    gaps = {name: found for name, other in others.items() if (found := find_gaps(other, CONFIDENCE_TERMS))}
    stated = {name: other for name, other in others.items() if name not in gaps}
    if stated:
        yield tabulate_sources({"calibration": block, **stated}, folded=folded)
    for name, found in gaps.items():
        yield Note(refuse_numbers(f"“{name}”", found), "warning")


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
            f"perfect calibration, the thin line the accuracy's interval ({describe_interval(protocol)}). "
            f"{describe_floor(block)} {describe_shortly(protocol)}")


def _caption_truth(block: Mapping[str, Any], count: int) -> str:
    law = block.get("known_law") or {}
    return (f"{format_count(count)} questions whose answer is uncertain by construction: a well calibrated model says "
            "“yes” as often as the truth does. Mean absolute error "
            f"{format_value(law.get('mean_absolute_error_ambiguous'))}; over all questions with a known truth "
            f"{format_value(law.get('mean_absolute_error'))}.")


def _tabulate(block: Mapping[str, Any], protocol: Mapping[str, Any]) -> Table:
    beside, readable = dict(list_readable(block)), block.get("readable")
    columns = ["Measure", "Value", *([f"Readable ({format_count(readable['n'])} questions)"] if readable else []),
               "What it says"]
    rows = [[name_metric(name), text, *([beside.get(name, MISSING)] if readable else []), MEANINGS[name]]
            for name, text in list_measures(block)]
    return Table("Measures of confidence", columns, rows,
                 f"{_count(block)}. {describe_shortly(protocol)} In brackets: {describe_interval(protocol)}.",
                 textual=("What it says",))


def _count(block: Mapping[str, Any]) -> str:
    images = format_count(block["protocol"].get("images"))
    text = f"{format_count(block.get('num_questions'))} questions on {images} images"
    return f"{text}, {format_count(block['num_samples'])} answers each" if block.get("num_samples") else text


def list_measures(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every measure a calibration block holds, as key and text with its interval."""
    intervals = block.get("intervals", {})
    for name in MEANINGS:
        if block.get(name) is not None:
            interval = intervals.get(name, {})
            yield name, format_value(block[name], interval.get("low"), interval.get("high"))


def list_readable(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the same over the questions with a valid answer, where some have none."""
    yield from ((name, format_entry(entry)) for name, entry in (block.get("readable") or {}).items()
                if name in MEANINGS)


def _tabulate_bins(bins: Sequence[Bin]) -> Table:
    rows = [[f"({format_value(item.lower, digits=2)}, {format_value(item.upper, digits=2)}]", format_count(item.count),
             format_value(item.confidence), format_value(item.accuracy, item.low, item.high), _show_gap(item)]
            for item in bins if item.count]
    return Table("Bins", ["Confidence", "Answers", "Mean confidence", "Accuracy", "Confidence minus accuracy"], rows,
                 "Bins without an answer are left out.", folded=True)


def _show_gap(item: Bin) -> str:
    if item.confidence is None or item.accuracy is None:
        return MISSING
    return f"{item.confidence - item.accuracy:+.3f}"
