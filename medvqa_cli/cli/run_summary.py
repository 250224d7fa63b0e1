"""A run on one screen: what it is, what differs from the defaults, its main numbers with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.progress import format_seconds
from medvqa_cli.cli.wording import count
from medvqa_cli.reporting.estimates import Estimate, read_estimate
from medvqa_cli.reporting.formatting import format_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.runs import Run

OWN = ("paths", "aliases", "plugins")
"""Settings that are of the machine."""
MOST = 8
"""Rows of one table."""
NUMBERS = (("overall", "accuracy"), ("closed", "accuracy"), ("open", "exact_match"), ("open", "token_f1"))
CONFIDENCE = ("accuracy", "ece", "brier", "auroc")


def print_run(terminal: Terminal, run: Run, facts: Mapping[str, Any]) -> None:
    """Print a run on one screen; `facts` are those of `describe_run`.

    Raises:
        RunError: If one of its files is damaged.
    """
    manifest = run.read_json("manifest.json")
    terminal.print(run.name)
    for name, text in _describe(run, manifest, facts):
        if text:
            terminal.print(f"  {name:<9} {text}")
    metrics = run.read_json("metrics.json") if (run.path / "metrics.json").is_file() else {}
    _print_answers(terminal, metrics.get("answers", {}))
    _print_confidence(terminal, metrics)
    if warnings := (manifest.get("data") or {}).get("warnings"):
        rest = f" ({count(len(warnings) - 1, 'more warning')}: --all)" if warnings[1:] else ""
        terminal.warn(f"the data: {warnings[0]}{rest}")


def _describe(run: Run, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "folder", str(run.path)
    yield "created", f"{facts['created'][:19].replace('T', ' ')} UTC by medvqa {manifest.get('medvqa', '?')}"
    yield "data", _describe_data(manifest.get("data") or {})
    model = manifest.get("model") or {}
    yield "model", ", ".join(str(part) for part in (
        model.get("family"), model.get("checkpoint"), model.get("dtype"), model.get("device")) if part)
    yield "training", _describe_training(run, manifest)
    yield "settings", _list_changes(run)
    yield "holds", ", ".join(sorted(path.name for path in run.path.iterdir() if not path.name.startswith(".")))


def _describe_data(data: Mapping[str, Any]) -> str:
    parts = [count(data[key], noun) for key, noun in (
        ("train_questions", "training question"), ("train_images", "image"),
        ("validation_questions", "validation question")) if data.get(key)]
    return ": ".join(filter(None, (data.get("dataset"), ", ".join(parts))))


def _describe_training(run: Run, manifest: Mapping[str, Any]) -> str:
    if "method" not in manifest:
        return ""
    parts = [str(manifest["method"])]
    if source := manifest.get("init_from"):
        parts.append(f"from run {source}")
    if manifest.get("finished"):
        parts += [count(manifest["steps"], "step")] if "steps" in manifest else []
        parts += [f"in {format_seconds(manifest['train_seconds'])}"] if "train_seconds" in manifest else []
    elif not run.weights:
        parts.append("not finished")
    return ", ".join(parts)


def _list_changes(run: Run) -> str:
    """Return the settings that are not at their defaults."""
    if not run.settings.is_file():
        return ""
    from medvqa_cli.settings.schema import make_settings, to_tree
    from medvqa_cli.settings.sources import flatten

    defaults = {leaf.key: leaf.value for leaf in flatten(to_tree(make_settings()), "")}
    stored = flatten(run.read_json("settings.json"), "")
    return ", ".join(f"{leaf.key}={leaf.value}" for leaf in stored
                     if leaf.path[0] not in OWN and leaf.value != {} and defaults.get(leaf.key) != leaf.value)


def _print_answers(terminal: Terminal, blocks: Mapping[str, Any]) -> None:
    rows = [[tag, block.get("overall", {}).get("n"),
             *(_show(read_estimate(block[part], metric)) if block.get(part) else "-" for part, metric in NUMBERS)]
            for tag, block in blocks.items()]
    _print_rows(terminal, ["answers", "questions", "accuracy", "closed accuracy", "open exact match", "open token F1"],
                rows)


def _print_confidence(terminal: Terminal, metrics: Mapping[str, Any]) -> None:
    rows = [[name, block.get("num_questions"), *(_show(_read_measure(block, measure)) for measure in CONFIDENCE)]
            for name, block in metrics.items() if isinstance(block, dict) and "ece" in block]
    _print_rows(terminal, ["confidence", "questions", "accuracy", "ECE", "Brier", "AUROC"], rows)


def _print_rows(terminal: Terminal, titles: list[str], rows: list[list[Any]]) -> None:
    if not rows:
        return
    terminal.print()
    terminal.print_table(titles, rows[:MOST])
    if rows[MOST:]:
        terminal.print(f"... and {len(rows) - MOST} more: --all")


def _read_measure(block: Mapping[str, Any], measure: str) -> Estimate:
    interval = (block.get("intervals") or {}).get(measure) or {}
    return Estimate(block.get(measure), interval.get("low"), interval.get("high"))


def _show(estimate: Estimate) -> str:
    return format_value(estimate.value, estimate.low, estimate.high)
