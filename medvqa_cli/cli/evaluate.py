"""`medvqa eval`: how good the answers are, and how far the model's confidence can be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.calibration_tables import print_methods, print_questions, print_trust
from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_choice, complete_run
from medvqa_cli.cli.controls import print_controls
from medvqa_cli.cli.diagnosis import print_diagnosis
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import (
    ANSWERED_RUN,
    ANSWERS_TAG,
    CALIBRATION,
    DATA,
    DRY_RUN,
    ENGINE,
    MODEL,
    PRESENTATION,
    RUN,
    SEED,
    SPLIT,
    Option,
)
from medvqa_cli.cli.tables import print_answers, print_calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.cli.command import Call
    from medvqa_cli.runs import Run

app = make_group("Score a run: answers, calibration; compare runs.")
CONFIDENCE = Option("--confidence-level", "Level of the intervals.", "evaluation.confidence_level", "P")
RESAMPLES = Option("--resamples", "Bootstrap resamples, drawn over images.", "evaluation.resamples", "N")
SHOWN = (Option("--blank-images", "Show a grey picture instead of every image.", "infer.blank_images", kind="switch"),
         Option("--control", "What the model sees in place of the image; its numbers lie beside the main ones.",
                "infer.control", "NAME",
                complete=complete_choice(["off", "blank", "shuffled", "shuffled-modality", "text-only"])))
FROM = Option("--from", "Score this file of answers (JSON lines) instead of a run's own.", metavar="FILE")
PROFILE = Option("--profile", "Text normalization: medvqa, vqa, llava-med or squad; several with commas between.",
                 "evaluation.profiles", "NAMES")
METRICS = Option("--metrics", "Besides accuracy: tokens, open_recall, bleu, rouge, choices, clinical.",
                 "evaluation.metrics", "NAMES")
ENCODER = Option("--encoder", "Text encoder (folder or hub id) for BERTScore.", "evaluation.encoder", "NAME")
ENCODER_LAYER = Option("--encoder-layer", "Layer of the encoder; the last if not given.", "evaluation.encoder_layer",
                       "N")
JUDGE = tuple(replace(option, panel="Judge") for option in (
    Option("--judge", "Language model that judges open answers; its verdicts are kept.", "evaluation.judge", "NAME"),
    Option("--judge-base-url", "Its OpenAI-compatible server, such as http://localhost:8000/v1.",
           "evaluation.judge_server.base_url", "URL")))
CONTROLS = tuple(replace(option, panel="Trust") for option in (
    Option("--controls", "Ask again without the image: blank, shuffled, shuffled-modality, text-only; what is left of "
           "the result stands beside it.", metavar="NAMES"),
    Option("--option-orders", "Ask questions that show options in N orders: how many answers change.", metavar="N")))
DIAGNOSE = tuple(replace(option, panel="Trust") for option in (
    Option("--diagnose", "Write diagnosis/: numbers, prompts, wrong answers with their pictures.", kind="switch"),
    Option("--diagnose-examples", "Wrong answers that are drawn; 25 if not given.", metavar="N")))
OVERWRITE = Option("--overwrite", "Draw anew what is there.", kind="switch")
RUNS = Option("RUNS", "Runs, RUN:TAG for other answers of a run, or files; the first is what the others are compared "
              "with.", metavar="RUN RUN...", kind="several", complete=complete_run)
BY = Option("--by", "Slices as well: question_type, modality, organ, language, answer_length.", metavar="NAMES")
OUTPUT = Option("--output", "Write the comparison to this JSON file.", metavar="FILE")
TRUST = tuple(replace(option, panel="Calibration") for option in (
    Option("--method", "What tells confidence: sampling, entropy (of samples), logits (of candidates), likelihood, "
           "verbalized, p_true, or all side by side.", "calibration.method", "NAME",
           complete=complete_choice(["sampling", "entropy", "logits", "likelihood", "verbalized", "p_true", "all"])),
    Option("--questions", "Which questions: yes_no (the default), closed, open or all.", "calibration.questions",
           "NAME", complete=complete_choice(["yes_no", "closed", "open", "all"])),
    Option("--cluster-model", "Entailment model or sentence encoder that tells which open answers mean the same.",
           "calibration.cluster_model", "NAME"),
    Option("--cluster-threshold", "Least cosine of two answers of one meaning, with a sentence encoder.",
           "calibration.cluster_threshold", "P"),
    Option("--fit-calibrator", "Learn on --split, by default validation, to correct confidence: temperature, platt, "
           "isotonic, histogram or beta.", metavar="NAME",
           complete=complete_choice(["temperature", "platt", "isotonic", "histogram", "beta"])),
    Option("--calibrate-by", "Learn a map for each question_type, modality or organ as well.",
           "calibration.calibrate_by", "FIELD",
           complete=complete_choice(["none", "question_type", "modality", "organ"])),
    Option("--calibrator", "Apply a stored calibrator: measures before and after.", metavar="FILE"),
    Option("--risk", "Share of wrong answers that the rules to abstain may leave.", "calibration.risk", "P")))


@command(app, "answers", ANSWERED_RUN, ANSWERS_TAG, FROM, PROFILE, METRICS, ENCODER, ENCODER_LAYER, CONFIDENCE,
         RESAMPLES, *CONTROLS, *DIAGNOSE, *JUDGE, SPLIT, *DATA, SEED, DRY_RUN)
def evaluate_answers(call: Call) -> None:
    """Score a run's answers, or a file of them: accuracy, overlap, clinical measures, each with its interval."""
    from medvqa_cli.cli.run_choice import open_answered

    source = call.text("from_")
    run = None if source else open_answered(call)
    if call.is_on("dry_run"):
        _show_plan(call, str(run.path) if run else source, None)
        return
    from medvqa_cli.workflows.evaluate import evaluate_answers as evaluate
    from medvqa_cli.workflows.rescoring import drop_on_failure

    tag = call.text("tag") or ""
    if run is None:
        run, tag = _adopt(call, Path(source or "").expanduser(), tag)
    unjudged = call.settings.evaluation.model_copy(update={"judge": None})
    with drop_on_failure(run, tag):
        for control in _answer_controls(call, run, tag):
            evaluate(run, call.settings.model_copy(update={"evaluation": unjudged}), tag=control,
                     progress=call.progress)
        metrics = evaluate(run, call.settings, tag=tag, progress=call.progress)
    diagnosis = _diagnose(call, run, tag)
    if not call.answer_json({"run": run.name, "metrics": metrics}):
        print_answers(call.terminal, run.name, metrics)
        print_controls(call.terminal, metrics)
        if diagnosis:
            print_diagnosis(call.terminal, *diagnosis)
        call.progress.say(f"Next: medvqa report {run.name}")


@command(app, "calibration", RUN, SPLIT, OVERWRITE, *CALIBRATION, *TRUST, CONFIDENCE, RESAMPLES, *SHOWN, *DATA,
         *PRESENTATION, *MODEL, *ENGINE, SEED, DRY_RUN)
def evaluate_calibration(call: Call) -> None:
    """Draw many answers to each yes/no question, or ask otherwise, and measure how far confidence can be trusted.

    With --method another source of confidence is measured, or all of them; --questions takes other questions.
    With --fit-calibrator, learn on validation how to correct the confidence; with --calibrator, see what that changes.
    """
    from medvqa_cli.cli.run_choice import choose_run

    _choose_questions(call)
    name, fit, calibrator = choose_run(call), call.text("fit_calibrator"), call.text("calibrator")
    if call.is_on("dry_run"):
        data = call.settings.data
        _show_plan(call, name, call.text("split") or (data.validation_split if fit else data.test_split))
        return
    from medvqa_cli.workflows.calibrate import evaluate_calibration as evaluate
    from medvqa_cli.workflows.recalibrating import read_wanted

    run, metrics = evaluate(call.settings, run=name, split=call.text("split"), overwrite=call.is_on("overwrite"),
                            wanted=read_wanted(fit, calibrator), progress=call.progress)
    if call.answer_json({"run": run.name, "metrics": metrics}):
        return
    if metrics["method"] == "all":
        print_methods(call.terminal, run.name, metrics)
    else:
        print_calibration(call.terminal, run.name, metrics)
        print_questions(call.terminal, metrics)
        print_trust(call.terminal, metrics)
    learns = fit and metrics["method"] != "all"
    call.progress.say(f"Next: {_suggest_calibrator(call, run, metrics) if learns else f'medvqa report {run.name}'}")


def _choose_questions(call: Call) -> None:
    """Let a typed `--question-type all` mean all questions; call it before the settings are first read."""
    typed = {assignment.key: assignment.value for assignment in call.typed}
    if typed.get("data.question_type") == "all" and "calibration.questions" not in typed:
        call.assign("calibration.questions", "all", "--question-type")


@command(app, "compare", RUNS, BY, OUTPUT, PROFILE, METRICS, CONFIDENCE, SEED)
def compare_runs(call: Call) -> None:
    """Compare answers to the same questions: paired differences, McNemar's test, Holm over all comparisons."""
    from medvqa_cli.cli.comparison import print_comparison
    from medvqa_cli.workflows.compare import compare_runs as compare

    output = call.text("output")
    slices = [name.strip() for name in (call.text("by") or "").split(",") if name.strip()]
    result = compare(call.settings, call.texts("runs"), slices=slices, output=Path(output) if output else None,
                     progress=call.progress)
    if not call.answer_json(result):
        print_comparison(call.terminal, result)


def _diagnose(call: Call, run: Run, tag: str) -> tuple[Path, dict[str, Any]] | None:
    """Write the diagnosis if it is wanted; return its folder and numbers."""
    if not call.is_on("diagnose"):
        return None
    from medvqa_cli.workflows.diagnosis import EXAMPLES, diagnose_run

    examples = call.count("diagnose_examples", EXAMPLES)
    return diagnose_run(run, call.settings, tag=tag, examples=examples, progress=call.progress)


def _answer_controls(call: Call, run: Run, tag: str) -> list[str]:
    """Ask for the controls that are wanted; return the tags of their answers."""
    if not call.text("controls") and not call.text("option_orders"):
        return []
    from medvqa_cli.workflows.controls import answer_controls, read_controls

    controls, orders = read_controls(call.text("controls")), call.count("option_orders", 1)
    if not controls and orders == 1:
        return []
    return answer_controls(run, call.settings, controls, orders=orders, tag=tag, progress=call.progress)


def _suggest_calibrator(call: Call, run: Run, metrics: Mapping[str, Any]) -> str:
    """Return the command that uses what was learnt."""
    from medvqa_cli.workflows.scopes import make_scope

    scope = make_scope(call.settings, metrics["protocol"]["split"], run=run)
    file = run.path / scope.calibrator
    options = f" --method {scope.method}" if scope.method != "sampling" else ""
    options += f" --questions {scope.questions}" if scope.questions != "yes_no" else ""
    options += f" --samples {metrics['num_samples']}" if metrics["num_samples"] else ""
    options += f" --control {call.settings.infer.shown}" if call.settings.infer.shown != "off" else ""
    return f"medvqa eval calibration --run {run.name}{options} --calibrator {file}"


def _adopt(call: Call, path: Path, tag: str) -> tuple[Run, str]:
    """Return the run that a file of answers is, or becomes, part of, and its tag there."""
    from medvqa_cli.runs import Run, open_run
    from medvqa_cli.workflows.rescoring import adopt_predictions

    typed = call.text("run")
    home = open_run(call.runs, typed) if typed else Run(path.resolve().parent)
    if home.settings.is_file():
        call.continue_run(home.read_json("settings.json"))
    return adopt_predictions(path, call.settings, run=str(home.path) if typed else None, tag=tag,
                             split=call.text("split"), progress=call.progress)


def _show_plan(call: Call, run: str | None, split: str | None) -> None:
    from medvqa_cli.cli.plans import show_plan

    show_plan(call, run=run, split=split)
