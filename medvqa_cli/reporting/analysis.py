"""The page of a data set's analysis: the verdict first, then what it rests on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.reporting.blocks import Facts, Headline, Headlines, Note, Section, Table
from medvqa_cli.reporting.distributions import build_answers, build_counts, build_kinds
from medvqa_cli.reporting.formatting import format_count, format_share, name_key
from medvqa_cli.reporting.overlap import build_others, build_overlap, build_pictures, list_examples
from medvqa_cli.reporting.page import Page, render_page
from medvqa_cli.reporting.provenance import flatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.reporting.blocks import Block

CHECKS = {
    "shared_images": "Pictures in two splits",
    "near_images": "Nearly the same picture in two splits",
    "shared_with_other": "Pictures in another data set",
    "near_other": "Nearly the same picture in another data set",
    "imbalance": "Most frequent answer to closed questions",
    "positive_share": "Share of yes among yes and no",
    "answer_type": "Share of closed, or of open, questions",
    "question_only": "Closed questions answered without the picture",
    "option_place": "Right answers at one place of the options",
    "duplicates": "Questions asked twice about a picture",
    "empty_answers": "Empty answers",
    "without_image": "Questions without a picture",
    "burned_in_text": "Text in the pixels",
    "empty_split": "Questions in a split",
    "no_training_split": "Splits to train on",
}
SHARES = {"imbalance", "positive_share", "answer_type", "question_only", "option_place", "duplicates"}


def render_analysis(document: Mapping[str, Any], thumbnails: Mapping[str, bytes] | None = None, *,
                    written: str = "") -> str:
    """Return the analysis of a data set as one self-contained HTML page.

    Args:
        document: What `data.audit.audit_samples` returned, with "dataset", "fingerprint", "selection", "stored" and
            "skipped" where they are known.
        thumbnails: Picture files by path, of those that `list_pictures` names; the page says that others are not shown.
        written: ISO 8601 time for the foot of the page; now if not given.

    Raises:
        DataError: If the document lacks a part: another version wrote it.
    """
    try:
        sections = list(_build_sections(document, thumbnails or {}))
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"The analysis has another shape than this version of medvqa writes: {error!r}.",
                        "Analyse the data again: medvqa data analyze.") from error
    return render_page(Page(str(document.get("dataset", "Data set")), _describe_selection(document),
                            written or datetime.now(UTC).isoformat(), sections, kind="data analysis"))


def list_pictures(document: Mapping[str, Any]) -> list[str]:
    """Return the paths of the pictures that the page shows as thumbnails."""
    return list(dict.fromkeys(path for example in list_examples(document) for path in example["images"]))


def _build_sections(document: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> Iterator[Section]:
    yield _build_verdict(document)
    yield build_counts(document)
    yield build_overlap(document, thumbnails)
    if document["against"]:
        yield build_others(document["against"], thumbnails)
    yield build_answers(document)
    yield build_kinds(document)
    yield build_pictures(document)
    yield _build_method(document)


def _describe_selection(document: Mapping[str, Any]) -> str:
    selection, splits = document.get("selection", {}), document["splits"]
    language, kind = selection.get("language", "all"), selection.get("question_type", "all")
    parts = ["every language" if language == "all" else f"language “{language}”",
             "closed and open questions" if kind == "all" else f"{kind} questions"]
    if selection.get("limit"):
        parts.append(f"only the first {format_count(selection['limit'])} of each split")
    if selection.get("subsample"):
        parts.append(f"a subsample of {format_count(selection['subsample'])} for training")
    return f"{', '.join(splits) or 'No split'}: {', '.join(parts)}"


def _build_verdict(document: Mapping[str, Any]) -> Section:
    verdict, splits = document["verdict"], document["splits"].values()
    faults, warnings = verdict["faults"], verdict["warnings"]
    questions, images = sum(part["questions"] for part in splits), document["images"]["distinct"]
    items = [
        Headline("Verdict", "Ready" if verdict["ready"] else "Not ready",
                 f"{_count(faults, 'fault')}, {_count(warnings, 'warning')}", "", ""),
        Headline("Questions", format_count(questions), f"in {_count(list(splits), 'split')}", "", ""),
        Headline("Pictures", format_count(images), f"{format_count(document['images']['identical'])} of them copies "
                 "of another, pixel by pixel", "", ""),
        Headline("Questions a picture", f"{questions / images:.1f}" if images else "0",
                 "an image is encoded once for all of them", "", ""),
    ]
    blocks: list[Block] = [Headlines(items)]
    blocks += [Note(fault["message"], "warning") for fault in faults]
    if warnings:
        blocks.append(_tabulate_warnings(warnings))
    return Section("verdict", "Verdict", "Faults forbid training. Warnings do not: they belong beside every number "
                   "that these data give.", [*blocks, _tabulate_passed(verdict)])


def _count(items: list[Any], name: str) -> str:
    return f"{len(items) or 'no'} {name}{'s' * (len(items) != 1)}"


def _tabulate_warnings(warnings: list[Mapping[str, Any]]) -> Table:
    rows = [[CHECKS.get(item["code"], name_key(item["code"])), item["message"], _say(item["code"], item["value"]),
             _say_limit(item["code"], item["threshold"])] for item in warnings]
    return Table("Warnings", ["What", "Finding", "Found", "Warns"], rows, textual=["Finding"])


def _tabulate_passed(verdict: Mapping[str, Any]) -> Table:
    found = {item["code"] for item in verdict["warnings"]}
    rows = [[CHECKS.get(code, name_key(code)), _say_limit(code, limit)] for code, limit in verdict["checks"].items()
            if code not in found]
    return Table(f"Checked and in order ({len(rows)})", ["What", "Would warn"], rows, folded=True)


def _say(code: str, value: float) -> str:
    return format_share(value) if code in SHARES else format_count(value)


def _say_limit(code: str, limit: float | list[float]) -> str:
    if isinstance(limit, list):
        return f"outside {format_share(limit[0])} to {format_share(limit[1])}"
    if code in ("empty_split", "no_training_split"):
        return f"below {limit:g}"
    return f"above\u00a0{format_share(limit) if code in SHARES else format(limit, 'g')}"


def _build_method(document: Mapping[str, Any]) -> Section:
    near = document["images"]["near"]
    hashes = (f"perceptual hashes of {near['of_bits']} bits (cosine transform of a small grey copy) that differ in at "
              f"most {near['max_distance']}: copies saved anew, or neighbouring slices of one scan")
    rows = [
        ("Same picture", "equal width, height and RGB pixels once decoded, whatever the file"),
        ("Nearly the same picture", hashes),
        ("Same question", "equal texts once lower-cased, blanks and outer punctuation aside"),
        ("Words", "pieces between blanks; in text with Chinese characters each of them"),
        ("Effective answers", "how many equally frequent answers would be as hard to guess: e to their entropy"),
        ("Without the picture", "the most frequent answer in training: overall, by type, or for the same question"),
    ]
    identity = {key: document[key] for key in ("fingerprint", "selection", "stored", "skipped") if key in document}
    which = Facts("Which data", [(name_key(key), text) for key, text in flatten(identity)], folded=True)
    return Section("method", "How it was measured", "", [Facts("Terms", rows), which])
