"""Questions as the model is to see them: images masked, facts put before the question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prompts import check_prompt
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Presented:
    """Questions as the model is to see them.

    Attributes:
        samples: The questions.
        notes: What was done to them, as plain JSON values: "mask" (hit rates) and "knowledge" (coverage), each only
            where it was done.
        warnings: What a reader of later results has to know.
    """

    samples: list[VQASample]
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def present_samples(samples: Sequence[VQASample], settings: Settings, root: Path, folder: Path,
                    progress: Progress = SILENT, *, require_hits: bool = False) -> Presented:
    """Mask the images as `mask` says and add the facts that `knowledge` says.

    Args:
        samples: The questions.
        settings: `mask`, `knowledge` and `data.max_pixels` count; `prompt` is checked.
        root: Folder of the data set's original files, where the knowledge graph lies.
        folder: Folder of the store; masked images are kept below it.
        progress: Where to report.
        require_hits: Fail where fewer questions have a mask than `mask.require_hit_rate`, instead of warning.

    Raises:
        SettingsError: If the prompt's template or an exemplar is wrong.
        DataError: If an image, a mask or a graph cannot be read, or too few questions have a mask.
    """
    check_prompt(settings.prompt)
    presented = Presented(list(samples))
    if settings.knowledge.mode != "off":  # first: a crop takes away boxes, which name what the picture shows
        presented = _inform(presented, settings, root, progress)
    if settings.mask.mode != "none":
        presented = _mask(presented, settings, folder, progress, require_hits=require_hits)
    return presented


def apply_control(presented: Presented, settings: Settings) -> Presented:
    """Return questions as `infer.control` and `infer.option_rotation` put them; pictures are blanked by the encoder.

    Raises:
        DataError: If images cannot be shuffled, or no question shows options to rotate.
    """
    from medvqa_cli.data.controls import drop_images, rotate_options, shuffle_images

    shown, places, samples, notes = settings.infer.shown, settings.infer.option_rotation, presented.samples, {}
    if shown == "text-only":
        samples = drop_images(samples)
    elif shown in {"shuffled", "shuffled-modality"}:
        samples, others = shuffle_images(samples, settings.seed, same_modality=shown == "shuffled-modality")
        notes = {"shuffled": {"questions": len(samples), "other_modality": others}}
    if places:
        samples = rotate_options(samples, places, settings.prompt)
        if not samples:
            raise DataError(f"No question shows more than {places} options.",
                            "Options are moved on in questions that show them: see --show-options.")
    return Presented(samples, presented.notes | notes, presented.warnings)


def _mask(presented: Presented, settings: Settings, folder: Path, progress: Progress, *,
          require_hits: bool) -> Presented:
    from medvqa_cli.data.masking.masks import apply_masks, check_hit_rate, warn_hit_rate

    masked = apply_masks(presented.samples, settings.mask, folder / "masked", max_pixels=settings.data.max_pixels,
                         progress=progress)
    if require_hits:
        check_hit_rate(masked.report, settings.mask.require_hit_rate)
    warning = warn_hit_rate(masked.report)
    if warning:
        progress.warn(warning)
    return Presented(masked.samples, presented.notes | {"mask": masked.report},
                     (*presented.warnings, masked.report["note"], *([warning] if warning else [])))


def _inform(presented: Presented, settings: Settings, root: Path, progress: Progress) -> Presented:
    from medvqa_cli.data.knowledge.facts import attach_knowledge

    result = attach_knowledge(presented.samples, settings.knowledge, root, progress=progress)
    return Presented(result.samples, presented.notes | {"knowledge": result.report},
                     (*presented.warnings, result.report["note"]))
