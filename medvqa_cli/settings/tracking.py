"""Settings of what is shown of a training while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from medvqa_cli.settings.section import Fraction, Section


class TrackingSettings(Section):
    """Diagnostics: probe answers always; curves, histograms, texts and pictures where `report_to` says."""

    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers to write to: tensorboard, wandb, or both. events.jsonl is always written."""
    tensorboard_dir: Path = Path("tensorboard")
    """Folder of TensorBoard's files, inside the run's folder."""
    wandb_project: Annotated[str, Field(min_length=1)] = "medvqa"
    """Project in Weights & Biases. Without a login its files stay in the run's folder."""
    probe_questions: NonNegativeInt = 32
    """Validation questions answered again and again while training, half of them closed; 0 none."""
    probe_fraction: Fraction = 0.25
    """Answer them each time this share of the steps is done, and at the end; 0 only at the end."""
    probe_steps: PositiveInt | None = None
    """Answer them after so many optimiser steps instead."""
    probe_tokens: PositiveInt | None = None
    """Most tokens of a probe's answer; infer.max_new_tokens if not given."""
    probe_examples: NonNegativeInt = 4
    """Open and closed answers of each kind written out at every probe."""
    histogram_steps: NonNegativeInt = 200
    """Optimiser steps between histograms of the loss and norms of the weights; 0 never."""
    image_steps: NonNegativeInt = 500
    """Optimiser steps between grids of training images; 0 never."""
    images: PositiveInt = 16
    """Most pictures of a grid."""
    text_previews: NonNegativeInt = 4
    """Training questions shown in full, as the model sees them, at the start."""
    length_questions: NonNegativeInt = 256
    """Training questions whose tokens are counted at the start, drawn with the seed."""
