"""Sections on what is asked and answered: counts and lengths, kinds, answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Plots, Section, Table
from medvqa_cli.reporting.charts import About, draw_histogram, draw_shares
from medvqa_cli.reporting.formatting import MISSING, format_count, format_share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.reporting.blocks import Block
    from medvqa_cli.reporting.figures import Figure

    Splits = Mapping[str, Mapping[str, Any]]

FACETS = {"answer_types": "Closed and open", "modalities": "Modalities", "question_types": "Question types",
          "organs": "Organs", "languages": "Languages"}
LENGTHS = {"question_words": "a question", "answer_words": "an answer"}
BASELINES = {"majority": "overall", "majority_per_question_type": "by type", "same_question_text": "same question"}
MOST_ROWS = 14
SIDE_BY_SIDE = "Each mark is one split; a line spans the splits."


def build_counts(document: Mapping[str, Any]) -> Section:
    """Return the section of counts, one row a split."""
    splits = document["splits"]
    rows = [[split, *(format_count(part[name]) for name in ("questions", "images")),
             f"{part['questions_per_image']['mean']:.1f}", format_count(part["questions_per_image"]["max"]),
             *(format_count(part["answer_types"].get(kind, 0)) for kind in ("closed", "open")),
             _percent(part["yes_no"]["positive_share"]),
             format_count(document["duplicates"][split]["same_question"])] for split, part in splits.items()]
    columns = ["Split", "Questions", "Pictures", "Questions a picture", "At most", "Closed", "Open", "Yes of yes/no",
               "Asked twice"]
    blocks: list[Block] = [Table("Splits", columns, rows), _plot_lengths(splits), _tabulate_lengths(splits)]
    return Section("counts", "What it holds", "", blocks if splits else [Note("There is no split.")])


def build_kinds(document: Mapping[str, Any]) -> Section:
    """Return the section on types, modalities, organs and languages, so far as they are stated."""
    splits = document["splits"]
    values = {facet: {value for part in splits.values() for value in part[facet]} for facet in FACETS}
    varied = sorted((facet for facet in FACETS if len(values[facet]) > 1), key=lambda facet: len(values[facet]))
    single = [(title, value) for facet, title in FACETS.items() if len(values[facet]) == 1 for value in values[facet]
              if value]
    absent = [title.lower() for facet, title in FACETS.items() if values[facet] <= {""}]
    blocks: list[Block] = []
    if varied:
        blocks.append(Plots([_draw_facet(splits, facet, FACETS[facet]) for facet in varied]))
    if single:
        blocks.append(Facts("The same for all questions", single))
    if absent and splits:
        blocks.append(Note(f"Not stated by this data set: {', '.join(absent)}."))
    return Section("kinds", "What is asked", "", blocks)


def build_answers(document: Mapping[str, Any]) -> Section:
    """Return the section on answers: the most frequent ones, their balance, and guessing without the picture."""
    splits = document["splits"]
    figures = [_draw_answers(splits, kind) for kind in ("closed", "open")
               if any(part[kind]["distinct_answers"] for part in splits.values())]
    if any(scores["questions"] for kinds in document["baselines"].values() for scores in kinds.values()):
        figures.append(_draw_baselines(document["baselines"], document["verdict"]["checks"]))
    places = [part["option_places"] for part in splits.values()]
    if any(places):
        figures.append(_draw_places(splits))
    rows = [[f"{split}, {kind}", _name_first(part[kind]), _percent(part[kind]["majority_share"]),
             format_count(part[kind]["distinct_answers"]), _number(part[kind]["effective_answers"]),
             format_count(part["answer_types"].get(kind, 0))]
            for split, part in splits.items() for kind in ("closed", "open") if part[kind]["distinct_answers"]]
    columns = ["Split", "Most frequent", "Its share", "Distinct answers", "Effective answers", "Questions"]
    table = Table("Balance", columns, rows, textual=["Most frequent"])
    return Section("answers", "What is answered", "", [Plots(figures), table])


def _plot_lengths(splits: Splits) -> Plots:
    return Plots([
        _draw_histogram("questions-per-image", splits, "questions_per_image", "questions about a picture",
                        "Share of the pictures. A picture is encoded once for all its questions: the more it has, the "
                        "more is gained."),
        *(_draw_histogram(name.replace("_", "-"), splits, name, f"words of {what}", "Share of the questions.")
          for name, what in LENGTHS.items())])


def _tabulate_lengths(splits: Splits) -> Table:
    rows = [[f"{split}, words of {what}", f"{part[name]['mean']:.1f}", format_count(part[name]["median"]),
             format_count(part[name]["max"])] for split, part in splits.items() for name, what in LENGTHS.items()]
    return Table("Lengths", ["Split", "Mean", "Median", "Longest"], rows, narrow=True)


def _draw_facet(splits: Splits, facet: str, title: str) -> Figure:
    totals: dict[str, int] = {}
    for part in splits.values():
        for value, number in part[facet].items():
            totals[value] = totals.get(value, 0) + number
    ranked = sorted(totals, key=lambda value: (-totals[value], value))
    shown, others = ranked[:MOST_ROWS], ranked[MOST_ROWS:]
    series = {}
    for split, part in splits.items():
        total = sum(part[facet].values())
        counts = [part[facet].get(value, 0) for value in shown]
        counts += [sum(part[facet].get(value, 0) for value in others)] if others else []
        series[split] = [number / total if total else None for number in counts]
    names = [f"{value or 'not stated'} ({totals[value]:,})" for value in shown]
    names += [f"{len(others)} others ({sum(totals[value] for value in others):,})"] if others else []
    return draw_shares(About(facet.replace("_", "-"), title, SIDE_BY_SIDE), names, series)


def _draw_answers(splits: Splits, kind: str) -> Figure:
    ranked: dict[str, int] = {}
    for part in splits.values():
        for answer, number in part[kind]["frequent_answers"].items():
            ranked[answer] = ranked.get(answer, 0) + number
    shown = sorted(ranked, key=lambda answer: (-ranked[answer], answer))[:10]
    series = {split: [_share(part[kind]["frequent_answers"].get(answer), part["answer_types"].get(kind, 0))
                      for answer in shown] for split, part in splits.items()}
    about = About(f"answers-{kind}", f"Most frequent answers to {kind} questions",
                  f"{SIDE_BY_SIDE} No mark where an answer is not among a split's ten most frequent.")
    return draw_shares(about, [answer or "(empty)" for answer in shown], series,
                       label=f"share of the {kind} questions")


def _draw_baselines(baselines: Mapping[str, Mapping[str, Any]], checks: Mapping[str, Any]) -> Figure:
    rows = {f"{split}, {kind} ({scores['questions']:,})": scores for split, kinds in baselines.items()
            for kind, scores in kinds.items() if scores["questions"]}
    series = {label: [scores[name] for scores in rows.values()] for name, label in BASELINES.items()}
    limit = checks["question_only"]
    about = About("baselines", "Right without looking at the picture",
                  "The most frequent answer of the training split: overall, for the question's type, for the same "
                  f"question. Dashed: above {format_share(limit)} of the closed questions, the analysis warns.")
    return draw_shares(about, list(rows), series, label="share of the answers that are right", limit=limit)


def _draw_places(splits: Splits) -> Figure:
    places = sorted({int(place) for part in splits.values() for place in part["option_places"]})
    series = {split: [_share(part["option_places"].get(str(place), 0), sum(part["option_places"].values()))
                      for place in places] for split, part in splits.items()}
    return draw_shares(About("option-places", "Which option is right", SIDE_BY_SIDE),
                       [f"option {place}" for place in places], series, label="share of the questions with options")


def _draw_histogram(name: str, splits: Splits, key: str, label: str, caption: str) -> Figure:
    series = {split: {int(number): count for number, count in part[key]["histogram"].items()}
              for split, part in splits.items()}
    return draw_histogram(About(name, f"{label[:1].upper()}{label[1:]}", caption), series, label)


def _share(number: int | None, total: int) -> float | None:
    return None if number is None or not total else number / total


def _percent(share: float | None) -> str:
    return format_share(share)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.1f}"


def _name_first(answers: Mapping[str, Any]) -> str:
    return next(iter(answers["frequent_answers"])) or "(empty)"
