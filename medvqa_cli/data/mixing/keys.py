"""Checks of a mixture file: one clear error for each wrong key, with the nearest right one."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from medvqa_cli.data.files.fields import quote
from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.yaml_reading import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from medvqa_cli.settings.data import DatasetDeclaration

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Place:
    """A key in a file, for errors: "groups.0.weight"."""

    path: Path
    key: str = ""

    def at(self, *keys: str | int) -> Place:
        """Return the place of a key below this one."""
        return Place(self.path, ".".join(map(str, filter(lambda part: part != "", (self.key, *keys)))))

    def refuse(self, fault: str, hint: str = "") -> NoReturn:
        """Raise the error that names this place.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(f"{self.path}: {f'{self.key!r} ' if self.key else 'it '}{fault}.", hint)

    def check_keys(self, value: Any, allowed: Iterable[str], needed: Iterable[str] = ()) -> dict[str, Any]:
        """Return a mapping that has only allowed keys and all those needed.

        Raises:
            SettingsError: If it is no mapping, a key is unknown (the nearest is named) or one is missing.
        """
        names = list(allowed)
        if not isinstance(value, dict):
            self.refuse(f"should be keys with values, but is {quote(value)}", f"Keys here: {', '.join(names)}.")
        for key in value:
            if key not in names:
                self.refuse(f"has the unknown key {str(key)!r}{suggest(str(key), names)}",
                            f"Keys here: {', '.join(names)}.")
        for key in needed:
            if key not in value:
                self.refuse(f"lacks the key {key!r}", f"Keys here: {', '.join(names)}.")
        return value

    def read(self, model: type[M], value: Any) -> M:
        """Return a section of the file, checked.

        Raises:
            SettingsError: Naming every wrong key, its value and what is allowed.
        """
        fields = model.model_fields
        tree = self.check_keys(value, fields, [name for name, spec in fields.items() if spec.is_required()])
        try:
            return model.model_validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            faults = [self._describe(fault) for fault in error.errors(include_url=False)]
            raise SettingsError("\n".join(faults)) from error

    def _describe(self, fault: Any) -> str:
        place, message = self.at(*fault["loc"]), fault["msg"].removeprefix("Value error, ")
        said = f" is {quote(fault['input'])}" if fault["loc"] else ""
        return f"{self.path}: {place.key!r}{said}: {message[0].lower()}{message[1:]}."


def suggest(name: str, names: Iterable[str]) -> str:
    """Return the nearest of some names as an addition to a sentence, or an empty text if none is near."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_document(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML or JSON file.

    Raises:
        SettingsError: If the file is missing, unreadable, not valid, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", "Name a YAML or JSON file.") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict) or not tree:
        raise SettingsError(f"{path} should hold keys with values, but holds {quote(tree)}.",
                            "It needs 'groups', or the name of a data set type such as 'vlm_sft'.")
    named: dict[str, Any] = _name_keys(tree)
    return named


def _name_keys(value: Any) -> Any:
    """Return a value whose mappings have texts as keys: YAML's may be numbers, such as a group named 2019."""
    if isinstance(value, dict):
        return {str(key): _name_keys(inner) for key, inner in value.items()}
    return [_name_keys(inner) for inner in value] if isinstance(value, list) else value


def locate(declaration: DatasetDeclaration, folder: Path) -> DatasetDeclaration:
    """Return a declaration whose root is absolute; a relative one starts from the folder of the file it stands in."""
    root = declaration.root and (folder / declaration.root.expanduser()).absolute()
    return declaration.model_copy(update={"root": root})


def check_names(place: Place, names: Iterable[str], declared: Mapping[str, Any], known: Iterable[str] | None) -> None:
    """Check that every data set named is declared or known, and named once; any name is known if `known` is None.

    Raises:
        SettingsError: Naming the first that is not, and the nearest name.
    """
    others = None if known is None else [*known]
    wanted = {spell(name) for name in [*declared, *(others or ())]}
    seen: set[str] = set()
    for name in names:
        if spell(name) in seen:
            place.refuse(f"names the data set {name!r} twice")
        seen.add(spell(name))
        if others is not None and spell(name) not in wanted:
            place.refuse(f"names {name!r}, which is no data set{suggest(name, [*declared, *others])}",
                         "Declare it in the file, or see `medvqa data list`.")


def spell(name: str) -> str:
    """Return the one spelling of a data set's name: lower case, underscores."""
    return name.strip().lower().replace("-", "_")
