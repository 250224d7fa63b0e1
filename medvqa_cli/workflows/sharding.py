"""DeepSpeed and FSDP: their files, read and checked before anything is loaded, and kept with the run."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.progress import Progress
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings

DEEPSPEED, FSDP = "deepspeed.json", "fsdp.json"
"""Names of the files' copies in a run: a resumed run reads these."""
AUTO = "auto"
FSDP_KEYS = ("version", "auto_wrap_policy", "transformer_layer_cls_to_wrap", "min_num_params", "reshard_after_forward",
             "cpu_offload", "cpu_ram_efficient_loading", "activation_checkpointing", "state_dict_type")
OF_A_LAUNCHER = {"ACCELERATE_USE_FSDP": "--fsdp", "ACCELERATE_USE_DEEPSPEED": "--deepspeed"}


def read_engine(settings: Settings) -> dict[str, Any]:
    """Return what `TrainingArguments` are told of the engine that spreads a training: {} for none.

    Raises:
        SettingsError: If a file is missing, damaged, or contradicts the settings.
        MissingDependencyError: If DeepSpeed is not installed.
    """
    train = settings.train
    _check_launcher()
    if train.deepspeed and train.fsdp:
        raise SettingsError("train.deepspeed and train.fsdp are two engines for one training.", "Leave one out.")
    if train.deepspeed or train.fsdp:
        _check_kept(settings)
    if train.deepspeed:
        config = _read_object(train.deepspeed, "deepspeed")
        check_deepspeed(config, settings, str(train.deepspeed))
        if find_spec("deepspeed") is None:
            raise MissingDependencyError("train.deepspeed", "deepspeed", "deepspeed")
        return {"deepspeed": config}
    if train.fsdp:
        config = {key.removeprefix("fsdp_"): value for key, value in _read_object(train.fsdp, "fsdp").items()}
        check_fsdp(config, settings, str(train.fsdp))
        return {"fsdp": True, "fsdp_config": config}
    return {}


def keep_engine(run: Run, engine: Mapping[str, Any]) -> None:
    """Write an engine's file into the run."""
    if "deepspeed" in engine:
        write_json(run.path / DEEPSPEED, engine["deepspeed"])
    if "fsdp" in engine:
        write_json(run.path / FSDP, engine["fsdp_config"])


def recall_engine(run: Run, settings: Settings) -> dict[str, Any]:
    """Return a run's engine, as `read_engine` does, from the copies that lie in it."""
    kept = {key: run.path / name for key, name in (("deepspeed", DEEPSPEED), ("fsdp", FSDP))
            if (run.path / name).is_file()}
    train = settings.train.model_copy(update={"deepspeed": None, "fsdp": None, **kept})
    return read_engine(settings.model_copy(update={"train": train}))


def needs_launch(runs: Path, name: str) -> bool:
    """Return whether a run, named or given by its folder, goes on only in a process that a launcher has started."""
    return any((path / DEEPSPEED).is_file() for path in (runs / name, Path(name)))


def is_sharded(engine: Mapping[str, Any]) -> bool:
    """Return whether no process holds a whole model while it trains."""
    return "fsdp" in engine or _look_up(engine.get("deepspeed", {}), "zero_optimization.stage") == 3


def leave_out_probes(settings: Settings, engine: Mapping[str, Any], progress: Progress) -> Settings:
    """Return settings without what the main process cannot do alone where it holds only a part of the weights."""
    if not is_sharded(engine):
        return settings
    progress.say("Weights are spread over the processes: no probe questions and no histograms while training.")
    tracking = settings.tracking.model_copy(update={"probe_questions": 0, "histogram_steps": 0})
    return settings.model_copy(update={"tracking": tracking})


def check_deepspeed(config: Mapping[str, Any], settings: Settings, where: str) -> None:
    """Refuse what contradicts our settings.

    Raises:
        SettingsError: Naming the key and both values.
    """
    for key, setting, ours in _list_shared(settings):
        theirs = _look_up(config, key)
        if theirs not in (None, AUTO, ours):
            raise SettingsError(f"'{where}': '{key}' is {json.dumps(theirs)}, but {setting} is {json.dumps(ours)}.",
                                f'Write "auto" there, or change {setting.partition(" ")[0]}.')
    if "scheduler" in config:
        raise SettingsError(f"'{where}' has a 'scheduler', but train.scheduler and train.warmup say how the learning "
                            f"rate moves ('{settings.train.scheduler}').",
                            "Remove it; DeepSpeed's WarmupDecayLR is nearest to --scheduler linear.")
    if _look_up(config, "zero_optimization.stage") == 3:
        _check_stage_3(config, settings, where)


def _list_shared(settings: Settings) -> list[tuple[str, str, Any]]:
    """Return (DeepSpeed's key, our setting, its value) of what both may say."""
    train, optimizer = settings.train, "optimizer.params."
    rows: list[tuple[str, str, Any]] = [
        ("train_micro_batch_size_per_gpu", "train.batch_size", train.batch_size),
        ("gradient_accumulation_steps", "train.gradient_accumulation", train.gradient_accumulation),
        ("gradient_clipping", "train.max_grad_norm", train.max_grad_norm),
        (f"{optimizer}lr", "train.learning_rate", train.learning_rate),
        (f"{optimizer}weight_decay", "train.weight_decay", train.weight_decay),
        ("bf16.enabled", f"model.dtype '{settings.model.dtype}', so that it", settings.model.dtype == "bfloat16"),
        ("fp16.enabled", "model.dtype (training in float16 is not supported), so that it", False)]
    if "WORLD_SIZE" in os.environ:
        processes = int(os.environ["WORLD_SIZE"])
        rows.append(("train_batch_size", f"train.batch_size x train.gradient_accumulation x {processes} processes",
                     train.batch_size * train.gradient_accumulation * processes))
    return rows


def _check_stage_3(config: Mapping[str, Any], settings: Settings, where: str) -> None:
    gather = "stage3_gather_16bit_weights_on_model_save"
    if _look_up(config, f"zero_optimization.{gather}") is not True:
        raise SettingsError(f"'{where}': stage 3 without '{gather}' leaves no weights that could be saved.",
                            f'Write "{gather}": true into "zero_optimization".')
    if settings.train.tuning == "full" or (settings.train.tuning == "auto" and settings.model.scratch):
        raise SettingsError(f"'{where}': stage 3 with everything trained breaks off where the processes' pictures use "
                            "different weights.", "Use ZeRO-2 or --fsdp, or --tuning lora.")
    _check_whole(settings, f"'{where}': stage 3")


def check_fsdp(config: Mapping[str, Any], settings: Settings, where: str) -> None:
    """Refuse keys that are unknown or contradict our settings, and a training in one process.

    Raises:
        SettingsError: Naming the key and its value.
    """
    for key in config:
        if key not in FSDP_KEYS:
            raise SettingsError(f"'{where}': unknown key '{key}'.", f"Known: {', '.join(FSDP_KEYS)}.")
    if config.get("version", 2) != 2:
        raise SettingsError(f"'{where}': 'version' is {json.dumps(config['version'])}; only FSDP 2 is supported.",
                            'Write "version": 2.')
    if (form := config.get("state_dict_type", "FULL_STATE_DICT")) != "FULL_STATE_DICT":
        raise SettingsError(f"'{where}': 'state_dict_type' is {json.dumps(form)}; checkpoints hold whole weights.",
                            'Write "FULL_STATE_DICT", or leave it out.')
    if config.get("activation_checkpointing") and settings.train.gradient_checkpointing:
        raise SettingsError(f"'{where}': 'activation_checkpointing' is true, and so is train.gradient_checkpointing.",
                            "Leave one out.")
    _check_whole(settings, f"'{where}': FSDP")
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        raise SettingsError(f"'{where}': FSDP spreads a training over several processes, and this is one.",
                            "Add --num-processes N.")


def _check_whole(settings: Settings, what: str) -> None:
    """Refuse what looks at whole weights while an engine has split them."""
    train, model = settings.train, settings.model
    clashes = {"model.quantization": (model.quantization, {"4bit", "8bit"}),
               "train.vision_cache": (train.vision_cache, {"memory", "disk"}),
               "train.best_metric": (train.best_metric if train.seeks_best else "", {"probe_accuracy"})}
    for key, (value, refused) in clashes.items():
        if value in refused:
            raise SettingsError(f"{what} splits weights, which {key} '{value}' does not allow.",
                                f"Use ZeRO-2, or leave {key} out.")


def _check_kept(settings: Settings) -> None:
    """Refuse to average weights, or to go back to the best ones: an engine has their masters, over the processes."""
    train = settings.train
    if train.ema or train.keeps_best:
        raise SettingsError("An average of weights (train.ema) and the best ones (train.keep) cannot be had where "
                            "DeepSpeed or FSDP spreads them over processes.", "Leave --ema out, and take --keep last.")


def _check_launcher() -> None:
    """Refuse an engine that only the launcher knows of: the run could not be resumed from what it holds."""
    for variable, flag in OF_A_LAUNCHER.items():
        if os.environ.get(variable, "").lower() in {"1", "true"}:
            raise SettingsError(f"The launcher asks for an engine of its own ({variable} is set).",
                                f"Launch without it, and name the engine's file with {flag}.")


def _read_object(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"train.{name} '{path}' cannot be read: {error.strerror}.",
                            f"Name a JSON file; examples/{name} holds some.") from error
    except ValueError as error:
        raise SettingsError(f"train.{name} '{path}' is no JSON: {error}.", "Mend it.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"train.{name} '{path}' is no JSON object.", f"examples/{name} holds some.")
    return content


def _look_up(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where it is not given."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
