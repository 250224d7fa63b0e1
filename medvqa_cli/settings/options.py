"""A plugin's own options: strictly checked, errors under the key the user wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.schema import describe_errors

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_options(model: type[BaseModel] | None, tree: Mapping[str, Any], prefix: str) -> BaseModel | None:
    """Validate a plugin's options; `prefix` is the settings key they stand under, such as "data.options".

    Raises:
        SettingsError: Naming every wrong key, its value and what is allowed.
    """
    if model is None:
        if tree:
            raise SettingsError(f"This plugin takes no options, but {prefix} has: {', '.join(tree)}.")
        return None
    try:
        return model.model_validate_json(json.dumps(dict(tree), default=str))
    except ValidationError as error:
        allowed = ", ".join(model.model_fields)
        raise SettingsError("\n".join(describe_errors(error, f"{prefix}.")), f"Options here: {allowed}.") from error
