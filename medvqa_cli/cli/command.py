"""From a function of one argument to a Typer command: its options come from the table, its settings from all layers."""

from __future__ import annotations

import contextlib
import inspect
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvqa_cli.cli.defaults import DEFAULTS
from medvqa_cli.cli.groups import TextCommand
from medvqa_cli.cli.options import GENERAL, Option
from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.sources import Assignment, collect, find_path, find_plugin_files, parse_set

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.layers import Resolved
    from medvqa_cli.settings.schema import Settings

    Action = Callable[["Call"], None]


class Call:
    """One call of a command: what was typed, the settings it leads to, and the terminal to answer on."""

    def __init__(self, terminal: Terminal, options: Sequence[Option], values: Mapping[str, Any]) -> None:
        self.terminal = terminal
        self._options = options
        self._values = values
        self._run_settings: Mapping[str, Any] | None = None
        self._base: Sequence[Assignment] = ()
        log_file = self.text("log_file")
        terminal.configure(quiet=self.is_on("quiet"), verbose=self.is_on("verbose"), json_output=self.is_on("json"),
                           log_file=Path(log_file) if log_file else None)
        if gpu := self.text("gpu"):
            from medvqa_cli.workflows.hardware import choose_gpu

            choose_gpu(gpu)

    def text(self, name: str) -> str | None:
        """Return what was typed for an option, or None."""
        value: str | None = self._values.get(name)
        return value

    def texts(self, name: str) -> list[str]:
        """Return everything typed for an option that may be given many times."""
        return list(self._values.get(name) or ())

    def is_on(self, name: str) -> bool:
        """Return whether a switch was given."""
        return bool(self._values.get(name))

    def count(self, name: str, default: int) -> int:
        """Return an option that is a whole number of at least 1.

        Raises:
            SettingsError: If it is none.
        """
        typed = self.text(name)
        if typed is None:
            return default
        if not typed.isdecimal() or int(typed) < 1:
            flag = name.replace("_", "-")
            raise SettingsError(f"--{flag} is '{typed}': it should be a whole number of at least 1.")
        return int(typed)

    @property
    def progress(self) -> Progress:
        """What the workflow reports to."""
        return self.terminal.progress

    @cached_property
    def flags(self) -> list[Assignment]:
        """The settings that were typed as options."""
        return [Assignment(tuple(option.key.split(".")), value, option.flag, is_text=isinstance(value, str))
                for option in self._options
                if option.key and (value := self._values.get(option.name)) not in (None, False, [], ())]

    @cached_property
    def typed(self) -> list[Assignment]:
        """The settings typed on this command line: by --set and by options."""
        return [*map(parse_set, self.texts("set")), *self.flags]

    @cached_property
    def assignments(self) -> list[Assignment]:
        """Every source's values, unchecked: enough for a listing."""
        return collect(self.flags, config=self._config, sets=self.texts("set"), base=self._base)

    @property
    def runs(self) -> Path:
        """The folder of runs, found without checking other settings."""
        return find_path(self.assignments, "paths.runs", "runs")

    @property
    def _config(self) -> Path | None:
        typed = self.text("config")
        return Path(typed).expanduser() if typed else None

    def load_plugins(self) -> None:
        """Add the loose plugin files of all sources.

        Raises:
            PluginError: If one is missing or broken.
        """
        from medvqa_cli.plugins import add_files

        add_files(find_plugin_files(self.assignments))

    @cached_property
    def resolved(self) -> Resolved:
        """The checked settings and where each came from; loose plugins are loaded with them.

        Raises:
            SettingsError: If a source, key or value is wrong.
            PluginError: If a loose plugin is broken.
        """
        from medvqa_cli.plugins import add_files
        from medvqa_cli.settings.layers import resolve_settings

        resolved = resolve_settings(self.flags, config=self._config, sets=self.texts("set"),
                                    run_settings=self._run_settings, base=self._base)
        self.terminal.error_folder = resolved.settings.paths.runs
        add_files(resolved.settings.plugins)
        return resolved

    @property
    def settings(self) -> Settings:
        """The checked settings."""
        return self.resolved.settings

    def assign(self, key: str, value: Any, origin: str) -> None:
        """Give a setting a value, as if it had been typed; call it before `settings` is first read."""
        self.flags.append(Assignment(tuple(key.split(".")), value, origin))

    def continue_run(self, settings: Mapping[str, Any]) -> None:
        """Put a run's settings below what was typed; call it before `settings` is first read."""
        self._run_settings = settings

    def build_on(self, base: Sequence[Assignment]) -> None:
        """Put settings right above the user file; call it before `settings` or `runs` is first read."""
        self._base = base

    def answer_json(self, document: Any) -> bool:
        """Print a JSON document if `--json` was given; return whether it was."""
        if self.terminal.json:
            self.terminal.print_json(document)
        return self.terminal.json


def command(app: typer.Typer, name: str, *options: Option) -> Callable[[Action], Action]:
    """Register a function of a `Call` as the command `name`, with these options and the general ones."""
    table = (*options, *GENERAL)

    def register(function: Action) -> Action:
        def run(ctx: typer.Context, **values: Any) -> None:
            with contextlib.redirect_stdout(sys.stderr):  # what a library prints is no answer of ours
                function(Call(ctx.obj, table, values))

        parameters = [_make_parameter(option) for option in table]
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        run.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *parameters]}
        app.command(name, cls=TextCommand, help=inspect.getdoc(function))(run)
        return function

    return register


def describe_option(option: Option) -> str:
    """Return an option's help with the words it takes, where there is a list of them, and its setting's default."""
    text, choices = option.help, [word for word in getattr(option.complete, "choices", ()) if word]
    if option.kind == "text" and not all(word in f"{option.metavar} {text}" for word in choices):
        text = f"{text[:-1]}: {', '.join(choices[:-1])} or {choices[-1]}."
    default = DEFAULTS.get(option.key, "") if option.kind in {"text", "argument"} else ""
    return f"{text[:-1]} (default {default})." if default else text


def _make_parameter(option: Option) -> inspect.Parameter:
    types: dict[str, Any] = {"switch": bool, "many": list[str] | None, "required": str, "several": list[str],
                             "any": list[str] | None}
    annotation = types.get(option.kind, str | None)
    shared: dict[str, Any] = {"help": describe_option(option), "autocompletion": option.complete, "show_default": False}
    if option.is_argument:
        info = typer.Argument(metavar=option.flag if option.metavar == "TEXT" else option.metavar, **shared)
    else:
        shared["rich_help_panel"] = option.panel
        info = typer.Option(option.flag, metavar="" if option.kind == "switch" else option.metavar, **shared)
    defaults: dict[str, Any] = dict.fromkeys(("required", "several"), inspect.Parameter.empty) | {"switch": False}
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(option.kind),
                             annotation=Annotated[annotation, info])
