"""The report's section on closed questions: yes and no against their gold, clinical measures, routes to candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Meter, Note, Plots, Section, Table
from medvqa_cli.reporting.charts import About, draw_matrix
from medvqa_cli.reporting.estimates import read_estimate, read_protocol
from medvqa_cli.reporting.formatting import MISSING, format_count, format_value
from medvqa_cli.reporting.protocol import describe_candidates, describe_interval, describe_shortly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block

LEAD = "Whether yes and no are told apart, and how the answers to closed questions were chosen."
CLINICAL = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV", "mcc": "MCC",
            "auroc": "AUROC"}
LABELS = {"yes": "“yes” as positive", "no": "“no” as positive", "macro": "Mean of both"}
ROUTES = {"yesno": "yes or no", "options": "options the question names", "vocab": "vocabulary of training answers"}


def build_closed(block: Mapping[str, Any], confusion: Mapping[tuple[str, str], int],
                 routes: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section.

    Args:
        block: The metrics of the main answers.
        confusion: (gold, answer) -> yes/no questions; an answer may be "neither".
        routes: Tallies of the routes: "route", "n", "accuracy" ("estimate", "low", "high"), "offered", "candidates",
            "margin".

    Raises:
        RunError: If the metrics have another shape.
    """
    protocol = read_protocol(block) if block else None
    blocks: list[Block] = []
    if protocol is not None:
        if confusion:
            blocks.append(Plots([_draw_confusion(confusion, protocol)]))
        if clinical := (block.get("closed") or {}).get("clinical"):
            blocks.append(_tabulate_clinical(clinical, protocol))
        if routes:
            blocks.append(_tabulate_routes(routes, protocol))
    return Section("closed", "Closed questions", LEAD,
                   blocks or [Note("No closed question is answered and scored in this run yet.")])


def _draw_confusion(confusion: Mapping[tuple[str, str], int], protocol: Mapping[str, Any]) -> Any:
    golds = [gold for gold in ("yes", "no") if any(key[0] == gold for key in confusion)]
    answers = [answer for answer in ("yes", "no", "neither")
               if answer != "neither" or any(key[1] == answer for key in confusion)]
    totals = {gold: sum(count for key, count in confusion.items() if key[0] == gold) for gold in golds}
    cells = {(f"gold “{gold}”", f"“{answer}”" if answer != "neither" else answer):
             (confusion.get((gold, answer), 0) / totals[gold],
              f"{confusion.get((gold, answer), 0):,}\n{100 * confusion.get((gold, answer), 0) / totals[gold]:.0f} %")
             for gold in golds for answer in answers}
    words = "; ".join(f"of {totals[gold]:,} questions whose gold answer is “{gold}”, " + ", ".join(
        f"{confusion.get((gold, answer), 0):,} are answered {answer}" for answer in answers) for gold in golds)
    return draw_matrix(About("confusion", "What is answered to yes/no questions",
                             f"{words[:1].upper()}{words[1:]}. {describe_shortly(protocol)}"),
                       list(dict.fromkeys(row for row, _ in cells)), list(dict.fromkeys(column for _, column in cells)),
                       cells, colour="blue", inline_only=False)


def _tabulate_clinical(clinical: Mapping[str, Any], protocol: Mapping[str, Any]) -> Table:
    rows = [[label, *(_show(clinical[name] | {"n": 0, "images": 0}, key) for key in CLINICAL)]
            for name, label in LABELS.items() if name in clinical]
    left = clinical.get("without_probability")
    area = (f" AUROC is over the {format_count(clinical['n'] - left)} questions with a probability."
            if left is not None else "")
    return Table("Yes/no questions as a test", ["", *CLINICAL.values()], rows,
                 f"{format_count(clinical.get('n'))} yes/no questions on {format_count(clinical.get('images'))} images."
                 f"{area} An answer that says neither is wrong. {describe_shortly(protocol)} In brackets: "
                 f"{describe_interval(protocol)}.")


def _show(part: Mapping[str, Any], metric: str) -> str:
    score = read_estimate(part, metric)
    return format_value(score.value, score.low, score.high)


def _tabulate_routes(routes: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]) -> Table:
    total = sum(item["n"] for item in routes)
    rows: list[list[str | Meter]] = [[
        ROUTES.get(item["route"], item["route"]), f"{format_count(item['n'])} ({100 * item['n'] / total:.0f} %)",
        _meter(item["accuracy"]),
        MISSING if item["offered"] is None else f"{100 * item['offered'] / item['n']:.1f} %",
        format_value(item["candidates"], digits=1), format_value(item["margin"])] for item in routes]
    return Table("Routes to an answer", ["Route", "Questions", "Accuracy", "Gold among candidates", "Candidates (mean)",
                                         "Lead (median)"], rows,
                 f"Closed questions: {describe_candidates(protocol.get('inference', {}).get('closed_candidates'))}. "
                 f"Lead: over the next best candidate, in nats a token. {describe_shortly(protocol, 'accuracy')} In "
                 f"brackets: {describe_interval(protocol)}.")


def _meter(accuracy: Mapping[str, float]) -> Meter:
    value, low, high = accuracy["estimate"], accuracy["low"], accuracy["high"]
    return Meter(format_value(value, low, high), value, low, high)
