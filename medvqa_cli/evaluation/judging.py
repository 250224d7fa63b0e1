"""A judge of free answers, such as a language model: handed in as a function, its verdicts kept as rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from medvqa_cli.errors import RunError
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.scoring.agreement import measure_agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BATCH = 32


class Claim(NamedTuple):
    """What a judge is shown."""

    question: str
    gold: str
    answer: str


if TYPE_CHECKING:
    # Claims -> whether each answer is right; None where the judge gave no verdict.
    Ask = Callable[[Sequence[Claim]], Sequence[bool | None]]


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge with the name its verdicts are kept under: model, prompt and whatever else decides them."""

    name: str
    ask: Ask


def judge_claims(claims: Sequence[Claim], judge: Judge, cache: Path) -> list[bool | None]:
    """Return a verdict for each claim; verdicts once given are read from the cache file, new ones added to it.

    Claims that are alike are judged once. A claim without a verdict is asked again the next time.

    Raises:
        RunError: If the cache is damaged, or the judge does not give one verdict a claim.
    """
    known = _read_cache(cache)
    keys = [_name_claim(claim, judge.name) for claim in claims]
    asked = {key: claim for key, claim in zip(keys, claims, strict=True) if key not in known}
    rest = list(asked.items())
    if rest:
        with JsonlWriter(cache) as writer:
            for start in range(0, len(rest), BATCH):
                known |= _ask(rest[start:start + BATCH], judge, writer)
    return [known[key] for key in keys]


def describe_agreement(verdicts: Sequence[bool | None], exact: Sequence[bool]) -> dict[str, Any]:
    """Return how far a judge agrees with exact match: {"n", "share", "kappa", "without_verdict"}."""
    pairs = [(verdict, match) for verdict, match in zip(verdicts, exact, strict=True) if verdict is not None]
    found = measure_agreement([verdict for verdict, _ in pairs], [match for _, match in pairs])
    return {"n": found.n, "share": found.share, "kappa": found.kappa, "without_verdict": len(verdicts) - len(pairs)}


def _ask(rest: Sequence[tuple[str, Claim]], judge: Judge, writer: JsonlWriter) -> dict[str, bool | None]:
    verdicts = judge.ask([claim for _, claim in rest])
    if len(verdicts) != len(rest):
        raise RunError(f"The judge '{judge.name}' gave {len(verdicts)} verdicts on {len(rest)} answers.")
    found = {key: verdict for (key, _), verdict in zip(rest, verdicts, strict=True)}
    for key, claim in rest:
        if found[key] is not None:
            writer.write({"key": key, "judge": judge.name, **claim._asdict(), "verdict": found[key]})
    return found


def _name_claim(claim: Claim, judge: str) -> str:
    return hashlib.sha256(json.dumps([judge, *claim]).encode()).hexdigest()[:32]


def _read_cache(path: Path) -> dict[str, bool | None]:
    if not path.exists():
        return {}
    rows = list(read_jsonl(path))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("key"), str) or not isinstance(row.get("verdict"), bool):
            raise RunError(f"{path}, line {number}: not a verdict.", "Delete the file: the judge is then asked anew.")
    return {row["key"]: row["verdict"] for row in rows}
