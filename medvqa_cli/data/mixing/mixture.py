"""Several data sets as one stream of questions: groups with weights, each walked through before anything returns."""

from __future__ import annotations

import bisect
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.data.selection import hash_key
from medvqa_cli.errors import DataError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import DatasetDeclaration


@dataclass(frozen=True, slots=True)
class Member:
    """A data set of a group, and which of its questions are used: [start, end), counted from 0; end 0 is their end."""

    dataset: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureGroup:
    """Data sets that are drawn from as one.

    Attributes:
        name: Its name, unique in the mixture.
        members: Its data sets.
        weight: Its share of the weighted draws, in proportion to the other groups' weights.
        mandatory: Whether every block starts with one of its questions.
        shuffle: Whether a data set's questions are shuffled before its range is taken; else they stand in file order.
        seed: Seed of that shuffle; the draw's own if None.
        language: Keep questions in this language; the run's choice if None.
        question_type: Keep closed, open or all questions; the run's choice if None.
        split: Split to take; the run's training split if None.
    """

    name: str
    members: tuple[Member, ...]
    weight: float = 1.0
    mandatory: bool = False
    shuffle: bool = True
    seed: int | None = None
    language: str | None = None
    question_type: Literal["all", "closed", "open"] | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a mixture file says.

    Attributes:
        path: The file.
        groups: Its groups, in file order.
        datasets: Data sets declared in it; roots are absolute.
        size: Questions in one draw; as many as there are if None.
        seed: Seed of the draw; the run's if None.
        notes: What a user should know about how the file was read.
    """

    path: Path
    groups: tuple[MixtureGroup, ...]
    datasets: Mapping[str, DatasetDeclaration]
    size: int | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupSamples:
    """A group with its questions. `members` tells of each data set how many were found and how many are used."""

    name: str
    samples: Sequence[VQASample]
    weight: float = 1.0
    mandatory: bool = False
    members: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw, and plain JSON values that tell how it came out; see `draw_mixture`."""

    samples: list[VQASample]
    report: dict[str, Any] = field(default_factory=dict)


def collect_group(group: MixtureGroup, found: Sequence[tuple[str, Sequence[VQASample]]], *, seed: int) -> GroupSamples:
    """Return the questions of a group that are used.

    A range beyond the questions there are takes those there are; the report tells both numbers.

    Args:
        group: The group.
        found: Of each of its members the data set's own name (an alias resolved) and its questions, filters applied.
        seed: Seed of the shuffle where the group has none of its own.

    Raises:
        DataError: If no question of a member is left.
    """
    used: list[VQASample] = []
    members = []
    for member, (name, samples) in zip(group.members, found, strict=True):
        taken = _take(group, member, samples, seed if group.seed is None else group.seed)
        used.extend(taken)
        members.append({"dataset": name, "found": len(samples), "used": len(taken),
                        "range": [member.start, member.end]})
    return GroupSamples(group.name, used, group.weight, group.mandatory, tuple(members))


def _take(group: MixtureGroup, member: Member, samples: Sequence[VQASample], seed: int) -> Sequence[VQASample]:
    ordered = samples
    if group.shuffle:
        ordered = sorted(samples, key=lambda sample: hash_key(seed, sample.question_id))
    taken = ordered[member.start: member.end or None]
    if not taken:
        raise DataError(f"Group '{group.name}' of the mixture uses questions {member.start} to "
                        f"{member.end or 'the end'} of '{member.dataset}', which has {len(samples)}.",
                        "Correct the range in the mixture file, or the filters (language, question type).")
    return taken


def draw_mixture(groups: Sequence[GroupSamples], size: int | None, seed: int, *, block: int = 1,
                 by_image: bool = False) -> Drawn:
    """Draw questions from groups by their weights.

    The draw is cut into blocks. Each starts with one question of every mandatory group; for each of the others a group
    is drawn with probability weight / sum of weights (mandatory groups take part in this too). A group is walked
    through in a random order, and in another one once it is exhausted: no question comes a second time before all of
    its group have come once. The same samples and seed give the same draw, whatever the order of samples in a group.

    Args:
        groups: The groups; each with questions.
        size: Questions to draw; as many as all groups have together if None.
        seed: Seed of the draw.
        block: Questions in a block, such as those of one batch.
        by_image: Walk through a group image by image, so that questions about one image come close together and can
            share it.

    Returns:
        The questions, and a report: "size", "distinct" (different questions drawn), "block", "seed", and of each of
        the "groups" its name, datasets, weight, mandatory, available and drawn questions, share wanted (expected by the
        rule above) and share drawn, repeats (draws of a question drawn before), and its members' numbers.

    Raises:
        SettingsError: If there is no group, no weight is above 0, or a block is too small for the mandatory groups.
        DataError: If a group has no questions.
        ValueError: If `size` or `block` is below 1.
    """
    _check_groups(groups, block)
    total = sum(len(group.samples) for group in groups) if size is None else size
    if total < 1 or block < 1:
        raise ValueError(f"size and block must be at least 1, not {total} and {block}")
    order = list(itertools.islice(_choose_groups(groups, seed, block), total))
    walks = [_walk(group, seed, by_image=by_image) for group in groups]
    samples = [next(walks[number]) for number in order]
    keys = {(sample.dataset, sample.split, sample.question_id) for sample in samples}
    return Drawn(samples, {"size": total, "distinct": len(keys), "block": block, "seed": seed,
                           "groups": _describe_groups(groups, Counter(order), total, block)})


def _check_groups(groups: Sequence[GroupSamples], block: int) -> None:
    empty = next((group.name for group in groups if not group.samples), None)
    if empty is not None:
        raise DataError(f"Group '{empty}' of the mixture has no questions.", "Take it out, or widen its filters.")
    if not sum(group.weight for group in groups) > 0:
        raise SettingsError("No group of the mixture has a weight above 0.", "Give at least one group a weight.")
    mandatory = [group.name for group in groups if group.mandatory]
    if len(mandatory) > block:
        raise SettingsError(f"The mixture has {len(mandatory)} mandatory groups ({', '.join(mandatory)}), but a block "
                            f"has room for {block} questions.", "Use larger blocks, or make fewer groups mandatory.")


def _choose_groups(groups: Sequence[GroupSamples], seed: int, block: int) -> Iterator[int]:
    """Yield the number of the group that each next question comes from, without end."""
    generator = random.Random(seed)
    largest = max(group.weight for group in groups)  # by which subnormal weights become numbers one can multiply
    sums = list(itertools.accumulate(group.weight / largest for group in groups))
    mandatory = [number for number, group in enumerate(groups) if group.mandatory]
    while True:
        yield from mandatory
        for _ in range(block - len(mandatory)):
            yield bisect.bisect_right(sums, generator.random() * sums[-1])


def _walk(group: GroupSamples, seed: int, *, by_image: bool) -> Iterator[VQASample]:
    """Yield the questions of a group in a random order, then in another one, without end."""
    for turn in itertools.count():
        mark = f"{group.name}\n{turn}\n"

        def rank(sample: VQASample, mark: str = mark) -> tuple[bytes, bytes]:
            own = hash_key(seed, f"{mark}{sample.dataset}\n{sample.split}\n{sample.question_id}")
            image = "\n".join(sample.images) or sample.question_id
            return (hash_key(seed, mark + image) if by_image else b""), own

        yield from sorted(group.samples, key=rank)


def _describe_groups(groups: Sequence[GroupSamples], drawn: Mapping[int, int], total: int,
                     block: int) -> list[dict[str, Any]]:
    weights = sum(group.weight for group in groups)
    mandatory = [number for number, group in enumerate(groups) if group.mandatory]
    whole, rest = divmod(total, block)
    weighted = total - whole * len(mandatory) - min(rest, len(mandatory))
    rows = []
    for number, group in enumerate(groups):
        fixed = whole + (mandatory.index(number) < rest) if group.mandatory else 0
        rows.append({
            "name": group.name, "datasets": [member["dataset"] for member in group.members], "weight": group.weight,
            "mandatory": group.mandatory, "available": len(group.samples), "drawn": drawn.get(number, 0),
            "wanted": (fixed + weighted * group.weight / weights) / total, "share": drawn.get(number, 0) / total,
            "repeats": max(0, drawn.get(number, 0) - len(group.samples)), "members": list(group.members)})
    return rows
