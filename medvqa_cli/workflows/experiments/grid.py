"""What varies in an experiment: axes of values, their product, and the names of its points. Starts nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.layers import find_type, resolve_assignments
from medvqa_cli.settings.schema import Settings, describe_errors, to_tree
from medvqa_cli.settings.section import Section
from medvqa_cli.settings.sources import (
    OF_THE_MACHINE,
    Assignment,
    flatten,
    read_config,
    read_document,
    split_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Stage = Literal["train", "infer", "evaluate", "calibrate", "report"]
STAGES: tuple[Stage, ...] = ("train", "infer", "evaluate", "calibrate", "report")
DEFAULT_STAGES: tuple[Stage, ...] = ("train", "infer", "evaluate")
SEED = "seed"
METHOD = "method"
"""The one key of a grid that is no setting: `medvqa train METHOD`."""
SFT = "sft"
METHODS = (SFT, "grpo")
SPEAKING = (METHOD, "model.name", "data.dataset", "data.question_type")
"""Keys whose values name a run without the key beside them."""
MAX_NAME = 120
EXAMPLE = "See examples/experiments.yaml."


class ExperimentFile(Section):
    """What stands in a grid file."""

    name: str | None = None
    """Name of the experiment's folder; the file's own name if not given."""
    base: dict[str, Any] | str | None = None
    """Settings that all combinations share, or a settings file that holds them."""
    grid: dict[str, Any]
    """Setting -> list of values."""
    stages: tuple[Stage, ...] = DEFAULT_STAGES
    """What is done for each combination."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting and the values it takes in turn; a value for a whole section sets several keys together.

    With `is_text` the values are as typed, and the setting decides what they mean.
    """

    key: str
    values: tuple[Any, ...]
    origin: str
    is_text: bool = False

    @property
    def path(self) -> tuple[str, ...]:
        """The key in parts."""
        return tuple(self.key.split("."))


@dataclass(frozen=True, slots=True)
class Grid:
    """An experiment as it was asked for."""

    name: str
    axes: tuple[Axis, ...]
    stages: tuple[Stage, ...] = DEFAULT_STAGES
    base: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True)
class Combination:
    """One point of a grid: its name, the value of every axis, and the settings that come of them."""

    name: str
    values: Mapping[str, Any]
    settings: Settings

    @property
    def method(self) -> str:
        """How it is trained."""
        return str(self.values.get(METHOD, SFT))


def read_grid(path: Path) -> Grid:
    """Return the experiment that a YAML, TOML or JSON file describes.

    Raises:
        SettingsError: If it cannot be read, a key is unknown, or an axis is no list of values.
    """
    content = read_document(path)
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path}: expected 'grid: {{seed: [0, 1]}}', found {_name_type(content)}.", EXAMPLE)
    try:
        file = ExperimentFile.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        faults = "\n".join(f"{path}: {line[0].lower()}{line[1:]}" for line in describe_errors(error))
        raise SettingsError(faults, f"Keys here: {', '.join(ExperimentFile.model_fields)}. {EXAMPLE}") from error
    axes = tuple(_read_axis(leaf, path) for leaf in flatten(file.grid, str(path)))
    return Grid(file.name or path.stem, axes, order_stages(file.stages), tuple(_read_base(file.base, path)))


def _name_type(content: object) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"


def _read_axis(leaf: Assignment, path: Path) -> Axis:
    if not isinstance(leaf.value, list):
        raise SettingsError(f"{path}: the values of '{leaf.key}' are {json.dumps(leaf.value, default=str)}, which is "
                            "no list.", f"Write {leaf.key}: [VALUE, VALUE].")
    return Axis(leaf.key, tuple(leaf.value), str(path))


def _read_base(base: Mapping[str, Any] | str | None, path: Path) -> list[Assignment]:
    """Return the shared settings; a file is looked for beside the grid file."""
    if isinstance(base, str):
        return read_config(path.parent / Path(base).expanduser())
    return flatten(base or {}, str(path))


def read_axis(key: str, text: str, origin: str) -> Axis:
    """Return an axis typed as values between commas, such as "0,1,2"; JSON lists work as well."""
    values = split_text(text)
    is_text = all(isinstance(value, str) for value in values)
    return Axis(key, tuple(values), origin, is_text=is_text)


def replace_axes(axes: Sequence[Axis], typed: Sequence[Axis]) -> tuple[Axis, ...]:
    """Return a file's axes with those typed for the same key put in their place, and other typed ones behind.

    Raises:
        SettingsError: If a key is typed twice.
    """
    repeated = [key for key, count in Counter(axis.key for axis in typed).items() if count > 1]
    if repeated:
        raise SettingsError(f"The values of '{repeated[0]}' are given twice on the command line.", "Give them once.")
    new = {axis.key: axis for axis in typed}
    kept = [new.pop(axis.key, axis) for axis in axes]
    return (*kept, *new.values())


def order_stages(stages: Sequence[str], origin: str = "stages") -> tuple[Stage, ...]:
    """Return stages in the order in which they are done.

    Raises:
        SettingsError: If one is unknown or named twice, or there is none.
    """
    for stage in stages:
        if stage not in STAGES:
            raise SettingsError(f"{origin}: there is no stage '{stage}'.", f"Stages: {', '.join(STAGES)}.")
    if not stages or len(set(stages)) < len(stages):
        raise SettingsError(f"{origin}: {'a stage is named twice' if stages else 'no stage is named'}.",
                            f"Name some of: {', '.join(STAGES)}.")
    return tuple(stage for stage in STAGES if stage in stages)


def expand_grid(base: Settings, axes: Sequence[Axis]) -> list[Combination]:
    """Return every combination of the axes' values on top of shared settings, the last axis varying fastest.

    Raises:
        SettingsError: If nothing varies, a key or value is not allowed, or two combinations come out the same.
    """
    if not axes:
        raise SettingsError("The grid is empty: no setting has values.",
                            f"Name a grid file, or values such as --seeds 0,1,2. {EXAMPLE}")
    for axis in axes:
        _check_axis(axis)
    shared = flatten(to_tree(base), "base")
    points = [_resolve(shared, axes, values) for values in itertools.product(*(axis.values for axis in axes))]
    _refuse_doubles([values for values, _ in points], axes)
    names = name_points([values for values, _ in points])
    return [Combination(name, values, settings) for name, (values, settings) in zip(names, points, strict=True)]


def _check_axis(axis: Axis) -> None:
    if axis.key == METHOD:
        for value in axis.values:
            if value not in METHODS:
                raise SettingsError(f"{axis.origin}: there is no method '{value}'.", f"Methods: {', '.join(METHODS)}.")
    else:
        find_type(Assignment(axis.path, None, axis.origin))
    if axis.path[0] in {*OF_THE_MACHINE, "plugins"}:
        raise SettingsError(f"{axis.origin}: '{axis.key}' is of the machine and cannot vary.",
                            "Put it into base, or name it on the command line.")
    if not axis.values:
        raise SettingsError(f"{axis.origin}: '{axis.key}' has no values.", f"Write {axis.key}: [VALUE, VALUE].")


def _resolve(shared: Sequence[Assignment], axes: Sequence[Axis],
             chosen: Sequence[Any]) -> tuple[dict[str, Any], Settings]:
    own = [Assignment(axis.path, value, axis.origin, is_text=axis.is_text)
           for axis, value in zip(axes, chosen, strict=True) if axis.key != METHOD]
    settings = resolve_assignments([*shared, *own]).settings
    tree = to_tree(settings)
    values = {axis.key: value if isinstance(value, Mapping) or axis.key == METHOD else _look_up(tree, axis.path)
              for axis, value in zip(axes, chosen, strict=True)}
    return values, settings


def _look_up(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _refuse_doubles(points: Sequence[Mapping[str, Any]], axes: Sequence[Axis]) -> None:
    for axis in axes:
        if len({_write(point[axis.key]) for point in points}) < len(axis.values):
            raise SettingsError(f"{axis.origin}: '{axis.key}' has a value twice: {_list(axis.values)}.",
                                "Every combination would be run twice: name each value once.")


def _write(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def name_points(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a folder name for each point, made of its values: `llava_slake_closed_n500_seed0`.

    Two values that would be written alike get a hash behind them; so does a name that is too long.
    """
    labels = {key: _label_axis(key, [point[key] for point in points], points[0]) for key in points[0]}
    names = ["_".join(labels[key][_write(point[key])] for key in point) for point in points]
    return [name if len(name) <= MAX_NAME else f"{name[:MAX_NAME - 9]}-{_hash(name)}" for name in names]


def _label_axis(key: str, values: Sequence[Any], keys: Mapping[str, Any]) -> dict[str, str]:
    """Return how each value of an axis is written in a name."""
    written = {_write(value): _prefix(key, keys) + _slug(value) for value in values}
    again = Counter(written.values())
    return {text: label if again[label] == 1 else f"{label}-{_hash(text)}" for text, label in written.items()}


def _prefix(key: str, keys: Mapping[str, Any]) -> str:
    if key in SPEAKING:
        return ""
    if key == SEED:
        return "seed"
    if key == "data.subsample":
        return "n"
    last = key.rpartition(".")[2]
    return f"{last if sum(other.rpartition('.')[2] == last for other in keys) == 1 else key}-"


def _slug(value: Any) -> str:
    if isinstance(value, Mapping):
        return "-".join(_slug(leaf.value) for leaf in flatten(value, ""))
    if isinstance(value, list):
        return "-".join(map(_slug, value)) or "none"
    text = Path(value).name if isinstance(value, str) else "none" if value is None else str(value)
    return re.sub(r"[^A-Za-z0-9.+]+", "-", text.lower()).replace("+", "").strip("-.") or "none"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def iterate_neighbours(points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, str]]:
    """Yield the numbers of every two points that differ in one key, and the key; the first of them comes first."""
    for first, second in itertools.combinations(range(len(points)), 2):
        differing = [key for key in points[first] if _write(points[first][key]) != _write(points[second][key])]
        if len(differing) == 1:
            yield first, second, differing[0]
