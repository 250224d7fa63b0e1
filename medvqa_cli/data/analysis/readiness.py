"""May one train on a data set, and what must be said beside every number it gives.

Only faults forbid training: no question, no image (unless the data set is meant to be text alone), a missing or
unreadable image, a question without a text, an answer that is not among its options. Leakage and bias warn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.data.analysis.leakage import ANY, normalize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.records import VQASample

Warned = dict[str, Any]

MAX_MAJORITY_SHARE = 0.6
"""Above this share of one answer among a split's closed questions the split counts as imbalanced."""
MAX_QUESTION_ONLY_ACCURACY = 0.6
"""Above this accuracy of the question-only baseline on closed questions the pictures matter too little."""
POSITIVE_SHARES = (0.3, 0.7)
"""Outside these shares of yes among a split's yes/no questions a bias towards one answer pays."""
MAX_TYPE_SHARE = 0.8
"""Above this share of closed, or of open, questions a split hardly tests the other kind."""
MAX_PLACE_SHARE = 0.4
"""Above this share of right answers at one place of the options a model may learn the place."""
MAX_DUPLICATE_SHARE = 0.01
"""Above this share of questions asked twice about one picture a split counts as redundant."""
CHECKS: dict[str, Any] = {
    "shared_images": 0, "near_images": 0, "shared_with_other": 0, "near_other": 0,
    "imbalance": MAX_MAJORITY_SHARE, "positive_share": list(POSITIVE_SHARES), "answer_type": MAX_TYPE_SHARE,
    "question_only": MAX_QUESTION_ONLY_ACCURACY, "option_place": MAX_PLACE_SHARE, "duplicates": MAX_DUPLICATE_SHARE,
    "empty_answers": 0, "without_image": 0, "burned_in_text": 0, "empty_split": 1, "no_training_split": 1,
}
"""Code of a warning -> the largest value that is no warning; the smallest and the largest; or the least number."""

SELECTION = ("language", "question_type")


class FaultFinder:
    """Looks at samples one by one and keeps how many are faulty in which way, and the first of each."""

    def __init__(self) -> None:
        self.questions = 0
        self.has_images = False
        self.silent: list[str] = []
        self.strays: list[str] = []

    def look(self, sample: VQASample) -> None:
        """Look at a sample."""
        self.questions += 1
        self.has_images = self.has_images or bool(sample.images)
        if not sample.question.strip():
            self.silent.append(sample.question_id)
        if sample.options and normalize(sample.answer) not in set(map(normalize, sample.options)):
            self.strays.append(sample.question_id)


def judge(document: Mapping[str, Any], finder: FaultFinder, *, train_split: str, text_only: bool) -> dict[str, Any]:
    """Return the verdict on an analysis, as `audit` describes it."""
    no_images = finder.questions and not finder.has_images and not text_only
    found = {
        "no_questions": "" if finder.questions else "There is no question.",
        "no_images": "No question has an image (if that is meant, set data.text_only)." if no_images else "",
        "unreadable_images": _name_some("Missing or unreadable images", [*document["images"]["unreadable"].values()]),
        "empty_questions": _name_some("Questions without a text", finder.silent),
        "answers_outside_options": _name_some("Questions whose answer is not among their options", finder.strays),
    }
    faults = [{"code": code, "message": message} for code, message in found.items() if message]
    return {"ready": not faults, "faults": faults, "warnings": list(_find_warnings(document, train_split)),
            "checks": dict(CHECKS)}


def covers(analysed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether an analysis of one selection of a data set also speaks for another.

    It does if it was made of all the questions of some languages and kinds, and the other has no more of either.

    Args:
        analysed: "language" and "question_type" ("all", or one of them), "limit" and "subsample" (None: all questions).
        wanted: The same of the other; its limit and subsample do not count.
    """
    is_whole = analysed.get("limit") is None and analysed.get("subsample") is None
    return is_whole and all(analysed[name] in ("all", wanted[name]) for name in SELECTION)


def summarize_warnings(document: Mapping[str, Any], wanted: Mapping[str, Any] | None = None) -> list[str]:
    """Return the faults and warnings of an analysis as lines: they belong beside every number its data give.

    Args:
        document: The analysis, with its "selection" if `wanted` is given.
        wanted: The selection that is used; where the analysis was made of more, a last line says so.
    """
    verdict = document["verdict"]
    lines = [finding["message"] for finding in (*verdict["faults"], *verdict["warnings"])]
    if lines and wanted:
        analysed = [f"{name.replace('_', ' ')} '{document['selection'][name]}'" for name in SELECTION
                    if document["selection"][name] != wanted[name]]
        lines += [f"This was found among more questions than are used: {', '.join(analysed)}."] if analysed else []
    return lines


def _name_some(what: str, examples: list[str]) -> str:
    return f"{what}: {len(examples)}, such as: {examples[0]}" if examples else ""


def _find_warnings(document: Mapping[str, Any], train_split: str) -> Iterator[Warned]:
    for pair in document["leakage"]:
        yield from _warn_of_leakage(pair)
    for other in document["against"]:
        for pair in other["pairs"]:
            if pair["splits"][0].endswith(f"/{ANY}"):
                yield from _warn_of_other(pair, other["dataset"])
    for split, counts in document["splits"].items():
        yield from _warn_of_balance(split, counts)
        yield from _warn_of_rows(split, counts, document["duplicates"][split]["same_question"])
    for split, kinds in document["baselines"].items():
        yield from _warn_of_baseline(split, kinds["closed"], train_split)
    texts = document["images"]["texts"]
    if texts:
        message = _name_some("Images that may have text in their pixels", [*texts.values()])
        yield _warn("burned_in_text", message, len(texts))
    if train_split not in document["splits"]:
        yield _warn("no_training_split", f"There is no split '{train_split}' to train on.", 0)


def _warn_of_leakage(pair: Mapping[str, Any]) -> Iterator[Warned]:
    first, second = pair["splits"]
    if pair["shared_images"]:
        yield _warn("shared_images", f"{pair['shared_images']} of {pair['images']} images of '{second}' are also in "
                    f"'{first}'; questions asked there about the same image: {pair['shared_questions']}.",
                    pair["shared_images"])
    if pair["near_images"]:
        yield _warn("near_images", f"{pair['near_images']} of {pair['images']} images of '{second}' look almost like "
                    f"one in '{first}': copies, or neighbouring slices of one scan.", pair["near_images"])


def _warn_of_other(pair: Mapping[str, Any], name: str) -> Iterator[Warned]:
    split = pair["splits"][1]
    if pair["shared_images"]:
        yield _warn("shared_with_other", f"{pair['shared_images']} of {pair['images']} images of '{split}' are also in "
                    f"'{name}': a model that has seen '{name}' has seen them.", pair["shared_images"])
    if pair["near_images"]:
        yield _warn("near_other", f"{pair['near_images']} of {pair['images']} images of '{split}' look almost like one "
                    f"in '{name}'.", pair["near_images"])


def _warn_of_balance(split: str, counts: Mapping[str, Any]) -> Iterator[Warned]:
    closed, yes_no, places = counts["closed"], counts["yes_no"], counts["option_places"]
    share = closed["majority_share"] or 0.0
    if share > MAX_MAJORITY_SHARE:
        yield _warn("imbalance", f"'{next(iter(closed['frequent_answers']))}' answers {_percent(share)} of the closed "
                    f"questions of '{split}'.", share)
    positive = yes_no["positive_share"]
    if positive is not None and not POSITIVE_SHARES[0] <= positive <= POSITIVE_SHARES[1]:
        yield _warn("positive_share", f"'yes' answers {_percent(positive)} of the {yes_no['yes'] + yes_no['no']:,} "
                    f"yes/no questions of '{split}'.", positive)
    for kind, number in counts["answer_types"].items():
        if number > MAX_TYPE_SHARE * counts["questions"]:
            share = number / counts["questions"]
            yield _warn("answer_type", f"{_percent(share)} of the questions of '{split}' are {kind}.", share)
    for place, number in places.items():
        if len(places) > 2 and number > MAX_PLACE_SHARE * sum(places.values()):
            share = number / sum(places.values())
            yield _warn("option_place", f"Option {place} is right in {_percent(share)} of the questions with options "
                        f"of '{split}'.", share)


def _warn_of_rows(split: str, counts: Mapping[str, Any], repeated: int) -> Iterator[Warned]:
    total, bare = counts["questions"], counts["without_image"]
    if repeated > MAX_DUPLICATE_SHARE * total:
        yield _warn("duplicates", f"{repeated} questions of '{split}' are asked twice about an image.",
                    repeated / total)
    if counts["empty_answers"]:
        yield _warn("empty_answers", f"Empty answers in '{split}': {counts['empty_answers']}.", counts["empty_answers"])
    if 0 < bare < total:
        yield _warn("without_image", f"{bare} of {total} questions of '{split}' have no image.", bare)
    if not total:
        yield _warn("empty_split", f"No question of '{split}' is selected.", 0)


def _warn_of_baseline(split: str, scores: Mapping[str, Any], train_split: str) -> Iterator[Warned]:
    accuracy = scores["same_question_text"] or 0.0
    if accuracy > MAX_QUESTION_ONLY_ACCURACY:
        yield _warn("question_only", f"The question alone, looked up in '{train_split}', answers {_percent(accuracy)} "
                    f"of the closed questions of '{split}'.", accuracy)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _warn(code: str, message: str, value: float) -> Warned:
    return {"code": code, "message": message, "value": round(value, 4), "threshold": CHECKS[code]}
