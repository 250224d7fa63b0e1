"""Confidence against correctness: bins and their errors, proper scores, ranking, bias floor, intervals."""

from medvqa_cli.scoring.calibration.bins import (
    Bin,
    assign_bins,
    bin_confidences,
    expected_calibration_error,
    maximum_calibration_error,
    measure_error,
    overconfidence,
    squared_calibration_error,
    sweep_calibration_error,
    underconfidence,
)
from medvqa_cli.scoring.calibration.floor import (
    simulate_bias_floor,
    simulate_confidence_floor,
    simulate_share_floor,
)
from medvqa_cli.scoring.calibration.probabilities import (
    BrierParts,
    brier_score,
    decompose_brier,
    negative_log_likelihood,
)
from medvqa_cli.scoring.calibration.resampling import bound_bins, measure_calibration
from medvqa_cli.scoring.calibration.selection import trace_risk
from medvqa_cli.scoring.confidence import Vote, vote_yes_no

__all__ = [
    "Bin", "BrierParts", "Vote", "assign_bins", "bin_confidences", "bound_bins", "brier_score", "decompose_brier",
    "expected_calibration_error", "maximum_calibration_error", "measure_calibration", "measure_error",
    "negative_log_likelihood", "overconfidence", "simulate_bias_floor", "simulate_confidence_floor",
    "simulate_share_floor", "squared_calibration_error", "sweep_calibration_error", "trace_risk", "underconfidence",
    "vote_yes_no",
]
