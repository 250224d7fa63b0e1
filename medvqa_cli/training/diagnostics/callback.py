"""Watches a training: probe answers for events.jsonl, and everything in `tags` for the trackers."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.models.adapters import count_parameters
from medvqa_cli.training.callbacks import BatchWatcher
from medvqa_cli.training.diagnostics.collapse import CollapseWatch, has_learned
from medvqa_cli.training.diagnostics.meters import Meter, measure_memory, measure_norms
from medvqa_cli.training.diagnostics.pictures import find_pictures, lay_out
from medvqa_cli.training.diagnostics.probes import ask_probes, find_top_closed, measure_probes, undisturbed
from medvqa_cli.training.diagnostics.statistics import count_lengths, describe_samples, preview_sample
from medvqa_cli.training.diagnostics.trackers import open_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from medvqa_cli.inference.transformers_engine import TransformersEngine
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import JsonlWriter, VQASample
    from medvqa_cli.settings.tracking import TrackingSettings
    from medvqa_cli.training.diagnostics.probes import ProbeAnswer
    from medvqa_cli.training.diagnostics.trackers import Tracker


@dataclass(frozen=True, slots=True)
class Watched:
    """What diagnostics look at.

    Attributes:
        directory: The run's folder.
        engine: Answers with the model that is trained. Its encoder must not be that of the training: what it caches
            is made for inference alone.
        train: Training questions.
        validation: Validation questions.
        probes: Questions answered again and again.
        probe_tokens: Most tokens of their answers.
        seed: Seed of the run.
        config: The run's settings, for the trackers to show.
        judged: Puts the weights that are judged in their place for a while, such as their average.
    """

    directory: Path
    engine: TransformersEngine
    train: Sequence[VQASample]
    validation: Sequence[VQASample]
    probes: Sequence[VQASample]
    probe_tokens: int
    seed: int
    config: Mapping[str, Any]
    judged: Callable[[], AbstractContextManager[None]] = nullcontext


class Diagnostics(BatchWatcher):
    """Shows what a training does and leaves no trace in it: losses and weights are those of a run without.

    Of several processes only the first one speaks.

    Args:
        watched: What to look at.
        settings: What to show and how often.
        events: The run's events.jsonl.
        progress: Told of warnings.
        keep_warning: Told of a warning that belongs beside the run's results.
    """

    def __init__(self, watched: Watched, settings: TrackingSettings, events: JsonlWriter, progress: Progress,
                 keep_warning: Callable[[str], None] = lambda _warning: None) -> None:
        self._watched = watched
        self._settings = settings
        self._events = events
        self._progress = progress
        self._collapse = CollapseWatch(progress, keep_warning, self._write)
        self._trackers: list[Tracker] = []
        self._meter = Meter(keeps_losses=bool(settings.histogram_steps))
        self._pictures: list[torch.Tensor] | None = None
        self._probed = -1
        self._accuracy: float | None = None
        self._speaks = False
        self._start = time.perf_counter()

    def _write(self, event: str, **facts: Any) -> None:
        self._events.write({"event": event, "seconds": round(time.perf_counter() - self._start, 3), **facts})

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:
        """Read the probes, so that a bad one is told now; open the trackers and show the data.

        A resumed run has shown them before.
        """
        self._speaks = state.is_world_process_zero
        if not self._speaks:
            return
        with undisturbed(self._watched.engine.loaded.model):
            encoder = self._watched.engine.encoder
            for sample in self._watched.probes:
                encoder.encode_text(sample, encoder.encode_images(sample))
            self._trackers = open_trackers(self._settings, self._watched.directory, self._watched.config,
                                           step=state.global_step, progress=self._progress)
            if self._trackers and state.global_step == 0:
                self._show_data()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                      **kwargs: Any) -> None:
        """Start the clock, and ask for the pictures of this step if a grid is due."""
        self._meter.start()
        is_due = self._is_due(state.global_step + 1, self._settings.image_steps)
        self._pictures = [] if self._trackers and is_due else None

    def on_batch(self, inputs: dict[str, Any], loss: torch.Tensor, tokens: torch.Tensor) -> None:
        """Keep what a forward pass lost, and its pictures if a grid is due."""
        if not self._trackers:
            return
        self._meter.count(inputs["input_ids"].numel(), loss, tokens)
        if self._pictures is not None and (missing := self._settings.images - len(self._pictures)) > 0:
            self._pictures += find_pictures(inputs, self._image_processor, missing)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                    **kwargs: Any) -> None:
        """Show pictures and histograms that are due, and ask the probes."""
        self._meter.stop()
        step, is_last = state.global_step, state.global_step >= state.max_steps
        if self._pictures:
            self._add_image("images/train", lay_out(self._pictures), step)
        if self._is_due(step, self._settings.histogram_steps) or (is_last and self._settings.histogram_steps):
            self._show_histograms(step)
        if is_last or step % self._count_probe_steps(state.max_steps) == 0:
            self._probe(args, state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the curves."""
        logs = logs or {}
        if not self._trackers:
            return
        if "loss" in logs:
            known = {f"train/{name}": float(logs[name]) for name in ("loss", "learning_rate", "grad_norm")
                     if logs.get(name) is not None}
            self._add_scalars(known | self._meter.read() | measure_memory(), state.global_step)
        if "eval_loss" in logs:
            self._add_scalars({"validation/loss": logs["eval_loss"]}, state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                     **kwargs: Any) -> None:
        """Close the trackers."""
        self.close()

    def read_accuracy(self, step: int) -> float | None:
        """Return the share of probes answered rightly after a step, in 0-1; None if they were not asked then."""
        return self._accuracy if self._probed == step else None

    def close(self) -> None:
        """Close the trackers, whatever ended the training."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []

    @property
    def _image_processor(self) -> Any:
        return self._watched.engine.loaded.processor.image_processor

    def _is_due(self, step: int, every: int) -> bool:
        """Return whether something shown every so many steps is: at the first one too, so that it is seen early."""
        return bool(every) and (step == 1 or step % every == 0)

    def _count_probe_steps(self, steps: int) -> int:
        fraction = self._settings.probe_fraction
        return self._settings.probe_steps or (max(1, round(fraction * steps)) if fraction else steps)

    def _show_data(self) -> None:
        watched, encoder = self._watched, self._watched.engine.encoder
        self._add_text("run/settings", json.dumps(watched.config, indent=2, ensure_ascii=False, default=str), 0)
        for split, samples in (("train", watched.train), ("validation", watched.validation)):
            if samples:
                self._add_scalars({f"data/{split}/{name}": value
                                   for name, value in describe_samples(samples).items()}, 0)
        self._show_lengths()
        for number, sample in enumerate(watched.train[: self._settings.text_previews]):
            self._add_text(f"text/train_{number}", preview_sample(sample, encoder), 0)
        self._add_scalars(self._count_parameters(), 0)
        pictures = [picture for sample in {sample.images: sample for sample in watched.probes}.values()
                    for picture in find_pictures(encoder.encode_images(sample).tensors, self._image_processor, 1)]
        if pictures:
            self._add_image("probe/images", lay_out(pictures[: self._settings.images]), 0)

    def _show_lengths(self) -> None:
        if not self._settings.length_questions:
            return
        lengths = count_lengths(self._watched.train, self._watched.engine.encoder, self._settings.length_questions,
                                self._watched.seed)
        for part, values in lengths.items():
            self._add_histogram(f"length/{part}", values, 0)
            self._add_scalars({f"length/{part}_mean": values.mean().item(),
                               f"length/{part}_max": values.max().item()}, 0)

    def _count_parameters(self) -> dict[str, float]:
        loaded = self._watched.engine.loaded
        parts = count_parameters(loaded.model, loaded.family.layout)
        parts["total"] = (sum(trained for trained, _ in parts.values()), sum(size for _, size in parts.values()))
        return {f"parameters/{part.replace(' ', '_')}/{kind}": count for part, counts in parts.items()
                for kind, count in zip(("trained", "all"), counts, strict=True)}

    def _show_histograms(self, step: int) -> None:
        if not self._trackers:
            return
        losses = self._meter.take_losses()
        if len(losses):
            self._add_histogram("train/loss_histogram", losses, step)
        loaded = self._watched.engine.loaded
        self._add_scalars(measure_norms(loaded.model, loaded.family.layout), step)

    def _probe(self, args: TrainingArguments, state: TrainerState) -> None:
        """Ask the probes in the main process, which must hold all weights."""
        watched, step = self._watched, state.global_step
        if not watched.probes or not self._speaks or self._probed == step:
            return
        self._probed = step
        with undisturbed(watched.engine.loaded.model), watched.judged():
            answers = ask_probes(watched.engine, watched.probes, watched.engine.encoder.prompt, watched.probe_tokens)
        self._accuracy = fmean(answer.is_correct for answer in answers)
        top, metrics = find_top_closed(answers), measure_probes(answers)
        self._write("probe", step=step, questions=len(answers), metrics=metrics,
                    top_answer=top.answer if top else None,
                    examples=[answer.to_json() for answer in _choose_examples(answers, self._settings.probe_examples)])
        self._collapse.judge(top, step, state.max_steps, learning_rate=args.learning_rate,
                             has_learned=has_learned(state.log_history))
        if self._trackers:
            self._add_scalars({f"probe/{name}": value for name, value in metrics.items()}, step)
            self._add_histogram("probe/length", torch.tensor([float(a.num_tokens) for a in answers]), step)
            self._add_text("probe/answers", "\n".join(map(_describe_answer, answers)), step)

    def _add_scalars(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.add_scalars(values, step)

    def _add_histogram(self, tag: str, values: torch.Tensor, step: int) -> None:
        for tracker in self._trackers:
            tracker.add_histogram(tag, values, step)

    def _add_text(self, tag: str, text: str, step: int) -> None:
        for tracker in self._trackers:
            tracker.add_text(tag, text, step)

    def _add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        for tracker in self._trackers:
            tracker.add_image(tag, image, step)


def _choose_examples(answers: Sequence[ProbeAnswer], number: int) -> list[ProbeAnswer]:
    """Return the first answers of each kind: the same questions at every probe."""
    kinds = [[answer for answer in answers if (answer.sample.answer_type == "closed") is closed]
             for closed in (True, False)]
    return [answer for kind in kinds for answer in kind[:number]]


def _describe_answer(answer: ProbeAnswer) -> str:
    mark = "right" if answer.is_correct else "wrong"
    return (f"{mark} {answer.sample.answer_type}: {answer.sample.question} | gold: {answer.sample.answer} | "
            f"answer: {answer.answer}")
