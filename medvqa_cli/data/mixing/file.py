"""A mixture file: which data sets are mixed, in which groups, with which weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from medvqa_cli.data.mixing.keys import Place, check_names, locate, read_document, suggest
from medvqa_cli.data.mixing.mixture import Member, Mixture, MixtureGroup
from medvqa_cli.data.mixing.types import read_typed
from medvqa_cli.settings.data import DatasetDeclaration
from medvqa_cli.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Weight = Annotated[float, Field(ge=0.0)]


def _read_use(value: Any) -> Any:
    """Read N as the range [0, N], and check a range's order."""
    numbers = [0, value] if isinstance(value, int) and not isinstance(value, bool) else value
    if not (isinstance(numbers, list) and len(numbers) == 2 and all(type(number) is int for number in numbers)):
        raise ValueError("it should be a number of questions or a range [start, end]")
    start, end = numbers
    if not (0 <= start < end or (start >= 0 and end == 0)):
        raise ValueError("a range should be 0 <= start < end, or end 0 for all the rest")
    return start, end


class GroupSettings(Section):
    """Data sets that are drawn from as one."""

    name: str = Field(min_length=1)
    """Its name."""
    datasets: tuple[str, ...] = Field(min_length=1)
    """Names of its data sets."""
    weight: Weight = 1.0
    """Its share of the draws, in proportion to the other groups' weights."""
    use: Annotated[tuple[int, int], BeforeValidator(_read_use)] = (0, 0)
    """Of each data set: N takes the first N questions, [start, end] those from start up to before end; 0 is all."""
    mandatory: bool = False
    """Put one of its questions at the start of every block."""
    shuffle: bool = True
    """Shuffle a data set's questions before `use` takes its part."""
    seed: Seed | None = None
    """Seed of that shuffle; not given: the draw's."""
    language: str | None = None
    """Keep questions in this language; not given: as in the run."""
    question_type: Literal["all", "closed", "open"] | None = None
    """Keep closed, open or all questions; not given: as in the run."""
    split: str | None = None
    """Split to take; not given: the run's training split."""


class MixtureSettings(Section):
    """A mixture in our own form."""

    groups: list[Any]
    """The groups."""
    size: PositiveInt | None = None
    """Questions in one draw; not given: as many as there are."""
    seed: Seed | None = None
    """Seed of the draw; not given: the run's."""
    datasets: dict[str, DatasetDeclaration] = Field(default={})
    """Data sets declared here: name -> reader, root and options; a relative root starts from this file's folder."""


def read_mixture(path: Path, known: Iterable[str] | None = None) -> Mixture:
    """Return what a mixture file says, in our own form or in UniMedVL's (`read_typed`).

    ```
    groups:                                       vlm_sft:
      - {name: main, datasets: [slake, vqa_rad],    dataset_names: {main: [slake, vqa_rad], own: [mine]}
         weight: 3}                                 weight: {main: 3, own: 1}
      - {name: own, datasets: [mine],               num_used_data: {main: [0, 0], own: [0, 500]}
         use: 500, mandatory: true}                 is_mandatory: {main: false, own: true}
    size: 20000                                   dataset_info: {vlm_sft: {mine: {data_dir: x, jsonl_path: x/a.jsonl}}}
    datasets:
      mine: {reader: conversations, root: x/a.jsonl}
    ```

    Args:
        path: A YAML or JSON file.
        known: Names of data sets there are besides those the file declares; any name will do if None.

    Raises:
        SettingsError: If the file is unreadable, a key is unknown or missing, a value is not allowed, or a data set is
            unknown: file, key, value and what is allowed are named.
    """
    tree = read_document(path)
    known = None if known is None else list(known)
    return _read_own(path, tree, known) if _is_own(tree) else read_typed(path, tree, known)


def _is_own(tree: dict[str, Any]) -> bool:
    """Tell whether a file is in our own form, or nearer to it than to the other."""
    typed = any(isinstance(value, dict) and suggest("dataset_names", value) for value in tree.values())
    return "groups" in tree or (not typed and ("datasets" in tree or bool(suggest("groups", tree))))


def _read_own(path: Path, tree: dict[str, Any], known: list[str] | None) -> Mixture:
    file = Place(path)
    settings = file.read(MixtureSettings, tree)
    declared = {name: locate(declaration, path.parent) for name, declaration in settings.datasets.items()}
    if not settings.groups:
        file.at("groups").refuse("is empty", "Name at least one group.")
    groups: list[MixtureGroup] = []
    for number, part in enumerate(settings.groups):
        place = file.at("groups", number)
        group = _make_group(place.read(GroupSettings, part))
        check_names(place.at("datasets"), [member.dataset for member in group.members], declared, known)
        if group.name in {other.name for other in groups}:
            place.at("name").refuse(f"is {group.name!r}, the name of an earlier group")
        groups.append(group)
    if not any(group.weight for group in groups):
        file.at("groups").refuse("has no weight above 0", "Give at least one group a weight.")
    return Mixture(path=path, groups=tuple(groups), datasets=declared, size=settings.size, seed=settings.seed)


def _make_group(settings: GroupSettings) -> MixtureGroup:
    return MixtureGroup(
        name=settings.name, members=tuple(Member(name, *settings.use) for name in settings.datasets),
        weight=settings.weight, mandatory=settings.mandatory, shuffle=settings.shuffle, seed=settings.seed,
        language=settings.language, question_type=settings.question_type, split=settings.split)
