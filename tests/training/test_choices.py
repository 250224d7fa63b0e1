"""Training with choices: it learns them, accumulates and resumes exactly, packed as with separate rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.batches import find_token_losses
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.training.choices import ChoiceTrainer
from medvqa_cli.training.objectives import OWNERS, PLAN, find_mean_logprobs
from medvqa_cli.training.sft import SFTTrainer, TrainingPlan, build_trainer
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder
from tests.training.test_objectives import HYBRID, MC, make_group
from tests.training.test_sft import _StopAfter, weights_of

COMMON = {"learning_rate": 1e-3, "eval_fraction": 0.0, "save_fraction": 0.0}


def train(tiny_directory, paths, directory: Path, settings: TrainSettings, objective=HYBRID, *, packed=True,
          resume=None, stop_after=None):
    torch.manual_seed(0)
    loaded = load_tiny(tiny_directory)
    model = prepare_training(loaded.model, loaded.family.layout, settings, lora=False)
    samples = [replace(sample, question_id=f"{image}-{sample.question}")
               for image in range(3) for sample in make_group(paths, image)]
    plan = TrainingPlan(model, make_encoder(loaded), samples, samples[:5], packed, settings, 3,
                        directory / "checkpoints", objective=objective)
    with JsonlWriter(directory / "events.jsonl") as events:
        trainer, stop = build_trainer(plan, events, SILENT)
        if stop_after:
            trainer.add_callback(_StopAfter(stop, stop_after))
        trainer.train(resume_from_checkpoint=resume)
        stop.release()
    return trainer


def count_right(trainer, samples) -> int:
    """Return for how many questions the gold answer has the highest log-probability per token."""
    collate, model = trainer.data_collator, trainer.model.eval()
    batch = collate.collate([tuple(samples)])
    owners, plan = batch.pop(OWNERS), batch.pop(PLAN)
    with torch.no_grad():
        means = find_mean_logprobs(*find_token_losses(model, batch), batch["labels"], owners, len(plan))
    return sum(bool(plan[int((plan[:, 0] == q).nonzero()[means[plan[:, 0] == q].argmax()]), 1])
               for q in plan[plan[:, 0] >= 0, 0].unique())


@pytest.mark.parametrize("objective", [MC, pytest.param(HYBRID, marks=pytest.mark.slow)])
def test_the_right_candidates_become_the_likeliest(tiny_directory, picture_paths, tmp_path, objective):
    settings = TrainSettings(max_steps=25, batch_size=3, **COMMON | {"learning_rate": 3e-3})
    trainer = train(tiny_directory, picture_paths, tmp_path, settings, objective)
    assert isinstance(trainer, ChoiceTrainer)
    assert count_right(trainer, make_group(picture_paths)) == 3
    losses = [event["loss"] for event in read_jsonl(tmp_path / "events.jsonl") if event["event"] == "log"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("packed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_accumulated_steps_equal_one_large_batch(tiny_directory, picture_paths, tmp_path, packed):
    """Steps hold different numbers of tokens and of choices, so means of means would differ."""
    count = 3 if packed else 5
    common = {"max_steps": 2, **COMMON}
    whole = train(tiny_directory, picture_paths, tmp_path / "a", TrainSettings(batch_size=count, **common),
                  packed=packed)
    parts = train(tiny_directory, picture_paths, tmp_path / "b",
                  TrainSettings(batch_size=1, gradient_accumulation=count, **common), packed=packed)
    first, second = weights_of(whole), weights_of(parts)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4


@pytest.mark.slow
def test_packed_and_separate_rows_train_alike(tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=4, batch_size=3, grouping="image", **COMMON | {"log_steps": 1})
    curves = []
    for packed in (True, False):
        train(tiny_directory, picture_paths, tmp_path / str(packed), settings, packed=packed)
        events = read_jsonl(tmp_path / str(packed) / "events.jsonl")
        curves.append([event["loss"] for event in events if event["event"] == "log"])
    assert len(curves[0]) == 4
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.slow
def test_a_stopped_training_resumes_to_the_same_weights(tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=6, batch_size=1, **COMMON)
    whole = train(tiny_directory, picture_paths, tmp_path / "whole", settings)
    train(tiny_directory, picture_paths, tmp_path / "parts", settings, stop_after=3)
    again = train(tiny_directory, picture_paths, tmp_path / "parts", settings,
                  resume=str(tmp_path / "parts" / "checkpoints" / "checkpoint-3"))
    first, second = weights_of(whole), weights_of(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_without_text_to_teach_has_a_loss_and_a_gradient(tiny_directory, picture_paths, tmp_path):
    """Of mc, closed questions with candidates teach no text: nothing is divided by 0."""
    settings = TrainSettings(max_steps=1, batch_size=1, **COMMON)
    trainer = train(tiny_directory, picture_paths, tmp_path, settings, MC)
    batch = trainer.data_collator.collate([tuple(make_group(picture_paths)[:2])])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    trainer.model.zero_grad()
    loss.backward()
    assert 0 < loss.item() < 20
    assert all(p.grad.isfinite().all() for p in trainer.model.parameters() if p.grad is not None)


def test_weights_of_questions_count_for_text_and_choices(tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=1, batch_size=1, **COMMON)
    trainer = train(tiny_directory, picture_paths, tmp_path, settings)
    collate, group = trainer.data_collator, tuple(make_group(picture_paths)[:2])

    class Weights:
        def weigh(self, sample):
            return 3.0 if sample.answer == "no" else 1.0

    plain, weighed = (replace(collate, collator=replace(collate.collator, weights=weights)).collate([group])
                      for weights in (None, Weights()))
    assert plain[PLAN][:, 2].tolist() == [1, 1, 1, 1]
    assert weighed[PLAN][:, 2].tolist() == [1, 1, 3, 3]
    assert weighed[PLAN][:, 3].tolist() == [1, 0, 3, 0]


def test_without_an_objective_nothing_changes(tiny_directory, picture_paths, tmp_path):
    trainer = train(tiny_directory, picture_paths, tmp_path, TrainSettings(max_steps=1, **COMMON), None)
    assert type(trainer) is SFTTrainer
    assert {OWNERS, PLAN}.isdisjoint(trainer.data_collator.collate([tuple(make_group(picture_paths))]))
