"""`--dry-run`: what a command would work on, without writing anything."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.cli.command import Call
    from medvqa_cli.settings.schema import Settings

READY = "ready"


@dataclass(frozen=True, slots=True)
class DataPlan:
    """Where a data set's files are, and whether they are prepared: "ready", or why they would be prepared."""

    name: str
    root: str
    state: str


def find_data(settings: Settings) -> DataPlan:
    """Return what is known of the data set without preparing it.

    Raises:
        PluginError: If it is unknown.
        SettingsError: If its options are wrong.
        DataError: If its files are not found, or its store is damaged.
    """
    from medvqa_cli.workflows.sources import find_source

    source = find_source(settings)
    facts = _read_facts(source.folder / "store.json")
    return DataPlan(source.name, source.describe_files(facts), source.find_change(facts) or READY)


def describe_training(settings: Settings, *, by_reward: bool, questions: int | None,
                      start: str | None) -> dict[str, Any]:
    """Return what a training would do, as plain values.

    Args:
        settings: The settings.
        by_reward: Whether it is GRPO, whose rows are completions.
        questions: Training questions, if they are prepared.
        start: A run to start from, whose adapter or weights are trained on.
    """
    from medvqa_cli.workflows.tuning import freezes_base

    train, own = settings.train, settings.grpo if by_reward else settings.train
    rows = own.batch_size * own.gradient_accumulation
    most = None if questions is None or by_reward else math.ceil(questions / rows * train.epochs)
    steps = train.max_steps or (f"{most:,} at most: packs hold several questions" if most and train.packing != "off"
                                else most)
    adapts = freezes_base(settings)
    tuning = f"LoRA r={train.lora.r}, alpha={train.lora.alpha}" if adapts else "full"
    facts = {"learning rate": own.learning_rate, "epochs": None if train.max_steps else train.epochs, "steps": steps,
             "rows a step": f"{rows} ({own.batch_size} x {own.gradient_accumulation})", "questions": questions,
             "tuning": f"that of run {start}" if start else tuning,
             "trained": None if start else ", ".join(_list_trained(settings, adapts=adapts))}
    return {name: value for name, value in facts.items() if value is not None}


def _list_trained(settings: Settings, *, adapts: bool) -> list[str]:
    """Return the parts that are trained: by adapters, or in full."""
    train = settings.train
    if not adapts:
        return ["language model", "projector", *([] if train.freeze_vision_tower else ["vision tower"])]
    adapted = [] if train.lora.targets == ("none",) else [
        f"adapters in the {part.replace('_', ' ')}" for part in train.lora.parts
        if part != "vision_tower" or not train.freeze_vision_tower]
    return [*adapted, *(["projector in full"] if train.tune_projector else []),
            *([f"last {train.unfreeze_last_layers} layers in full"] if train.unfreeze_last_layers else [])]


def _read_facts(path: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise DataError(f"'{path}' is damaged: {error}.",
                        f"Run `medvqa data prepare {path.parent.name} --force`.") from error
    return facts


def show_plan(call: Call, **facts: Any) -> None:
    """Print the data, the model, what is known besides, and every setting that is not at its default."""
    from medvqa_cli.settings.schema import to_tree
    from medvqa_cli.settings.sources import flatten

    settings, origins = call.settings, call.resolved.origins
    changed = {leaf.key: leaf.value for leaf in flatten(to_tree(settings), "") if origins[leaf.key] != "default"}
    data = find_data(settings)
    document = {"dry_run": True, "dataset": data.name, "root": data.root, "prepared": data.state,
                "model": settings.model.name or settings.model.family,
                **{key: value for key, value in facts.items() if value is not None}, "settings": changed}
    if not call.answer_json(document):
        call.terminal.print("Nothing has been written. This would be used:")
        call.terminal.print_tree(document)
