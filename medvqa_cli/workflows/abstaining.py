"""Confidence of the answers that `medvqa infer` gives: recalibrated, and too low a one marked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.progress import SILENT, Progress

if TYPE_CHECKING:
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

        The confidence is of the kind that the calibrator learnt from; without one the probability among candidates
        where some were offered, else the geometric mean of its tokens' probabilities.

        Raises:
            DataError: If a log-probability is no number.
        """
        from medvqa_cli.evaluation.details import read_confidence
        from medvqa_cli.scoring.calibration.bins import EDGE

        if self.calibrator is None:
            raw = read_confidence(prediction, "logits" if prediction.candidates else "likelihood")
        else:
            raw = read_confidence(prediction, self.calibrator.source)  # type: ignore[arg-type]
        sure = raw if raw is None or self.calibrator is None else self._recalibrate(self.calibrator, raw, prediction)
        return dataclasses.replace(prediction, confidence=sure,
                                   abstains=self.least is not None and (sure is None or sure < self.least - EDGE))

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
    from medvqa_cli.evaluation.details import GROUPS, SOURCES
    from medvqa_cli.scoring.recalibration import read_calibrator

    path, least = settings.infer.calibrator, settings.infer.abstain_below
    if path is None:
        return None if least is None else Doubt(None, least)
    calibrator = read_calibrator(path.expanduser())
    if calibrator.source == "sampling" or calibrator.source not in SOURCES:
        raise SettingsError(f"The calibrator '{path}' was learnt from confidences by '{calibrator.source}', which a "
                            "single answer does not have.",
                            "Fit one with `medvqa eval calibration --method logits --fit-calibrator isotonic`, or with "
                            "--method likelihood or verbalized; or apply it to samples: `medvqa eval calibration "
                            "--calibrator`.")
    if calibrator.group_by and calibrator.group_by not in GROUPS:
        raise SettingsError(f"The calibrator '{path}' goes by '{calibrator.group_by}', which no question has.",
                            f"Fit one that goes by {', '.join(GROUPS)}.")
    progress.say(f"Confidence is recalibrated by '{path}' ({calibrator.curve.method}, learnt from {calibrator.curve.n} "
                 f"answers by {calibrator.source}).")
    return Doubt(calibrator, least)


def describe_doubt(doubt: Doubt | None) -> dict[str, Any]:
    """Return what decides the confidences of rows, as plain JSON values; None where none are stated."""
    calibrator = doubt.calibrator if doubt else None
    return {"calibrator": None if calibrator is None else dataclasses.asdict(calibrator),
            "abstain_below": doubt.least if doubt else None}
