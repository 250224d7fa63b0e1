"""`medvqa plugins`: everything that extends medvqa."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.cli.command import command
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import Option
from medvqa_cli.errors import PluginError

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = make_group("Data sets, model families and rewards: built in, installed, or loose files.")


@command(app, "list", Option("--check", "Import each one and say whether it works.", kind="switch"))
def list_plugins(call: Call) -> None:
    """List all plugins: kind, name, where each comes from."""
    from medvqa_cli.plugins import REGISTRIES

    call.load_plugins()
    rows = [{"kind": registry.kind, "name": name, "origin": registry.origin(name), "summary": registry.summary(name)}
            | ({"problem": registry.failure(name)} if call.is_on("check") else {})
            for registry in REGISTRIES.values() for name in registry.names()]
    if not call.answer_json(rows):
        call.terminal.print_table(list(rows[0]) if rows else ["kind"], [list(row.values()) for row in rows])
    broken = [row for row in rows if row.get("problem")]
    if broken:
        raise PluginError(f"{len(broken)} of {len(rows)} plugins do not work: {', '.join(r['name'] for r in broken)}.",
                          "Their problems stand in the list above.")
