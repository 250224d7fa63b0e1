"""Phi-4-multimodal's pictures in tiles, without torchvision, and its processor.

Tiles: Abouelenin et al. 2025, Phi-4-Mini Technical Report, arXiv:2503.01743, section 2.2 (dynamic multi-crop).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import ImagesKwargs

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers for ways of resizing."""
INTERPOLATIONS = {BILINEAR: "bilinear", BICUBIC: "bicubic"}
THINNEST = 10
"""Least pixels on either side of a picture once it is scaled into its tiles."""
LIBRARY_PATCHES = 32
"""Patches on a side of a tile in the published model; transformers' own counts of tokens hold for no other number."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles that a picture is laid out on, and its size in pixels once it fills one direction of them.

    What remains on the right or below is padding.
    """

    columns: int
    rows: int
    side: int
    width: int
    height: int

    def mark_patches(self, patch_size: int) -> torch.Tensor:
        """Return the patches that hold some of the picture, [rows x patches, columns x patches], bool."""
        patches = self.side // patch_size
        down, across = self.rows * patches, self.columns * patches
        mask = torch.zeros(down, across, dtype=torch.bool)
        mask[: down - (self.rows * self.side - self.height) // patch_size,
             : across - (self.columns * self.side - self.width) // patch_size] = True
        return mask


def plan_grid(width: int, height: int, side: int, most_tiles: int) -> Grid:
    """Return the tiles for a picture of `width` x `height` pixels.

    As many tiles as cover it at its own size; where these are more than `most_tiles`, the grid nearest in shape, of
    grids equally near the largest that the picture fills by half. The picture is scaled until it touches two opposite
    edges.

    Raises:
        DataError: If the picture is so thin that hardly anything of it would remain.
    """
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    if columns * rows > most_tiles:
        columns, rows = _find_nearest_grid(width, height, side, most_tiles)
    across, down = columns * side / width, rows * side / height
    size = ((columns * side, int(height * across)) if across < down else (int(width * down), rows * side))
    if min(size) < min(THINNEST, side):
        raise DataError(f"A picture of {width} x {height} pixels is too thin for this model: in its tiles it would be "
                        f"{size[0]} x {size[1]} pixels.", "Crop the picture, or leave it out.")
    return Grid(columns, rows, side, *size)


def _find_nearest_grid(width: int, height: int, side: int, most_tiles: int) -> tuple[int, int]:
    grids = sorted(((columns, rows) for columns in range(1, most_tiles + 1) for rows in range(1, most_tiles + 1)
                    if columns * rows <= most_tiles), key=math.prod)
    distances = [abs(width / height - columns / rows) for columns, rows in grids]
    nearest = [grid for grid, distance in zip(grids, distances, strict=True) if distance == min(distances)]
    filled = [grid for grid in nearest[1:] if width * height > 0.5 * side * side * math.prod(grid)]
    return filled[-1] if filled else nearest[0]


def split_tiles(plane: torch.Tensor, side: int) -> torch.Tensor:
    """Cut [..., rows x side, columns x side] into tiles [rows x columns, ..., side, side], row by row."""
    rows = [row.split(side, dim=-1) for row in plane.split(side, dim=-2)]
    return torch.stack([tile for row in rows for tile in row])


def count_tokens(mask: torch.Tensor, patches: int) -> int:
    """Return how many tokens the model makes of a picture whose patches are marked in `mask`.

    Two by two patches of a tile are one token; only those whose upper left patch holds some of the picture count. Each
    row of tokens ends with a separator, in the picture and in the overview, and one stands between these two.
    """
    kept = split_tiles(mask, patches)[:, ::2, ::2]
    rows = mask[:, 0].view(-1, patches)[:, ::2].sum()
    overview = math.ceil(patches / 2)
    return int(kept.sum() + rows) + 1 + overview * (overview + 1)


class Phi4PictureSettings(ImagesKwargs, total=False):  # type: ignore[call-arg]  # a TypedDict
    """Settings of a picture beside those of every image processor."""

    patch_size: int
    dynamic_hd: int


class Phi4MultimodalImageProcessorPil(PilBackend):
    """Prepares pictures as transformers' Phi4MultimodalImageProcessor defines it, which needs torchvision.

    An overview and up to `dynamic_hd` tiles of `size`, with a mask of the patches that are not padding. Settings are
    saved under the name of transformers' class, and read from it. Resizing is torch's own interpolation; whether every
    pixel equals torchvision's was not measured: it is not installed where this was written.

    Differs: tokens are counted for tiles of any size, not only of 32 x 32 patches, and the mask is of whole numbers:
    as fractions it is summed wrongly in bfloat16.
    """

    resample = BICUBIC
    size = {"height": 448, "width": 448}  # noqa: RUF012 - transformers copies it
    patch_size = 14
    dynamic_hd = 36
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    valid_kwargs = Phi4PictureSettings
    model_input_names = ("image_pixel_values", "image_sizes", "image_attention_mask")

    def _preprocess(self, images: Sequence[np.ndarray], *, size: Any, patch_size: int, dynamic_hd: int,
                    return_tensors: str | None = None, **settings: Any) -> BatchFeature:
        """Return pictures [3, height, width] as the model takes them.

        Returns:
            image_pixel_values [images, 1 + tiles, 3, side, side], the overview first, pictures in fewer tiles than
            others padded with zeros; image_sizes [images, 2], height and width of the tiles in pixels;
            image_attention_mask [images, 1 + tiles, patches, patches]; num_img_tokens, a number for each picture.
        """
        side, patches = size.height, size.height // patch_size
        pixels, masks, sizes, counts = [], [], [], []
        for image in images:
            grid = plan_grid(image.shape[2], image.shape[1], side, dynamic_hd)
            mask = grid.mark_patches(patch_size)
            pixels.append(self._cut(torch.from_numpy(image), grid, settings))
            masks.append(torch.cat([torch.ones(1, patches, patches, dtype=torch.bool), split_tiles(mask, patches)]))
            sizes.append([grid.rows * side, grid.columns * side])
            counts.append(count_tokens(mask, patches))
        return BatchFeature({
            "image_pixel_values": _stack_tiles(pixels, 0), "image_attention_mask": _stack_tiles(masks, 1).long(),
            "image_sizes": torch.tensor(sizes), "num_img_tokens": counts}, tensor_type=return_tensors)

    def _cut(self, image: torch.Tensor, grid: Grid, settings: dict[str, Any]) -> torch.Tensor:
        """Return a picture [3, height, width] of bytes as overview and tiles [1 + tiles, 3, side, side]."""
        scaled = functional.interpolate(image[None], (grid.height, grid.width), mode="bilinear", antialias=True)
        right, below = grid.columns * grid.side - grid.width, grid.rows * grid.side - grid.height
        values = self._normalize(functional.pad(scaled, (0, right, 0, below), value=255), settings)
        overview = functional.interpolate(values, (grid.side, grid.side),
                                          mode=INTERPOLATIONS[int(settings["resample"])], antialias=False)
        return torch.cat([overview, split_tiles(values[0], grid.side)])

    def _normalize(self, pixels: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
        """Return bytes [1, 3, height, width] as numbers of mean 0 and deviation 1 by the settings."""
        values = pixels.float() * (settings["rescale_factor"] if settings["do_rescale"] else 1)
        if not settings["do_normalize"]:
            return values
        mean, deviation = (torch.tensor(settings[name]).view(1, -1, 1, 1) for name in ("image_mean", "image_std"))
        return (values - mean) / deviation


def _stack_tiles(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    """Stack tensors of different length, filled up with `value` behind."""
    most = max(map(len, tensors))
    return torch.stack([torch.cat([tensor, tensor.new_full((most - len(tensor), *tensor.shape[1:]), value)])
                        for tensor in tensors])


def load_phi4_processor(checkpoint: str) -> Any:
    """Return a checkpoint's processor of pictures, sound and text, with or without torchvision.

    Pictures are prepared by transformers' own class where torchvision is installed and tiles are as published. Sound
    is never processed here; what the checkpoint says of it is kept.
    """
    from transformers import AutoTokenizer, Phi4MultimodalFeatureExtractor, Phi4MultimodalProcessor

    settings, _ = Phi4MultimodalProcessor.get_processor_dict(checkpoint)
    return Phi4MultimodalProcessor.from_args_and_dict(
        [load_pictures(checkpoint), Phi4MultimodalFeatureExtractor.from_pretrained(checkpoint),
         AutoTokenizer.from_pretrained(checkpoint)], settings)


def load_pictures(checkpoint: str) -> Any:
    """Return a checkpoint's image processor."""
    import transformers
    from transformers.utils import is_torchvision_available

    ours = Phi4MultimodalImageProcessorPil.from_pretrained(checkpoint)
    if is_torchvision_available() and ours.size.height // ours.patch_size == LIBRARY_PATCHES:
        return transformers.Phi4MultimodalImageProcessor.from_pretrained(checkpoint)
    return ours
