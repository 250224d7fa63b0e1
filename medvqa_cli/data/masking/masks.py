"""Show the model only the segmented part of a picture: cropped to it, or black around it.

The region of a picture comes from the first of these that is there and not empty:

1. the class maps its sample names (`medvqa_cli.data.masking.files`);
2. its boxes (SLAKE's X-rays have no mask: the mask.png beside them is the picture with its diagnosis drawn on it);
3. a mask in one of the usual places, if its sample names none (`find_mask`).

Masks and boxes were drawn by people who looked at the picture: a model that is shown only what they mark knows more
than the whole picture tells, so the report says that it is privileged information. What a crop leaves out can no longer
be answered: questions about position, size or plane become harder, or wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medvqa_cli.data.images import MAX_PIXELS, read_image
from medvqa_cli.data.masking.files import MaskFiles, find_mask
from medvqa_cli.data.masking.panels import PanelFolder, draw_panel
from medvqa_cli.data.masking.regions import BoxSet, ClassMap, Window, choose_labels, find_window, shift_boxes
from medvqa_cli.data.masking.report import Outcome, check_hit_rate, summarize_outcomes, warn_hit_rate
from medvqa_cli.progress import SILENT, Progress, track
from medvqa_cli.records import Box

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import MaskSettings

__all__ = ["MaskedSamples", "apply_masks", "check_hit_rate", "warn_hit_rate"]

FORMAT = 1
"""Part of every written file's name: raise it where the same input gives other pixels."""

Origin = tuple[Box, ...] | tuple[Path, ...]
"""What a region is drawn from: boxes, or the files of class maps."""


@dataclass(frozen=True, slots=True)
class MaskedSamples:
    """Samples whose images are masked, in the order given, and what was done (`medvqa_cli.data.masking.report`)."""

    samples: list[VQASample]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cut:
    """A written picture: its file, the part of the original it shows, and the share of the original's area it keeps."""

    path: str
    window: Window
    kept_area: float
    source: str
    is_fallback: bool


def apply_masks(samples: Sequence[VQASample], settings: MaskSettings, folder: Path, *, max_pixels: int = MAX_PIXELS,
                progress: Progress = SILENT) -> MaskedSamples:
    """Return samples that show only the segmented part of their images.

    Each result is one PNG below `folder`, under a name made of the picture's path, size and time, its region and the
    settings; a file that is there already is used again. One picture at a time is held in memory. A picture without a
    region stays as it is, and its question counts as a miss.

    A sample whose picture was cropped has its boxes in the crop's pixels (clipped; left out where nothing remains) and
    no masks any more; under "masked" both stay, as they still fit. Boxes belong to a sample's first image. Of several
    images each has its own mask if there are as many masks as images, and none otherwise.

    Args:
        samples: The questions; those without an image are left as they are.
        settings: What to show.
        folder: Where pictures are written; those to look at (`settings.debug`) in its folder debug.
        max_pixels: A picture or mask with more pixels than this is refused.
        progress: Counts pictures.

    Raises:
        DataError: If a picture or mask is missing, broken or too large, a mask has colours, or a label file is wrong.
        ValueError: If the mode is "none".
    """
    if settings.mode == "none":
        raise ValueError("the mode 'none' masks nothing")
    cuts: list[list[Cut | None]] = [[None] * len(sample.images) for sample in samples]
    unknown: Counter[int] = Counter()
    cutter = _Cutter(samples, settings, folder.absolute(), max_pixels)
    pictures = _group_by_picture(samples)
    for path, places in track(pictures.items(), progress, "Masking images", len(pictures), "image"):
        picture = _Picture(Path(path), cutter)
        for place, number in places:
            cuts[place][number] = picture.cut(samples[place], number)
        unknown.update(picture.unknown)
    pairs = list(zip(samples, cuts, strict=True))
    report = summarize_outcomes((_summarize(sample, parts) for sample, parts in pairs if parts), settings.mode,
                                settings.classes, unknown)
    return MaskedSamples([_replace_images(sample, parts, settings.mode) for sample, parts in pairs], report)


def _group_by_picture(samples: Sequence[VQASample]) -> dict[str, list[tuple[int, int]]]:
    """Return for each picture where it is used: the places of its samples, and its number among their images."""
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, sample in enumerate(samples):
        for number, path in enumerate(sample.images):
            groups[path].append((place, number))
    return groups


def _summarize(sample: VQASample, cuts: Sequence[Cut | None]) -> Outcome:
    hits = [cut for cut in cuts if cut]
    if not hits:
        return Outcome(sample.modality)
    return Outcome(sample.modality, sum(cut.kept_area for cut in hits) / len(hits), hits[0].source,
                   any(cut.is_fallback for cut in hits))


def _replace_images(sample: VQASample, cuts: Sequence[Cut | None], mode: str) -> VQASample:
    if not any(cuts):
        return sample
    images = tuple(cut.path if cut else path for path, cut in zip(sample.images, cuts, strict=True))
    if mode == "masked":
        return dataclasses.replace(sample, images=images)
    boxes = shift_boxes(sample.boxes, cuts[0].window) if cuts[0] else sample.boxes
    return dataclasses.replace(sample, images=images, boxes=boxes, masks=())


class _Cutter:
    """What all pictures share."""

    def __init__(self, samples: Sequence[VQASample], settings: MaskSettings, folder: Path, max_pixels: int) -> None:
        self.settings = settings
        self.folder = folder
        self.max_pixels = max_pixels
        self.files = MaskFiles(max_pixels)
        self.panels = PanelFolder(folder / "debug", settings.debug, {sample.modality for sample in samples})


class _Picture:
    """One picture while its questions are gone through; everything that several of them need is made once."""

    def __init__(self, path: Path, cutter: _Cutter) -> None:
        self._path = path
        self._cutter = cutter
        self._layers: dict[Origin, list[ClassMap | BoxSet]] = {}
        self._cuts: dict[object, Cut | None] = {}

    @cached_property
    def _image(self) -> Image.Image:
        return read_image(self._path, self._cutter.max_pixels)

    @cached_property
    def _legacy_mask(self) -> Path | None:
        return find_mask(self._path)

    @property
    def unknown(self) -> set[int]:
        """Classes that occur and that their label file does not name."""
        maps = (layer for layers in self._layers.values() for layer in layers if isinstance(layer, ClassMap))
        return {number for layer in maps if layer.names for number in layer.numbers if number not in layer.names}

    def cut(self, sample: VQASample, number: int) -> Cut | None:
        """Return the part of the picture that counts for a question; None if there is no region."""
        for source, origin in self._list_origins(sample, number):
            layers = self._load(origin)
            labels = set().union(*(layer.labels for layer in layers))
            chosen, is_fallback = choose_labels(labels, sample, self._cutter.settings.classes)
            key = (origin, chosen, is_fallback)
            if key not in self._cuts:
                self._cuts[key] = self._make_cut(sample, source, layers, chosen, is_fallback)
            if cut := self._cuts[key]:
                return cut
        return None

    def _list_origins(self, sample: VQASample, number: int) -> Iterator[tuple[str, Origin]]:
        masks = sample.masks
        if len(sample.images) > 1:
            masks = masks[number:number + 1] if len(masks) == len(sample.images) else ()
        if masks:
            yield "class map", tuple(map(Path, masks))
        if sample.boxes and number == 0:
            yield "boxes", sample.boxes
        if not sample.masks and self._legacy_mask:
            yield "mask folder", (self._legacy_mask,)

    def _load(self, origin: Origin) -> list[ClassMap | BoxSet]:
        if origin not in self._layers:
            is_boxes = isinstance(origin[0], Box)
            self._layers[origin] = ([BoxSet(cast("tuple[Box, ...]", origin))] if is_boxes else
                                    [self._cutter.files.read(cast("Path", path)) for path in origin])
        return self._layers[origin]

    def _make_cut(self, sample: VQASample, source: str, layers: Sequence[ClassMap | BoxSet], labels: frozenset[str],
                  is_fallback: bool) -> Cut | None:
        import numpy as np

        settings, panels = self._cutter.settings, self._cutter.panels
        region = np.logical_or.reduce([layer.draw(labels, self._image.size) for layer in layers])
        if not region.any():
            return None
        window = find_window(region, settings.pad_ratio) if settings.mode == "crop" else (0, 0, *self._image.size)
        path = self._name_file(region, window)
        if not path.exists():
            _save(_render(self._image, region, window, settings.mode), path)
        if panels.wants(sample.modality):
            title = f"{sample.question}  [{', '.join(sorted(labels))}]"
            panels.write(sample, draw_panel(self._image, region, window, read_image(path), title))
        return Cut(str(path), window, _measure(region, window, settings.mode), source, is_fallback)

    def _name_file(self, region: Any, window: Window) -> Path:
        facts = self._path.stat()
        mode = self._cutter.settings.mode
        name = repr((FORMAT, str(self._path), facts.st_size, facts.st_mtime_ns, mode, window)).encode()
        key = hashlib.sha256(name + (region.tobytes() if mode == "masked" else b"")).hexdigest()
        return self._cutter.folder / key[:2] / f"{key[:32]}.png"


def _measure(region: Any, window: Window, mode: str) -> float:
    """Return the share of the picture's area that a result keeps."""
    left, top, right, bottom = window
    return float((right - left) * (bottom - top) / region.size if mode == "crop" else region.mean())


def _render(image: Image.Image, region: Any, window: Window, mode: str) -> Image.Image:
    from PIL import Image

    if mode == "crop":
        return image.crop(window)
    return Image.composite(image, Image.new("RGB", image.size), Image.fromarray(region))


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG that a reader sees whole or not at all; one channel where all three are equal: half the time."""
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    image.save(part, "PNG", compress_level=1)
    part.replace(path)
