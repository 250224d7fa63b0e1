"""One line of a diagnosis: what was looked at, how it stands, and what to do where it is not well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.errors import MedVQAError, MissingDependencyError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal["ok", "note", "problem"]
Section = Literal["software", "hardware", "folders", "hub"]
GIB = 2**30
MISSING_PACKAGE = MissingDependencyError.exit_code
UNUSABLE_FOLDER = RunError.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one part of the machine.

    Args:
        section: Heading it stands under.
        name: What was looked at, such as "torch" or "GPU 0".
        detail: What was found, for people.
        state: "note": something is missing that some jobs need; "problem": medvqa cannot be used so.
        next_step: What to do where it is not well.
        facts: The same for programs: sizes in bytes, versions as text.
        exit_code: What `medvqa doctor` exits with because of this; 0 unless it is a problem.
    """

    section: Section
    name: str
    detail: str
    state: State = "ok"
    next_step: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


class UnusableMachineError(MedVQAError):
    """Something makes medvqa unusable here; the exit code is that of the first problem."""

    def __init__(self, problems: list[Finding]) -> None:
        super().__init__(f"{count(len(problems), 'problem')} must be solved first: "
                         f"{', '.join(problem.name for problem in problems)}.", problems[0].next_step)
        self.exit_code = problems[0].exit_code


def as_gib(size: float) -> str:
    """Return a size in bytes as GiB for people: one decimal below 10."""
    gib = size / GIB
    return f"{gib:.0f} GiB" if gib >= 9.95 else f"{gib:.1f} GiB"


def count(number: int, thing: str) -> str:
    """Return a number of things for people: "1 repository", "2 repositories"."""
    many = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{number} {thing if number == 1 else many}"
