"""The diagnosis of a run's answers in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.formatting import format_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from medvqa_cli.cli.terminal import Terminal

SHOWN = 5


def print_diagnosis(terminal: Terminal, folder: Path, found: Mapping[str, Any]) -> None:
    """Print the most telling numbers of a diagnosis, and where all of it lies."""
    terminal.print()
    for line in _describe(found):
        terminal.print(line)
    shown = found["errors"]["shown"]
    terminal.print(f"Diagnosis: {folder / 'diagnosis.json'}; {shown} wrong answers with their pictures in "
                   f"{folder / 'errors'}.")


def _describe(found: Mapping[str, Any]) -> Iterator[str]:
    wrong = found["wrong"]
    yield f"Wrong: {wrong['closed']} closed and {wrong['open']} open answers of {found['n']}."
    for kind, rows in found["top_predictions"].items():
        tops = "; ".join(f"'{row['answer']}' {row['n']} times, {row['right']} right" for row in rows[:SHOWN])
        yield f"Most frequent {kind} answers: {tops}."
    if yes_no := found["yes_no"]:
        table = yes_no["confusion"]
        yield (f"Yes/no: of {sum(table['yes'].values())} yes {table['yes']['no']} are answered no; of "
               f"{sum(table['no'].values())} no {table['no']['yes']} are answered yes; "
               f"{table['yes']['neither'] + table['no']['neither']} say neither.")
    if margins := found["margins"]:
        yield (f"Margins: median {margins['median']:.3f} nats a token, {format_share(margins['tiny'])} tiny; right "
               f"{_number(margins['right'])}, wrong {_number(margins['wrong'])}.")
    lengths = found["lengths"]
    yield (f"Length: {lengths['answer_words']:.1f} words an answer, {lengths['gold_words']:.1f} in the gold answers; "
           f"correlation with being right {_number(lengths['answer_and_right'])}.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
