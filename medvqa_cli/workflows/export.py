"""`medvqa data export`: the selected questions in a form that other programs read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.data import choose_samples, open_data

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.settings.schema import Settings


def export_data(settings: Settings, directory: Path, form: str, *, image_root: Path | None = None,
                copy_images: bool = False, overwrite: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the questions that the settings select, a file for each split; the images are shown whole, without facts.

    Args:
        settings: What is selected.
        directory: Folder to write to.
        form: "llava", "unimedvl", "parquet" or "jsonl"; see `medvqa_cli.data.export`.
        image_root: Folder that written paths start from; the deepest one that holds all pictures if None.
        copy_images: Copy the pictures below the folder.
        overwrite: Write into a folder that is not empty.
        progress: Where to report.

    Returns:
        "files" and "counts" by split, "image_root", "pictures", and "outside": those named by their absolute paths.

    Raises:
        SettingsError: If there is no such form.
        DataError: If the folder is not empty, or nothing is left to write.
        MedVQAError: As `choose_samples`.
    """
    from medvqa_cli.data.export import FORMS, export_samples

    known = next((name for name in FORMS if name == form), None)
    if known is None:
        raise SettingsError(f"There is no export form '{form}'.", f"Take one of {', '.join(FORMS)}.")
    prepared = open_data(settings, progress)
    splits = {split: choose_samples(settings, split, progress) for split in prepared.counts}
    report = export_samples(splits, directory, known, dataset=prepared.name, image_root=image_root,
                            images="copy" if copy_images else "reference", overwrite=overwrite,
                            max_pixels=settings.data.max_pixels, progress=progress)
    return {"files": {split: str(path) for split, path in report.files.items()}, "counts": report.counts,
            "image_root": str(report.image_root) if report.image_root else None, "pictures": report.num_pictures,
            "outside": report.num_outside}
