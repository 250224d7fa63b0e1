"""Plugins, settings, metrics and data: what can be checked without a model, and without torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from medvqa_cli import plugins
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.workflows.checks.outcome import FaultError, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.schema import Settings


def list_basics(settings: Settings, portion: Settings, progress: Progress, only: Sequence[str] = ()) -> list[Step]:
    """Return the steps that need no model.

    Args:
        settings: The user's own.
        portion: The same with the data that are used here.
        progress: Where preparing data is reported.
        only: Names of the steps to take; empty takes all.
    """
    steps = [Step("plugins", check_plugins), Step("configs", partial(check_configs, settings)),
             Step("metrics", check_metrics), Step("data", partial(check_samples, portion, progress))]
    return [step for step in steps if not only or step.name in only]


def check_plugins() -> str:
    """Load every registered data set and model family.

    Raises:
        FaultError: Naming each that does not load, and why.
    """
    faults = [registry.failure(name) for registry in plugins.REGISTRIES.values() for name in registry.names()]
    if faults := [fault for fault in faults if fault]:
        raise FaultError(" ".join(faults), "Fix or uninstall the package it comes from.")
    return f"{len(plugins.datasets.names())} data sets, {len(plugins.models.names())} model families load"


def check_configs(settings: Settings) -> str:
    """Check that the settings survive being written and read, that their names lead somewhere, and that they agree.

    Raises:
        FaultError: If they change when they are written and read again.
        MedVQAError: If a data set, model, family, prompt or kind of training does not hold.
    """
    from medvqa_cli.data.prompts import check_prompt
    from medvqa_cli.workflows.models import choose_model
    from medvqa_cli.workflows.sources import find_source

    if make_settings(to_tree(settings)) != settings:
        raise FaultError("The settings change when they are written and read again.")
    check_prompt(settings.prompt)
    data = find_source(settings).name
    model = ""
    if settings.model.family:
        model = f"family {plugins.models.resolve(settings.model.family)}"
    if settings.model.name and not settings.model.scratch:
        model = f"model {choose_model(settings).checkpoint}"
    return f"data set {data}, {model or 'no model named'}"


def check_metrics() -> str:
    """Compare metrics with values worked out by hand.

    Raises:
        FaultError: If one differs.
    """
    from medvqa_cli.scoring.answers import match_exactly, parse_yes_no, score_tokens
    from medvqa_cli.scoring.calibration import bin_confidences, expected_calibration_error

    _expect("yes/no parsing", [parse_yes_no(text) for text in ("Yes, there is a nodule", "The image is normal")],
            ["yes", None])
    _expect("exact match", match_exactly("Left  Lung.", ["left lung"]), expected=True)
    _expect("token F1", round(score_tokens("left lung", ["left upper lung"]).f1, 6), 0.8)
    error = expected_calibration_error(bin_confidences([0.7, 0.7, 0.9, 0.9], [True, False, True, True], 10))
    _expect("calibration error", round(error, 6), 0.15)
    return "yes/no parsing, exact match, token F1 and calibration error agree with values worked out by hand"


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise FaultError(f"{what}: expected {expected!r}, found {found!r}")


def check_samples(settings: Settings, progress: Progress) -> str:
    """Read the test split, and the picture of its first question.

    Raises:
        MedVQAError: If the data cannot be had, or are faulty.
    """
    from medvqa_cli.data.images import read_image
    from medvqa_cli.workflows.data import load_samples

    samples = load_samples(settings, settings.data.test_split, progress)
    picture = next((path for sample in samples for path in sample.images), None)
    if picture is None:
        return f"{settings.data.dataset}: {len(samples)} test questions, no picture"
    first = read_image(picture, max_pixels=settings.data.max_pixels)
    return (f"{settings.data.dataset}: {len(samples)} test questions; the first picture is "
            f"{first.width} x {first.height} pixels")
