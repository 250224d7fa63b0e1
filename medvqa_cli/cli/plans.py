"""`--dry-run`: what a command would work on, without writing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call


def show_plan(call: Call, **facts: Any) -> None:
    """Print the data, the model, what is known besides, and every setting that is not at its default."""
    from medvqa_cli.settings.schema import to_tree
    from medvqa_cli.settings.sources import flatten

    settings, origins = call.settings, call.resolved.origins
    changed = {leaf.key: leaf.value for leaf in flatten(to_tree(settings), "") if origins[leaf.key] != "default"}
    document = {"dry_run": True, "dataset": settings.data.dataset, "root": find_data(call),
                "model": settings.model.name or settings.model.family,
                **{key: value for key, value in facts.items() if value is not None}, "settings": changed}
    if not call.answer_json(document):
        call.terminal.print("Nothing has been written. This would be used:")
        call.terminal.print_tree(document)


def find_data(call: Call) -> str:
    """Return the folder of the data set's original files.

    Raises:
        PluginError: If the data set is unknown.
        DataError: If its files are not found.
    """
    from medvqa_cli.plugins import datasets

    settings = call.settings
    name = settings.aliases.datasets.get(settings.data.dataset, settings.data.dataset)
    plugin = datasets.get(name)
    if plugin.card.generated:
        return "generated"
    return str(plugin.find_root(settings.data.root or settings.aliases.roots.get(settings.data.dataset)))
