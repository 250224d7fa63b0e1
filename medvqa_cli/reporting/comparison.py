"""The report's section on several systems: side by side as each was scored, and compared in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.answers import meter_estimate
from medvqa_cli.reporting.blocks import Facts, Note, Plots, Section, Table
from medvqa_cli.reporting.charts import About, Difference, draw_differences
from medvqa_cli.reporting.estimates import CONFIDENCE_TERMS, Estimate, find_gaps, read_estimate
from medvqa_cli.reporting.formatting import MISSING, format_count, format_probability, format_value
from medvqa_cli.reporting.protocol import describe_shortly, list_protocol, name_metric, refuse_numbers
from medvqa_cli.reporting.trust import show_measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.reporting.blocks import Block, Meter

LEAD = "Other systems on the same questions. A difference whose interval holds zero may be chance."
COLUMNS = ("What is compared", "Questions", "First", "Second", "Difference", "p", "p (Holm)", "Only one right",
           "Effect")
MEASURES = (("closed", "accuracy"), ("open", "exact_match"), ("open", "token_f1"))
RULES = {"joined": "Joined", "difference": "Difference", "p": "p", "p_holm": "p (Holm)", "mcnemar": "Only one right",
         "effect": "Effect"}


def build_comparison(result: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return the section.

    Args:
        result: What `medvqa eval compare` found.
        metrics: Each system's own "answers" and "calibration" block, empty where it is not scored.

    Raises:
        RunError: If the metrics have another shape.
    """
    first, *others = result["systems"]
    blocks: list[Block] = [*_put_side_by_side(metrics)]
    for name, number in result["left_out"].items():
        if number:
            blocks.append(Note(f"{format_count(number)} questions that {name} answered are left out of the pairs: not "
                               "every system answered them.", "warning"))
    for other in others:
        blocks += [Note(f"{first} and {other} were not asked in the same way: {text.replace('_', ' ')}. The difference "
                        "may be due to that.", "warning") for text in result["differences"].get(other, ())]
        blocks += _compare_pair(result, first, other)
    blocks.append(Facts("Protocol: comparison", list(_list_rules(result)), folded=True))
    return Section("comparison", "Comparison", LEAD, blocks)


def _put_side_by_side(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    rows: list[list[str | Meter]] = []
    protocols: dict[str, Mapping[str, Any]] = {}
    for name, found in metrics.items():
        answers, calibration = found.get("answers") or {}, found.get("calibration") or {}
        gaps = find_gaps(answers) if answers else []
        if gaps:
            yield Note(refuse_numbers(name, gaps), "warning")
        if not answers or gaps:
            rows.append([name, "not scored" if not answers else MISSING, MISSING, MISSING, MISSING])
            continue
        protocols[name] = answers["protocol"]
        is_stated = bool(calibration) and not find_gaps(calibration, CONFIDENCE_TERMS)
        rows.append([name, *(meter_estimate(_read(answers, kind, metric)) for kind, metric in MEASURES),
                     show_measure(calibration, "ece") if is_stated else MISSING])
    note = " ".join(f"{name}: {describe_shortly(protocol)}" for name, protocol in protocols.items())
    yield Table("Side by side", ["System", "Closed accuracy", "Open exact match", "Open token F1",
                                 "Calibration error (ECE)"], rows, f"As each was scored on its own. {note}")
    yield from (Facts(f"Protocol: {name}", list(list_protocol(protocol)), folded=True)
                for name, protocol in protocols.items())


def _read(block: Mapping[str, Any], kind: str, metric: str) -> Estimate:
    return read_estimate(block[kind], metric) if block.get(kind) else Estimate(None)


def _compare_pair(result: Mapping[str, Any], first: str, other: str) -> Iterator[Block]:
    rows = [row for row in result["comparisons"] if row["second"] == other]
    note = describe_pair(result, first, other)
    number = result["systems"].index(other)
    if rows:
        yield Plots([draw_differences(About(f"difference-{number}", f"{other} minus {first}", note),
                                      [Difference(_name(row), row["difference"], row["low"], row["high"])
                                       for row in rows])])
    yield Table(f"{first} (first) and {other} (second)", list(COLUMNS), [list_cells(row) for row in rows], note)


def describe_pair(result: Mapping[str, Any], first: str, other: str) -> str:
    """Return what belongs under the table of two systems: on what they were compared, and how."""
    protocol = result["protocol"]
    return (f"{format_count(result['n'])} questions on {format_count(result['images'])} images that every system "
            f"answered, scored anew by the same rules (text profile {', '.join(protocol['profiles'])}). Difference: "
            f"{other} minus {first}, {100 * protocol['level']:g} % interval by bootstrap over images "
            f"({format_count(protocol['resamples'])} resamples, seed {protocol['seed']}). p: exchanging the two "
            f"systems image by image; Holm over {format_count(protocol['comparisons'])} comparisons.")


def _list_rules(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((label, str(result["protocol"][key])) for key, label in RULES.items() if key in result["protocol"])


def _name(row: Mapping[str, Any]) -> str:
    metric, _, profile = str(row["measure"]).partition("@")
    part = str(row["slice"]).replace("_", " ")
    return f"{part}: {name_metric(metric)}" + (f" ({profile})" if profile not in ("", "medvqa") else "")


def list_cells(row: Mapping[str, Any]) -> list[str]:
    """Return one comparison under `COLUMNS`."""
    mcnemar = row["mcnemar"]
    return [_name(row), format_count(row["n"]), format_value(row["first_value"]), format_value(row["second_value"]),
            format_value(row["difference"], row["low"], row["high"], signed=True), format_probability(row["p"]),
            format_probability(row["p_holm"]),
            f"{mcnemar['only_first']} / {mcnemar['only_second']}" if mcnemar else MISSING,
            _show_effect(row)]


def _show_effect(row: Mapping[str, Any]) -> str:
    """Return the size of an effect with its measure: Cohen's g of disagreements, or d."""
    effect = format_value(row["effect"], digits=2, signed=True)
    return effect if effect == MISSING else f"{'g' if row['mcnemar'] else 'd'} {effect}"
