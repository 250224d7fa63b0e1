"""A mixture file in UniMedVL's form: data set types, named groups, weights, ranges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter, ValidationError

from medvqa_cli.data.files.fields import quote
from medvqa_cli.data.mixing.keys import Place, check_names, locate, read_document, spell, suggest
from medvqa_cli.data.mixing.mixture import Member, Mixture, MixtureGroup
from medvqa_cli.data.mixing.resizing import ImageTransform
from medvqa_cli.settings.data import DatasetDeclaration
from medvqa_cli.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

READER = "conversations"
INFO_KEYS = ("dataset_info", "DATASET_INFO")
FILE_KEYS = ("size", "seed", *INFO_KEYS)
TYPE_KEYS = ("dataset_names", "weight", "num_used_data", "is_mandatory", "shuffle_lines", "shuffle_seed",
             "image_transform_args", "vit_image_transform_args")
TRANSFORM_KEYS = ("image_transform_args", "vit_image_transform_args")
KINDS = {"weight": (float, "a number of at least 0"), "is_mandatory": (bool, "true or false"),
         "shuffle_lines": (bool, "true or false"), "shuffle_seed": (int, "a whole number of at least 0")}
"""Keys that take one value for all groups, or one for each: their type, and in words."""
DEFAULTS = {"weight": 1.0, "is_mandatory": False, "shuffle_lines": False, "shuffle_seed": 0}
ALL = (0, 0)

Declared = dict[str, dict[str, DatasetDeclaration]]


class DatasetFiles(Section):
    """Where a data set's files lie; relative paths start from the folder of the file that names them."""

    data_dir: Path
    """Folder that the rows' picture paths start from."""
    jsonl_path: Path
    """Its rows, one JSON object a line."""


class FileSettings(Section):
    """What may stand beside the types."""

    size: int | None = Field(None, gt=0)
    """Questions in one draw; not given: as many as there are."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the draw; not given: the run's."""


def read_typed(path: Path, tree: Mapping[str, Any], known: list[str] | None) -> Mixture:
    """Return a mixture in UniMedVL's form.

    Every key but `size`, `seed` and `dataset_info` is a data set type. `dataset_info` (or DATASET_INFO) declares data
    sets as {type: {name: {data_dir, jsonl_path}}}, or names a YAML or JSON file that does; they are read by
    `conversations`, all rows of them. A name that its type does not declare is a data set known otherwise. Of a type:

    - dataset_names: {group: [names]}, or a list, which is one group with the type's name.
    - weight, is_mandatory, shuffle_lines, shuffle_seed: one value, or {group: value} for every group.
    - num_used_data: {group: [start, end]} uses of each data set the questions from `start` up to before `end`, after
      shuffling; end 0 is their end, so that [0, 0] is all. {group: N} uses the first N (0: all). A list of another
      length, and any list beside a list of names, is one such N for each name.
    - image_transform_args, vit_image_transform_args: checked and reported, not applied: a family's own processor
      decides what size a picture gets (`medvqa_cli.data.mixing.resizing.resize_shape` says what these would give).

    Source:
        UniMedVL's instructions. Differs: its code reads a list under num_used_data as counts, and leaves out data sets
        without a word where there are fewer counts than names; a group's weight defaults to 1.

    Raises:
        SettingsError: As `read_mixture`.
    """
    file = Place(path)
    settings = file.read(FileSettings, {key: tree[key] for key in ("size", "seed") if key in tree})
    declared = _read_info(file, tree)
    types = {name: value for name, value in tree.items() if name not in FILE_KEYS}
    if not types:
        file.refuse("names no data set type", "Add one, such as vlm_sft, with the key dataset_names.")
    groups: list[MixtureGroup] = []
    notes: list[str] = []
    for name, value in types.items():
        place = file.at(name)
        group_names = _read_type(place, value)
        _check_declared(place, name, group_names, declared, known)
        groups.extend(_make_groups(place, value, group_names, notes, prefix=f"{name}/" if len(types) > 1 else ""))
        notes.extend(_describe_transforms(place, value))
    if not any(group.weight for group in groups):
        file.refuse("gives no group a weight above 0", "Give at least one group a weight.")
    used = {member.dataset for group in groups for member in group.members}
    return Mixture(path=path, groups=tuple(groups), datasets=_merge(file, declared, used), size=settings.size,
                   seed=settings.seed, notes=tuple(notes))


def _read_info(file: Place, tree: Mapping[str, Any]) -> Declared:
    stated = [key for key in INFO_KEYS if key in tree]
    if len(stated) > 1:
        file.refuse(f"has both {stated[0]} and {stated[1]}", "Keep one of them.")
    if not stated:
        return {}
    place, info = file.at(stated[0]), tree[stated[0]]
    if isinstance(info, str):
        other = (file.path.parent / Path(info).expanduser()).absolute()
        place, info = Place(other), read_document(other)
    if not isinstance(info, dict):
        place.refuse(f"should be {{type: {{name: {{data_dir, jsonl_path}}}}}} or a file's path, but is {quote(info)}")
    return {str(kind): _read_declarations(place.at(kind), names) for kind, names in info.items()}


def _read_declarations(place: Place, names: Any) -> dict[str, DatasetDeclaration]:
    if not isinstance(names, dict):
        place.refuse(f"should be {{name: {{data_dir, jsonl_path}}}}, but is {quote(names)}")
    return {str(name): _read_declaration(place.at(name), value) for name, value in names.items()}


def _read_declaration(place: Place, value: Any) -> DatasetDeclaration:
    folder = place.path.parent
    if isinstance(value, dict) and "reader" in value:
        return locate(place.read(DatasetDeclaration, value), folder)
    files = place.read(DatasetFiles, value)
    images = (folder / files.data_dir.expanduser()).absolute()
    return locate(DatasetDeclaration(reader=READER, root=files.jsonl_path,
                                     options={"image_root": str(images), "split": "train"}), folder)


def _read_type(place: Place, value: Any) -> dict[str, list[str]]:
    """Return the names of each group of a type."""
    names = place.check_keys(value, TYPE_KEYS, ["dataset_names"])["dataset_names"]
    place = place.at("dataset_names")
    groups = {place.key.split(".")[0]: names} if isinstance(names, list) else names
    if not isinstance(groups, dict) or not groups:
        place.refuse(f"should be {{group: [names]}} or a list of names, but is {quote(names)}")
    for group, members in groups.items():
        if not (isinstance(members, list) and members and all(isinstance(member, str) for member in members)):
            place.at(group).refuse(f"should be a list of data sets, but is {quote(members)}")
    return {str(group): members for group, members in groups.items()}


def _check_declared(place: Place, kind: str, groups: Mapping[str, list[str]], declared: Declared,
                    known: list[str] | None) -> None:
    own = declared.get(kind, {})
    if declared and kind not in declared and (close := suggest(kind, declared)):
        place.refuse(f"is no type that is declared{close}", f"Declared: {', '.join(declared)}.")
    for group, names in groups.items():
        elsewhere = {name: other for other, others in declared.items() if other != kind for name in others}
        stray = next((name for name in names if name in elsewhere and name not in own), None)
        if stray is not None:
            place.at("dataset_names", group).refuse(
                f"names {stray!r}, which is declared for the type '{elsewhere[stray]}', not for '{kind}'")
        check_names(place.at("dataset_names", group), names, own, known)


def _make_groups(place: Place, value: Mapping[str, Any], groups: Mapping[str, list[str]], notes: list[str],
                 prefix: str) -> list[MixtureGroup]:
    listed = isinstance(value["dataset_names"], list)
    chosen = {key: _spread(place.at(key), value.get(key, DEFAULTS[key]), groups, key) for key in KINDS}
    used = value.get("num_used_data", 0)
    by_group = used if isinstance(used, dict) else dict.fromkeys(groups, used)
    if isinstance(used, dict):
        _check_groups(place.at("num_used_data"), used, groups)
    elif isinstance(used, list) and not listed:
        place.at("num_used_data").refuse(f"should be {{group: [start, end]}} or a number, but is {quote(used)}")
    made = []
    for group, names in groups.items():
        where = place.at("num_used_data", group if isinstance(used, dict) else "")
        ranges = _read_ranges(where, by_group[group], names, counts=listed)
        if len(names) == 2 and isinstance(by_group[group], list) and not listed:
            notes.append(f"{where.key} is read as one range for each of two data sets, not as two counts.")
        made.append(MixtureGroup(
            name=prefix + group, members=tuple(Member(name, *part) for name, part in zip(names, ranges, strict=True)),
            weight=chosen["weight"][group], mandatory=chosen["is_mandatory"][group],
            shuffle=chosen["shuffle_lines"][group], seed=chosen["shuffle_seed"][group]))
    return made


def _spread(place: Place, value: Any, groups: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return each group's value of a key that takes one for all groups or one for each."""
    if not isinstance(value, dict):
        return dict.fromkeys(groups, _read_value(place, value, key))
    _check_groups(place, value, groups)
    return {group: _read_value(place.at(group), value[group], key) for group in groups}


def _check_groups(place: Place, value: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    for group in value:
        if group not in groups:
            place.refuse(f"has {group!r}, which is no group of dataset_names{suggest(str(group), groups)}",
                         f"Groups: {', '.join(groups)}.")
    missing = [group for group in groups if group not in value]
    if missing:
        place.refuse(f"lacks the group '{missing[0]}'", f"Groups: {', '.join(groups)}.")


def _read_value(place: Place, value: Any, key: str) -> Any:
    kind, words = KINDS[key]
    try:
        read: Any = TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        place.refuse(f"should be {words}, but is {quote(value)}")
    if kind is not bool and not 0 <= read < float("inf"):
        place.refuse(f"should be {words}, but is {quote(value)}")
    return read


def _read_ranges(place: Place, value: Any, names: list[str], *, counts: bool) -> list[tuple[int, int]]:
    """Return the range of each of a group's data sets."""
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int and number >= 0 for number in numbers):
        place.refuse(f"should be [start, end] or a number of questions, of at least 0, but is {quote(value)}")
    if not isinstance(value, list):
        return [(0, value)] * len(names)
    if len(numbers) == 2 and not counts:
        if numbers[1] and numbers[0] >= numbers[1]:
            place.refuse(f"should be a range 0 <= start < end (end 0: all the rest), but is {quote(value)}")
        return [(numbers[0], numbers[1])] * len(names)
    if len(numbers) != len(names):
        place.refuse(f"has {len(numbers)} counts for {len(names)} data sets",
                     "Give each data set a count (0: all of it), or one range [start, end] for all of them.")
    return [(0, number) for number in numbers]


def _describe_transforms(place: Place, value: Mapping[str, Any]) -> list[str]:
    notes = []
    for key in TRANSFORM_KEYS:
        if key in value:
            wanted = place.at(key).read(ImageTransform, value[key]).model_dump(exclude_none=True)
            sizes = ", ".join(f"{name} {number}" for name, number in wanted.items())
            notes.append(f"{place.at(key).key} ({sizes}) is not applied: the model family's processor decides what "
                         "size a picture gets.")
    return notes


def _merge(file: Place, declared: Declared, used: set[str]) -> dict[str, DatasetDeclaration]:
    """Return the declarations in use by name; two types may share a name only if they mean the same files."""
    merged: dict[str, DatasetDeclaration] = {}
    for kind, names in declared.items():
        for name, declaration in names.items():
            if spell(name) in map(spell, used) and merged.setdefault(name, declaration) != declaration:
                file.at("dataset_info", kind, name).refuse("is declared for another type too, with other files",
                                           "Give the two data sets different names.")
    return merged
