"""Where an adapter is, and the model below it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError
from medvqa_cli.runs import Run, open_run
from medvqa_cli.workflows.models import ModelChoice, choose_model, recall_choice
from medvqa_cli.workflows.own_weights import find_base

if TYPE_CHECKING:
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter with the model below it, and what its run's manifest says of that model; nothing without a run."""

    choice: ModelChoice
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def quantization(self) -> str:
        """How the base was quantised while the adapter was trained, or "none"."""
        return str(self.facts.get("quantization") or "none")


def find_source(settings: Settings, source: str | Path, base: str | None = None) -> Source:
    """Return an adapter by its run or its folder, with the model below it.

    Args:
        settings: Where runs are, own names of models, and the family if it is not the one the run names.
        source: A run's name or folder, or an adapter's folder.
        base: The model below it, where it is not the one the run or the adapter names.

    Raises:
        RunError: If there is no such run.
        ModelError: If there is no adapter, or it names no base that is there.
    """
    folder = Path(source).expanduser()
    if (folder / "adapter_config.json").is_file():
        adapter, facts = folder.resolve(), _read_facts_above(folder.resolve())
    else:
        run = open_run(settings.paths.runs, source)
        adapter, facts = _find_adapter(run), _read_facts(run)
    choice = _find_base(settings, adapter, facts, base)
    if settings.model.family:
        choice = dataclasses.replace(choice, family_name=plugins.models.resolve(settings.model.family))
    if choice.checkpoint.startswith(("/", ".", "~")) and not Path(choice.checkpoint).is_dir():
        raise ModelError(f"The base model '{choice.checkpoint}' of the adapter '{adapter}' is not there.",
                         "Name where it lies now with --base PATH.")
    return Source(choice, facts)


def _find_base(settings: Settings, adapter: Path, facts: dict[str, Any], base: str | None) -> ModelChoice:
    if facts and not base:
        return dataclasses.replace(recall_choice(facts), adapter=str(adapter))
    named = settings.model.model_copy(update={"name": base or str(adapter)})
    choice = choose_model(settings.model_copy(update={"model": named}))
    return dataclasses.replace(choice, adapter=str(adapter))


def _find_adapter(run: Run) -> Path:
    weights = run.weights
    if weights is None:
        raise ModelError(f"Run '{run.name}' has no trained model yet.",
                         f"Finish it with `{run.name_resume()}`.")
    if weights.name != "adapter":
        raise ModelError(f"Run '{run.name}' has trained the weights themselves: there is no adapter to merge.",
                         f"Its model is ready as it is: {weights}")
    return weights


def _read_facts_above(adapter: Path) -> dict[str, Any]:
    """Return what the run that an adapter's folder lies in says of its model; nothing for a folder of its own."""
    runs = [Run(above) for above in list(adapter.parents)[:2]]
    run = next((run for run in runs if run.manifest.is_file() and run.settings.is_file()), None)
    return _read_facts(run) if run else {}


def _read_facts(run: Run) -> dict[str, Any]:
    return find_base(run.read_json("manifest.json").get("model") or {}, run)
