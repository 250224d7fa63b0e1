"""Has a model stopped looking, and gives one answer to nearly everything?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvqa_cli.scoring.answers import is_yes_no, normalize_answer, parse_yes_no

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_ANSWERS = 10
MAX_SHARE = 0.9
LOWERED = 0.3
"""What a learning rate that is too high is multiplied by."""


@dataclass(frozen=True, slots=True)
class TopAnswer:
    """The most frequent answer to questions of one kind.

    `share` (0-1) is how often the model gives it, `gold_share` how frequent the most frequent gold answer is, both
    among `total` questions.
    """

    answer: str
    share: float
    gold_share: float
    total: int

    @property
    def is_collapse(self) -> bool:
        """Whether it is given to over 90 % of at least 10 questions whose gold answers are not so uniform."""
        return self.total >= MIN_ANSWERS and self.share > MAX_SHARE >= self.gold_share


def find_top_answer(pairs: Iterable[tuple[str, str]]) -> TopAnswer | None:
    """Return the most frequent answer, or None without any pair.

    Answers are compared normalized; where the gold answer is yes or no, by what they say (`parse_yes_no`).

    Args:
        pairs: Gold answer and the model's answer of each question.
    """
    answers, golds = Counter[str](), Counter[str]()
    for gold, answer in pairs:
        golds[normalize_answer(gold)] += 1
        answers[(parse_yes_no(answer) if is_yes_no(gold) else None) or normalize_answer(answer)] += 1
    if not golds:
        return None
    total = golds.total()
    ((answer, count),) = answers.most_common(1)
    return TopAnswer(answer, count / total, golds.most_common(1)[0][1] / total, total)


def advise_on_collapse(learning_rate: float) -> str:
    """Return what helps a model that was trained at a peak learning rate and gives one answer to everything."""
    return ("What helps: more questions or more epochs (--epochs), a balance of answers in them (`medvqa data analyze` "
            "shows it, --balance answer makes up for it), or a lower rate "
            f"(--learning-rate {lower_rate(learning_rate)}).")


def lower_rate(learning_rate: float) -> str:
    """Return a lower learning rate as one types it: 3e-5 for 1e-4."""
    return f"{LOWERED * learning_rate:.1g}".replace("e-0", "e-")
