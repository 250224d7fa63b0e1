"""Confidence of the answers that `medvqa infer` gives: recalibrated, and too low a one marked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.recalibrating import warn_of_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import Prediction
    from medvqa_cli.scoring.recalibration import Calibrator
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Doubt:
    """States how sure an answer is, and whether that is too little.

    Args:
        calibrator: Recalibrates; None: confidences are as the model has them.
        least: Answers below abstain; None: none does.
    """

    calibrator: Calibrator | None
    least: float | None

    def judge(self, prediction: Prediction) -> Prediction:
        """Return the prediction with its confidence, and with whether it abstains; one without confidence does.

        The confidence is by the method that the calibrator learnt from, and absent where it learnt nothing about such
        questions; without a calibrator it is the probability among candidates where some were offered, else the
        geometric mean of its tokens' probabilities.

        Raises:
            DataError: If a log-probability is no number.
        """
        from medvqa_cli.evaluation.details import read_confidence
        from medvqa_cli.scoring.calibration.bins import EDGE

        if self.calibrator is None:
            sure = read_confidence(prediction, "logits" if prediction.candidates else "likelihood")
        else:
            raw = read_confidence(prediction, self.calibrator.source)  # type: ignore[arg-type]
            is_known = raw is not None and self.covers(prediction)
            sure = self._recalibrate(self.calibrator, raw, prediction) if raw is not None and is_known else None
        return dataclasses.replace(prediction, confidence=sure,
                                   abstains=self.least is not None and (sure is None or sure < self.least - EDGE))

    def covers(self, prediction: Prediction) -> bool:
        """Return whether an answer is to a question of a kind that the calibrator, if there is one, learnt from."""
        from medvqa_cli.evaluation.questions import classify_answered

        return self.calibrator is None or classify_answered(prediction) in self.calibrator.kinds

    def count_silent(self, judged: Sequence[Prediction]) -> tuple[int, int]:
        """Return how many judged answers have no confidence: to questions of other kinds, and told none."""
        silent = [self.covers(row) for row in judged if row.confidence is None]
        return silent.count(False), silent.count(True)

    def warn(self, others: int, untold: int, total: int, progress: Progress) -> None:
        """Say how many of `total` answers have no confidence, as `count_silent` counts them; nothing if all have."""
        from medvqa_cli.evaluation.questions import name_kinds

        taught, why = self.calibrator, []
        if others and taught:
            why.append(f"{others} are to other questions than the {name_kinds(taught.kinds)} that the calibrator was "
                       "learnt from")
        if untold:
            why.append(f"{untold} tell none" + (f" by '{taught.source}'" if taught else ""))
        if why:
            abstain = "" if self.least is None else " They count as abstentions."
            progress.warn(f"{others + untold} of {total} answers have no confidence: {', '.join(why)}.{abstain}")

    @staticmethod
    def _recalibrate(calibrator: Calibrator, raw: float, prediction: Prediction) -> float:
        group = getattr(prediction.sample, calibrator.group_by) if calibrator.group_by else ""
        return float(calibrator.apply([raw], [str(group)])[0])


def open_doubt(settings: Settings, progress: Progress = SILENT) -> Doubt | None:
    """Return what `infer.calibrator` and `infer.abstain_below` ask for; None if neither does.

    Raises:
        DataError: If the calibrator cannot be read.
        SettingsError: If it was learnt from something that one answer does not have.
    """
    from medvqa_cli.evaluation.details import GROUPS, STORED
    from medvqa_cli.evaluation.questions import name_kinds
    from medvqa_cli.scoring.recalibration import read_calibrator

    path, least = settings.infer.calibrator, settings.infer.abstain_below
    if path is None:
        return None if least is None else Doubt(None, least)
    calibrator = read_calibrator(path.expanduser())
    if calibrator.source not in STORED:
        raise SettingsError(f"The calibrator '{path}' was learnt from confidences by '{calibrator.source}', which a "
                            "single answer does not have.",
                            "Fit one with `medvqa eval calibration --method logits --fit-calibrator isotonic`, or with "
                            "--method likelihood or verbalized; or apply it to samples: `medvqa eval calibration "
                            "--calibrator`.")
    if calibrator.source == "logits" and settings.infer.closed_candidates == "off":
        raise SettingsError(f"The calibrator '{path}' was learnt from the probabilities of candidates, and no question "
                            "is offered any.", "Add --closed-candidates auto.")
    if calibrator.group_by and calibrator.group_by not in GROUPS:
        raise SettingsError(f"The calibrator '{path}' goes by '{calibrator.group_by}', which no question has.",
                            f"Fit one that goes by {', '.join(GROUPS)}.")
    progress.say(f"Confidence is recalibrated by '{path}' ({calibrator.curve.method}, learnt from {calibrator.curve.n} "
                 f"answers to {name_kinds(calibrator.kinds)} by {calibrator.source}).")
    warn_of_control(calibrator, settings, progress)
    return Doubt(calibrator, least)


def describe_doubt(doubt: Doubt | None) -> dict[str, Any]:
    """Return what decides the confidences of rows, as plain JSON values; None where none are stated."""
    calibrator = doubt.calibrator if doubt else None
    return {"calibrator": None if calibrator is None else dataclasses.asdict(calibrator),
            "abstain_below": doubt.least if doubt else None}
