"""`medvqa models`: the model families, and what a model takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_model
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import MODEL, TRAINING, Option
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.command import Call
    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.workflows.model_facts import Load

app = make_group("Model families.")
NAME = Option("NAME", "Family, checkpoint, folder or run.", "", "NAME", "required", complete_model)
LOAD = tuple(Option(flag, text, metavar=metavar, panel="Memory estimate") for flag, text, metavar in (
    ("--resolution", "Size of the picture in pixels, such as 336x336.", "WxH"),
    ("--tokens", "Text tokens of a question with its prompt and answer.", "N"),
    ("--answer-tokens", "Those of them that are answer.", "N"),
    ("--questions", "Questions that share a picture, where the family packs.", "N")))
DOWNLOAD = Option("--download-config", "Fetch configuration and tokenizer from the hub first; no weights.",
                  kind="switch")
WANTED = {"--family", "--dtype", "--device", "--batch-size", "--gradient-checkpointing", "--lora-r", "--lora-dropout",
          "--lora-targets", "--lora-parts", "--tune-projector", "--freeze-vision-tower", "--unfreeze-last-layers"}
USE = tuple(option for option in (*MODEL, *TRAINING) if option.flag in WANTED)
INTERNALS = ("model_types", "id_patterns", "files_beside", "projectors_beside", "task_type", "vision_tower",
             "projector", "language_model", "generates", "classifies", "packs", "edits", "bidirectional_images",
             "reads_text_alone")
"""What the program needs to know of a family; `--json` prints it."""
LARGEST_SIDE = 10_000
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@command(app, "list")
def list_models(call: Call) -> None:
    """List model families with their default checkpoints, and your own names for models."""
    from medvqa_cli.workflows.model_facts import list_families

    call.load_plugins()
    rows = list_families()
    own = [{"name": assignment.path[2], "origin": assignment.origin, "summary": assignment.value}
           for assignment in call.assignments if assignment.path[:2] == ("aliases", "models")]
    if not call.answer_json(rows + own):
        call.terminal.print_table(["name", "model", "default checkpoint", "shares images"],
                                  [_list_row(row) for row in rows + own])
        call.terminal.say("Shares images: one picture is encoded once for all its questions (packing, sample trees). "
                          "More, its licence too: medvqa models info NAME")


def _list_row(row: Mapping[str, Any]) -> list[Any]:
    if problem := row.get("problem"):
        return [row["name"], f"does not load: {problem}", None, None]
    shares = row.get("shares_images")
    return [row["name"], _shorten(row["summary"]) if "checkpoint" in row else row["summary"], row.get("checkpoint"),
            None if shares is None else "yes" if shares else "no"]


def _shorten(summary: str) -> str:
    """Return what a summary begins with: the model's name, without paper and parts."""
    return re.split(r" \(|[:;]| in transformers|, ", summary, maxsplit=1)[0].rstrip(".")


@command(app, "info", NAME, *LOAD, DOWNLOAD, *USE)
def show_model(call: Call) -> None:
    """Show a family's card; of a checkpoint on this machine also its parts, files and the memory it takes."""
    from medvqa_cli.workflows.model_facts import describe_model

    call.assign("model.name", _find_name(call), "NAME")
    facts = describe_model(call.settings, read_load(call), download=call.is_on("download_config"))
    if not call.answer_json(facts):
        print_facts(call.terminal, facts)


def _find_name(call: Call) -> str:
    """Return what was typed; for a run the folder of what it has trained.

    Raises:
        ModelError: If the run has trained nothing yet.
    """
    from medvqa_cli.cli.run_choice import is_run
    from medvqa_cli.errors import ModelError
    from medvqa_cli.runs import open_run

    typed = str(call.text("name"))
    if not is_run(call.runs, typed):
        return typed
    run = open_run(call.runs, typed)
    if run.weights is None:
        raise ModelError(f"Run '{run.name}' has no trained model yet.",
                         f"Finish it with `{run.name_resume()}`.")
    return str(run.weights)


def read_load(call: Call) -> Load:
    """Return what is shown to the model at once, as typed.

    Raises:
        SettingsError: If a size or number is none.
    """
    from medvqa_cli.workflows.model_facts import Load

    usual = Load()
    typed = call.text("resolution") or "{}x{}".format(*usual.resolution)
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", typed.strip().lower(), re.ASCII)
    if match is None:
        raise SettingsError(f"--resolution is '{typed}': it should be width x height in pixels, such as 336x336.")
    size = int(match[1]), int(match[2])
    if max(size) > LARGEST_SIDE:
        raise SettingsError(f"--resolution is '{typed}': at most {LARGEST_SIDE:,} x {LARGEST_SIDE:,} pixels.")
    return Load(resolution=size, tokens=call.count("tokens", usual.tokens),
                answer_tokens=_count(call, "answer_tokens", usual.answer_tokens),
                questions=call.count("questions", usual.questions))


def print_facts(terminal: Terminal, facts: Mapping[str, Any]) -> None:
    """Print what `describe_model` found: the card as lines, parts and memory as tables."""
    tables = ("checkpoint", "parts", "files", "picture", "load", "memory", "note")
    hidden = {*tables, *INTERNALS}
    terminal.print_tree({key: value for key, value in facts.items() if key not in hidden})
    terminal.print(f"shares images: {'yes' if facts['packs'] else 'no'}")
    checkpoint = facts["checkpoint"]
    terminal.print()
    terminal.print_tree({"checkpoint": {"id": checkpoint["checkpoint"], "adapter": checkpoint["adapter"],
                                        "folder": checkpoint["folder"] or "not on this machine"}})
    if checkpoint["folder"] is None:
        terminal.say("Its parts and memory are not guessed: they need its config.json. Add --download-config, or fetch "
                     f"it where there is a network: hf download {checkpoint['checkpoint']} --include '*.json'")
        return
    _print_parts(terminal, facts)
    for finding in (*facts["files"]["findings"], *filter(None, [facts.get("note")])):
        terminal.warn(finding)
    if facts["memory"]:
        _print_memory(terminal, facts)


def _print_parts(terminal: Terminal, facts: Mapping[str, Any]) -> None:
    total = sum(facts["parts"].values())
    terminal.print()
    terminal.print_table(["part", "parameters", "share"],
                         [[part, f"{count:,}", f"{count / total:.1%}"] for part, count in facts["parts"].items()]
                         + [["total", f"{total:,}", "100.0%"]])
    formats = ", ".join(f"{count:,} {kind}" for kind, count in facts["files"]["formats"].items())
    terminal.print(f"weight files: {show_bytes(facts['files']['bytes'])}" + (f" ({formats})" if formats else ""))


def _print_memory(terminal: Terminal, facts: Mapping[str, Any]) -> None:
    load, picture, memory = facts["load"], facts["picture"], facts["memory"]
    terminal.print(f"a picture of {load['resolution']}: {picture['tokens']} tokens in the prompt, "
                   f"{picture['patches']} patches in the vision tower")
    terminal.print()
    rows = [[term, *(show_bytes(parts[term]) for parts in memory.values())] for term in next(iter(memory.values()))
            if any(parts[term] for parts in memory.values())]
    terminal.print_table(["memory, estimated", *memory], rows)
    terminal.print()
    terminal.print(" ".join(_describe_load(load)))


def _describe_load(load: Mapping[str, Any]) -> Iterator[str]:
    rows = _plural(load["batch_size"], "row")
    yield (f"For {rows} of {load['row_tokens']} tokens ({_plural(load['questions'], 'question')} of "
           f"{load['text_tokens']} text tokens, {load['answer_tokens']} of them answer, about one picture), "
           f"{load['dtype']} on a {load['device']}, LoRA r={load['lora_r']}, gradient checkpointing "
           f"{'on' if load['gradient_checkpointing'] else 'off'}.")
    yield "The formula stands in medvqa_cli.models.memory; a CUDA context (some 0.5 GB) comes on top."


def show_bytes(size: int) -> str:
    """Return bytes for people, in powers of 1024."""
    scaled, unit = float(size), 0
    while scaled >= 1024 and unit < len(UNITS) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return "-" if not size else f"{scaled:.3g} {UNITS[unit]}" if scaled < 1000 else f"{scaled:.0f} {UNITS[unit]}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _count(call: Call, name: str, default: int) -> int:
    """Return a whole number of at least 1; the error names the flag as it is typed."""
    try:
        return call.count(name, default)
    except SettingsError as error:
        raise SettingsError(error.message.replace(name, name.replace("_", "-")), error.hint) from error
