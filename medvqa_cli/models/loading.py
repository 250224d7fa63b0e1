"""Checkpoint, number format, device: one place that loads any family, with errors a user can act on."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.protocol import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from medvqa_cli.models.protocol import ModelFamily
    from medvqa_cli.settings.model import ModelSettings


def load_checkpoint(family: ModelFamily, family_name: str, checkpoint: str, settings: ModelSettings) -> LoadedModel:
    """Load a checkpoint's processor and model, in evaluation mode on its device.

    Raises:
        ModelError: If the checkpoint is missing, damaged, gated, of another type, or too large for the device.
    """
    silence_libraries()
    device = choose_device(settings.device)
    loading: dict[str, Any] = {"dtype": choose_dtype(settings.dtype, device),
                               "attn_implementation": choose_attention(settings.attention)}
    if settings.revision and not Path(checkpoint).is_dir():
        loading["revision"] = settings.revision
    with explained_failures(checkpoint):
        processor = family.load_processor(checkpoint)
        model = family.load_model(checkpoint, **loading)
        model.to(device)
    model.eval()
    return LoadedModel(model=model, processor=processor, family=family, family_name=family_name, checkpoint=checkpoint)


def silence_libraries() -> None:
    """Stop the libraries' own bars and chatter; warnings of ours are said once, in our words."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def choose_device(wanted: str) -> torch.device:
    """Return the device for a setting.

    Raises:
        ModelError: If the device asked for is not there.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present[wanted]:
        raise ModelError(f"The device '{wanted}' is not available on this machine.", "Use --device auto or cpu.")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the number format for a setting: auto is bfloat16 on a GPU that has it, else float32."""
    import torch

    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def choose_attention(wanted: str) -> str:
    """Return transformers' name of an attention implementation.

    Raises:
        ModelError: If flash attention is asked for and not installed.
    """
    if wanted == "flash":
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise ModelError("Flash attention is not usable here: it needs the package 'flash-attn' and a CUDA GPU.",
                             "Use --attention auto, or: pip install 'medvqa-cli[flash]' --no-build-isolation")
        return "flash_attention_2"
    return "sdpa" if wanted == "auto" else wanted


def read_config(checkpoint: str, revision: str | None = None) -> dict[str, Any]:
    """Return a checkpoint's config.json, from a folder or the hub.

    Raises:
        ModelError: If it cannot be had or names no model type.
    """
    with explained_failures(checkpoint):
        path = Path(checkpoint) / "config.json"
        if not Path(checkpoint).is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(checkpoint, "config.json", revision=revision))
        if not path.is_file():
            raise ModelError(f"'{checkpoint}' is not a checkpoint: config.json is missing.",
                             "Name a folder that holds config.json, the weights and the tokenizer.")
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is damaged: {error}.", "Download the checkpoint again.") from error
    if not isinstance(config, dict) or not config.get("model_type"):
        raise ModelError(f"'{checkpoint}': config.json names no model_type.", "Name its family with --family.")
    return config


@contextmanager
def explained_failures(checkpoint: str) -> Iterator[None]:
    """Turn what the hub, safetensors and torch raise into one ModelError that says what to do."""
    import torch
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    try:
        yield
    except hub.GatedRepoError as error:
        raise ModelError(f"The model '{checkpoint}' is gated: its licence must be accepted first.",
                         f"Accept it at https://huggingface.co/{checkpoint}, then run `hf auth login`.") from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        raise ModelError(f"There is no model '{checkpoint}' on the hub, nor a folder of that name.",
                         "Check the spelling (`medvqa models list`); a private model needs `hf auth login`.") from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError) as error:
        raise ModelError(_unreachable(checkpoint), _FETCH.format(checkpoint=checkpoint)) from error
    except torch.OutOfMemoryError as error:
        raise ModelError(f"'{checkpoint}' does not fit into the device's memory.",
                         "Use a smaller model, another device, or --dtype bfloat16.") from error
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"'{checkpoint}' cannot be loaded: {_first_line(error)}",
                         "The checkpoint is damaged, incomplete or of another type; download it again.") from error
    except OSError as error:
        raise _explain_missing_file(checkpoint, error) from error


_FETCH = ("Where there is a network, fetch it with `hf download {checkpoint}`; or name a local folder: "
          "--model PATH, or `aliases.models` in the configuration file.")


def _unreachable(checkpoint: str) -> str:
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    reason = "offline mode is on (HF_HUB_OFFLINE)" if offline else "the hub cannot be reached"
    return f"The model '{checkpoint}' is not on this machine and {reason}."


def _explain_missing_file(checkpoint: str, error: OSError) -> ModelError:
    if Path(checkpoint).is_dir():
        return ModelError(f"'{checkpoint}' is incomplete: {_first_line(error)}",
                          "Download the checkpoint again, or name another folder.")
    return ModelError(_unreachable(checkpoint), _FETCH.format(checkpoint=checkpoint))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
