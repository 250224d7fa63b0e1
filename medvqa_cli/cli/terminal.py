"""What a user sees: answers on stdout, everything else on stderr, and a copy with times in the log file.

Rich is imported at first use. Text of the user's is never read as Rich markup, and an error line is never wrapped.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import logging
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medvqa_cli.workflows.launch import process_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from medvqa_cli.errors import MedVQAError
    from medvqa_cli.progress import Progress

WIDE = 100_000
QUIET_LIBRARIES = {"TRANSFORMERS_VERBOSITY": "error", "DATASETS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error",
                   "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                   "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}


class Terminal:
    """One command's way to speak. `configure` sets how much it says."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.json = False
        self.log_path: Path | None = None
        self.error_folder: Path | None = None
        self._log: IO[str] | None = None
        self._handler = _LibraryHandler(self)
        self._progress: Progress | None = None
        self._consoles: dict[bool, Console] = {}
        self._stdout = sys.stdout
        if isinstance(self._stdout, io.TextIOWrapper):
            self._stdout.reconfigure(errors="backslashreplace")  # a file name need not be valid UTF-8

    def configure(self, *, quiet: bool, verbose: bool, json_output: bool, log_file: Path | None) -> None:
        """Set how much is said and where it is logged; libraries are hushed unless verbose.

        Raises:
            OSError: If the log file cannot be opened.
        """
        if process_number():  # the main process speaks for all that train together
            quiet, verbose, json_output, log_file = True, False, False, None
        self.quiet, self.verbose, self.json, self.log_path = quiet, verbose, json_output, log_file
        if log_file is not None:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            self._log = log_file.open("a", encoding="utf-8")
            self.log(f"$ {' '.join(sys.argv)}")
        if not verbose:
            for name, value in QUIET_LIBRARIES.items():
                os.environ.setdefault(name, value)
        logging.getLogger().addHandler(self._handler)
        logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
        logging.captureWarnings(capture=True)

    @property
    def is_interactive(self) -> bool:
        """Whether someone watches stderr."""
        return sys.stderr.isatty()

    @property
    def draws(self) -> bool:
        """Whether stdout is a terminal that can show colours and boxes."""
        return self._stdout.isatty() and not self.json

    @property
    def progress(self) -> Progress:
        """What long work reports to."""
        if self._progress is None:
            from medvqa_cli.cli.progress import make_progress

            self._progress = make_progress(self)
        return self._progress

    def console(self, *, stderr: bool) -> Console:
        """Return the Rich console of stderr or stdout; beside a terminal it has no width to wrap at."""
        if stderr not in self._consoles:
            from rich.console import Console

            stream = sys.stderr if stderr else self._stdout
            width = None if stream.isatty() else WIDE
            self._consoles[stderr] = Console(file=stream, width=width, highlight=False, emoji=False)
        return self._consoles[stderr]

    def say(self, message: str) -> None:
        """Show one line of information, unless quiet."""
        if self.quiet:
            self.log(message)
        else:
            self.say_always(message)

    def say_always(self, message: str) -> None:
        """Show one line, even if quiet."""
        self.log(message)
        if process_number() == 0:
            self._print_label("", "", message)

    def debug(self, message: str) -> None:
        """Log a line, and show it if verbose."""
        self.log(message)
        if self.verbose:
            self._print_label("", "", message)

    def warn(self, message: str) -> None:
        """Show one line that the user should not miss."""
        self.log(f"warning: {message}")
        if process_number() == 0:
            self._print_label("warning: ", "bold yellow", message)

    def fail(self, error: MedVQAError) -> None:
        """Show an error and its hint."""
        self.log(f"error: {error.message}")
        self._print_label(f"{_name_process()}error: ", "bold red", error.message)
        if error.hint:
            self.log(f"hint: {error.hint}")
            self._print_label("hint: ", "bold", error.hint)

    def fail_unexpectedly(self, error: BaseException) -> None:
        """Show one line for a fault of ours, and where its traceback has been written."""
        text = "".join(traceback.format_exception(error))
        path = self._write_traceback(text)
        summary = " ".join(str(error).split())
        self._print_label(f"{_name_process()}error: ", "bold red",
                          f"{type(error).__name__}: {summary[:300] or 'no message'}. This is a bug in medvqa or in a "
                          + (f"library under it; the traceback is in '{path}'." if path else
                             f"library under it; no file could be written, so here is the traceback:\n{text}"))

    def _write_traceback(self, text: str) -> Path | None:
        """Return the file in which a traceback has been written; None if the disk is full everywhere."""
        if self.log_path is not None and self._log is not None:
            self.log(text)
            return self.log_path
        for folder in (self.error_folder, None):
            with contextlib.suppress(OSError):
                handle, name = tempfile.mkstemp(prefix="medvqa-error-", suffix=".log", dir=folder)
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(f"$ {' '.join(sys.argv)}\n{text}")
                return Path(name)
        return None

    def _print_label(self, label: str, style: str, message: str) -> None:
        from rich.text import Text

        self.console(stderr=True).print(Text.assemble((label, style), message), soft_wrap=True)

    def log(self, message: str) -> None:
        """Write a line with its time to the log file, if there is one."""
        if self._log is not None:
            time = dt.datetime.now().astimezone().isoformat(timespec="seconds")
            self._log.write(f"{time} {message}\n")
            self._log.flush()

    def print_json(self, document: Any) -> None:
        """Print the one JSON document of `--json`."""
        self._stdout.write(json.dumps(_without_nan(document), indent=2, ensure_ascii=False, default=str) + "\n")
        self._stdout.flush()

    def print(self, text: str = "") -> None:
        """Print a line on stdout as it is."""
        from rich.text import Text

        self.console(stderr=False).print(Text(text), soft_wrap=True)

    def print_table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
        """Print rows under columns: a Rich table on a terminal, plain aligned lines in a pipe."""
        cells = [[_as_text(value) for value in row] for row in rows]
        if self.draws:
            self._draw_table(columns, cells, title)
            return
        if title:
            self.print(title)
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in [columns, *cells]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._stdout.write(line.rstrip() + "\n")

    def _draw_table(self, columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left")
        for column in columns:
            table.add_column(Text(column), overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        self.console(stderr=False).print(table)

    def print_tree(self, tree: Mapping[str, Any], indent: str = "") -> None:
        """Print facts line by line, nested ones indented."""
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                self.print(f"{indent}{key}:")
                self.print_tree(value, f"{indent}  ")
            else:
                self.print(f"{indent}{key}: {_as_text(value)}")

    def end_progress(self) -> None:
        """End a running progress display."""
        if self._progress is not None:
            self._progress.finish()

    def close(self) -> None:
        """End the progress display and the log."""
        self.end_progress()
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger().setLevel(logging.WARNING)
        logging.captureWarnings(capture=False)
        if self._log is not None:
            self._log.close()
            self._log = None


def _name_process() -> str:
    return f"process {process_number()}: " if process_number() else ""


class _LibraryHandler(logging.Handler):
    """Sends the messages of libraries to a terminal's log, and to the screen if it is verbose."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one message."""
        self._terminal.debug(f"{record.name}: {record.getMessage()}")


def _without_nan(value: Any) -> Any:
    """Return a document with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_text(value: Any) -> str:
    if value is None or value in ({}, [], (), ""):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_as_text, value)) if isinstance(value, list | tuple) else str(value)
