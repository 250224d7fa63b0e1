"""A conversion written as an ordinary Hugging Face folder, shard by shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.errors import ModelError
from medvqa_cli.models.llava_mistral.conversion import make_generation, name_saved
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from medvqa_cli.models.llava_mistral.conversion import Conversion
    from medvqa_cli.models.weight_files import StoredTensor


def write_checkpoint(conversion: Conversion, directory: Path, *, max_shard_size: str = "5GB",
                     progress: Progress = SILENT) -> list[str]:
    """Write configuration, processor and weights, and return the names of the weight files.

    Only the shard that is being written is held in memory.

    Args:
        conversion: What is written.
        directory: An existing folder.
        max_shard_size: Largest weight file, such as "5GB"; a larger tensor gets a file of its own.
        progress: Counts tensors.

    Raises:
        ModelError: If a tensor holds values that are no numbers.
    """
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    tensors = {name_saved(name): tensor for name, tensor in conversion.tensors.items()}
    split = split_state_dict_into_shards_factory(
        tensors, get_storage_size=lambda tensor: tensor.num_bytes, filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size)
    progress.start("Converting", len(tensors), "tensor")
    for file, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            shard[name] = _read_whole(tensors[name])
            progress.advance(note=file)
        save_file(shard, directory / file, metadata={"format": "pt"})
        del shard
    progress.finish()
    if split.is_sharded:
        write_json(directory / "model.safetensors.index.json",
                   {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    conversion.config.save_pretrained(directory)
    make_generation(conversion).save_pretrained(directory)
    conversion.processor.save_pretrained(directory)
    return list(split.filename_to_tensors)


def _read_whole(stored: StoredTensor) -> torch.Tensor:
    """Return a tensor after making sure that it holds finite numbers: a damaged download often does not."""
    tensor = stored.read()
    if not tensor.isfinite().all():
        raise ModelError(f"The tensor '{stored.name}' in '{stored.file}' holds NaN or infinite values.",
                         "The file is damaged; download the checkpoint again.")
    return tensor.contiguous()
