"""`medvqa runs`: what has been trained, answered and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_run
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import RUN_ARGUMENT, Option

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call
    from medvqa_cli.runs import Run

app = make_group("Runs: what has been trained, answered and measured.")


@command(app, "list")
def list_runs(call: Call) -> None:
    """List the runs, the newest first."""
    from medvqa_cli.runs import list_runs as find_runs

    rows = [describe_run(run) for run in find_runs(call.runs)]
    if call.answer_json(rows):
        return
    if not rows:
        call.progress.say(f"There are no runs in '{call.runs}'. Start with `medvqa quickstart`.")
        return
    cells = [[row["run"], row["created"][:19], row["dataset"], row["model"], row["has"]] for row in rows]
    call.terminal.print_table(["run", "created (UTC)", "data set", "model", "has"], cells)
    for row in rows:
        if "problem" in row:
            call.terminal.warn(row["problem"])


@command(app, "show", RUN_ARGUMENT, Option("--all", "Show all that is known of it: every number.", kind="switch"))
def show_run(call: Call) -> None:
    """Show what a run is, what it holds and its main numbers; --all and --json show all of them."""
    from medvqa_cli.cli.run_choice import newest_run
    from medvqa_cli.cli.run_summary import print_run
    from medvqa_cli.runs import open_run

    typed = call.text("run")
    run = open_run(call.runs, typed) if typed else newest_run(call.runs)
    if not call.terminal.json and not call.is_on("all"):
        print_run(call.terminal, run, describe_run(run))
        return
    document = describe_run(run) | {"manifest": run.read_json("manifest.json"), "files": _list_files(run)}
    if (run.path / "metrics.json").is_file():
        document["metrics"] = run.read_json("metrics.json")
    if not call.answer_json(document):
        call.terminal.print_tree(document)


@command(app, "push", Option("RUN", "Run.", kind="required", complete=complete_run),
         Option("ID", "Repository of the hub, such as NAME/MODEL.", kind="required"),
         Option("--public", "Let everyone read it; private if not given.", kind="switch"))
def push_run(call: Call) -> None:
    """Upload a finished run's weights, processor and model card to the hub: no pictures, questions or answers."""
    from medvqa_cli.runs import open_run
    from medvqa_cli.workflows.publish import push_run as push

    run, target = open_run(call.runs, call.text("run") or ""), call.text("id") or ""
    address = push(run, target, public=call.is_on("public"), progress=call.progress)
    if not call.answer_json({"run": run.name, "repository": target, "address": address}):
        call.progress.say(f"Pushed: {address}")


def describe_run(run: Run) -> dict[str, Any]:
    """Return a run's facts for a list: name, path, creation time, data set, model, and what it holds."""
    manifest, problem = _read_documents(run)
    model = manifest.get("model") or {}
    has = {"model": bool(run.weights), "predictions": any(run.path.glob("predictions*.jsonl")),
           "metrics": (run.path / "metrics.json").is_file(), "report": run.report.is_file()}
    return {"run": run.name, "path": str(run.path), "created": str(manifest.get("created", "")),
            "dataset": (manifest.get("data") or {}).get("dataset"),
            "model": model.get("family") or model.get("checkpoint"),
            "has": [part for part, there in has.items() if there]} | ({"problem": problem} if problem else {})


def _read_documents(run: Run) -> tuple[dict[str, Any], str]:
    """Return the manifest, and what is wrong with the first document that is damaged."""
    from medvqa_cli.errors import RunError

    found: dict[str, dict[str, Any]] = {}
    problems = []
    for path in (run.manifest, run.settings, run.path / "metrics.json"):
        try:
            found[path.name] = run.read_json(path.name) if path.is_file() else {}
        except RunError as error:
            problems.append(error.message)
    return found.get("manifest.json", {}), problems[0] if problems else ""


def _list_files(run: Run) -> list[str]:
    return sorted(str(path.relative_to(run.path)) for path in run.path.iterdir())
