"""`medvqa data`: the data sets, their counts, and a look at the questions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_choice, complete_dataset
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import (
    CHOICE,
    DRY_RUN,
    FILES,
    NAME,
    OPEN,
    OWN_DATA,
    PRESENTATION,
    SEED,
    SELECTION,
    SPLIT,
    WORKERS,
    Option,
    leave_out,
)
from medvqa_cli.cli.tables import print_analysis, print_mixture
from medvqa_cli.errors import DataError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.cli.command import Call
    from medvqa_cli.records import VQASample

app = make_group("Data sets.")
FORMATS = "llava|unimedvl|parquet|jsonl"
FORMAT = Option("--format", f"Form of the files: {FORMATS.replace('|', ', ')} (llava).", metavar="NAME",
                complete=complete_choice(FORMATS.split("|")))
DIRECTORY = Option("--output", "Folder to write to.", metavar="DIR")
IMAGE_ROOT = Option("--image-root", "Folder that image paths are relative to.", metavar="DIR")
COPY = Option("--copy-images", "Copy the images below the folder.", kind="switch")
OVERWRITE = Option("--overwrite", "Replace what is there.", kind="switch")
BLOCK = Option("--batch-size", "Questions of a batch: each begins with one of every mandatory group.",
               "train.batch_size", "N")
MIXTURE = Option("FILE", "Mixture (YAML).", "data.mixture", "FILE", kind="required")
FORCE = Option("--force", "Prepare anew what is prepared.", kind="switch")
REQUIRED_NAME = dataclasses.replace(NAME, kind="required")
DOWNLOAD = Option("--download", "Fetch the hub copy, where the licence allows it; same as --source hf.", kind="switch")
REVISION = Option("--revision", "Revision of the hub copy.", "data.revision", "NAME", panel="Data")
EMBED = Option("--embed-images", "Copy every image into the prepared folder, which can then be moved.",
               "data.embed_images", kind="switch", panel="Data")
AGAINST = Option("--against", "Also look for what is shared with this data set; repeatable.", metavar="NAME",
                 kind="many", complete=complete_dataset)
PROMPT = Option("--prompt", "Show the conversation that the model would see, and the answer it would learn.",
                kind="switch")
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


@command(app, "prepare", REQUIRED_NAME, FORCE, DOWNLOAD, *FILES, *OWN_DATA, REVISION, EMBED, WORKERS, DRY_RUN)
def prepare_data(call: Call) -> None:
    """Read the original files once, check them, and keep them ready; nothing is done if they have not changed.

    All questions are kept: which of them are used (--language, --question-type, --limit...) is said where they are.
    """
    from medvqa_cli.workflows.data import choose_language
    from medvqa_cli.workflows.data import prepare_data as prepare
    from medvqa_cli.workflows.sources import find_source

    if call.is_on("download"):
        call.assign("data.source", "hf", "--download")
    if root := call.text("image_root"):  # as typed: from here, not from the files' folder
        call.assign("data.options.image_root", str(Path(root).expanduser().absolute()), "--image-root")
    if call.is_on("dry_run"):
        from medvqa_cli.cli.plans import show_plan

        show_plan(call)
        return
    prepared = prepare(call.settings, force=call.is_on("force"), progress=call.progress)
    document = {"name": prepared.name, "path": str(prepared.path), "root": str(prepared.root),
                "fingerprint": prepared.fingerprint, "counts": prepared.counts, "images": prepared.images,
                "skipped": prepared.skipped, "fresh": prepared.fresh}
    if not call.answer_json(document):
        language = choose_language(call.settings)
        call.terminal.print_tree({key: value for key, value in document.items() if key != "fresh"}
                                 | {"skipped": len(prepared.skipped)})
        if language != "all" and len(find_source(call.settings).plugin.card.languages) > 1:
            call.progress.say(f"Counted are questions in all languages. Used are those in '{language}'; --language all "
                              "uses all.")


@command(app, "analyze", NAME, AGAINST, *SELECTION, WORKERS, SEED, OPEN)
def analyze_data(call: Call) -> None:
    """Count questions, answers and images; look for duplicates and leakage between splits and across data sets.

    Data that are not ready for training end with exit code 4.
    """
    from medvqa_cli.workflows.analysis import analyze_data as analyze
    from medvqa_cli.workflows.analysis import find_page

    document = analyze(call.settings, against=call.texts("against"), progress=call.progress)
    page = find_page(call.settings)
    if not call.answer_json(document):
        print_analysis(call.terminal, document)
        call.progress.say(f"Page of plots: {page}")
    if call.is_on("open"):
        from medvqa_cli.cli.report import open_page

        open_page(page)
    if not document["verdict"]["ready"]:
        faults = " ".join(fault["message"] for fault in document["verdict"]["faults"])
        raise DataError(f"The data set '{document['dataset']}' is not ready for training: {faults}",
                        "Mend its files, then prepare and analyse it again.")


@command(app, "show", NAME, COUNT, SPLIT, OUTPUT, PROMPT, *SELECTION, *PRESENTATION, SEED)
def show_samples(call: Call) -> None:
    """Show a few questions with their pictures, in the terminal or drawn to a file."""
    from medvqa_cli.records import to_json
    from medvqa_cli.workflows.viewing import show_samples as choose

    settings = call.settings
    samples = choose(settings, call.text("split") or settings.data.train_split, call.count("count", 3), settings.seed)
    drawn = _draw(call, samples)
    if call.answer_json([to_json(sample) for sample in samples]):
        return
    for sample in samples:
        _print_sample(call, sample)
    for path in drawn:
        call.progress.say(f"Drew {path}")


@command(app, "export", REQUIRED_NAME, DIRECTORY, FORMAT, IMAGE_ROOT, COPY, OVERWRITE, *SELECTION, SEED)
def export_data(call: Call) -> None:
    """Write the questions as LLaVA or UniMedVL conversations, Parquet or JSON lines."""
    from medvqa_cli.workflows.export import export_data as export

    form = call.text("format") or "llava"
    directory = Path(call.text("output") or f"{call.settings.data.dataset}_{form}")
    root = call.text("image_root")
    document = export(call.settings, directory, form, image_root=Path(root) if root else None,
                      copy_images=call.is_on("copy_images"), overwrite=call.is_on("overwrite"), progress=call.progress)
    if not call.answer_json(document):
        call.terminal.print_tree(document)
        if form in {"llava", "unimedvl"}:
            given = "" if call.is_on("copy_images") else f" --image-root {document['image_root']}"
            call.progress.say(f"Read it back with: medvqa data prepare conversations --root {directory}{given}")


@command(app, "mix", MIXTURE, COUNT, BLOCK, *leave_out((*CHOICE, *FILES), "--subsample", "--root", "--source"), SEED)
def show_mixture(call: Call) -> None:
    """Check a mixture file: shares wanted and drawn, sizes, and a few questions of one draw."""
    from medvqa_cli.records import to_json
    from medvqa_cli.workflows.mixtures import load_mixture

    mixed = load_mixture(call.settings, call.progress, block=call.settings.train.batch_size)
    shown = mixed.samples[: call.count("count", 3)]
    if call.answer_json({"mixture": mixed.report, "samples": [to_json(sample) for sample in shown]}):
        return
    print_mixture(call.terminal, mixed.report)
    for sample in shown:
        call.terminal.print(f"{sample.dataset} {sample.question_id}")
        call.terminal.print(f"  Q: {sample.question}")
        call.terminal.print(f"  A: {sample.answer}")


def _show_card(call: Call, name: str) -> None:
    from medvqa_cli.plugins import datasets
    from medvqa_cli.workflows.model_facts import describe_options

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
    from medvqa_cli.workflows.viewing import draw_sample

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
    if call.is_on("prompt"):
        from medvqa_cli.workflows.viewing import render_prompt

        terminal.print(render_prompt(sample, call.settings))
        return
    terminal.print(f"  Q: {sample.question}")
    terminal.print(f"  A: {sample.answer}")
    terminal.print(f"  {', '.join(sample.images)}")
