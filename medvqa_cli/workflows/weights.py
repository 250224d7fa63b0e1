"""Which weights a run keeps of its training, and which ones of a run another starts from."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.errors import RunError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.train import TrainSettings
    from medvqa_cli.training.sft import SFTTrainer

Kind = Literal["kept", "average", "raw"]
KINDS: tuple[Kind, ...] = ("kept", "average", "raw")
RAW = "raw"
"""Folder of the weights themselves, beside their average."""


def find_weights(source: Run, kind: Kind = "kept") -> Path:
    """Return the folder of a finished run's weights.

    Args:
        source: The run.
        kind: The ones it keeps; their moving average; or the weights themselves, whether it has an average or not.

    Raises:
        RunError: If the run is not finished, or has no average.
    """
    kept = source.weights
    if kept is None:
        raise RunError(f"Run '{source.name}' has no trained weights to start from.", "Name a finished run.")
    averages = bool(source.read_json("manifest.json").get("weights", {}).get("ema"))
    if kind == "average" and not averages:
        raise RunError(f"Run '{source.name}' has no average of its weights: it was trained without --ema.",
                       f"Start from the weights it has: --init-from {source.name}.")
    return source.path / RAW / kept.name if kind == "raw" and averages else kept


def check_kind(kind: str, *, named: bool) -> None:
    """Refuse weights of a kind that there is not, or of no run.

    Raises:
        SettingsError: Naming what may be said.
    """
    if kind not in KINDS:
        raise SettingsError(f"--init-weights is '{kind}'.", f"It is one of {', '.join(KINDS)}.")
    if kind != "kept" and not named:
        raise SettingsError(f"--init-weights {kind} names no run.", "Name a finished one with --init-from.")


def keep_weights(run: Run, trainer: SFTTrainer, loaded: LoadedModel, settings: TrainSettings,
                 progress: Progress, *, gathered: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the weights that become the run's and, where these are an average, the weights themselves beside it.

    They are in the model's number format. Where they are spread over processes, `gathered` holds all of them.

    Returns:
        What the manifest says of them: the step they are of, whether it is the last or the best one, the metric and
        its value there, and the decay of the average.
    """
    from medvqa_cli.models.precision import lower_masters

    facts = _choose_step(run, trainer, settings, progress)
    lower_masters(trainer.model)
    gathered = _round(run, gathered) if gathered else gathered
    part = "adapter" if hasattr(trainer.model, "peft_config") else "model"
    if trainer.average:
        _write(trainer, loaded, run.path / RAW / part)
        trainer.average.apply()
        facts["ema"] = trainer.average.decay
    run.update_manifest(weights=facts)
    _write(trainer, loaded, run.path / part, gathered)
    return facts


def _round(run: Run, gathered: dict[str, Any]) -> dict[str, Any]:
    """Return gathered weights, of which an engine has kept masters, in the model's number format; adapters stay."""
    import torch

    dtype = getattr(torch, run.read_json("manifest.json")["model"]["dtype"])
    return {name: weight if "lora_" in name or not weight.is_floating_point() else weight.to(dtype)
            for name, weight in gathered.items()}


def _choose_step(run: Run, trainer: SFTTrainer, settings: TrainSettings, progress: Progress) -> dict[str, Any]:
    """Put the weights of the best step in the place of the last ones, if they are what is kept and can be had."""
    from medvqa_cli.training.checkpoints import find_damage, name_checkpoint
    from medvqa_cli.workflows.tracking import keep_warning

    last: dict[str, Any] = {"keep": "last", "step": trainer.state.global_step}
    if trainer.best is None:
        return last
    standing = trainer.best.standing
    measured = {"metric": settings.best_metric, "best_step": standing.step, "best_value": standing.value}
    if not settings.keeps_best:
        return last | measured
    checkpoint = run.checkpoints / name_checkpoint(standing.step)
    damage = find_damage(checkpoint) if standing.step else f"no {settings.best_metric} could be measured"
    if damage:
        warning = f"The last weights are kept, not the best ones of step {standing.step}: {damage}."
        progress.warn(warning)
        keep_warning(run, warning)
        return last | measured
    if standing.step != trainer.state.global_step:
        trainer.load_weights(checkpoint)
    progress.say(f"Kept: the weights of step {standing.step}, {settings.best_metric} {standing.value:.4g}.")
    return measured | {"keep": "best", "step": standing.step}


def _write(trainer: SFTTrainer, loaded: LoadedModel, target: Path, gathered: dict[str, Any] | None = None) -> None:
    """Write the weights beside the processor in one step, so that a kill leaves no half model."""
    from medvqa_cli.training.checkpoints import publish_folder

    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    trainer.model.save_pretrained(part, **({} if gathered is None else {"state_dict": gathered}))
    loaded.processor.save_pretrained(part)
    publish_folder(part, target)
