"""`medvqa merge`: an adapter and its base become one model, which is checked before it is there."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__
from medvqa_cli.errors import MedVQAError, ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import VQASample, write_json
from medvqa_cli.runs import now
from medvqa_cli.workflows.adapters import Source, find_source
from medvqa_cli.workflows.models import ModelChoice, build_encoder, load_choice

if TYPE_CHECKING:
    import torch

    from medvqa_cli.models.merging import Difference
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.settings.schema import Settings

RECORD = "merge.json"


def merge_adapter(settings: Settings, source: str | Path, output: str | Path, *, base: str | None = None,
                  overwrite: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write base model and adapter as one model in Hugging Face layout, and return what merge.json says.

    The logits of a drawn picture with a question are taken from the adapted, the merged and the reloaded model. If
    they differ by more than rounding explains, nothing is written.

    Args:
        settings: Where to load the model; `model.dtype` is the number format to merge and save in: auto takes that
            of training, else that of the base.
        source: A run that has trained an adapter, or an adapter's folder.
        output: Folder to write.
        base: The model below the adapter, where it is not the one the run or the adapter names.
        overwrite: Replace what an earlier merge has written there.
        progress: Where to report.

    Raises:
        RunError: If there is no such run.
        SettingsError: If the output cannot be written where it is asked for.
        ModelError: If there is no adapter, no base, or the merged model is not the adapted one.
    """
    found = find_source(settings, source, base)
    target = Path(output).expanduser().absolute()
    check_output(target, found.choice, overwrite=overwrite)
    settings = _fix_loading(settings, dtype=choose_dtype(settings, found))
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="medvqa-merge-") as folder:
        try:
            record = _merge(settings, found, part, _draw_sample(Path(folder)), progress)
            write_json(part / RECORD, record)
            _publish(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return {"output": str(target), **record}


def _merge(settings: Settings, source: Source, part: Path, sample: VQASample, progress: Progress) -> dict[str, Any]:
    from medvqa_cli.models.merging import TOLERANCES, compare_logits, compute_logits, merge_weights

    dtype = settings.model.dtype
    in_training = _measure_in_training(settings, source, sample, progress)
    loaded = load_choice(source.choice, settings, progress)
    batch = _encode(loaded, settings, sample)
    with loaded.model.disable_adapter():
        before = compute_logits(loaded, batch)
    adapted = compute_logits(loaded, batch)
    effect = compare_logits(before, adapted)
    if effect.largest == 0:
        progress.warn("The adapter changes no logit of the test sample: has it been trained?")
    loaded.model = merge_weights(loaded.model)
    merged = compare_logits(adapted, compute_logits(loaded, batch))
    _require_equal("merged", merged, effect, dtype, progress)
    loaded.model.save_pretrained(part)
    loaded.processor.save_pretrained(part)
    family_name = loaded.family_name
    loaded.model = None
    _free_memory()
    again = load_choice(ModelChoice(str(part), family_name, origin=source.choice.checkpoint), settings, SILENT)
    reloaded = compare_logits(adapted, compute_logits(again, _encode_equally(again, settings, sample, batch)))
    _require_equal("reloaded", reloaded, effect, dtype, progress)
    record = {"adapter": source.choice.adapter, "base": source.choice.checkpoint,
              "revision": source.choice.commit or settings.model.revision,
              "family": family_name, "dtype": dtype, "quantization_in_training": source.quantization,
              "tolerance": TOLERANCES[dtype], "adapter_effect": dataclasses.asdict(effect),
              "merged": dataclasses.asdict(merged), "reloaded": dataclasses.asdict(reloaded)}
    if in_training is not None:
        as_trained = compare_logits(in_training, adapted)
        record["against_quantized"] = dataclasses.asdict(as_trained)
        progress.warn(f"Against the {source.quantization} base the adapter was trained on, {_describe(as_trained)}.")
    return {**record, "medvqa": __version__, "created": now()}


def check_output(target: Path, choice: ModelChoice, *, overwrite: bool) -> None:
    """Refuse to write over anything but an earlier merge, and into or around what is merged.

    Raises:
        SettingsError: If the folder is taken.
    """
    for used in (Path(choice.adapter), Path(choice.checkpoint)):
        if used.is_dir() and (target.resolve() == used.resolve() or target.resolve() in used.resolve().parents
                              or used.resolve() in target.resolve().parents):
            raise SettingsError(f"--output is '{target}', but '{used}' is merged from.", "Choose another folder.")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / RECORD).is_file():
        raise SettingsError(f"'{target}' exists and was not written by medvqa merge.", "Choose another --output.")
    if not overwrite:
        raise SettingsError(f"'{target}' exists already.", "Choose another --output, or replace it with --overwrite.")


def choose_dtype(settings: Settings, source: Source) -> str:
    """Return the number format to merge in: as set, else that of training, else that of the base, else float32.

    What stood beside quantised weights in training is no guide: the base decides.

    Raises:
        ModelError: If the base cannot be had, or is itself stored quantised.
    """
    from medvqa_cli.models.loading import read_config
    from medvqa_cli.models.merging import TOLERANCES

    base = source.choice
    config = read_config(base.checkpoint, base.commit or settings.model.revision)
    if config.get("quantization_config"):
        raise ModelError(f"The base model '{base.checkpoint}' is stored quantised: a merge would round what was "
                         "learned.", "Name the checkpoint it was made from with --base.")
    if settings.model.dtype != "auto":
        return settings.model.dtype
    trained_in = source.facts.get("dtype") if source.quantization == "none" else None
    stored = config.get("dtype") or config.get("torch_dtype")
    return next((str(name) for name in (trained_in, stored) if name in TOLERANCES), "float32")


def _fix_loading(settings: Settings, **changes: Any) -> Settings:
    """Return settings that load a model as it is, not quantised, with these changes."""
    update = {"name": None, "scratch": False, "options": {}, "quantization": "none", **changes}
    return settings.model_copy(update={"model": settings.model.model_copy(update=update)})


def _measure_in_training(settings: Settings, source: Source, sample: VQASample,
                         progress: Progress) -> torch.Tensor | None:
    """Return the adapter's logits on the quantised base it was trained on, or None if it was not or cannot be."""
    from medvqa_cli.models.merging import compute_logits

    if source.quantization == "none":
        return None
    progress.warn(f"The adapter was trained on {source.quantization} weights. It is merged into the weights before "
                  "quantisation, which differ from those: answers may differ too. Evaluate the merged model.")
    try:
        loaded = load_choice(source.choice, _fix_loading(settings, quantization=source.quantization), SILENT)
    except MedVQAError as error:
        progress.warn(f"By how much could not be measured: {error.message}")
        return None
    logits = compute_logits(loaded, _encode(loaded, settings, sample))
    del loaded
    _free_memory()
    return logits


def _draw_sample(folder: Path) -> VQASample:
    """Return a question about a drawn picture whose channels run in different directions."""
    from PIL import Image

    path = folder / "picture.png"
    across = Image.linear_gradient("L")
    Image.merge("RGB", (across, across.rotate(90), Image.radial_gradient("L"))).save(path)
    return VQASample(dataset="merge", split="test", question_id="0", image_id="picture", images=(str(path),),
                     question="Is there a lesion in the image?", answer="yes", answer_type="closed")


def _encode(loaded: LoadedModel, settings: Settings, sample: VQASample) -> dict[str, Any]:
    from medvqa_cli.models.merging import encode_sample

    return encode_sample(loaded, build_encoder(loaded, settings), sample)


def _encode_equally(loaded: LoadedModel, settings: Settings, sample: VQASample,
                    first: dict[str, Any]) -> dict[str, Any]:
    """Return the sample as a reloaded processor encodes it, which must be as it was.

    Raises:
        ModelError: If the saved processor reads the sample otherwise.
    """
    batch = _encode(loaded, settings, sample)
    for name in sorted({*first, *batch}):
        if name not in batch or name not in first or not batch[name].equal(first[name]):
            raise ModelError(f"The saved processor encodes a question otherwise ('{name}' changes); nothing was "
                             "written.", "Please report this model.")
    return batch


def _require_equal(what: str, found: Difference, effect: Difference, dtype: str, progress: Progress) -> None:
    from medvqa_cli.models.merging import find_fault

    if fault := find_fault(found, effect, dtype):
        raise ModelError(f"The {what} model does not answer as the adapted one: {fault}. Nothing was written.",
                         "Merge in float32 (--dtype float32)." if dtype != "float32" else "Please report this model.")
    (progress.warn if found.changed_tokens else progress.say)(f"{what.capitalize()}: {_describe(found)}.")


def _describe(found: Difference) -> str:
    tokens = (f"all {found.tokens} next tokens agree" if not found.changed_tokens else
              f"{found.changed_tokens} of {found.tokens} next tokens change")
    return f"logits differ by at most {found.largest:.2g} ({found.share:.2g} of the largest), {tokens}"


def _publish(part: Path, target: Path) -> None:
    """Put a finished folder in its place; an earlier one is there until the last moment."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
