"""`medvqa models`: the model families."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_family
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import Option

if TYPE_CHECKING:
    from pydantic import BaseModel

    from medvqa_cli.cli.command import Call

app = make_group("Model families.")
NAME = Option("NAME", "Family, or a checkpoint's short name.", "", "NAME", "required", complete_family)


@command(app, "list")
def list_models(call: Call) -> None:
    """List model families, and your own names for models."""
    from medvqa_cli.plugins import models

    call.load_plugins()
    rows = [{"name": name, "origin": models.origin(name), "summary": models.summary(name)} for name in models.names()]
    own = [{"name": assignment.path[2], "origin": assignment.origin, "summary": assignment.value}
           for assignment in call.assignments if assignment.path[:2] == ("aliases", "models")]
    if not call.answer_json(rows + own):
        call.terminal.print_table(["name", "origin", "about"], [list(row.values()) for row in rows + own])


@command(app, "info", NAME)
def show_model(call: Call) -> None:
    """Show a family's card: checkpoints, licence, capabilities, its own options."""
    from medvqa_cli.plugins import models
    from medvqa_cli.registry import normalize_name
    from medvqa_cli.workflows.models import known_checkpoints

    call.load_plugins()
    typed = str(call.text("name"))
    name = known_checkpoints().get(normalize_name(typed), ("", ""))[0] or models.resolve(typed)
    family = models.get(name)
    document = {"name": name, "origin": models.origin(name), **dataclasses.asdict(family.card),
                "lora_targets": family.layout.lora_targets, **dataclasses.asdict(family.capabilities),
                "options": describe_options(family.Options)}
    if not call.answer_json(document):
        call.terminal.print_tree(document)


def describe_options(options: type[BaseModel] | None) -> dict[str, Any]:
    """Return a plugin's own options: name -> default and documentation."""
    fields = options.model_fields if options else {}
    return {name: {"default": field.get_default(call_default_factory=True), "help": field.description}
            for name, field in fields.items()}
