"""Checkpoint, number format, device, quantisation: one place that loads any family, with errors a user can act on."""

from __future__ import annotations

import logging
import pickle
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.models.hub import explain_hub_failure, explained_hub_failures, fetch_checkpoint, first_line
from medvqa_cli.models.loaded_weights import check_loading_info, find_mismatch
from medvqa_cli.models.loading_plan import plan_loading, read_json
from medvqa_cli.models.protocol import LoadedModel
from medvqa_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medvqa_cli.models.hub import Source
    from medvqa_cli.models.protocol import ModelFamily
    from medvqa_cli.models.quantization import Tuning
    from medvqa_cli.settings.model import ModelSettings


SAMPLING_VALUES = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def load_checkpoint(family: ModelFamily, family_name: str, checkpoint: str, settings: ModelSettings, *,
                    tuning: Tuning = "none", shares_images: bool = True, progress: Progress = SILENT) -> LoadedModel:
    """Load a checkpoint's processor and model, in evaluation mode on its device.

    A hub checkpoint is fetched first, all of it from one commit, which `model.config._commit_hash` names.

    Args:
        family: The family that loads it.
        family_name: Its name.
        checkpoint: A folder or a hub id.
        settings: How to load it.
        tuning: What will be trained: weights that are to be trained themselves are not quantised.
        shares_images: Whether packing or shared prefixes may run: they need a mask that flash-attn does not take.
        progress: Is told what was decided and what is unexpected.

    Raises:
        ModelError: If the checkpoint is missing, damaged, gated, of another type, or too large for the device.
        SettingsError: If settings contradict each other or the checkpoint.
        MissingDependencyError: If bitsandbytes is asked for and not installed.
    """
    silence_libraries()
    trusted = is_trusted(checkpoint, settings.trust_remote_code)
    source = fetch_checkpoint(checkpoint, settings.revision, beside=family.card.files_beside,
                              allow_pickle=settings.allow_pickle, allow_code=trusted, progress=progress)
    plan = plan_loading(family, checkpoint, Path(source.folder), settings, tuning=tuning, shares_images=shares_images)
    progress.say(f"Model: {plan.describe()}.")
    with explained_failures(checkpoint):
        processor = family.load_processor(source.folder)
        model = _load_model(family, checkpoint, source.folder, progress, trust_remote_code=trusted,
                            use_safetensors=None if settings.allow_pickle else True, **plan.arrange(family.layout))
        if not plan.placement.max_memory and plan.quantization.mode == "none":
            model.to(plan.placement.device)
    _remember_origin(model, checkpoint, source)
    drop_unused_sampling(model)
    model.eval()
    return LoadedModel(model=model, processor=processor, family=family, family_name=family_name, checkpoint=checkpoint)


def drop_unused_sampling(model: Any) -> None:
    """Unset sampling values that a checkpoint which decodes greedily names all the same, as those of Vicuna do.

    They do nothing; but transformers refuses to save a model that has them, at the end of a training.
    """
    config = getattr(model, "generation_config", None)
    if config is not None and not config.do_sample:
        for name in SAMPLING_VALUES:
            setattr(config, name, None)


def silence_libraries() -> None:
    """Stop the libraries' own bars and chatter; warnings of ours are said once, in our words."""
    import transformers
    from huggingface_hub.utils import logging as hub_logging

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def is_trusted(checkpoint: str, named: str | None) -> bool:
    """Return whether the checkpoint's own code may run: only if it is named.

    Raises:
        SettingsError: If another checkpoint is named.
    """
    if named is None:
        return False
    if Path(named) != Path(checkpoint):
        raise SettingsError(f"model.trust_remote_code names '{named}', but '{checkpoint}' is loaded.",
                            f"Name the checkpoint itself (--trust-remote-code {checkpoint}), or leave it out.")
    return True


def read_config(checkpoint: str, revision: str | None = None) -> dict[str, Any]:
    """Return a checkpoint's config.json, from a folder or the hub.

    Raises:
        ModelError: If it cannot be had or names no model type.
    """
    path = Path(checkpoint) / "config.json"
    if not Path(checkpoint).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        with explained_hub_failures(checkpoint, revision), suppress(RemoteEntryNotFoundError):
            path = Path(hf_hub_download(checkpoint, "config.json", revision=revision))
    if not path.is_file():
        raise ModelError(f"'{checkpoint}' is not a checkpoint: config.json is missing.",
                         "Name a folder or a repository that holds config.json, the weights and the tokenizer.")
    config = read_json(path)
    if not config.get("model_type"):
        raise ModelError(f"'{checkpoint}': config.json names no model_type.",
                         'Add it, such as "model_type": "llava"; `medvqa models list` shows the families.')
    return config


@contextmanager
def explained_failures(checkpoint: str) -> Iterator[None]:
    """Turn what the hub, safetensors, transformers and torch raise into one ModelError that says what to do."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(f"'{checkpoint}' does not fit into the device's memory.",
                         "Use --quantization 4bit, --dtype bfloat16, a smaller model or another device.") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"'{checkpoint}' holds pickled objects that are no tensors; they are not loaded.",
                         "Take a checkpoint in safetensors.") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise explain_hub_failure(checkpoint, error) or _explain_fault(checkpoint, error) from error


def _explain_fault(checkpoint: str, error: Exception) -> ModelError:
    text = first_line(error)
    if "trust_remote_code" in str(error):
        return ModelError(f"'{checkpoint}' brings Python code of its own, which is not run unless it is trusted.",
                          f"If you have read it and trust it: --trust-remote-code {checkpoint}")
    if isinstance(error, OSError):
        return ModelError(f"'{checkpoint}' is incomplete: {text}", "Download the checkpoint again, or name another.")
    if isinstance(error, ImportError):
        return ModelError(f"'{checkpoint}' needs a package that is not installed: {text}", "Install that package.")
    return ModelError(f"'{checkpoint}' cannot be loaded: {text}",
                      "The checkpoint is damaged, incomplete or of another type; download it again.")


def _load_model(family: ModelFamily, checkpoint: str, folder: str, progress: Progress, **loading: Any) -> Any:
    """Return the model, every weight of which came from the checkpoint.

    A family may return what `from_pretrained` does, the model and what was missing, or only the model.
    """
    try:
        loaded: Any = family.load_model(folder, output_loading_info=True, **loading)
    except RuntimeError as error:
        if (mismatch := find_mismatch(family, checkpoint, folder, error, loading)) is None:
            raise
        raise mismatch from error
    if not isinstance(loaded, tuple):
        return loaded
    model, info = loaded
    check_loading_info(checkpoint, info, progress)
    return model


def _remember_origin(model: Any, checkpoint: str, source: Source) -> None:
    """Let the model, and adapters made on it, name the checkpoint and its commit instead of a folder of the cache."""
    model.name_or_path = checkpoint
    if hasattr(model, "config"):
        model.config.name_or_path = checkpoint
        model.config._commit_hash = source.commit or None  # noqa: SLF001 - where transformers 4 kept it
