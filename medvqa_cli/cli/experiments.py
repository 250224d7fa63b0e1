"""`medvqa experiments`: a grid of settings, run side by side, to one table."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_choice, complete_dataset, complete_model
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import CHECKS, DATA, DRY_RUN, MODEL, PRESENTATION, SEED, TRAINING, Option
from medvqa_cli.errors import RunError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.cli.command import Call
    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.workflows.experiments.experiment import ExperimentResult
    from medvqa_cli.workflows.experiments.grid import Axis, Grid

CLUSTERS = {"slurm": "gpus_per_node", "ray": "num_gpus"}
"""Cluster -> its option that asks for a GPU."""
app = make_group("Grids of settings: run, show.")
PANEL = "What varies"
FILE = Option("GRID", "Grid file (YAML, TOML or JSON): base, grid, stages.", metavar="FILE", kind="argument")
NAME = Option("--name", "Name of the experiment; the grid file's own if not given.", metavar="NAME")
SHORT_AXES = {
    "model.name": Option("--models", "Models, with commas between.", metavar="A,B", complete=complete_model,
                         panel=PANEL),
    "data.dataset": Option("--datasets", "Data sets, with commas between.", metavar="A,B", complete=complete_dataset,
                           panel=PANEL),
    "data.question_type": Option("--question-types", "Some of all, closed and open.", metavar="A,B", panel=PANEL),
    "data.subsample": Option("--subsamples", "Numbers of training questions.", metavar="N,N", panel=PANEL),
    "method": Option("--methods", "Some of sft and grpo.", metavar="A,B", panel=PANEL),
    "seed": Option("--seeds", "Seeds, with commas between.", metavar="N,N", panel=PANEL),
}
VARY = Option("--vary", "Any setting, such as train.lora.r=8,16; repeatable.", metavar="KEY=A,B", kind="many",
              panel=PANEL)
STAGES = Option("--stages", "Some of train, infer, evaluate, calibrate, report.", metavar="A,B",
                complete=complete_choice(["train", "infer", "evaluate", "calibrate", "report"]))
GPUS = Option("--gpus", "GPUs, one job each, such as 0,1.", metavar="IDS")
JOBS = Option("--jobs", "Jobs side by side where no GPU is named.", metavar="N")
SUBMIT = Option("--submit", "Submit each job to this cluster: slurm or ray.", metavar="NAME",
                complete=complete_choice(CLUSTERS))
SUBMIT_OPTION = Option("--submit-option", "A parameter of submitit or of a Ray task, such as slurm_partition=gpu; "
                       "repeatable.",
                       metavar="KEY=VALUE", kind="many")
MODEL_OF_ALL = tuple(option for option in MODEL if option.flag != "--gpu")
EXPORTS = (Option("--markdown", "Write the tables as Markdown too.", metavar="FILE"),
           Option("--latex", "Write the tables as LaTeX (booktabs) too.", metavar="FILE"))
TABLES = ("summary.csv", "runs.csv", "comparisons.csv")


@command(app, "run", FILE, NAME, *SHORT_AXES.values(), VARY, STAGES, GPUS, JOBS, SUBMIT, SUBMIT_OPTION, *EXPORTS,
         DRY_RUN, *DATA, *CHECKS, *PRESENTATION, *MODEL_OF_ALL, *TRAINING, SEED)
def run_grid(call: Call) -> None:
    """Train, answer and score every combination of some settings; run again, it goes on where it stopped."""
    from medvqa_cli.workflows.experiments.executors import make_slots
    from medvqa_cli.workflows.experiments.experiment import run_experiment

    grid = _read_grid(call)
    call.build_on(grid.base)
    if call.is_on("dry_run"):
        _show_plan(call, grid)
        return
    slots = make_slots(call.text("gpus"), call.count("jobs", 1) if call.text("jobs") else None)
    _check_submit(call)
    result = run_experiment(grid, call.settings, slots=slots, submit=call.text("submit"),
                            submit_options=_read_submit_options(call), progress=call.progress)
    _show_result(call, result)


@command(app, "show", Option("EXPERIMENT", "Experiment; the latest if not given.", metavar="NAME", kind="argument"),
         *EXPORTS)
def show_grid(call: Call) -> None:
    """Show an experiment's table as its runs stand now."""
    from medvqa_cli.workflows.experiments.experiment import list_experiments, show_experiment

    name = call.text("experiment") or next(iter(list_experiments(call.runs)), None)
    if name is None:
        raise RunError(f"There are no experiments in '{call.runs}'.", "Start one with `medvqa experiments run FILE`.")
    _show_result(call, show_experiment(call.runs, name))


def _read_grid(call: Call) -> Grid:
    """Return the grid of the file and of what was typed; typed values replace the file's."""
    from medvqa_cli.workflows.experiments.grid import DEFAULT_STAGES, Grid, order_stages, read_grid, replace_axes

    typed = call.text("grid")
    file = read_grid(Path(typed).expanduser()) if typed else Grid("experiment", ())
    stages = call.text("stages")
    return Grid(call.text("name") or file.name, replace_axes(file.axes, _read_axes(call)),
                order_stages([part.strip() for part in stages.split(",")], "--stages") if stages
                else file.stages or DEFAULT_STAGES, file.base)


def _read_axes(call: Call) -> list[Axis]:
    from medvqa_cli.workflows.experiments.grid import read_axis

    axes = [read_axis(key, text, option.flag) for key, option in SHORT_AXES.items() if (text := call.text(option.name))]
    for typed in call.texts("vary"):
        key, equals, text = typed.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--vary '{typed}' is not of the form key=value,value.",
                                "For example: --vary train.lora.r=8,16")
        axes.append(read_axis(key.strip(), text, f"--vary {key.strip()}"))
    return axes


def _check_submit(call: Call) -> None:
    cluster = call.text("submit")
    if cluster is not None and cluster not in CLUSTERS:
        raise SettingsError(f"--submit '{cluster}' is not supported.", "Use --submit slurm or --submit ray.")
    if cluster and (call.text("gpus") or call.text("jobs")):
        raise SettingsError("--gpus and --jobs are of this machine and have no effect with --submit.",
                            f"Ask the cluster: --submit-option {CLUSTERS[cluster]}=1.")
    if call.texts("submit_option") and not cluster:
        raise SettingsError("--submit-option has no effect without --submit.",
                            "Add --submit slurm or ray, or leave it out.")


def _read_submit_options(call: Call) -> dict[str, Any]:
    from medvqa_cli.settings.sources import parse_json

    options = {}
    for typed in call.texts("submit_option"):
        key, equals, value = typed.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--submit-option '{typed}' is not of the form key=value.",
                                "For example: --submit-option slurm_partition=gpu")
        options[key.strip()] = parse_json(value.strip())
    return options


def _show_plan(call: Call, grid: Grid) -> None:
    from medvqa_cli.workflows.experiments.jobs import build_command
    from medvqa_cli.workflows.experiments.planning import plan_experiment

    plan = plan_experiment(grid, call.settings)
    rows = [{"name": job.name, "values": combination.values,
             "commands": [shlex.join(build_command(job, stage)) for stage in pending]}
            for combination, job, pending in zip(plan.combinations, plan.jobs, plan.pending, strict=True)]
    if call.answer_json({"dry_run": True, "experiment": plan.name, "folder": str(plan.folder), "jobs": rows}):
        return
    waiting = sum(bool(row["commands"]) for row in rows)
    call.terminal.print(f"Nothing has been written. {waiting} of {len(rows)} jobs would run in {plan.folder}:")
    for row in rows:
        call.terminal.print(f"# {row['name']}" + ("" if row["commands"] else ": done"))
        for line in row["commands"]:
            call.terminal.print(line)
    call.terminal.print("# The settings files are written first, when it is run.")


def _show_result(call: Call, result: ExperimentResult) -> None:
    written = _write_tables(call, result.summary)
    if not call.answer_json(result.summary):
        print_summary(call.terminal, result.summary)
        files = [str(result.folder / "summary.json"), *TABLES, *map(str, written)]
        call.progress.say(f"Written: {', '.join(files)}")
    if result.failed:
        names = ", ".join(outcome.name for outcome in result.failed)
        raise RunError(f"{len(result.failed)} of {len(result.outcomes)} jobs failed: {names}.",
                       f"Their logs are in '{result.folder / 'logs'}'; the same command tries them again.")


def print_summary(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Print mean and spread of every combination, the paired comparisons, and what is not done."""
    from medvqa_cli.reporting.experiments import list_tables

    tables = list_tables(summary)
    for table, following in itertools.zip_longest(tables, tables[1:]):
        terminal.print_table(table.columns, table.rows, f"{summary['experiment']}: {table.title}")
        is_last = following is None or following.note != table.note
        terminal.print(f"{table.note}\n" if is_last else "")
    missing: dict[str, list[str]] = {}
    for run in summary["runs"]:
        if run["state"] != "done":
            missing.setdefault(run["state"], []).append(run["name"])
    for state, names in missing.items():
        terminal.warn(f"{len(names)} of {len(summary['runs'])} runs {state}: {', '.join(names)}")


def _write_tables(call: Call, summary: Mapping[str, Any]) -> list[Path]:
    """Write the tables in the forms that were asked for."""
    from medvqa_cli.records import write_atomically
    from medvqa_cli.reporting.experiments import build_experiment
    from medvqa_cli.reporting.exports import render_latex, render_markdown

    written = []
    for name, render in (("markdown", render_markdown), ("latex", render_latex)):
        if typed := call.text(name):
            written.append(Path(typed).expanduser())
            write_atomically(written[-1], render(summary["experiment"], [build_experiment(summary)], ""))
    return written
