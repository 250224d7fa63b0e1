"""The report's section on the data: what they hold and what is odd about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Section, Table
from medvqa_cli.reporting.formatting import MISSING, format_count, format_value, name_key
from medvqa_cli.reporting.provenance import flatten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block

FACETS = {"question_types": "Questions by type", "modalities": "Questions by modality"}


def build_data(analysis: Mapping[str, Any], facts: Mapping[str, Any]) -> Section:
    """Return the section. `analysis` is the data audit, `facts` the manifest's word on the data trained on."""
    blocks: list[Block] = [Note(text, "warning") for text in list_findings(analysis)]
    splits = analysis.get("splits", {})
    if splits:
        blocks.append(_tabulate_splits(splits))
        blocks += [_tabulate_facet(splits, facet, title) for facet, title in FACETS.items()
                   if any(set(part.get(facet, {})) - {""} for part in splits.values())]
    else:
        blocks.append(Note("This run holds no analysis of its data: `medvqa data analyze` makes one."))
    if analysis.get("leakage"):
        blocks.append(_tabulate_leakage(analysis["leakage"]))
    plain = {key: value for key, value in facts.items() if key != "warnings"}  # they stand in the summary
    if plain:
        blocks.append(Facts("What the model was trained on", [(name_key(key), text) for key, text in flatten(plain)]))
    return Section("data", "Data", "", blocks)


def list_findings(analysis: Mapping[str, Any]) -> list[str]:
    """Return the audit's faults and warnings, in its words."""
    verdict = analysis.get("verdict", {})
    return [str(finding.get("message")) for kind in ("faults", "warnings") for finding in verdict.get(kind, ())]


def _tabulate_splits(splits: Mapping[str, Any]) -> Table:
    rows = [[name, format_count(part.get("questions")), format_count(part.get("images")),
             *(format_count(part.get("answer_types", {}).get(kind, 0)) for kind in ("closed", "open")),
             *(_say_majority(part.get(kind) or {}) for kind in ("closed", "open"))] for name, part in splits.items()]
    return Table("Splits", ["Split", "Questions", "Images", "Closed", "Open", "Most frequent closed answer",
                            "Most frequent open answer"], rows)


def _say_majority(answers: Mapping[str, Any]) -> str:
    frequent = answers.get("frequent_answers")
    return f"{next(iter(frequent))} ({format_value(answers.get('majority_share'))})" if frequent else MISSING


def _tabulate_facet(splits: Mapping[str, Any], facet: str, title: str) -> Table:
    values = dict.fromkeys(value for part in splits.values() for value in part.get(facet, {}))
    rows = [[value or "not stated", *(format_count(part.get(facet, {}).get(value, 0)) for part in splits.values())]
            for value in values]
    return Table(title, [title.rsplit(" ", 1)[-1].capitalize(), *splits], rows, narrow=True)


def _tabulate_leakage(pairs: Sequence[Mapping[str, Any]]) -> Table:
    counts = (("shared_images", "images"), ("near_images", "images"), ("questions_on_shared_images", "questions"),
              ("shared_questions", "questions"))
    rows = [[" / ".join(pair.get("splits", ())),
             *(f"{format_count(pair.get(shared))} of {format_count(pair.get(total))}" for shared, total in counts)]
            for pair in pairs]
    columns = ["Splits", "Images in both", "Images nearly the same", "Questions on images in both",
               "Same question on the same image"]
    return Table("In two splits at once", columns, rows,
                 "Counted in the second split; images are compared pixel by pixel, and by perceptual hashes.")
