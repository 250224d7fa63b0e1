"""`medvqa infer`: a model and questions to prediction rows."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.replies import read_reply
from medvqa_cli.errors import DataError, ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import JsonlWriter, Prediction, VQASample
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.abstaining import describe_doubt, open_doubt
from medvqa_cli.workflows.analysis import find_warnings
from medvqa_cli.workflows.asking import (
    Failures,
    ask,
    describe_decoding,
    group_samples,
    identify,
    make_decoding,
    plan_portions,
    seed_portion,
)
from medvqa_cli.workflows.baselines import measure_baselines
from medvqa_cli.workflows.closed_questions import answer_closed, describe_router, open_router
from medvqa_cli.workflows.data import load_presented, load_samples, open_data
from medvqa_cli.workflows.engines import keep_answerable, open_engine
from medvqa_cli.workflows.evaluate import read_predictions
from medvqa_cli.workflows.models import choose_model
from medvqa_cli.workflows.presentation import Presented, apply_control
from medvqa_cli.workflows.row_files import (
    MASK_KEYS,
    Ledger,
    hold_row_file,
    leave_out_done,
    order_rows,
    report_failures,
)
from medvqa_cli.workflows.scopes import tag_answers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medvqa_cli.inference.protocol import Engine, Generation
    from medvqa_cli.inference.routing import CandidateRouter
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.data import MaskSettings
    from medvqa_cli.settings.schema import Settings


def infer_split(settings: Settings, *, run: str | None = None, split: str | None = None, tag: str = "",
                overwrite: bool = False, progress: Progress = SILENT) -> Run:
    """Answer a split and append the answers to `predictions.jsonl` (`predictions-TAG.jsonl`) of a run.

    Questions answered before are not asked again, so a killed run resumes. Without `run`, the model of
    `settings.model` answers in a run of its own; without either, the latest trained run does.

    Raises:
        RunError: If the file holds answers made in another way (other model, split, decoding...).
        MedVQAError: On bad settings, data or model.
    """
    split = split or settings.data.test_split
    open_doubt(settings)  # what is cheap to check comes first: a calibrator, a name, the data, a large model
    if run is None and settings.model.name and settings.infer.engine != "openai":
        choose_model(settings)
    load_samples(settings, split, progress=progress)
    target, engine = open_engine(settings, run, progress)
    tag = tag or tag_answers(settings, split, target)[1:]
    answer_split(settings, target, engine, split=split, tag=tag, overwrite=overwrite, progress=progress)
    return target


def answer_split(settings: Settings, target: Run, engine: Engine, *, split: str, tag: str = "",
                 overwrite: bool = False, progress: Progress = SILENT) -> None:
    """Answer the questions of a split that have no answer yet.

    Questions that cannot be answered are written to `predictions.failures.jsonl` with the reason, and asked again by
    the next call; what the engine counts is added up in `predictions.usage.json`.

    Raises:
        RunError: If the file holds answers made in another way (other model, split, decoding...), or another process
            writes it.
        AnswerError: At the end, if some questions cannot be answered.
        ModelError: If none can.
    """
    check_control(engine, settings)
    presented = apply_control(load_presented(settings, split, progress), settings)
    samples = keep_answerable(engine, presented.samples, settings, progress)
    router = open_router(settings, target, engine, progress)
    job = describe_job(settings, split, engine) | describe_router(router) | describe_doubt(open_doubt(settings))
    meta = job | describe_data(settings, target, presented) | {
        "expected": len(samples), "too_long": len(presented.samples) - len(samples),
        "baselines": measure_baselines(settings, samples)}
    portions = plan_portions(engine, samples, greedy=settings.infer.temperature == 0)
    failures = Failures()
    with hold_row_file(target, "predictions" + (f"-{tag}" if tag else ""), meta, overwrite=overwrite) as path:
        rest = leave_out_done(samples, path, by_image=engine.intake.by_image, portions=portions)
        progress.say(f"{len(samples)} questions of {settings.data.dataset}/{split}"
                     + (f", {len(samples) - len(rest)} answered before" if len(rest) < len(samples) else ""))
        with Ledger(path, engine) as ledger, JsonlWriter(path) as writer:
            for prediction in answer_samples(engine, rest, settings, progress, failures, router=router,
                                             portions=portions):
                writer.write(prediction)
                ledger.keep()
        order_rows(path, samples)
        if settings.infer.abstain_below is not None:
            rows = read_predictions(path)
            progress.say(f"{sum(row.abstains for row in rows)} of {len(rows)} answers abstain: less sure than "
                         f"{settings.infer.abstain_below:g}, or without a confidence.")
        report_failures(path, failures, progress)


def infer_image(settings: Settings, image: Path, questions: Sequence[str], *, run: str | None = None,
                progress: Progress = SILENT) -> list[Prediction]:
    """Answer questions about one picture.

    Raises:
        DataError: If the picture cannot be read, or no question is given.
        MedVQAError: On a bad model.
    """
    if not questions:
        raise DataError("There is no question about the image.", 'Ask with --question "Is there a lesion?".')
    from medvqa_cli.data.images import read_image

    if settings.infer.shown.startswith("shuffled") or settings.infer.option_rotation:
        raise SettingsError("One picture has no other to be shuffled with, and its questions no options.",
                            "Leave --control out, or use blank or text-only.")
    try:
        read_image(image, max_pixels=settings.data.max_pixels)
    except DataError as error:  # its hint is about a data set's pictures
        raise DataError(error.message, "Name a picture with --image; a path starts from the current folder, and "
                        "--set data.max_pixels=N allows larger ones.") from error
    open_doubt(settings)
    samples = [VQASample(dataset="image", split="image", question_id=str(number), image_id=image.name,
                         question=question, answer="", answer_type="open", images=(str(image.resolve()),))
               for number, question in enumerate(questions)]
    samples = apply_control(Presented(samples), settings).samples
    engine = open_engine(settings, run, progress, create=False)[1]
    check_control(engine, settings)
    if settings.infer.closed_candidates != "off":
        progress.warn("infer.closed_candidates does nothing here: a data set says which of its questions are closed.")
    answers = sorted(answer_samples(engine, samples, settings, SILENT), key=lambda row: int(row.sample.question_id))
    if doubt := open_doubt(settings, progress):
        doubt.warn(*doubt.count_silent(answers), len(answers), progress)
    return answers


def read_answers(settings: Settings, run: Run, *, split: str | None = None, tag: str = "") -> list[list[Prediction]]:
    """Return the answers that `infer_split` of the same arguments has written, those about the same pictures together.

    Raises:
        RunError: If there are none, or a row is damaged.
    """
    tag = tag or tag_answers(settings, split or settings.data.test_split, run)[1:]
    answers = read_predictions(run.path / f"predictions{f'-{tag}' if tag else ''}.jsonl")
    found = {identify(answer.sample): answer for answer in answers}
    return [[found[identify(sample)] for sample in group] for group in
            group_samples([answer.sample for answer in answers])]


def answer_samples(engine: Engine, samples: Sequence[VQASample], settings: Settings, progress: Progress,
                   failures: Failures | None = None, *, router: CandidateRouter | None = None,
                   portions: Sequence[list[VQASample]] | None = None) -> Iterator[Prediction]:
    """Yield one prediction for each sample as soon as it is there; what cannot be answered goes to `failures`.

    With a `router`, closed questions are answered by the likeliest of its candidates. `portions` are as `ask` takes
    them.

    Raises:
        AnswerError: If a question cannot be answered and nobody collects failures.
        ModelError: If no question can be answered.
    """
    malformed = others = untold = 0
    doubt = open_doubt(settings, progress)
    progress.start("Answering", len(samples), "question")
    call = partial(answer_portion, engine, settings, router=router)
    for portion, answers in ask(engine, samples, call, failures, portions=portions):
        for prediction in answers:
            malformed += not read_reply(prediction.text or prediction.answer, prediction.sample,
                                        settings.prompt).is_well_formed
            judged = doubt.judge(prediction) if doubt else prediction
            if doubt:
                of_others, of_these = doubt.count_silent([judged])
                others, untold = others + of_others, untold + of_these
            yield judged
        progress.advance(len(portion))
    progress.finish()
    warn_malformed(malformed, len(samples), progress)
    if doubt:
        doubt.warn(others, untold, len(samples), progress)


def answer_portion(engine: Engine, settings: Settings, portion: Sequence[VQASample], *,
                   router: CandidateRouter | None = None) -> list[Prediction]:
    """Return a prediction for each sample of what is one call to the engine; called in threads by some engines."""
    decoding = make_decoding(settings.infer, seed_portion(engine, portion, settings.seed))
    with _hold_prefix(engine, portion) if router else contextlib.nullcontext():
        chosen = answer_closed(engine, settings, router, portion) if router else {}
        free = [sample for sample in portion if identify(sample) not in chosen]
        replies = engine.generate(free, decoding) if free else []
    written = {identify(sample): read_prediction(sample, reply, settings)
               for sample, reply in zip(free, replies, strict=True)}
    return [(chosen | written)[identify(sample)] for sample in portion]


def _hold_prefix(engine: Engine, portion: Sequence[VQASample]) -> contextlib.AbstractContextManager[None]:
    """Prefill an image once for the questions that have candidates and for the others, where it is done here."""
    from medvqa_cli.inference.transformers_engine import TransformersEngine

    return engine.hold_prefix(portion) if isinstance(engine, TransformersEngine) else contextlib.nullcontext()


def read_prediction(sample: VQASample, written: Generation, settings: Settings) -> Prediction:
    """Return the prediction that a model's reply gives."""
    answer = read_reply(written.text, sample, settings.prompt).answer
    return Prediction(sample=sample, answer=answer, logprob=written.logprob, num_tokens=written.num_tokens,
                      text="" if answer == written.text else written.text)


def warn_malformed(number: int, total: int, progress: Progress) -> None:
    """Say how many replies are not in the form that the prompt asks for, if any."""
    if number:
        progress.warn(f"{number} of {total} replies are not in the form that prompt.style asks for: each counts as its "
                      "whole text. Was there room for it (--max-new-tokens)?")


def _describe_mask(mask: MaskSettings) -> dict[str, Any]:
    return {key: value for key, value in to_tree(mask).items() if key in MASK_KEYS}


def check_control(engine: Engine, settings: Settings) -> None:
    """Refuse to ask a model without an image that cannot be asked so.

    Raises:
        ModelError: If the family does not read text alone.
    """
    if not reads_questions(engine, settings):
        raise ModelError(f"A model of the family '{engine.facts.get('family')}' answers no question without an image: "
                         "there is no control 'text-only' of it.", "Use the controls blank and shuffled.")


def reads_questions(engine: Engine, settings: Settings) -> bool:
    """Tell whether a model can be asked in the control that is set; of a server's model that is not known."""
    from medvqa_cli import plugins
    from medvqa_cli.data.prompts import list_exemplar_images

    family = engine.facts.get("family")
    if settings.infer.shown != "text-only" or not family or list_exemplar_images(settings.prompt):
        return True
    return plugins.models.get(str(family)).capabilities.reads_text_alone


def describe_job(settings: Settings, split: str, engine: Engine) -> dict[str, Any]:
    """Return everything that decides the answers, as plain JSON values: data, model, prompt, decoding, seed."""
    prepared = open_data(settings, SILENT)
    return {"dataset": prepared.name, "split": split, "fingerprint": prepared.fingerprint,
            "closed_definition": prepared.closed_definition,
            "data_options": settings.data.options,
            "language": settings.data.language, "question_type": settings.data.question_type,
            "limit": settings.data.limit, "engine": engine.name, "model": dict(engine.facts),
            "decoding": describe_decoding(settings.infer),
            "prompt": to_tree(settings.prompt), "mask": _describe_mask(settings.mask),
            "knowledge": to_tree(settings.knowledge), "blank_images": settings.infer.shown == "blank",
            "control": settings.infer.shown, "option_rotation": settings.infer.option_rotation,
            "seed": settings.seed}


def describe_data(settings: Settings, target: Run, presented: Presented) -> dict[str, Any]:
    """Return what belongs beside every number made from these answers: findings about the data, what images show.

    Returns:
        "data_warnings": findings about the data that the run was trained on and about these; "presentation": see
        `Presented.notes`.
    """
    trained = target.read_json("manifest.json").get("data", {}).get("warnings", [])
    return {"data_warnings": list(dict.fromkeys([*trained, *find_warnings(settings), *presented.warnings])),
            "presentation": presented.notes}
