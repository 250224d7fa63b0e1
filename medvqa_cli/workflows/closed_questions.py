"""Closed questions answered by the best of their candidates, and taught as a choice among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prepared.store import read_split
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.inference.candidates import choose_answers
from medvqa_cli.inference.routing import MAX_CANDIDATES, CandidateRouter
from medvqa_cli.inference.vocabulary import Vocabulary, build_vocabulary, read_vocabulary, write_vocabulary
from medvqa_cli.progress import SILENT
from medvqa_cli.records import Prediction
from medvqa_cli.workflows.asking import identify
from medvqa_cli.workflows.data import open_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.training.objectives import ClosedObjective

VOCABULARY_FILE = "closed_vocab.json"


def open_router(settings: Settings, run: Run, engine: Engine, progress: Progress) -> CandidateRouter | None:
    """Return what routes closed questions, or None where they are answered freely.

    Raises:
        SettingsError: If the engine does not tell log-probabilities.
        DataError: If the vocabulary file cannot be read.
    """
    mode = settings.infer.closed_candidates
    if mode == "off":
        return None
    if not engine.scores_candidates:
        raise SettingsError(f"infer.closed_candidates is '{mode}', but engine '{engine.name}' tells no "
                            "log-probabilities of given answers.", "Use closed_candidates 'off', or another --engine.")
    return CandidateRouter(find_vocabulary(settings, run, progress), mode)


def open_auto_router(settings: Settings, run: Run, progress: Progress = SILENT) -> CandidateRouter:
    """Return what routes closed questions as `infer.closed_candidates` says; by every route where it is off."""
    mode = settings.infer.closed_candidates
    return CandidateRouter(find_vocabulary(settings, run, progress), "auto" if mode == "off" else mode)


def find_vocabulary(settings: Settings, run: Run, progress: Progress) -> Vocabulary:
    """Return the vocabulary of `infer.closed_vocab`, else the run's, built from the training split if it has none.

    A run's file that was made from other data is made anew; a named file that was is used, with a warning.

    Raises:
        DataError: If a vocabulary file cannot be read.
    """
    prepared = open_data(settings, SILENT)
    wanted = (prepared.name, settings.data.train_split, prepared.fingerprint)
    if named := settings.infer.closed_vocab:
        found = read_vocabulary(named.expanduser())
        if _identify(found) != wanted:
            progress.warn(f"The vocabulary '{named}' was made from {found.dataset}/{found.split} (fingerprint "
                          f"{found.fingerprint}), not from {wanted[0]}/{wanted[1]} ({wanted[2]}).")
        return found
    path = run.path / VOCABULARY_FILE
    if path.exists():
        found = read_vocabulary(path)
        if _identify(found) == wanted:
            return found
        progress.say(f"'{path}' was made from other data: making it anew.")
    made = _build(settings, progress)
    write_vocabulary(path, made)
    return made


def build_closed_objective(settings: Settings, run: Run, samples: Sequence[VQASample],
                           progress: Progress) -> ClosedObjective | None:
    """Return how training teaches closed questions as a choice; None where they are taught as text alone.

    The vocabulary is that of the data set's training split; with a mixture, that of the training questions.

    Raises:
        DataError: If no question can be taught so, or a vocabulary file cannot be read.
    """
    from medvqa_cli.training.objectives import ClosedObjective

    train = settings.train
    if train.closed_objective == "sft":
        return None
    if settings.data.mixture and not settings.infer.closed_vocab:
        vocabulary = build_vocabulary(samples, dataset="a mixture", split=settings.data.train_split, fingerprint="")
    else:
        vocabulary = find_vocabulary(settings, run, progress)
    objective = ClosedObjective(CandidateRouter(vocabulary), train.choice_weight,
                                keeps_answers=train.closed_objective == "hybrid")
    if not any(objective.list_wrong(sample) for sample in samples):
        raise DataError(f"train.closed_objective is '{train.closed_objective}', but no training question is closed and "
                        "offers its answer.", "Use --closed-objective sft.")
    return objective


def describe_closed_objective(objective: ClosedObjective | None, samples: Sequence[VQASample]) -> dict[str, Any]:
    """Return what the manifest says of closed questions taught as a choice; nothing where they are not."""
    if objective is None:
        return {}
    closed = [sample for sample in samples if sample.answer_type == "closed"]
    taught = sum(bool(objective.list_wrong(sample)) for sample in closed)
    return {"closed_objective": {
        "objective": "hybrid" if objective.keeps_answers else "mc", "choice_weight": objective.weight,
        "questions": taught, "as_text_alone": len(closed) - taught,
        "vocabulary": objective.router.vocabulary.describe()}}


def describe_router(router: CandidateRouter | None) -> dict[str, Any]:
    """Return what stands beside every number: how closed questions were answered; None: freely."""
    if router is None:
        return {"closed_candidates": None}
    return {"closed_candidates": {"mode": router.mode, "score": "log-probability per token",
                                  "max_candidates": MAX_CANDIDATES, "vocabulary": router.vocabulary.describe()}}


def answer_closed(engine: Engine, settings: Settings, router: CandidateRouter,
                  samples: Sequence[VQASample]) -> dict[tuple[str, str, str], Prediction]:
    """Return `identify(sample)` -> prediction of the closed questions among some samples that have candidates."""
    offers = [(sample, router.route(sample)) for sample in samples if sample.answer_type == "closed"]
    routed = [(sample, offer) for sample, offer in offers if offer.options]
    if not routed:
        return {}
    asked, offered = zip(*routed, strict=True)
    choices = choose_answers(engine, asked, offered, settings.prompt)
    return {identify(sample): Prediction(
        sample=sample, answer=choice.answer, logprob=choice.scores[choice.answer][0],
        num_tokens=choice.scores[choice.answer][1], candidates=choice.probabilities, candidate_scores=choice.scores,
        margin=choice.margin, route=offer.route) for (sample, offer), choice in zip(routed, choices, strict=True)}


def _identify(vocabulary: Vocabulary) -> tuple[str, str, str]:
    return vocabulary.dataset, vocabulary.split, vocabulary.fingerprint


def _build(settings: Settings, progress: Progress) -> Vocabulary:
    prepared, split = open_data(settings, SILENT), settings.data.train_split
    if split not in prepared.counts:
        progress.warn(f"The data set '{prepared.name}' has no split '{split}' to build a vocabulary from: closed "
                      "questions that ask neither for yes or no nor name options are answered freely.")
    samples = read_split(prepared.path, split) if split in prepared.counts else []
    return build_vocabulary(samples, dataset=prepared.name, split=split, fingerprint=prepared.fingerprint)
