"""Where diagnostics are written to: TensorBoard's files, Weights & Biases."""

from __future__ import annotations

import html
import importlib
import importlib.util
import netrc
import os
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from medvqa_cli.errors import MissingDependencyError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.tracking import TrackingSettings

TITLES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}
WANDB_MODES = ("online", "offline", "disabled")
WANDB_URL = "https://api.wandb.ai"


class Tracker(Protocol):
    """Takes what a training shows of itself; `step` counts optimiser steps."""

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by tag."""

    def add_histogram(self, tag: str, values: torch.Tensor, step: int) -> None:
        """Add the distribution of values [N]."""

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Add a plain text."""

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Add a picture [3, height, width] of values in 0-1."""

    def close(self) -> None:
        """Write out what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        MissingDependencyError: Naming the package and the extra that brings it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(f"Tracking with {TITLES[name]}", name, "tracking")


def open_trackers(settings: TrackingSettings, run: Path, config: Mapping[str, Any], *, step: int,
                  progress: Progress) -> list[Tracker]:
    """Return the trackers of a run.

    Args:
        settings: Which ones.
        run: The run's folder, where all of them keep their files.
        config: The run's settings.
        step: Optimiser steps done; what an interrupted run wrote after them is left out.
        progress: Told where to look.

    Raises:
        MissingDependencyError: If one is not installed.
    """
    check_trackers(settings.report_to)
    found: list[Tracker] = []
    for name in settings.report_to:
        if name == "tensorboard":
            found.append(TensorBoardTracker(run / settings.tensorboard_dir, step))
            progress.say(f"TensorBoard: tensorboard --logdir {run / settings.tensorboard_dir}")
        else:
            mode = find_wandb_mode()
            found.append(WandbTracker(run, settings.wandb_project, config, mode))
            progress.say(f"Weights & Biases, offline: wandb sync {run / 'wandb'}/offline-*" if mode == "offline" else
                         f"Weights & Biases, {mode}: questions, answers and images are sent there.")
    return found


class TensorBoardTracker:
    """Writes TensorBoard's event files.

    Args:
        directory: Where to.
        step: Steps done: later ones of an interrupted run are purged.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None, flush_secs=10)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by tag."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def add_histogram(self, tag: str, values: torch.Tensor, step: int) -> None:
        """Add the distribution of values [N]."""
        self._writer.add_histogram(tag, values, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Add a plain text; the page would read it as Markdown."""
        self._writer.add_text(tag, f"<pre>{html.escape(text)}</pre>", step)

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Add a picture [3, height, width] of values in 0-1."""
        self._writer.add_image(tag, image, step)

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


class WandbTracker:
    """Writes to Weights & Biases, or its files where nobody is logged in.

    Args:
        run: The run's folder; its name names the W&B run.
        project: Project.
        config: Shown as the run's configuration.
        mode: online, offline or disabled.

    Raises:
        SettingsError: If it refuses, or cannot be reached.
    """

    def __init__(self, run: Path, project: str, config: Mapping[str, Any], mode: str) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._wandb = wandb
        try:
            self._run = wandb.init(project=project, name=run.name, dir=str(run), mode=mode, config=dict(config),
                                   settings=wandb.Settings(silent=True, console="off"))
        except wandb.errors.Error as error:
            raise SettingsError(f"Weights & Biases cannot be used: {error}",
                                "Set WANDB_MODE=offline, or leave it out of --report-to.") from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by tag."""
        self._run.log({**values, "step": step})

    def add_histogram(self, tag: str, values: torch.Tensor, step: int) -> None:
        """Add the distribution of values [N]."""
        self._run.log({tag: self._wandb.Histogram(values.float().cpu().tolist()), "step": step})

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Add a plain text."""
        self._run.log({tag: self._wandb.Html(f"<pre>{html.escape(text)}</pre>"), "step": step})

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Add a picture [3, height, width] of values in 0-1."""
        self._run.log({tag: self._wandb.Image(image.permute(1, 2, 0).numpy()), "step": step})

    def close(self) -> None:
        """Write out what is left."""
        self._run.finish()


def find_wandb_mode() -> str:
    """Return the mode that WANDB_MODE names, else online where the user is logged in, else offline.

    Raises:
        SettingsError: If WANDB_MODE names none.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")
    if mode not in WANDB_MODES:
        raise SettingsError(f"WANDB_MODE is '{mode}': it should be {', '.join(WANDB_MODES[:-1])} or {WANDB_MODES[-1]}.")
    return mode


def _is_logged_in() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_URL)).hostname or ""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
