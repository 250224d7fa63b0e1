"""Typer groups that import a sub-command when it is called, and parameters that stay text.

Typer coerces parameters through pydantic, which would nearly double the start-up of a listing. Ours stay the text that
was typed: the settings schema checks it, and its errors name the key and what is allowed.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

EVERYWHERE = "Everywhere"
"""Heading of the options that every command takes."""


def keep_text(parameter: Any) -> Any:
    """Let a parameter take its value as typed; `process_value` is what the parser calls."""
    def process_value(ctx: Any, value: Any) -> Any:
        many = getattr(parameter, "multiple", False) or parameter.nargs == -1
        value = tuple(value or ()) if many else value
        if parameter.required and value in (None, ()) and not ctx.resilient_parsing:
            ctx.fail(f"Missing argument '{parameter.metavar or parameter.name}'.")
        return parameter.callback(ctx, parameter, value) if parameter.callback else value

    parameter.process_value = process_value
    _show_plainly(parameter)
    return parameter


def _show_plainly(parameter: Any) -> None:
    """Show no type where the metavar says it all, and an argument's name without braces."""
    if getattr(parameter, "is_flag", False) or parameter.param_type_name == "argument":
        parameter.display_type_rich = _show_no_type
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name
        usage = name if parameter.required or name.startswith("[") else f"[{name}]"
        parameter.get_usage_pieces = lambda _ctx: [usage]


def _show_no_type(**_context: Any) -> None:
    """Stand for `display_type_rich`."""


class TextCommand(TyperCommand):
    """A command whose parameters stay text."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return [keep_text(parameter) for parameter in super().get_params(ctx)]

    def get_help_option(self, ctx: Any) -> Any:
        """Return `--help`, to be shown among what every command takes."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = EVERYWHERE
        return option


class TextGroup(TyperGroup):
    """A group whose parameters stay text."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return [keep_text(parameter) for parameter in super().get_params(ctx)]


class Stub(TyperCommand):
    """A name and one line of help; the command itself lies in a module that is imported when it is called."""

    def __init__(self, name: str, summary: str, module: str) -> None:
        super().__init__(name, help=summary)
        self.module = module

    def load(self) -> Any:
        """Import the module and return the command that its `app` makes."""
        command = get_command(importlib.import_module(self.module).app)
        command.name = self.name
        return command


class LazyGroup(TextGroup):
    """A group made of stubs: listing them costs nothing, calling one imports it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that `args` begin with, and what follows it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Stub) else command, rest


def make_group(summary: str) -> typer.Typer:
    """Return an app for several sub-commands; called without one it prints its help."""
    app = typer.Typer(cls=TextGroup, help=summary, add_completion=False, invoke_without_command=True)
    app.callback()(show_help)
    return app


def show_help(ctx: typer.Context) -> None:
    """Print the help if no sub-command was named."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)
