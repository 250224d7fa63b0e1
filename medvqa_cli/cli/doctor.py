"""`medvqa doctor`: what this machine has, what is missing, and what can be done with it."""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.options import Option

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medvqa_cli.cli.command import Call
    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.workflows.doctor import Diagnosis
    from medvqa_cli.workflows.machine.capacity import Device, Standing, Verdict
    from medvqa_cli.workflows.machine.findings import Finding

app = typer.Typer(add_completion=False)
NO_NETWORK = Option("--no-network", "Do not ask whether the hub answers.", kind="switch")
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
LABELS = {"GPU": "GPU memory", "memory": "memory", "disk": "free disk"}
MEANINGS = {"spread": "over all GPUs together, by layers.",
            "slow": "possible, but a GPU does it many times faster.",
            "no": "too large for what is free now; training needs less with --gradient-checkpointing.",
            "no 4-bit": "bitsandbytes does not work here."}
START = ("Any CPU runs `medvqa quickstart` and `medvqa sanity-check --tiny`: start with these. `medvqa models info "
         "NAME` estimates one model, term by term.")
STATE_WIDTH = 10
NAME_WIDTH = 15
GIB = 2**30


@command(app, "doctor", NO_NETWORK)
def examine(call: Call) -> None:
    """Look at this machine: packages, GPUs, memory, disk, hub; what is missing, and which models fit."""
    from medvqa_cli.settings.sources import find_path
    from medvqa_cli.workflows.doctor import diagnose_machine

    prepared = find_path(call.assignments, "paths.prepared", "prepared")
    diagnosis = diagnose_machine(call.runs, prepared, network=not call.is_on("no_network"), progress=call.progress)
    if not call.answer_json(diagnosis.to_json()):
        print_diagnosis(call.terminal, diagnosis)
    diagnosis.raise_problems()


def print_diagnosis(terminal: Terminal, diagnosis: Diagnosis) -> None:
    """Print every finding with its state and next step, then what is possible."""
    for section, findings in itertools.groupby(diagnosis.findings, key=lambda finding: finding.section):
        terminal.print(section.capitalize())
        for finding in findings:
            _print_finding(terminal, finding)
        terminal.print()
    _print_possibilities(terminal, diagnosis)


def _print_finding(terminal: Terminal, finding: Finding) -> None:
    from rich.text import Text

    console = terminal.console(stderr=False)
    first, *rest = _wrap(finding, console.width)
    start = Text.assemble("  ", (finding.state.ljust(STATE_WIDTH - 2), STYLES[finding.state]), first)
    for line in (start, *map(Text, rest)):
        console.print(line, soft_wrap=True)


def _wrap(finding: Finding, width: int) -> Iterator[str]:
    """Yield a finding's lines, no wider than the terminal where words allow it; paths stay whole, to be copied."""
    name = finding.name.ljust(NAME_WIDTH - 1) + " "
    indent = " " * (STATE_WIDTH + NAME_WIDTH)
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)
    first, *rest = wrapper.wrap(" " * STATE_WIDTH + name + finding.detail)
    yield first[STATE_WIDTH:]
    yield from rest
    if finding.next_step:
        yield from wrapper.wrap(f"{indent}next: {finding.next_step}")


def _print_possibilities(terminal: Terminal, diagnosis: Diagnosis) -> None:
    terminal.print_table(["part", "smallest", "comfortable", "here", "verdict"],
                         map(_row_of_hardware, diagnosis.hardware), "For fine-tuning a real model")
    terminal.print()
    if diagnosis.device is None:
        return
    terminal.print_table(["model", *dict.fromkeys(verdict.job for verdict in diagnosis.verdicts)],
                         _rows_of_jobs(diagnosis.verdicts), f"What fits: {_describe_device(diagnosis.device)}")
    terminal.print()
    _print_explanations(terminal, {verdict.answer for verdict in diagnosis.verdicts})


def _describe_device(device: Device) -> str:
    together = f", {device.free_together / GIB:.0f} GiB on {device.count} GPUs together" if device.count > 1 else ""
    return f"{device.name}, {device.free / GIB:.0f} GiB free now{together}"


def _print_explanations(terminal: Terminal, answers: set[str]) -> None:
    from medvqa_cli.workflows.machine.capacity import RULE

    width = terminal.console(stderr=False).width
    for text in (RULE, *(f"{word}: {meaning}" for word, meaning in MEANINGS.items() if word in answers), START):
        terminal.print(textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False))


def _row_of_hardware(item: Standing) -> list[str]:
    here = f"{item.here / GIB:.0f} GiB" if item.here else ""
    return [LABELS[item.part], f"{item.smallest} GiB", f"{item.comfortable} GiB", here, item.verdict]


def _rows_of_jobs(verdicts: Iterable[Verdict]) -> Iterator[list[str]]:
    for model, row in itertools.groupby(verdicts, key=lambda verdict: verdict.model):
        yield [model, *(verdict.answer if verdict.answer == "no 4-bit" else
                        f"{verdict.answer}, {verdict.needs / GIB:.0f} GiB" for verdict in row)]
