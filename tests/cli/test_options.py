"""The table of options agrees with the settings."""

from __future__ import annotations

import importlib
from typing import get_args, get_origin

import pytest

from medvqa_cli.cli import options
from medvqa_cli.cli.app import COMMANDS
from medvqa_cli.cli.options import Option
from medvqa_cli.settings.layers import find_type, list_keys
from medvqa_cli.settings.sources import Assignment


def all_options() -> list[Option]:
    found: list[Option] = []
    modules = [options, *(importlib.import_module(stub.module) for stub in COMMANDS)]
    for module in modules:
        for value in vars(module).values():
            found += [value] if isinstance(value, Option) else []
            found += [o for o in value if isinstance(o, Option)] if isinstance(value, tuple) else []
    return list(dict.fromkeys(found))


def test_there_are_options():
    assert len(all_options()) > 60


@pytest.mark.parametrize("option", all_options(), ids=lambda option: f"{option.flag}-{option.key}")
def test_an_option_gives_an_existing_setting_and_offers_what_it_allows(option):
    assert option.help.endswith(".")
    assert option.flag == option.flag.lower() or option.is_argument, "flags are kebab-case"
    assert "_" not in option.flag
    if not option.key or option.key.startswith("data.options."):  # a plugin's own, checked by the plugin
        return
    assert option.key in set(list_keys())
    annotation = find_type(Assignment(tuple(option.key.split(".")), "", ""))
    if str(get_origin(annotation)) == "typing.Literal":
        assert set(option.complete("")) == set(get_args(annotation))
    if annotation is bool:
        assert option.kind == "switch"
