"""`medvqa quickstart`: the whole path from data to report on the built-in demo."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.reporting.estimates import read_estimate
from medvqa_cli.reporting.formatting import format_value
from medvqa_cli.runs import Run, find_free_name
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.workflows.analysis import analyze_data
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.data import open_data
from medvqa_cli.workflows.engines import build_engine
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.infer import answer_split
from medvqa_cli.workflows.models import ModelChoice, load_choice, open_run_model
from medvqa_cli.workflows.report import write_report
from medvqa_cli.workflows.train import train_sft

if TYPE_CHECKING:
    from pathlib import Path

# Chosen on the demo's validation split, never on its test split.
RECIPE: dict[str, Any] = {
    "data": {"dataset": "demo"},
    "model": {"name": "llava", "scratch": True, "device": "cpu", "dtype": "float32",
              "options": {"image_size": 48, "patch_size": 8, "width": 128, "vision_layers": 2, "text_layers": 2,
                          "vocabulary_size": 640}},
    "train": {"tuning": "full", "max_steps": 1500, "batch_size": 8, "learning_rate": 1e-3, "eval_fraction": 0.1,
              "save_fraction": 0.0, "eval_questions": 400, "log_steps": 20},
    "infer": {"max_new_tokens": 8},
    "calibration": {"samples": 100, "temperature": 1.0},
}
QUICK: dict[str, Any] = {
    "data": {"options": {"train_images": 300, "validation_images": 20, "test_images": 40}},
    "train": {"max_steps": 150, "eval_fraction": 0.25, "eval_questions": 80},
}


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """What `medvqa quickstart` made. `table` rows hold a label, a value and what to compare it with."""

    run: Run
    report: Path
    table: list[tuple[str, str, str]]
    seconds: float


def run_quickstart(settings: Settings, *, quick: bool = False, progress: Progress = SILENT) -> QuickstartResult:
    """Make the demo data, train a small LLaVA from scratch, answer, score, calibrate and report.

    Only seed, paths and plugins are taken from `settings`; the rest is a recipe.
    """
    start = time.perf_counter()
    recipe = make_recipe(settings, quick=quick)
    prepared = open_data(recipe, progress)
    analyze_data(recipe, page=False, progress=progress)
    name = find_free_name(recipe.paths.runs, "quickstart-quick" if quick else "quickstart")
    run = train_sft(recipe, name=name, progress=progress)
    shutil.copy(prepared.path / "analysis.json", run.path / "analysis.json")
    answer_thrice(recipe, run, progress)
    answers = {tag or "main": evaluate_answers(run, recipe, tag=tag, progress=progress)
               for tag in ("", "before", "blank")}
    calibration = evaluate_calibration(recipe, run=run.name, progress=progress)[1]
    report = write_report(run, progress=progress)
    return QuickstartResult(run, report, summarize(answers, calibration), round(time.perf_counter() - start, 1))


def make_recipe(settings: Settings, *, quick: bool) -> Settings:
    """Return the demo's settings, with the seed, paths and plugins of `settings`."""
    own = to_tree(settings)
    tree = {key: own[key] for key in ("seed", "plugins", "paths")} | {key: dict(part) for key, part in RECIPE.items()}
    if quick:
        # Its data are other data: kept apart, so that the full demo and its runs stay as they are.
        tree["paths"] = {**own["paths"], "prepared": str(settings.paths.prepared / "quick")}
        for section, part in QUICK.items():
            tree[section].update(part)
    return make_settings(tree)


def answer_thrice(recipe: Settings, run: Run, progress: Progress) -> None:
    """Answer the test split before training, after it, and after it with blank pictures."""
    split = recipe.data.test_split
    trained = open_run_model(run, recipe, progress)
    answer_split(recipe, run, build_engine(trained, recipe), split=split, progress=progress)
    blank = make_settings({**to_tree(recipe), "infer": {**to_tree(recipe.infer), "blank_images": True}})
    answer_split(blank, run, build_engine(trained, blank), split=split, tag="blank", progress=progress)
    untrained = load_choice(ModelChoice(str(run.path / "initial"), "llava"), recipe, progress)
    answer_split(recipe, run, build_engine(untrained, recipe), split=split, tag="before", progress=progress)


def summarize(answers: dict[str, Any], calibration: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of the closing table: what, how much, and what to compare it with."""
    main, before, blank = answers["main"], answers["before"], answers["blank"]
    known, baselines = main["synthetic"], main["baselines"]["closed"]
    floor, law = calibration["bias_floor"], calibration["known_law"]
    ece = calibration["intervals"]["ece"]
    return [
        ("Closed accuracy, unambiguous", _show(known["unambiguous"], "accuracy"), "1.000 is possible"),
        ("Closed accuracy, all", _show(main["closed"], "accuracy"),
         f"{format_value(known['bayes_accuracy'])} is the best possible"),
        ("  before training", _show(before["closed"], "accuracy"), ""),
        ("  blank images", _show(blank["closed"], "accuracy"),
         f"{format_value(baselines['same_question_text'])} from the question's text alone"),
        ("Open exact match", _show(main["open"], "exact_match"),
         f"{format_value(read_estimate(before['open'], 'exact_match').value)} before training"),
        ("Calibration error (ECE)", format_value(calibration["ece"], ece["low"], ece["high"]),
         f"{format_value(floor)} if perfectly calibrated"),
        ("p(yes) off the truth, ambiguous", format_value(law["mean_absolute_error_ambiguous"]), "0 is exact"),
    ]


def _show(block: dict[str, Any], metric: str) -> str:
    score = read_estimate(block, metric)
    return format_value(score.value, score.low, score.high)
