"""`medvqa merge`: an adapter and its base become one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_model, complete_run
from medvqa_cli.cli.options import MODEL, Option
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = typer.Typer(add_completion=False)
SOURCE = Option("SOURCE", "Run that has trained an adapter, or an adapter's folder.", "", "RUN|DIR", "required",
                complete_run)
OUTPUT = Option("--output", "Folder to write the merged model to.", metavar="DIR")
BASE = Option("--base", "Model below the adapter, if not the one it names.", metavar="NAME", complete=complete_model)
OVERWRITE = Option("--overwrite", "Replace what an earlier merge has written there.", kind="switch")
LOADING = tuple(option for option in MODEL if option.key != "model.name" and "quantization" not in option.key)


@command(app, "merge", SOURCE, OUTPUT, BASE, OVERWRITE, *LOADING)
def merge(call: Call) -> None:
    """Merge an adapter into its base model, and check that the result answers as before."""
    from medvqa_cli.workflows.merge import merge_adapter

    output = call.text("output")
    if not output:
        raise SettingsError("Where to write the merged model is not said.", "Name a folder with --output.")
    record = merge_adapter(call.settings, str(call.text("source")), output, base=call.text("base"),
                           overwrite=call.is_on("overwrite"), progress=call.progress)
    if not call.answer_json(record):
        call.progress.say(f"Merged: {record['output']}. Next: medvqa infer --model {record['output']}")
