"""The jobs of every day on a few questions, by the workflows of every day: answering, training, calibration."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvqa_cli.records import read_jsonl, write_json
from medvqa_cli.runs import Run, create_run
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.checks.advice import NO_FALL, NOT_FINITE, find_collapse
from medvqa_cli.workflows.checks.outcome import FaultError, Step
from medvqa_cli.workflows.checks.portions import portion_calibration, portion_inference, portion_training
from medvqa_cli.workflows.evaluate import read_predictions
from medvqa_cli.workflows.models import build_encoder, describe_model, open_run_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.records import Prediction
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.checks.bench import Bench

GIB = 2**30


@dataclass
class Jobs:
    """A model's jobs.

    Attributes:
        bench: The model and its folder.
        run: The run of the short training, once it has ended.
        loss: Its last loss on all its questions, in nats a token.
    """

    bench: Bench
    run: Run | None = None
    loss: float = math.nan

    def answer(self) -> str:
        """Answer a few test questions with the model as it is."""
        from medvqa_cli.workflows.engines import build_engine
        from medvqa_cli.workflows.infer import answer_split

        bench, settings = self.bench, self._settings_for_answers
        run = create_run(settings.paths.runs, "base")
        write_json(run.settings, to_tree(settings))
        run.update_manifest(model=describe_model(bench.model))
        answer_split(settings, run, build_engine(bench.model, settings), split=settings.data.test_split,
                     progress=bench.listener)
        return self._describe_answers(run)

    def train(self) -> str:
        """Train for a few steps; the loss must be a number, and fall."""
        from medvqa_cli.models.adapters import describe_parameters
        from medvqa_cli.workflows.train import train_sft

        self.bench.release()
        settings = self._settings_for_training
        run = train_sft(settings, name="trained", progress=self.bench.listener)
        losses = [float(row["eval_loss"]) for row in read_jsonl(run.events) if row["event"] == "eval"]
        manifest = run.read_json("manifest.json")
        if not losses or not all(map(math.isfinite, losses)):
            raise FaultError(f"The loss is {next((loss for loss in losses if not math.isfinite(loss)), 'not known')}.",
                             NOT_FINITE)
        if losses[-1] >= losses[0]:
            raise FaultError(f"The loss did not fall: {losses[0]:.4f} after the first step, {losses[-1]:.4f} after "
                             f"step {len(losses)}.", NO_FALL)
        self.run, self.loss = run, losses[-1]
        return (f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps on "
                f"{manifest['data']['train_questions']} questions, {'packed' if manifest['packed'] else 'plain'} rows. "
                f"{describe_parameters(manifest['parameters'])}{_describe_gpu()}")

    def load_again(self) -> str:
        """Load what was trained; it must give the loss that training ended with. Answer the test questions with it."""
        from medvqa_cli.workflows.engines import build_engine
        from medvqa_cli.workflows.infer import answer_split

        if self.run is None:
            raise RuntimeError("nothing has been trained")
        bench, settings = self.bench, self._settings_for_answers
        bench.loaded = open_run_model(self.run, settings, bench.listener)
        loss = measure_loss(bench.model, self._settings_for_training)
        if not abs(loss - self.loss) <= bench.find_tolerance() * abs(self.loss):
            raise FaultError(f"Loaded again, what was trained gives a loss of {loss:.4f}; training ended with "
                             f"{self.loss:.4f}.", "What was saved is not what was trained: please report this model.")
        answer_split(settings, self.run, build_engine(bench.model, settings), split=settings.data.test_split,
                     progress=bench.listener)
        return f"loss {loss:.3f} as in training; {self._describe_answers(self.run)}"

    def calibrate(self) -> str:
        """Draw a few answers to yes/no questions, of what was trained if there is such a thing, and measure the ECE."""
        from medvqa_cli.workflows.calibrate import evaluate_calibration

        settings = portion_calibration(self.bench.settings, self.bench.scope)
        self.bench.release()
        run, metrics = evaluate_calibration(settings, run=self.run.name if self.run else None,
                                            progress=self.bench.listener)
        self._warn_of_collapse(read_predictions(run.path / "samples.jsonl"))
        return (f"ECE {metrics['ece']:.3f} on {metrics['num_questions']} questions, {metrics['num_samples']} answers "
                f"each, of {'what was trained' if self.run else 'the model as it is'}")

    @property
    def _settings_for_answers(self) -> Settings:
        return portion_inference(self.bench.settings, self.bench.scope, tiny=self.bench.subject.tiny)

    @property
    def _settings_for_training(self) -> Settings:
        return portion_training(self.bench.settings, self.bench.scope, tiny=self.bench.subject.tiny)

    def _describe_answers(self, run: Run) -> str:
        predictions = read_predictions(run.path / "predictions.jsonl")
        if wrong := [row for row in predictions if row.logprob is not None and not math.isfinite(row.logprob)]:
            raise FaultError(f"The log-probability of the answer '{wrong[0].answer}' is {wrong[0].logprob}.",
                             NOT_FINITE)
        self._warn_of_collapse(predictions)
        written = [words for row in predictions if (words := " ".join(row.answer.split()))]
        if not written and not self.bench.subject.tiny:
            self.bench.listener.warn("Every answer is empty: the prompt may not be the one this checkpoint knows.")
        return f"{len(predictions)} answers, such as '{(written or [''])[0][:40]}'"

    def _warn_of_collapse(self, predictions: Sequence[Prediction]) -> None:
        """Warn if the answers are nearly all the same; random weights know no better."""
        rate = self.bench.settings.train.learning_rate
        if not self.bench.subject.tiny and (warning := find_collapse(predictions, rate)):
            self.bench.listener.warn(warning)


def list_steps(bench: Bench) -> list[Step]:
    """Return the steps of a model within its scope, each with those it needs."""
    jobs, scope = Jobs(bench), bench.scope
    seen = ("load", "image tokens")
    steps = [Step("load", bench.load), Step("image tokens", bench.check_image_tokens, ("load",)),
             Step("packing", bench.compare_packing, seen), Step("inference", jobs.answer, ("data", *seen)),
             Step("parameters", bench.count_parameters, ("load",)),
             Step("training", jobs.train, ("data", *seen, "parameters")),
             Step("adapter", jobs.load_again, ("training",)), Step("calibration", jobs.calibrate, ("data", *seen))]
    left_out = {*(("training", "adapter") if scope.inference_only else ()),
                *(("calibration",) if scope.skip_calibration else ())}
    return [step for step in steps if step.name not in left_out]


def measure_loss(loaded: LoadedModel, settings: Settings) -> float:
    """Return a model's mean loss over the answer tokens of the training questions, in nats, one question at a time."""
    import torch

    from medvqa_cli.models.batches import build_batch, sum_answer_loss, to_device
    from medvqa_cli.workflows.data import load_samples

    encoder, total, tokens = build_encoder(loaded, settings), 0.0, 0
    with torch.no_grad():
        for sample in load_samples(settings, settings.data.train_split):
            batch = to_device(build_batch(encoder, [[sample]], packed=False), loaded.model)
            loss, count = sum_answer_loss(loaded.model, batch)
            total, tokens = total + loss.item(), tokens + int(count)
    return total / tokens


def _describe_gpu() -> str:
    """Return the most memory that torch has taken of a GPU, if there is one."""
    cuda = sys.modules["torch"].cuda
    return f"; {cuda.max_memory_allocated() / GIB:.1f} GiB of GPU memory" if cuda.is_available() else ""
