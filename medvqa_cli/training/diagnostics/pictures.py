"""The pictures a model is shown, back from what its processor made of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from medvqa_cli.models.batches import PICTURES, join_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHANNELS = 3
GAP = 4


def find_pictures(tensors: Mapping[str, Any], image_processor: Any, most: int) -> list[torch.Tensor]:
    """Return pictures [3, height, width] in 0-1, normalisation undone; none if the tensors have an unknown form.

    Args:
        tensors: Image tensors of a batch: stacks [..., 3, height, width] of pictures or their tiles, or Qwen-VL's
            patches [N, values] with `image_grid_thw`; or the rows' image inputs, not joined.
        image_processor: What made them; its mean, deviation and patch sizes count.
        most: Most pictures.
    """
    if PICTURES in tensors:
        tensors = join_images(tensors[PICTURES])
    if "image_grid_thw" in tensors and tensors["pixel_values"].ndim == 2:
        found = _join_patches(tensors["pixel_values"], tensors["image_grid_thw"][:most], image_processor)
    else:
        found = [picture for tensor in tensors.values() if _holds_pictures(tensor)
                 for picture in tensor.flatten(0, -4)[:most]][:most]
    return [_undo_normalisation(picture, image_processor) for picture in found]


def _holds_pictures(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 4 and tensor.shape[-3] == CHANNELS


def _join_patches(patches: torch.Tensor, grids: torch.Tensor, image_processor: Any) -> list[torch.Tensor]:
    """Return the first frame of each image of Qwen-VL's patches.

    A row holds the values [3, frames, side, side] of a patch; rows run over blocks of merge x merge patches.
    """
    side, merge = image_processor.patch_size, image_processor.merge_size
    pictures, start = [], 0
    for frames, height, width in grids.tolist():
        rows = patches[start: start + height * width]
        start += frames * height * width
        blocks = rows.view(height // merge, width // merge, merge, merge, CHANNELS, -1, side, side)[:, :, :, :, :, 0]
        pictures.append(blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(CHANNELS, height * side, width * side))
    return pictures


def _undo_normalisation(picture: torch.Tensor, image_processor: Any) -> torch.Tensor:
    picture = picture.detach().float().cpu()
    if getattr(image_processor, "do_normalize", True) and getattr(image_processor, "image_mean", None) is not None:
        mean, deviation = (torch.tensor(_as_list(value)).view(-1, 1, 1)
                           for value in (image_processor.image_mean, image_processor.image_std))
        picture = picture * deviation + mean
    return picture.clamp(0.0, 1.0)


def _as_list(value: Any) -> list[float]:
    return [value] * CHANNELS if isinstance(value, float | int) else list(value)


def lay_out(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return pictures [3, height, width] side by side in rows as one, padded with black to the largest."""
    height, width = (max(picture.shape[axis] for picture in pictures) + GAP for axis in (1, 2))
    tiles = [functional.pad(picture, (0, width - picture.shape[2], 0, height - picture.shape[1]))
             for picture in pictures]
    columns = math.ceil(math.sqrt(len(tiles)))
    tiles += [torch.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [torch.cat(tiles[start: start + columns], dim=2) for start in range(0, len(tiles), columns)]
    return torch.cat(rows, dim=1)
