"""`medvqa data show`: a look at questions, as text, as pictures, or as the model would see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.data.selection import draw_subsample
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.data import load_samples

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


def show_samples(settings: Settings, split: str, count: int, seed: int, progress: Progress = SILENT) -> list[VQASample]:
    """Return a few questions drawn at random from those the settings select.

    Raises:
        SettingsError: If `count` is below 1.
        MedVQAError: As `load_samples`.
    """
    if count < 1:
        raise SettingsError(f"The number of questions to show is {count}: it should be at least 1.")
    return draw_subsample(load_samples(settings, split, progress), count, seed)


def draw_sample(sample: VQASample, path: Path) -> None:
    """Draw a question's pictures with their boxes, the question and the answer to a picture file.

    Raises:
        DataError: If a picture cannot be read, or the file's name ends with neither .png nor .jpg.
        OSError: If the file cannot be written.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise DataError(f"'{path}' is no name for a picture.", "End it with .png or .jpg.")
    from medvqa_cli.data.drawing import draw_sample as draw

    path.parent.mkdir(parents=True, exist_ok=True)
    draw(sample).save(path)


def render_prompt(sample: VQASample, settings: Settings) -> str:
    """Return the conversation that a model would see of a question, and the reply that training would teach.

    Raises:
        SettingsError: If the prompt's template or an exemplar is wrong.
    """
    from medvqa_cli.data import prompts

    return prompts.render_prompt(sample, settings.prompt)
