"""The command `medvqa`: its sub-commands, and what becomes of an error."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer

from medvqa_cli import __version__
from medvqa_cli.cli.groups import LazyGroup, Stub, show_help
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.errors import MedVQAError, SettingsError, explain_full_disk, explain_os_error

COMMANDS = (
    Stub("quickstart", "Everything end to end on the built-in demo: data, training, answers, calibration, report.",
         "medvqa_cli.cli.quickstart"),
    Stub("data", "Data sets: list, prepare, analyze, show, mix, export.", "medvqa_cli.cli.data"),
    Stub("models", "Model families: list, info.", "medvqa_cli.cli.models"),
    Stub("train", "Train a model: sft, grpo; watch it.", "medvqa_cli.cli.train"),
    Stub("infer", "Answer a split, or questions about one image.", "medvqa_cli.cli.infer"),
    Stub("eval", "Score a run: answers, calibration; compare runs.", "medvqa_cli.cli.evaluate"),
    Stub("merge", "Merge an adapter into its base model, and check that it answers as before.", "medvqa_cli.cli.merge"),
    Stub("convert", "Checkpoints of other layouts, made loadable: llava-med.", "medvqa_cli.cli.convert"),
    Stub("report", "Write a run's report: one HTML page.", "medvqa_cli.cli.report"),
    Stub("experiments", "Grids of settings, run side by side: run, show.", "medvqa_cli.cli.experiments"),
    Stub("bench", "How fast this machine is with one image and many questions: train, infer, sample.",
         "medvqa_cli.cli.bench"),
    Stub("sanity-check", "Check data, model and settings in a minute, before hours of training.",
         "medvqa_cli.cli.sanity"),
    Stub("runs", "Runs: list, show, push.", "medvqa_cli.cli.runs"),
    Stub("config", "Settings: init, show, schema.", "medvqa_cli.cli.config"),
    Stub("plugins", "Plugins: list.", "medvqa_cli.cli.plugins"),
    Stub("doctor", "Look at this machine: what is missing, and which models fit.", "medvqa_cli.cli.doctor"),
)
UsageError: Any = typer.BadParameter.__base__
INTERRUPTED = 130


class RootGroup(LazyGroup):
    """The top command: adds the stubs, and turns every error into one clear line and an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({stub.name: stub for stub in COMMANDS if stub.name})

    def main(self, args: Any = None, prog_name: str | None = None, *_ignored: Any, **extra: Any) -> Any:
        """Run the command and exit with its code."""
        terminal = Terminal()
        extra.pop("standalone_mode", None)
        try:
            code = super().main(args, prog_name or "medvqa", standalone_mode=False, obj=terminal, **extra)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - the last stop: no traceback reaches a user
            code = show_error(terminal, error)
        else:
            code = show_error(terminal, KeyboardInterrupt()) if code == INTERRUPTED else code
        finally:
            terminal.close()
        sys.exit(code if isinstance(code, int) else 0)


def show_error(terminal: Terminal, error: BaseException) -> int:
    """Say in one line what went wrong; return the exit code."""
    terminal.end_progress()
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        terminal.say_always("Interrupted. What was finished is kept.")
        return INTERRUPTED
    known = _as_known(error)
    if known is None:
        terminal.fail_unexpectedly(error)
        return 1
    terminal.log("".join(traceback.format_exception(error)))
    terminal.fail(known)
    return known.exit_code


def _as_known(error: BaseException) -> MedVQAError | None:
    if isinstance(error, MedVQAError):
        return error
    if isinstance(error, UsageError):
        path = error.ctx.command_path if error.ctx else "medvqa"
        return SettingsError(error.format_message(), f"See `{path} --help`.")
    if full := explain_full_disk(error):
        return full
    return explain_os_error(error) if isinstance(error, OSError) else None


app = typer.Typer(cls=RootGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]},
                  epilog="Research use only; not for clinical decisions.")


@app.callback()
def start(ctx: typer.Context, *,
          version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version.")] = False) -> None:
    """Train and evaluate vision-language models on medical visual question answering."""
    if version:
        typer.echo(f"medvqa {__version__}")
    elif ctx.invoked_subcommand is None:
        show_help(ctx)
