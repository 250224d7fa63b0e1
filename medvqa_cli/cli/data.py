"""`medvqa data`: the data sets, their counts, and a look at the questions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import DRY_RUN, NAME, SEED, SELECTION, SPLIT, Option
from medvqa_cli.cli.tables import print_analysis
from medvqa_cli.errors import DataError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.cli.command import Call
    from medvqa_cli.records import VQASample

app = make_group("Data sets.")
FORCE = Option("--force", "Prepare anew what is prepared.", kind="switch")
REQUIRED_NAME = dataclasses.replace(NAME, kind="required")
COUNT = Option("--count", "How many questions (3).", metavar="N")
OUTPUT = Option("--output", "Draw to this picture file; with several samples a number is added.", metavar="FILE")


@command(app, "list", dataclasses.replace(NAME, key=""))
def list_datasets(call: Call) -> None:
    """List the data sets, or show one data set's card and options."""
    from medvqa_cli.plugins import datasets

    call.load_plugins()
    if name := call.text("name"):
        _show_card(call, name)
        return
    rows = [{"name": name, "origin": datasets.origin(name), "summary": datasets.summary(name)}
            for name in datasets.names()]
    if not call.answer_json(rows):
        call.terminal.print_table(["name", "origin", "about"], [list(row.values()) for row in rows])


@command(app, "prepare", REQUIRED_NAME, FORCE, *SELECTION, SEED, DRY_RUN)
def prepare_data(call: Call) -> None:
    """Read the original files once, check them, and keep them ready; nothing is done if they have not changed."""
    from medvqa_cli.workflows.data import prepare_data as prepare

    if call.is_on("dry_run"):
        from medvqa_cli.cli.plans import show_plan

        show_plan(call)
        return
    prepared = prepare(call.settings, force=call.is_on("force"), progress=call.progress)
    document = {"name": prepared.name, "path": str(prepared.path), "fingerprint": prepared.fingerprint,
                "counts": prepared.counts, "skipped": prepared.skipped, "fresh": prepared.fresh}
    if not call.answer_json(document):
        call.terminal.print_tree(document | {"skipped": len(prepared.skipped)})


@command(app, "analyze", NAME, *SELECTION, SEED)
def analyze_data(call: Call) -> None:
    """Count questions, answers and images; look for duplicates and leakage between splits."""
    from medvqa_cli.workflows.data import analyze_data as analyze

    document = analyze(call.settings, progress=call.progress)
    if not call.answer_json(document):
        print_analysis(call.terminal, document)


@command(app, "show", NAME, COUNT, SPLIT, OUTPUT, *SELECTION, SEED)
def show_samples(call: Call) -> None:
    """Show a few questions with their pictures, in the terminal or drawn to a file."""
    from medvqa_cli.records import to_json
    from medvqa_cli.workflows.data import show_samples as choose

    settings = call.settings
    samples = choose(settings, call.text("split") or settings.data.train_split, call.count("count", 3), settings.seed)
    drawn = _draw(call, samples)
    if call.answer_json([to_json(sample) for sample in samples]):
        return
    for sample in samples:
        _print_sample(call, sample)
    for path in drawn:
        call.progress.say(f"Drew {path}")


def _show_card(call: Call, name: str) -> None:
    from medvqa_cli.cli.models import describe_options
    from medvqa_cli.plugins import datasets

    own = {a.path[2]: str(a.value) for a in call.assignments if a.path[:2] == ("aliases", "datasets")}
    name = datasets.resolve(own.get(name, name))
    plugin = datasets.get(name)
    document: dict[str, Any] = {"name": name, "origin": datasets.origin(name), **dataclasses.asdict(plugin.card),
                                "options": describe_options(plugin.Options)}
    if not plugin.card.generated:
        document["found"] = _find_root(name)
    if not call.answer_json(document):
        call.terminal.print_tree(document)


def _find_root(name: str) -> str | None:
    from medvqa_cli.plugins import datasets

    try:
        return str(datasets.get(name).find_root(None))
    except DataError:
        return None


def _draw(call: Call, samples: Sequence[VQASample]) -> list[Path]:
    """Draw each sample to the file asked for, numbered if there are several."""
    if not (typed := call.text("output")):
        return []
    from medvqa_cli.workflows.data import draw_sample

    path = Path(typed)
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise SettingsError(f"--output is '{path}': it should end with .png or .jpg.")
    paths = [path if len(samples) == 1 else path.with_stem(f"{path.stem}-{n}") for n in range(1, len(samples) + 1)]
    for sample, target in zip(samples, paths, strict=True):
        draw_sample(sample, target)
    return paths


def _print_sample(call: Call, sample: VQASample) -> None:
    terminal = call.terminal
    if terminal.draws and sample.images and not call.text("output"):
        from medvqa_cli.cli.pictures import print_picture

        print_picture(terminal.console(stderr=False), Path(sample.images[0]), call.settings.data.max_pixels)
    facts = (sample.answer_type, sample.question_type, sample.modality, sample.organ)
    terminal.print(f"{sample.question_id} ({', '.join(filter(None, facts))})")
    terminal.print(f"  Q: {sample.question}")
    terminal.print(f"  A: {sample.answer}")
    terminal.print(f"  {', '.join(sample.images)}")
