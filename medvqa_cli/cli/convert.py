"""`medvqa convert`: checkpoints of other layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.cli.command import command
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import Option

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = make_group("Checkpoints of other layouts, made loadable.")
SOURCE = Option("SRC", "Folder or hub id of the original checkpoint.", metavar="SRC", kind="required")
DESTINATION = Option("DST", "Folder to write.", metavar="DST", kind="required")
VISION_TOWER = Option("--vision-tower", "CLIP checkpoint whose tower is taken, not the source's own.",
                      metavar="PATH_OR_ID")
REVISION = Option("--revision", "Revision of a source on the hub.", metavar="NAME")
ALLOW_PICKLE = Option("--allow-pickle", "Read weights in the old format (.bin) too.", kind="switch")
OVERWRITE = Option("--overwrite", "Replace a checkpoint that is there.", kind="switch")
MAX_SHARD_SIZE = Option("--max-shard-size", "Largest weight file (5GB).", metavar="SIZE")


@command(app, "llava-med", SOURCE, DESTINATION, VISION_TOWER, REVISION, ALLOW_PICKLE, OVERWRITE, MAX_SHARD_SIZE)
def convert_llava_med(call: Call) -> None:
    """Write an original LLaVA-Med v1.5 checkpoint as a folder that transformers loads."""
    from medvqa_cli.workflows.convert import convert_checkpoint

    report = convert_checkpoint(
        str(call.text("src")), Path(str(call.text("dst"))).expanduser(), vision_tower=call.text("vision_tower"),
        revision=call.text("revision"), allow_pickle=call.is_on("allow_pickle"), overwrite=call.is_on("overwrite"),
        max_shard_size=call.text("max_shard_size") or "5GB", progress=call.progress)
    if not call.answer_json(report):
        call.terminal.print_tree(report)
        call.progress.say(f"Next: medvqa sanity-check --model {report['checkpoint']}")
