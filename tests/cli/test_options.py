"""The table of options agrees with the settings."""

from __future__ import annotations

import importlib
import re
from typing import Any, get_args, get_origin

import pytest

from medvqa_cli.cli import options
from medvqa_cli.cli.app import COMMANDS
from medvqa_cli.cli.command import describe_option
from medvqa_cli.cli.completion import complete_choice
from medvqa_cli.cli.defaults import DEFAULTS
from medvqa_cli.cli.options import Option
from medvqa_cli.settings.layers import find_type, list_keys
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.settings.sources import Assignment, flatten


def all_options() -> list[Option]:
    found: list[Option] = []
    modules = [options, *(importlib.import_module(stub.module) for stub in COMMANDS)]
    for module in modules:
        for value in vars(module).values():
            found += [value] if isinstance(value, Option) else []
            found += [o for o in value if isinstance(o, Option)] if isinstance(value, tuple) else []
    return list(dict.fromkeys(found))


def show_default(value: Any) -> str:
    """Return a default as the help shows it: nothing for switches and what is not set."""
    if value is None or value in ("", [], {}) or isinstance(value, bool):
        return ""
    if isinstance(value, list):
        return "all" if len(value) > 1 else str(value[0])
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_help_shows_the_defaults_of_the_settings():
    known = {leaf.key: show_default(leaf.value) for leaf in flatten(to_tree(make_settings()), "")}
    keys = sorted({option.key for option in all_options()})
    assert {key: known[key] for key in keys if known.get(key)} == DEFAULTS, "write this table to cli/defaults.py"


@pytest.mark.parametrize(("option", "text"), [
    (Option("--epochs", "Passes.", "train.epochs", "N"), "Passes (default 3)."),
    (Option("--limit", "First N.", "data.limit", "N"), "First N."),
    (Option("--scratch", "Small.", "model.scratch", kind="switch"), "Small."),
    (Option("NAME", "Data set.", "data.dataset", "NAME", "required"), "Data set."),
    (Option("--loss", "What.", metavar="NAME", complete=complete_choice(["a", "b", "c"])), "What: a, b or c."),
    (Option("--loss", "What.", metavar="a|b", complete=complete_choice(["a", "b"])), "What."),
    (Option("--loss", "One of a, b.", metavar="NAME", complete=complete_choice(["a", "b"])), "One of a, b."),
])
def test_the_help_of_an_option_says_what_it_takes_and_its_default(option, text):
    assert describe_option(option) == text


@pytest.mark.parametrize("stub", [stub for stub in COMMANDS if ": " in stub.help], ids=lambda stub: stub.name)
def test_a_groups_summary_names_all_its_commands(stub):
    loaded = stub.load()
    for name in getattr(loaded, "commands", {}):
        assert name in stub.help


@pytest.mark.parametrize(("line", "panels"), [
    (("train", "sft"), ["Most used", "Data"]), (("train", "grpo"), ["Most used", "Data"]),
    (("infer",), ["Most used", "Run"]), (("runs", "push"), ["Arguments", "Options", "Everywhere"]),
])
def test_panels_of_the_help(medvqa, line, panels):
    shown = medvqa(*line, "--help").stdout
    assert re.findall(r"^╭─ (.+?) ─+╮$", shown, re.MULTILINE)[: len(panels)] == panels
    for word in ("<bool>", "<str>", "{", "TEXT "):
        assert word not in shown.replace("TEXT  ", "").replace("'{\"answer_type", "")


def test_usage_names_arguments_as_they_are_called(medvqa):
    assert "Usage: medvqa runs push [OPTIONS] RUN ID\n" in re.sub(" +\n", "\n", medvqa("runs", "push", "--help").stdout)
    assert "[OPTIONS] [RUN]" in medvqa("runs", "show", "--help").stdout


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
