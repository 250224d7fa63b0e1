"""The average of weights: its law, where it is judged, and that it is in every checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training.average import WeightAverage
from medvqa_cli.training.checkpoints import find_last_checkpoint
from medvqa_cli.training.sft import TrainingPlan, build_trainer
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder, make_samples
from tests.training.test_sft import _StopAfter


def train(tiny_directory, paths, directory, *, lora=True, resume=None, stop_after=None, ema=0.9, **settings):
    torch.manual_seed(0)
    loaded = load_tiny(tiny_directory)
    settings = TrainSettings(**{"max_steps": 6, "batch_size": 1, "learning_rate": 1e-2, "eval_fraction": 0.5,
                                "save_fraction": 0.0, "ema": ema, "lora": LoRASettings(dropout=0.1), **settings})
    model = prepare_training(loaded.model, loaded.family.layout, settings, lora=lora)
    samples = [sample for image in range(3) for sample in make_samples(paths, image)]
    average = (WeightAverage(model, ema),) if ema else ()
    plan = TrainingPlan(model, make_encoder(loaded), samples, samples[:5], True, settings, 3,
                        directory / "checkpoints", callbacks=average)
    with JsonlWriter(directory / "events.jsonl") as events:
        trainer, stop = build_trainer(plan, events, SILENT)
        if stop_after:
            trainer.add_callback(_StopAfter(stop, stop_after))
        trainer.train(resume_from_checkpoint=resume)
        stop.release()
    return trainer


def copy_trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("number", [torch.float32, torch.bfloat16])
def test_the_average_by_hand(number):
    model = torch.nn.Linear(1, 1, bias=False).to(number)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average, expected = WeightAverage(model, 0.5), 1.0
    for step, value in enumerate([2.0, 4.0, -8.0, 16.0], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.on_step_end(None, SimpleNamespace(global_step=step), None)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6 if number == torch.float32 else 1e-2)
        assert model.weight.dtype == number
    assert model.weight.item() == 16.0
    average.apply()
    assert model.weight.item() != 16.0


def test_weights_that_are_not_trained_are_left_alone():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    WeightAverage(model, 0.9).apply()
    assert torch.equal(model[0].weight, before)


def test_it_is_validated_and_changes_nothing_of_the_training(tiny_directory, picture_paths, tmp_path):
    averaged = train(tiny_directory, picture_paths, tmp_path / "a")
    plain = train(tiny_directory, picture_paths, tmp_path / "b", ema=0.0)
    first, second = copy_trained(averaged.model), copy_trained(plain.model)
    assert all(torch.equal(first[name], second[name]) for name in second)

    def last_loss(name):
        rows = list(read_jsonl(tmp_path / name / "events.jsonl"))
        return [row["eval_loss"] for row in rows if row["event"] == "eval"][-1]

    assert last_loss("a") != last_loss("b")
    averaged.average.apply()
    averaged.model.eval()
    with torch.no_grad():
        total, tokens = averaged._sum_validation_losses()
    assert total / tokens == pytest.approx(last_loss("a"), rel=1e-6)


@pytest.mark.parametrize(("lora", "parts"), [(True, {"tune_projector": True, "unfreeze_last_layers": 1}),
                                             pytest.param(False, {}, marks=pytest.mark.slow)],
                         ids=["adapters and parts", "full"])
def test_a_stopped_run_resumes_to_the_same_average(lora, parts, tiny_directory, picture_paths, tmp_path):
    whole = train(tiny_directory, picture_paths, tmp_path / "whole", lora=lora, **parts)
    train(tiny_directory, picture_paths, tmp_path / "parts", lora=lora, stop_after=4, **parts)
    checkpoint = find_last_checkpoint(tmp_path / "parts" / "checkpoints", SILENT)
    assert (checkpoint / "average.safetensors").stat().st_size > 0
    resumed = train(tiny_directory, picture_paths, tmp_path / "parts", lora=lora, resume=str(checkpoint), **parts)
    raw = copy_trained(whole.model)
    assert all(torch.equal(weight, raw[name]) for name, weight in copy_trained(resumed.model).items())
    whole.average.apply()
    resumed.average.apply()
    average = copy_trained(whole.model)
    assert all(torch.equal(weight, average[name]) for name, weight in copy_trained(resumed.model).items())
    assert any(not torch.equal(average[name], raw[name]) for name in raw)
