"""Recalibration: a map from confidence to the chance of being right, learnt on validation questions."""

from medvqa_cli.scoring.recalibration.calibrators import (
    Calibrator,
    fit_calibrator,
    read_calibrator,
    write_calibrator,
)
from medvqa_cli.scoring.recalibration.curves import METHODS, Curve, Method, fit_curve

__all__ = ["METHODS", "Calibrator", "Curve", "Method", "fit_calibrator", "fit_curve", "read_calibrator",
           "write_calibrator"]
