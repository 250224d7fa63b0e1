"""For how many questions facts were found, and for how many these hold the answer.

The report of `summarize_facts` is one document of plain JSON values:

```
mode, max_triples        the settings
questions                all questions
with_facts, coverage     those with at least one fact, and their share (0-1)
facts                    mean number of facts of such a question; null without any
knowledge                the same for questions that ask for knowledge (base_type kvqa), and for these:
  answers_covered        questions whose facts hold every part of the gold answer
  answer_coverage        their share of all that ask for knowledge; a yes or no is never held
  not_yes_no             questions whose answer is neither yes nor no
  open_coverage          share of answers_covered among these
privileged, note         true, and why
```

The gold answer is looked at here, after all facts are chosen, and nowhere else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.knowledge.graph import split_stems
from medvqa_cli.scoring.answers import is_yes_no, normalize_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import KnowledgeSettings

NOTE = ("The facts were chosen with labels, boxes and triples that people wrote who looked at the picture or the "
        "question: privileged information, which no picture in practice comes with.")
_YES_NO_ZH = {"是", "不是", "否", "有", "没有", "包含", "不包含", "存在", "不存在", "能", "不能", "可以", "不可以"}


def summarize_facts(samples: Sequence[VQASample], lines: Sequence[Sequence[str]],
                    settings: KnowledgeSettings) -> dict[str, Any]:
    """Return the report on questions and the lines that were found for each."""
    asked = [(sample, found) for sample, found in zip(samples, lines, strict=True)
             if sample.extra.get("base_type") == "kvqa"]
    covered = sum(holds_answer(found, sample.answer) for sample, found in asked)
    telling = sum(not _is_verdict(sample.answer) for sample, _ in asked)
    return {
        "mode": settings.mode, "max_triples": settings.max_triples, **_count(lines),
        "knowledge": _count([found for _, found in asked]) | {
            "answers_covered": covered, "answer_coverage": _share(covered, len(asked)), "not_yes_no": telling,
            "open_coverage": _share(covered, telling)},
        "privileged": True, "note": NOTE,
    }


def _count(lines: Sequence[Sequence[str]]) -> dict[str, Any]:
    with_facts = sum(map(bool, lines))
    return {"questions": len(lines), "with_facts": with_facts, "coverage": _share(with_facts, len(lines)),
            "facts": _share(sum(map(len, lines)), with_facts)}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _is_verdict(answer: str) -> bool:
    return is_yes_no(answer) or normalize_answer(answer) in _YES_NO_ZH


def holds_answer(lines: Sequence[str], answer: str) -> bool:
    """Tell whether facts hold an answer: each part of it (between commas), as whole words in any form, in one line."""
    if _is_verdict(answer) or not normalize_answer(answer):
        return False
    parts = [part for part in re.split("[,;、]", normalize_answer(answer)) if part.strip()]
    return all(any(_holds(line, part.strip()) for line in lines) for part in parts)


def _holds(line: str, part: str) -> bool:
    if not part.isascii():
        return part in line
    wanted, words = split_stems(part), split_stems(line)
    return any(words[start:start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))
