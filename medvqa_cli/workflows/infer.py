"""`medvqa infer`: a model and questions to prediction rows."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from medvqa_cli.data.replies import read_reply
from medvqa_cli.errors import DataError, RunError
from medvqa_cli.inference.protocol import AnswerError, Decoding
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import JsonlWriter, Prediction, VQASample, read_jsonl, write_json, write_jsonl
from medvqa_cli.runs import now
from medvqa_cli.settings.data import KnowledgeSettings, MaskSettings, PromptSettings
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.analysis import find_warnings
from medvqa_cli.workflows.asking import Failures, ask, group_samples, seed_portion
from medvqa_cli.workflows.baselines import measure_baselines
from medvqa_cli.workflows.data import load_presented, load_samples, open_data
from medvqa_cli.workflows.lengths import find_answer_bound, keep_readable
from medvqa_cli.workflows.engines import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medvqa_cli.inference.protocol import Engine, Generation
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.presentation import Presented

MASK_KEYS = ("mode", "classes", "pad_ratio")
LEDGER_SECONDS = 5.0
NOT_COMPARED = ("expected", "too_long", "baselines", "data_warnings", "presentation")
"""What may change between two calls that answer the same questions in the same way."""


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
    load_samples(settings, split, progress=progress)  # a fault in the data is found before a large model is loaded
    target, engine = open_engine(settings, run, progress)
    tag = tag or _default_tag(settings, split, target)
    answer_split(settings, target, engine, split=split, tag=tag, overwrite=overwrite, progress=progress)
    return target


def answer_split(settings: Settings, target: Run, engine: Engine, *, split: str, tag: str = "",
                 overwrite: bool = False, progress: Progress = SILENT) -> None:
    """Answer the questions of a split that have no answer yet.

    Questions that cannot be answered are written to `predictions.failures.jsonl` with the reason, and asked again by
    the next call; what the engine counts is added up in `predictions.usage.json`.

    Raises:
        RunError: If the file holds answers made in another way (other model, split, decoding...).
        AnswerError: At the end, if some questions cannot be answered.
        ModelError: If none can.
    """
    presented = load_presented(settings, split, progress)
    samples = presented.samples
    meta = describe_job(settings, split, engine) | describe_data(settings, target, presented) | {
        "expected": len(samples), "baselines": measure_baselines(settings, samples)}
    path = prepare_rows(target, "predictions" + (f"-{tag}" if tag else ""), meta, overwrite=overwrite)
    rest = leave_out_done(samples, path, by_image=engine.intake.by_image)
    progress.say(f"{len(samples)} questions of {settings.data.dataset}/{split}"
                 + (f", {len(samples) - len(rest)} answered before" if len(rest) < len(samples) else ""))
    failures = Failures()
    with Ledger(path, engine) as ledger, JsonlWriter(path) as writer:
        for prediction in answer_samples(engine, rest, settings, progress, failures):
            writer.write(prediction)
            ledger.keep()
    order_rows(path, samples)
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

    read_image(image, max_pixels=settings.data.max_pixels)
    samples = [VQASample(dataset="image", split="image", question_id=str(number), image_id=image.name,
                         question=question, answer="", answer_type="open", images=(str(image.resolve()),))
               for number, question in enumerate(questions)]
    engine = open_engine(settings, run, progress, create=False)[1]
    answers = answer_samples(engine, samples, settings, SILENT)
    return sorted(answers, key=lambda answer: int(answer.sample.question_id))


def answer_samples(engine: Engine, samples: Sequence[VQASample], settings: Settings, progress: Progress,
                   failures: Failures | None = None) -> Iterator[Prediction]:
    """Yield one prediction for each sample as soon as it is there; what cannot be answered goes to `failures`.

    Raises:
        AnswerError: If a question cannot be answered and nobody collects failures.
        ModelError: If no question can be answered.
    """
    malformed = 0
    progress.start("Answering", len(samples), "question")
    for portion, answers in ask(engine, samples, partial(answer_portion, engine, settings), failures):
        for prediction in answers:
            malformed += not read_reply(prediction.text or prediction.answer, prediction.sample,
                                        settings.prompt).is_well_formed
            yield prediction
        progress.advance(len(portion))
    progress.finish()
    warn_malformed(malformed, len(samples), progress)


def answer_portion(engine: Engine, settings: Settings, portion: Sequence[VQASample]) -> list[Prediction]:
    """Return a prediction for each sample of what is one call to the engine; called in threads by some engines."""
    decoding = Decoding(settings.infer.max_new_tokens, settings.infer.temperature,
                        seed_portion(engine, portion, settings.seed))
    return [read_prediction(sample, written, settings)
            for sample, written in zip(portion, engine.generate(portion, decoding), strict=True)]


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


def prepare_rows(run: Run, name: str, meta: dict[str, Any], *, overwrite: bool) -> Path:
    """Return the path of a row file whose side file says how its rows were made; the two must agree.

    Raises:
        RunError: If rows made in another way are there and `overwrite` is not set.
    """
    path, side = run.path / f"{name}.jsonl", run.path / f"{name}.meta.json"
    if overwrite:
        path.unlink(missing_ok=True)
    if side.exists() and path.exists():
        _check_same_job(run.read_json(side.name), meta, path)
    write_json(side, meta | {"created": now()})
    return path


def leave_out_done(samples: Sequence[VQASample], path: Path, *, by_image: bool = True) -> list[VQASample]:
    """Return the samples that are not answered in a row file yet; `by_image`, those of all images that are not wholly.

    With `by_image` the rows of an image that was under way when the run was killed are dropped: its questions share
    one prefill and one stream of random numbers, so only the whole image gives the same answers again.
    """
    rows = list(read_jsonl(path)) if path.exists() else []
    done = {row["sample"]["question_id"] for row in rows}
    if not by_image:
        return [sample for sample in samples if sample.question_id not in done]
    rest = [sample for group in group_samples(samples) for sample in group
            if any(member.question_id not in done for member in group)]
    again = {sample.question_id for sample in rest} & done
    if again:
        write_jsonl(path, [row for row in rows if row["sample"]["question_id"] not in again])
    return rest


def order_rows(path: Path, samples: Sequence[VQASample]) -> None:
    """Put the rows of a file into the order of the samples, if answers came in another."""
    rows = list(read_jsonl(path)) if path.exists() else []
    places = {sample.question_id: place for place, sample in enumerate(samples)}
    ordered = sorted(rows, key=lambda row: places.get(row["sample"]["question_id"], len(places)))
    if ordered != rows:
        write_jsonl(path, ordered)


def report_failures(path: Path, failures: Failures, progress: Progress) -> None:
    """Write the questions without an answer beside a row file, each with the reason.

    Raises:
        AnswerError: If there are any.
    """
    beside = path.with_suffix(".failures.jsonl")
    if not failures:
        beside.unlink(missing_ok=True)
        return
    write_jsonl(beside, [{"question_id": sample.question_id, "image_id": sample.image_id, "question": sample.question,
                          "reason": error.message, "time": now()} for sample, error in failures])
    sample, first = failures[0]
    progress.warn(f"Question '{sample.question_id}': {first.message}")
    raise AnswerError(f"{len(failures)} questions have no answer; the reasons are in '{beside}'.",
                      "Run the same command again to ask them again; all other answers are kept.")


class Ledger:
    """Adds what an engine counts to what was counted for a row file before; kept on disk every few seconds."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path.with_suffix(".usage.json")
        self._engine = engine
        self._before = json.loads(self._path.read_text(encoding="utf-8")) if path.exists() and self._path.exists() else {}
        self._start = engine.count_usage()
        self._kept = time.monotonic()

    def keep(self) -> None:
        """Write the sums if that was last done some seconds ago."""
        if time.monotonic() - self._kept > LEDGER_SECONDS:
            self._write()

    def _write(self) -> None:
        used = {name: number - self._start.get(name, 0) for name, number in self._engine.count_usage().items()}
        if any(used.values()):
            write_json(self._path, {name: self._before.get(name, 0) + number for name, number in used.items()})
        self._kept = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()


def _check_same_job(known: dict[str, Any], meta: dict[str, Any], path: Path) -> None:
    known = {"engine": "transformers"} | _upgrade_job(known, meta)
    for key, wanted in meta.items():
        if key not in NOT_COMPARED and _canonical(known.get(key)) != _canonical(wanted):
            raise RunError(f"'{path}' holds rows made with another {key}: {known.get(key)!r}, now {wanted!r}.",
                           ("Use --tag NAME to keep both, or --overwrite" if path.name.startswith("predictions")
                            else "Use --overwrite") + " to make the rows anew.")


def _upgrade_job(known: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a job in today's form; where an older version did not state one, `meta` is believed."""
    if "instruction" not in known:
        return known
    before = {"prompt": to_tree(PromptSettings(instruction=known["instruction"])),
              "mask": MaskSettings().model_dump(include=set(MASK_KEYS)), "knowledge": to_tree(KnowledgeSettings())}
    return meta | known | before


def _describe_mask(mask: MaskSettings) -> dict[str, Any]:
    return {key: value for key, value in to_tree(mask).items() if key in MASK_KEYS}


def _canonical(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)


def _default_tag(settings: Settings, split: str, target: Run) -> str:
    """Return the tag of answers that are not the run's main ones.

    That is, those to blank images, to another split, with other facts or another part of the image than trained with.
    """
    parts = ["blank"] if settings.infer.blank_images else []
    if split != settings.data.test_split:
        parts.append(split)
    own = target.read_json("settings.json")
    for section, mode in (("mask", settings.mask.mode), ("knowledge", settings.knowledge.mode)):
        if mode != own.get(section, {}).get("mode", mode):
            parts.append(f"{section}-{mode}")
    return "-".join(parts)


def describe_job(settings: Settings, split: str, engine: Engine) -> dict[str, Any]:
    """Return everything that decides the answers, as plain JSON values: data, model, prompt, decoding, seed."""
    prepared = open_data(settings, SILENT)
    return {"dataset": prepared.name, "split": split, "fingerprint": prepared.fingerprint,
            "closed_definition": prepared.closed_definition,
            "data_options": settings.data.options,
            "language": settings.data.language, "question_type": settings.data.question_type,
            "limit": settings.data.limit, "engine": engine.name, "model": dict(engine.facts),
            "decoding": {"max_new_tokens": settings.infer.max_new_tokens, "temperature": settings.infer.temperature},
            "prompt": to_tree(settings.prompt), "mask": _describe_mask(settings.mask),
            "knowledge": to_tree(settings.knowledge), "blank_images": settings.infer.blank_images,
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
