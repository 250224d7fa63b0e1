"""The report's sections on how the questions were answered: the summary, and the results part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Headline, Headlines, Meter, Note, Plots, Section, Table, Warnings
from medvqa_cli.reporting.controls import (
    CONTROLS,
    explain_survival,
    list_habit_rules,
    list_habits,
    list_survivals,
)
from medvqa_cli.reporting.estimates import (
    BASELINES,
    CONFIDENCE_TERMS,
    Estimate,
    find_controls,
    find_gaps,
    read_ambiguity,
    read_estimate,
    read_protocol,
    read_slices,
)
from medvqa_cli.reporting.figures import draw_accuracy
from medvqa_cli.reporting.formatting import MISSING, format_count, format_interval, format_share, format_value, name_key
from medvqa_cli.reporting.protocol import describe_interval, describe_shortly, list_protocol, list_rules, refuse_numbers
from medvqa_cli.reporting.trust import name_questions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block
    from medvqa_cli.reporting.estimates import Slice

LEAD = ("Accuracy part by part. Where an interval reaches down to the baseline, the part is too small, or the model "
        "too weak, to tell the two apart.")
Answers = dict[str, dict[str, Any]]
TAGS = {"main": "This model", "before": "Before training",
        **{tag: name[:1].upper() + name[1:] for tag, name in CONTROLS.items()}}
GROUPS = {"question_type": "Question type", "answer_type": "Answer type", "modality": "Modality", "organ": "Organ",
          "language": "Language"}
TITLES = {**GROUPS, "ambiguity": "Ambiguity of closed questions"}


def keep_stated(answers: Mapping[str, Any]) -> tuple[Answers, list[Note]]:
    """Return the blocks that state their protocol, the main one first, and a warning for each that does not.

    Raises:
        RunError: If a block is no object.
    """
    order = [*TAGS, *sorted(set(answers) - set(TAGS))]
    gaps = {tag: find_gaps(answers[tag]) for tag in order if tag in answers}
    return ({tag: answers[tag] for tag, found in gaps.items() if not found},
            [Note(refuse_numbers(f"“{name_tag(tag)}”", found), "warning") for tag, found in gaps.items() if found])


def name_tag(tag: str) -> str:
    """Return what a set of answers is called."""
    return TAGS.get(tag, name_key(tag.replace("-", " ")))


def build_summary(answers: Mapping[str, Any], calibration: Mapping[str, Any], warnings: Sequence[str]) -> Section:
    """Return the section a reader sees first. `warnings` are those of the data analysis and of the training.

    Raises:
        RunError: If the metrics have another shape.
    """
    stated, refusals = keep_stated(answers)
    blocks: list[Block] = [*refusals]
    items = [*_list_headlines(stated), *_list_calibration(calibration)]
    if items:
        blocks.append(Headlines(items))
    else:
        blocks.append(Note("Nothing is scored in this run yet: `medvqa infer`, then `medvqa eval answers`."))
    blocks += [Note(text, "warning") for text in _find_doubts(stated, calibration)]
    if warnings:
        blocks.append(fold_warnings(warnings, "about data and training"))
    if stated:
        blocks.append(_compare(stated))
        controls = stated.get("main", {}).get("controls") or {}
        if habits := list(list_habits(controls)):
            blocks += [Facts("Habits of answering", habits),
                       Facts("What controls and habits mean", list_habit_rules(controls), folded=True)]
        for tag, block in stated.items():
            name = name_tag(tag).lower()
            blocks += [Facts(f"Protocol: {name}", list(list_protocol(block["protocol"], rules=False)),
                             folded=tag != "main"),
                       Facts(f"What each measure is: {name}", list(list_rules(block["protocol"])), folded=True)]
    return Section("summary", "Summary", "", blocks)


def fold_warnings(texts: Sequence[str], about: str) -> Note | Warnings:
    """Return warnings as one block: a single one as it is, several behind a line that counts them."""
    return Note(texts[0], "warning") if len(texts) == 1 else Warnings(f"{len(texts)} warnings {about}", texts)


def _list_headlines(stated: Answers) -> Iterator[Headline]:
    block = stated.get("main")
    if block is None:
        return
    synthetic = block.get("synthetic") or {}
    chosen = [("Closed accuracy", block.get("closed"), "accuracy"),
              ("Closed accuracy, unambiguous", synthetic.get("unambiguous"), "accuracy"),
              ("Open exact match", block.get("open"), "exact_match"),
              ("Open token F1", block.get("open"), "token_f1")]
    for label, part, metric in chosen:
        if part:
            score = read_estimate(part, metric)
            yield Headline(label, format_value(score.value), format_interval(score.low, score.high),
                           _say_basis(score), describe_shortly(block["protocol"]))


def _list_calibration(block: Mapping[str, Any]) -> Iterator[Headline]:
    protocol = read_protocol(block, CONFIDENCE_TERMS) if block else None
    if protocol and block.get("ece") is not None:
        interval = block.get("intervals", {}).get("ece", {})
        basis = (f"{format_count(block.get('num_questions'))} {name_questions(block)}; "
                 f"{format_value(block.get('bias_floor'))} if perfectly calibrated")
        yield Headline("Calibration error (ECE)", format_value(block["ece"]),
                       format_interval(interval.get("low"), interval.get("high")), basis, describe_shortly(protocol))


def _say_basis(score: Estimate) -> str:
    return f"{format_count(score.n)} questions on {format_count(score.images)} images"


def _find_doubts(stated: Answers, calibration: Mapping[str, Any]) -> Iterator[str]:
    for tag, block in stated.items():
        checks = block.get("checks", {})
        if block.get("incomplete"):
            yield f"{name_tag(tag)}: only some of the questions are answered; these are not the final numbers."
        if tag != "main":
            continue
        yield from block.get("warnings") or ()
        for kind in checks.get("collapsed", ()) if "warnings" not in block else ():
            top = checks["top_answer"][kind]
            yield f"The model says “{top['answer']}” to {format_share(top['share'])} of the {kind} questions."
        if checks.get("yes_no_unparsed"):
            yield (f"{format_count(checks['yes_no_unparsed'])} of {format_count(checks['yes_no_questions'])} answers "
                   "to yes/no questions say neither yes nor no; they count as wrong.")
    if calibration.get("incomplete"):
        yield "Calibration: only some of the questions are sampled; these are not the final numbers."
    yield from (f"Calibration: {text}" for text in calibration.get("warnings") or ())


def _compare(stated: Answers) -> Table:
    """Put the model beside what it has to beat."""
    main = stated.get("main", {})
    controls = find_controls(stated, "main") if main else stated
    rows: list[list[str | Meter]] = []
    for tag, block in stated.items():
        parts = [_read_part(block, kind, metric) for kind, metric in (("closed", "accuracy"), ("open", "exact_match"),
                                                                      ("open", "token_f1"))]
        label = name_tag(tag) if tag == "main" or tag in controls else f"{name_tag(tag)} ({_name_questions(block)})"
        kept = list_survivals(main, tag, block) if main and tag in controls and tag != "before" else [MISSING] * 2
        rows.append([label, *(meter_estimate(part) for part in parts), *kept])
    known = main.get("baselines") or {}
    for name, label in BASELINES.items():
        shares = [known.get(kind, {}).get(name) for kind in ("closed", "open")]
        if any(share is not None for share in shares):
            rows.append([f"{label} (no picture)", *(Meter(format_value(share), share) for share in shares), MISSING,
                         MISSING, MISSING])
    best = (main.get("synthetic") or {}).get("bayes_accuracy")
    if best is not None:
        rows.append(["Best possible (Bayes)", Meter(format_value(best), best), MISSING, MISSING, MISSING, MISSING])
    columns = ["Answers", "Closed accuracy", "Open exact match", "Open token F1", "Closed accuracy kept",
               "Exact match kept"]
    if all(row[4:] == [MISSING, MISSING] for row in rows):
        columns, rows = columns[:4], [row[:4] for row in rows]
    protocol = next(iter(stated.values()))["protocol"]
    return Table("Beside what it has to beat", columns, rows, f"{_explain_comparison(stated)}"
                 f"{describe_shortly(protocol)} In brackets: {describe_interval(protocol)}.")


def _name_questions(block: Mapping[str, Any]) -> str:
    protocol = block["protocol"]
    return f"other questions: {protocol.get('dataset')}, {protocol.get('split')} split, n = {protocol.get('n')}"


def _read_part(block: Mapping[str, Any], kind: str, metric: str) -> Estimate:
    return read_estimate(block[kind], metric) if block.get(kind) else Estimate(None)


def _explain_comparison(stated: Answers) -> str:
    text = ("Guesses without the picture come from the training questions: the most frequent answer, that of the same "
            "question type, that to the same question in the same words. ")
    same = find_controls(stated, "main") if "main" in stated else {}
    return explain_survival(stated.get("main", {}), same) + text


def meter_estimate(score: Estimate, baseline: float | None = None) -> Meter:
    """Return an estimate as a table cell: the number, its interval, and both drawn."""
    return Meter(format_value(score.value, score.low, score.high), score.value, score.low, score.high, baseline)


def build_results(answers: Mapping[str, Any]) -> Section:
    """Return the section with accuracy part by part.

    Raises:
        RunError: If the metrics have another shape.
    """
    stated, _ = keep_stated(answers)
    if "main" not in stated:
        return Section("results", "Results", "", [Note("Nothing is scored in this run yet.")])
    protocol = stated["main"]["protocol"]
    groups = {group: slices for group in GROUPS if len(slices := read_slices(stated, "main", group)) > 1}
    known = read_ambiguity(stated, "main")
    if known:
        groups["ambiguity"] = known
    figures = [draw_accuracy(groups[group], f"accuracy-{group.replace('_', '-')}",
                             f"Accuracy by {GROUPS[group].lower()}", _caption(protocol))
               for group in ("question_type", "modality") if group in groups]
    blocks: list[Block] = [Plots(figures)] if figures else []
    blocks += [_tabulate(TITLES[group], slices, protocol) for group, slices in groups.items()]
    if not groups:
        blocks.append(Note("The data set tells its questions apart in no way that would make parts to compare."))
    return Section("results", "Results", LEAD, blocks)


def _caption(protocol: Mapping[str, Any]) -> str:
    return (f"Number of questions in brackets. {describe_shortly(protocol, 'accuracy')} Lines: "
            f"{describe_interval(protocol)}.")


def _tabulate(title: str, slices: Sequence[Slice], protocol: Mapping[str, Any]) -> Table:
    baselines = [name for name in BASELINES if any(name in item.baselines for item in slices)]
    if "majority_per_question_type" in baselines and "majority" in baselines:
        baselines.remove("majority")
    controls = list(dict.fromkeys(tag for item in slices for tag in item.controls))
    columns = [title, "Accuracy", "Questions", "Images", *(BASELINES[name] for name in baselines),
               *map(name_tag, controls)]
    rows: list[list[str | Meter]] = [[
        item.name, meter_estimate(item.score, item.baseline), format_count(item.score.n),
        format_count(item.score.images), *(format_value(item.baselines.get(name)) for name in baselines),
        *(_show_control(item, tag) for tag in controls)] for item in slices]
    return Table(f"By {title.lower()}", columns, rows,
                 f"{describe_shortly(protocol)} Rule and intervals as in the summary's protocol. The bar shows "
                 f"accuracy, the line its interval{', the mark the majority baseline' if baselines else ''}.")


def _show_control(item: Slice, tag: str) -> str:
    score = item.controls.get(tag)
    return MISSING if score is None else format_value(score.value, score.low, score.high)
