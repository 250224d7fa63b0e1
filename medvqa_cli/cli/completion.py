"""Shell completion: candidates for data set, model and run names, and splits.

Set up once, then open a new shell::

    medvqa --install-completion

After that, `medvqa train sft --dataset sl<TAB>` completes data sets (built-in, installed, and the user file's own
names), `--model <TAB>` model families, short names of checkpoints and finished runs, `--run <TAB>` the runs in the runs
folder (`--runs-dir` and the settings files count), `--tag <TAB>` the tags of a run's answers, `--split <TAB>` train,
validation and test. Options and sub-commands complete as well.
`medvqa --show-completion` prints the script for those who keep their shell's files themselves.

Nothing here imports more than a model family's card, so pressing Tab stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer  # noqa: TC002 - Typer reads the completers' annotations

from medvqa_cli.errors import MedVQAError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from medvqa_cli.runs import Run
    from medvqa_cli.settings.sources import Assignment


SPLITS = ("train", "validation", "test")


def complete_dataset(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return data set names that begin with what was typed."""
    from medvqa_cli.plugins import datasets

    return _match([*datasets.names(), *_own_names(ctx, "datasets")], incomplete)


def complete_family(incomplete: str) -> list[str]:
    """Return model families that begin with what was typed."""
    from medvqa_cli.plugins import models

    return _match(models.names(), incomplete)


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return model families, short and own names of checkpoints, and finished runs that begin with what was typed."""
    from medvqa_cli.plugins import models

    cards = [plugin.card for plugin in models.loadable().values()]
    short = {name for card in cards for name in (*card.aliases, *card.checkpoints)}
    return [*_match({*models.names(), *short}, incomplete), *_match(_own_names(ctx, "models"), incomplete),
            *(run.name for run in _list_runs(ctx) if run.weights and run.name.startswith(incomplete))]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return run names that begin with what was typed, the newest first."""
    return [run.name for run in _list_runs(ctx) if run.name.startswith(incomplete)]


def complete_tag(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return tags of the named run's answers, or of any run's, that begin with what was typed."""
    typed = ctx.params.get("run")
    stems = [path.stem for run in _list_runs(ctx) if typed in (None, run.name)
             for path in run.path.glob("predictions-*.jsonl") if "." not in path.stem]
    return _match({stem.removeprefix("predictions-") for stem in stems}, incomplete)


def _list_runs(ctx: typer.Context) -> list[Run]:
    from medvqa_cli.runs import list_runs
    from medvqa_cli.settings.sources import find_path

    return list_runs(find_path(_assignments(ctx), "paths.runs", "runs"))


def complete_split(incomplete: str) -> list[str]:
    """Return split names that begin with what was typed."""
    return _match(SPLITS, incomplete)


def complete_choice(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completer for fixed choices."""
    words = tuple(choices)

    def complete(incomplete: str) -> list[str]:
        return _match(words, incomplete)

    complete.choices = words  # type: ignore[attr-defined]
    return complete


def _match(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin with what was typed, spelt with `-` if that is being typed."""
    spelt = {name.replace("_", "-") if "-" in incomplete else name for name in names}
    return sorted(name for name in spelt if name.startswith(incomplete))


def _own_names(ctx: typer.Context, kind: str) -> list[str]:
    return [assignment.path[2] for assignment in _assignments(ctx)
            if assignment.path[:2] == ("aliases", kind) and len(assignment.path) == 3]


def _assignments(ctx: typer.Context) -> list[Assignment]:
    """Return what the files and options say; a broken file must not break the Tab key."""
    from medvqa_cli.settings.sources import Assignment, collect

    typed = [Assignment(("paths", "runs"), ctx.params["runs_dir"], "--runs-dir")] if ctx.params.get("runs_dir") else []
    config = ctx.params.get("config")
    try:
        return collect(typed, config=Path(config) if config else None)
    except MedVQAError:
        return typed
