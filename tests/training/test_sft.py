"""Supervised training: it learns, accumulates exactly, and resumes where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainingArguments

from medvqa_cli.errors import RunError
from medvqa_cli.models.adapters import count_parameters, prepare_training
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training.arguments import keep_to_one_gpu
from medvqa_cli.training.callbacks import BatchWatcher
from medvqa_cli.training.checkpoints import explained_full_disk, find_last_checkpoint
from medvqa_cli.training.collation import WEIGHTS, Collator, list_parts
from medvqa_cli.training.order import group_by_image
from medvqa_cli.training.sft import TrainingPlan, build_trainer, count_steps
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder, make_samples


class Recorder:
    """A progress display that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps = 0

    def start(self, stage, total, unit="it"):
        self.total = total

    def advance(self, steps=1, note=""):
        self.steps += steps

    def finish(self):
        pass

    def say(self, message):
        self.lines.append(message)

    warn = say


def train(tiny_directory, paths, directory: Path, settings: TrainSettings, *, packed=True, lora=False, resume=None,
          stop_after=None, progress=SILENT, callbacks=()):
    torch.manual_seed(0)
    loaded = load_tiny(tiny_directory)
    model = prepare_training(loaded.model, loaded.family.layout, settings, lora=lora)
    samples = [sample for image in range(3) for sample in make_samples(paths, image)]
    plan = TrainingPlan(model, make_encoder(loaded), samples, samples[:5], packed, settings, 3,
                        directory / "checkpoints", callbacks=callbacks)
    with JsonlWriter(directory / "events.jsonl") as events:
        trainer, stop = build_trainer(plan, events, progress)
        if stop_after:
            trainer.add_callback(_StopAfter(stop, stop_after))
        trainer.train(resume_from_checkpoint=resume)
        stop.release()
    return trainer, stop


class _StopAfter:
    """Asks for a graceful stop after some steps, as Ctrl-C would."""

    def __init__(self, stop, steps):
        self.stop, self.steps = stop, steps

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.steps:
            self.stop.requested = True

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_it_learns_and_logs(tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=30, batch_size=3, learning_rate=3e-3, log_steps=5, save_fraction=0.0)
    watch = Recorder()
    trainer, _ = train(tiny_directory, picture_paths, tmp_path, settings, progress=watch)
    events = list(read_jsonl(tmp_path / "events.jsonl"))
    losses = [event["loss"] for event in events if event["event"] == "log"]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    evaluations = [event["eval_loss"] for event in events if event["event"] == "eval"]
    assert evaluations[-1] < evaluations[0]
    assert watch.steps == watch.total == 30


def test_validation_loss_is_the_mean_over_tokens(tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=1, batch_size=2, learning_rate=1e-9, save_fraction=0.0)
    losses = []
    for packed in (True, False):
        train(tiny_directory, picture_paths, tmp_path / str(packed), settings, packed=packed)
        events = read_jsonl(tmp_path / str(packed) / "events.jsonl")
        losses.append(next(event["eval_loss"] for event in events if event["event"] == "eval"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_accumulated_steps_equal_one_large_batch(tiny_directory, picture_paths, tmp_path, packed):
    common = {"max_steps": 3, "learning_rate": 1e-3, "eval_fraction": 0.0, "save_fraction": 0.0}
    count = 2 if packed else 4
    whole, _ = train(tiny_directory, picture_paths, tmp_path / "a", TrainSettings(batch_size=count, **common),
                     packed=packed)
    parts, _ = train(tiny_directory, picture_paths, tmp_path / "b",
                     TrainSettings(batch_size=1, gradient_accumulation=count, **common), packed=packed)
    first, second = weights_of(whole), weights_of(parts)
    worst = max((first[name] - second[name]).abs().max().item() for name in first)
    assert worst < 1e-4, "a step moves a weight by up to 1e-3"


@pytest.mark.parametrize("lora", [True, False])
def test_a_stopped_run_resumes_to_the_same_weights(tiny_directory, picture_paths, tmp_path, lora):
    """Stopped within an epoch, with weights whose names in the file differ from those in the model."""
    settings = TrainSettings(max_steps=8, batch_size=1, learning_rate=1e-3, eval_fraction=0.0, save_fraction=0.0,
                             lora=LoRASettings(dropout=0.1))
    whole, _ = train(tiny_directory, picture_paths, tmp_path / "whole", settings, lora=lora)
    _, stop = train(tiny_directory, picture_paths, tmp_path / "parts", settings, lora=lora, stop_after=4)
    assert stop.requested
    checkpoint = find_last_checkpoint(tmp_path / "parts" / "checkpoints", SILENT)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-4"
    resumed, _ = train(tiny_directory, picture_paths, tmp_path / "parts", settings, lora=lora, resume=str(checkpoint))
    first, second = weights_of(whole), weights_of(resumed)
    assert resumed.state.global_step == 8
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("lora", [True, False])
def test_packed_and_separate_rows_give_one_loss_curve(tiny_directory, picture_paths, tmp_path, lora):
    """The same seed gives the same groups in the same order: 20 steps of both ways lose the same."""
    curves = []
    for packed in (True, False):
        settings = TrainSettings(max_steps=20, batch_size=2, learning_rate=2e-3, log_steps=1, eval_fraction=0.0,
                                 save_fraction=0.0, grouping="image", lora=LoRASettings(dropout=0.0))
        train(tiny_directory, picture_paths, tmp_path / str(packed), settings, packed=packed, lora=lora)
        curves.append([event["loss"] for event in read_jsonl(tmp_path / str(packed) / "events.jsonl")
                       if event["event"] == "log"])
    assert len(curves[0]) == 20
    assert curves[0][-1] < curves[0][0]
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)


def test_damaged_checkpoints_are_skipped(tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=4, batch_size=1, eval_fraction=0.0, save_fraction=0.25, save_total_limit=4)
    train(tiny_directory, picture_paths, tmp_path, settings, lora=True)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "checkpoint-4" / "trainer_state.json").write_text("{", encoding="utf-8")
    weights = next((checkpoints / "checkpoint-3").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    watch = Recorder()
    assert find_last_checkpoint(checkpoints, watch).name == "checkpoint-2"
    assert [line.split(":")[0] for line in watch.lines[:2]] == ["Skipping checkpoint-4", "Skipping checkpoint-3"]


@pytest.mark.parametrize("failure", [
    RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 126272 vs 126164"),
    RuntimeError("basic_ios::clear: iostream error"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
])
def test_a_full_disk_is_one_error_that_says_how_to_go_on(failure):
    with pytest.raises(RunError, match="The disk is full") as seen, explained_full_disk("mine", "--resume mine"):
        raise failure
    assert "--resume mine" in seen.value.hint
    with pytest.raises(RuntimeError, match="shapes"), explained_full_disk("mine", "--resume mine"):
        raise RuntimeError("shapes differ")


def test_lora_and_full_training_free_what_they_say(tiny_directory):
    for settings, lora, expected in [
        (TrainSettings(), True, [False, False, True]),
        (TrainSettings(tune_projector=True), True, [False, True, True]),
        (TrainSettings(), False, [True, True, True]),
        (TrainSettings(freeze_vision_tower=True), False, [False, True, True]),
    ]:
        loaded = load_tiny(tiny_directory)
        layout = loaded.family.layout
        counts = count_parameters(prepare_training(loaded.model, layout, settings, lora=lora), layout)
        assert [counts[part][0] > 0 for part in ("vision tower", "projector", "language model")] == expected


def test_adapter_loads_with_plain_peft_and_model_with_plain_transformers(tiny_directory, picture_paths, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    settings = TrainSettings(max_steps=2, batch_size=1, eval_fraction=0.0, save_fraction=0.0, learning_rate=1e-2)
    for lora in (True, False):
        trainer, _ = train(tiny_directory, picture_paths, tmp_path / str(lora), settings, lora=lora)
        trainer.model.save_pretrained(tmp_path / str(lora) / "out")
        if lora:
            base = AutoModelForImageTextToText.from_pretrained(tiny_directory)
            again = PeftModel.from_pretrained(base, str(tmp_path / str(lora) / "out"))
        else:
            again = AutoModelForImageTextToText.from_pretrained(tmp_path / str(lora) / "out")
        ids = torch.tensor([[5, 6, 7, 8]])
        trainer.model.eval()
        with torch.no_grad():
            assert torch.allclose(trainer.model(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-6)


def test_steps_are_counted_from_rows_batches_and_epochs():
    assert count_steps(TrainSettings(epochs=2.0), 2.0 * 17, 8) == 5
    assert count_steps(TrainSettings(max_steps=7), 1000, 4) == 7
    assert count_steps(TrainSettings(epochs=0.01), 0.01 * 4, 4) == 1


def test_groups_share_their_image_and_keep_order(picture_paths):
    samples = [sample for pair in zip(make_samples(picture_paths, 0), make_samples(picture_paths, 1), strict=True)
               for sample in pair]
    groups = group_by_image(samples, 3)
    assert [len(group) for group in groups] == [2, 3, 2, 3]
    assert all(len({sample.images for sample in group}) == 1 for group in groups)
    assert json.dumps([s.question_id for s in groups[0]]) == '["0-0", "0-1"]'


@pytest.mark.parametrize(("scheduler", "rates"), [
    ("constant", [0.0, 0.5, 1.0, 1.0]), ("linear", [0.0, 0.5, 1.0, 0.5])])
def test_every_schedule_warms_up(tiny_directory, picture_paths, tmp_path, scheduler, rates):
    settings = TrainSettings(max_steps=4, batch_size=1, eval_fraction=0.0, save_fraction=0.0, log_steps=1,
                             scheduler=scheduler, warmup=0.5)
    train(tiny_directory, picture_paths, tmp_path, settings, lora=True)
    seen = [event["learning_rate"] for event in read_jsonl(tmp_path / "events.jsonl") if event["event"] == "log"]
    assert seen == pytest.approx([rate * settings.learning_rate for rate in rates])


def test_of_several_visible_gpus_one_process_uses_one(tiny_directory, picture_paths, tmp_path, monkeypatch):
    """Else the batch would be so many times as large, and an epoch over so many times as early."""
    real = TrainingArguments.__post_init__

    def show_four(arguments):
        real(arguments)
        arguments._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", show_four)
    settings = TrainSettings(epochs=1, batch_size=2, eval_fraction=0.0, save_fraction=0.0, grouping="none")
    watch = Recorder()
    trainer, _ = train(tiny_directory, picture_paths, tmp_path, settings, packed=False, lora=True, progress=watch)
    assert type(trainer.model_wrapped).__name__ == "PeftModelForCausalLM"
    assert trainer.args.train_batch_size == 2
    assert trainer.state.global_step == 8, "15 questions, two at a time"
    assert watch.lines == ["One of 4 visible GPUs is used, the others idle; --num-processes 4 trains on all of them."]


def test_a_model_spread_over_gpus_leaves_none_idle(tmp_path):
    arguments, watch = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), Recorder()
    arguments._n_gpu = 2
    keep_to_one_gpu(arguments, SimpleNamespace(hf_device_map={"a": 0, "b": 1}), watch)
    assert (arguments.n_gpu, watch.lines) == (1, [])


class Widths(BatchWatcher):
    """Remembers how many rows each forward pass has."""

    def __init__(self):
        self.rows = []

    def on_batch(self, inputs, loss, tokens):
        self.rows.append(len(inputs["input_ids"]))


@pytest.mark.parametrize("lora", [True, False])
def test_groups_that_are_too_long_for_a_row_make_no_larger_forward_pass(tiny_directory, picture_paths, tmp_path, lora):
    """They are learned from in further passes of the same step: the weights are those of undivided groups."""
    weights, rows, plan = {}, {}, {"max_steps": 3, "batch_size": 2, "learning_rate": 1e-3, "eval_fraction": 0.5,
                                   "save_fraction": 0.0, "lora": LoRASettings(dropout=0.0)}
    for length in (None, 60):
        watch = Widths()
        trainer, _ = train(tiny_directory, picture_paths, tmp_path / str(length), lora=lora, callbacks=(watch,),
                           settings=TrainSettings(pack_length=length, **plan))
        weights[length], rows[length] = weights_of(trainer), watch.rows
    assert rows[None] == [2, 2, 2]
    assert max(rows[60]) == 2
    assert sum(rows[60]) > 8
    assert max((weights[None][name] - weight).abs().max() for name, weight in weights[60].items()) < 1e-4
    first, second = ([event["eval_loss"] for event in read_jsonl(tmp_path / name / "events.jsonl")
                      if event["event"] == "eval"] for name in ("None", "60"))
    assert second == pytest.approx(first, rel=1e-4)


def test_a_divided_batch_holds_every_weight_once(tiny, picture_paths):
    samples = make_samples(picture_paths)
    weights = SimpleNamespace(weigh=lambda sample: 1.0 + samples.index(sample))
    collator = Collator(make_encoder(tiny), packed=True, max_tokens=60, weights=weights, divides=True)
    parts = list_parts(collator([(tuple(samples),)]))
    assert len(parts) > 1
    assert {len(part["input_ids"]) for part in parts} == {1}
    found = [weight for part in parts for weight in part[WEIGHTS][part[WEIGHTS] > 0].unique_consecutive().tolist()]
    assert found == [1.0, 2.0, 3.0, 4.0, 5.0]
