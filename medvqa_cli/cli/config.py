"""`medvqa config`: see, write and check settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.cli.command import command
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import DATA, MODEL, RUN, SEED, TRAINING, Option
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = make_group("Settings: see, write, check.")


@command(app, "show", RUN, SEED, *DATA, *MODEL, *TRAINING)
def show_config(call: Call) -> None:
    """Show every setting, its value, and where the value comes from."""
    from medvqa_cli.runs import open_run
    from medvqa_cli.settings.schema import to_tree
    from medvqa_cli.settings.sources import flatten

    if name := call.text("run"):
        call.continue_run(open_run(call.runs, name).read_json("settings.json"))
    tree = to_tree(call.settings)
    if call.answer_json({"settings": tree, "origins": call.resolved.origins}):
        return
    known = {"data.language": _name_language(call)}
    rows = [(leaf.key, known.get(leaf.key) if leaf.value is None else leaf.value, call.resolved.origins[leaf.key])
            for leaf in flatten(tree, "")]
    call.terminal.print_table(["setting", "value", "from"], rows)


def _name_language(call: Call) -> str | None:
    """Return the language that is kept where none is set; None if the data set cannot be asked."""
    from medvqa_cli.errors import MedVQAError
    from medvqa_cli.workflows.data import choose_language

    try:
        return f"{choose_language(call.settings)} (the data set's own)"
    except MedVQAError:
        return None


@command(app, "init", Option("FILE", "Where to; the user file if not given.", metavar="FILE", kind="argument"),
         Option("--force", "Replace a file that is there.", kind="switch"))
def write_config(call: Call) -> None:
    """Write a commented settings file with every key and its default."""
    import os

    from medvqa_cli.records import write_atomically
    from medvqa_cli.settings.sources import user_config_path
    from medvqa_cli.settings.template import write_template

    typed = call.text("file")
    path = Path(typed) if typed else user_config_path(os.environ)
    if path.suffix != ".toml":
        raise SettingsError(f"'{path}' is no TOML file.", "Name it with .toml at the end.")
    if path.exists() and not call.is_on("force"):
        raise SettingsError(f"'{path}' exists.", "Replace it with --force, or name another file.")
    write_atomically(path, write_template())
    if not call.answer_json({"path": str(path)}):
        call.progress.say(f"Wrote {path}")


@command(app, "schema")
def show_schema(call: Call) -> None:
    """Print the JSON Schema of all settings, for editors and checks."""
    from medvqa_cli.settings.schema import Settings

    call.terminal.print_json(Settings.model_json_schema())
