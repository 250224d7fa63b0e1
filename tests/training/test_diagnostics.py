"""Diagnostics: what they show, where, and that training does not notice them."""

from __future__ import annotations

import importlib.util
import json
import random
import re

import numpy as np
import pytest
import torch

from medvqa_cli.errors import MissingDependencyError
from medvqa_cli.inference.protocol import Generation
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, VQASample, read_jsonl
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.settings.tracking import TrackingSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training.diagnostics import Diagnostics, Watched
from medvqa_cli.training.diagnostics.collapse import has_learned
from medvqa_cli.training.diagnostics.meters import Meter
from medvqa_cli.training.diagnostics.pictures import find_pictures, lay_out
from medvqa_cli.training.diagnostics.probes import ProbeAnswer, choose_probes, measure_probes, undisturbed
from medvqa_cli.training.diagnostics.statistics import describe_samples, preview_sample
from medvqa_cli.training.diagnostics.tags import TAGS, is_known
from medvqa_cli.training.diagnostics.trackers import check_trackers, find_wandb_mode
from medvqa_cli.training.sft import TrainingPlan, build_trainer
from tests.data.builders import Notes
from tests.models.conftest import QUESTIONS, load_tiny
from tests.models.test_packing import make_encoder

needs_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None,
                                       reason="tensorboard is not installed (extra: tracking)")
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None,
                                 reason="wandb is not installed (extra: tracking)")
STEPS = 6


def make_samples(paths, image=0):
    return [VQASample(dataset="d", split="train", question_id=f"{image}-{n}", image_id=str(image), question=question,
                      answer=answer, answer_type="closed" if answer in ("yes", "no") else "open",
                      images=(paths[image],), modality="CT")
            for n, (question, answer) in enumerate(QUESTIONS)]


def train(tiny_directory, paths, directory, tracking=None, *, packed=True, engine=None, notes=SILENT, kept=None,
          **changes):
    """Train a tiny model; `tracking` None: without diagnostics."""
    torch.manual_seed(0)
    loaded = load_tiny(tiny_directory)
    settings = TrainSettings(**{"max_steps": STEPS, "batch_size": 1, "learning_rate": 1e-3, "log_steps": 1,
                                "eval_fraction": 0.5, "save_fraction": 0.0, "lora": LoRASettings(dropout=0.2)}
                             | changes)
    loaded.model = prepare_training(loaded.model, loaded.family.layout, settings, lora=True)
    samples = [sample for image in range(3) for sample in make_samples(paths, image)]
    with JsonlWriter(directory / "events.jsonl") as events:
        callbacks = ()
        if tracking:
            engine = engine or TransformersEngine(loaded, make_encoder(loaded), shared_prefix=packed, batch_size=4)
            watched = Watched(directory, engine, samples, samples[:8], choose_probes(samples, 8, 0), 5, 0,
                              {"train": to_tree(settings)})
            callbacks = (Diagnostics(watched, tracking, events, notes, (kept if kept is not None else []).append),)
        plan = TrainingPlan(loaded.model, make_encoder(loaded), samples, samples[:5], packed, settings, 3,
                            directory / "checkpoints", callbacks=callbacks)
        trainer, stop = build_trainer(plan, events, SILENT)
        trainer.train()
        stop.release()
    return trainer


def events_of(directory, kind):
    return [event for event in read_jsonl(directory / "events.jsonl") if event["event"] == kind]


@pytest.mark.parametrize("packed", [True, False])
def test_training_does_not_notice_the_probes(tiny_directory, picture_paths, tmp_path, packed):
    """With dropout on, the same losses and weights bit for bit: asked at every step by tree and by `generate`."""
    probed = train(tiny_directory, picture_paths, tmp_path / "probed", TrackingSettings(probe_steps=1), packed=packed,
                   max_steps=4)
    plain = train(tiny_directory, picture_paths, tmp_path / "plain", packed=packed, max_steps=4)
    assert len(events_of(tmp_path / "probed", "probe")) == 4
    assert events_of(tmp_path / "plain", "probe") == []
    curves = [[event["loss"] for event in events_of(tmp_path / name, "log")] for name in ("probed", "plain")]
    assert curves[0] == curves[1]
    weights = [dict(trainer.model.named_parameters()) for trainer in (probed, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_losses_would_show_a_disturbance(tiny_directory, picture_paths, tmp_path, monkeypatch):
    """Were the random state not kept, one number drawn by a probe would change the dropout of all later steps."""
    import contextlib

    def draw(model):
        torch.rand(1)
        return contextlib.nullcontext()

    monkeypatch.setattr("medvqa_cli.training.diagnostics.callback.undisturbed", draw)
    short = {"eval_fraction": 0.0, "max_steps": 2}
    train(tiny_directory, picture_paths, tmp_path / "probed", TrackingSettings(probe_steps=1), **short)
    train(tiny_directory, picture_paths, tmp_path / "plain", **short)
    curves = [[event["loss"] for event in events_of(tmp_path / name, "log")] for name in ("probed", "plain")]
    assert curves[0][0] == curves[1][0]
    assert curves[0] != curves[1]


def read_random_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def disturb(model):
    before = read_random_states()
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        assert all(now != then for now, then in zip(read_random_states(), before, strict=True))
        raise ZeroDivisionError


def test_modes_and_random_states_come_back_even_after_an_error(tiny):
    tiny.model.train()
    frozen = next(module for module in tiny.model.modules() if not list(module.children()))
    frozen.eval()
    before = read_random_states()
    with pytest.raises(ZeroDivisionError):
        disturb(tiny.model)
    assert read_random_states() == before
    assert tiny.model.training
    assert not frozen.training


def test_probes_in_events(tiny_directory, picture_paths, tmp_path):
    train(tiny_directory, picture_paths, tmp_path, TrackingSettings(probe_steps=4, probe_examples=2))
    probes = events_of(tmp_path, "probe")
    assert [probe["step"] for probe in probes] == [4, 6], "and at the end"
    for probe in probes:
        assert probe["questions"] == 8
        assert [example["type"] for example in probe["examples"]] == ["closed", "closed", "open", "open"]
        assert probe["metrics"]["stop/ended"] + probe["metrics"]["stop/cut_off"] == 1.0
        assert {example["gold"] for example in probe["examples"]} <= {answer for _, answer in QUESTIONS}
    asked = [[example["question_id"] for example in probe["examples"]] for probe in probes]
    assert asked[0] == asked[1], "the same questions each time"


def test_a_probe_that_cannot_be_read_stops_the_training_before_its_first_step(tiny_directory, picture_paths, tmp_path,
                                                                             monkeypatch):
    (bad, *_) = make_samples(["/none.png"])
    monkeypatch.setattr("tests.training.test_diagnostics.choose_probes", lambda *_: [bad])
    with pytest.raises(FileNotFoundError, match="none.png"):
        train(tiny_directory, picture_paths, tmp_path, TrackingSettings())
    assert events_of(tmp_path, "log") == []


def test_half_of_the_probes_are_closed_and_images_differ(picture_paths):
    samples = [sample for image in range(3) for sample in make_samples(picture_paths, image)]
    chosen = choose_probes(samples, 6, 1)
    assert [sample.answer_type for sample in chosen].count("closed") == 3
    assert chosen == choose_probes(samples, 6, 1)
    assert {sample.question_id for sample in choose_probes(samples, 6, 2)} != {s.question_id for s in chosen}
    assert len(choose_probes(samples, 100, 1)) == 15
    assert len(choose_probes([s for s in samples if s.answer_type == "open"], 6, 1)) == 6
    assert len(choose_probes([s for s in samples if s.answer_type == "closed"], 5, 1)) == 5
    assert choose_probes([], 6, 1) == choose_probes(samples, 0, 1) == []


def answer_to(gold, answer, kind="closed", tokens=2, ended=True):
    sample = VQASample(dataset="d", split="v", question_id="q", image_id="i", question="?", answer=gold,
                       answer_type=kind)
    return ProbeAnswer(sample, answer, tokens, ended)


def test_probe_metrics_by_hand():
    found = measure_probes([answer_to("yes", "Yes, there is."), answer_to("no", "yes", tokens=4),
                            answer_to("left lung", "Left lung."), answer_to("liver", "the liver", "open", ended=False)])
    assert found == pytest.approx({
        "open/exact_match": 0.0, "open/token_f1": 2 / 3, "closed/exact_match": 1 / 3, "closed/accuracy": 2 / 3,
        "closed/yes_no_accuracy": 0.5, "length/mean": 2.5, "stop/ended": 0.75, "stop/cut_off": 0.25,
        "closed/top_share": 2 / 3, "closed/gold_top_share": 1 / 3})


class Parrot:
    """An engine that always answers the same, or after some calls the truth."""

    def __init__(self, loaded, until=10**9, text="yes"):
        self.loaded, self.encoder, self.until, self.calls = loaded, make_encoder(loaded), until, 0
        self.text = text

    def generate(self, samples, decoding):
        self.calls += 1
        return [Generation(self.text if self.calls <= self.until else sample.answer, 0.0, 2) for sample in samples]


def collapse(tiny_directory, paths, directory, monkeypatch, **engine):
    """Train with probes that are all closed, 12 of them."""
    closed = [sample for n in range(6) for sample in make_samples(paths)[:2]]
    monkeypatch.setattr("tests.training.test_diagnostics.choose_probes", lambda *_: closed)
    notes, kept = Notes(), []
    train(tiny_directory, paths, directory, TrackingSettings(probe_steps=2), notes=notes, kept=kept,
          engine=Parrot(load_tiny(tiny_directory), **engine), eval_fraction=0.0)
    return notes, kept


def test_a_collapse_is_told_once(tiny_directory, picture_paths, tmp_path, monkeypatch):
    notes, kept = collapse(tiny_directory, picture_paths, tmp_path, monkeypatch)
    assert len(events_of(tmp_path, "probe")) == 3
    (warning,) = notes.warnings
    assert warning.startswith("The model has collapsed at step 2 of 6: 100% of 12 closed probes are answered 'yes', "
                              "where the most frequent gold answer makes up 50%. What helps: more questions")
    assert "--learning-rate 0.0003" in warning
    assert kept == [warning]
    assert [event["message"] for event in events_of(tmp_path, "warning")] == [warning]


def test_a_collapse_that_has_passed_is_told_too(tiny_directory, picture_paths, tmp_path, monkeypatch):
    notes, kept = collapse(tiny_directory, picture_paths, tmp_path, monkeypatch, until=1)
    assert len(notes.warnings) == 1
    assert notes.said[-1] == ("The collapse of step 2 has passed: at the end the most frequent answer to closed probes "
                              "is 'yes', 50% of them.")
    assert kept == [notes.warnings[0], notes.said[-1]]


def test_a_model_that_has_learned_nothing_yet_has_not_collapsed(tiny_directory, picture_paths, tmp_path, monkeypatch):
    notes, kept = collapse(tiny_directory, picture_paths, tmp_path, monkeypatch, text="")
    assert notes.warnings == kept == []
    (said,) = [line for line in notes.said if "answer" in line]
    assert said == ("The model has not learned to answer yet: at step 2 of 6, 100% of 12 closed probes get an empty "
                    "answer, and the loss has hardly fallen.")


@pytest.mark.parametrize(("history", "expected"), [
    ([], False), ([{"loss": 5.0}], False), ([{"loss": 5.0}, {"eval_loss": 1.0}, {"loss": 4.8}], False),
    ([{"loss": 5.0}, {"loss": 4.0}], True), ([{"loss": 0.0, "reward": 1.0}], True)])
def test_what_logs_show_of_learning(history, expected):
    assert has_learned(history) is expected


@needs_tensorboard
def test_tensorboard_shows_every_tag_of_the_table(tiny_directory, picture_paths, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracking = TrackingSettings(report_to=("tensorboard",), probe_steps=3, histogram_steps=2, image_steps=4)
    probed = train(tiny_directory, picture_paths, tmp_path / "shown", tracking)
    plain = train(tiny_directory, picture_paths, tmp_path / "plain")
    weights = [dict(trainer.model.named_parameters()) for trainer in (probed, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    found = EventAccumulator(str(tmp_path / "shown" / "tensorboard"),
                             size_guidance={"tensors": 0, "images": 0, "histograms": 0})
    found.Reload()
    tags = found.Tags()
    texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    everything = [*tags["scalars"], *tags["histograms"], *tags["images"], *texts]
    assert [tag for tag in everything if not is_known(tag)] == []
    absent = {"gpu/memory_*_mib", "data/*/organ/*", "data/*/question_type/*"}
    assert {p for p in TAGS if not any(re.fullmatch(p.replace("*", ".*"), tag) for tag in everything)} == absent
    logged = [event["loss"] for event in events_of(tmp_path / "shown", "log")]
    assert [point.value for point in found.Scalars("train/loss")] == pytest.approx(logged)
    assert [point.step for point in found.Scalars("probe/closed/accuracy")] == [3, 6]
    assert [point.step for point in found.Histograms("train/loss_histogram")] == [1, 2, 4, 6]
    assert [point.step for point in found.Images("images/train")] == [1, 4]
    assert found.Histograms("train/loss_histogram")[-1].histogram_value.num == 2
    assert found.Scalars("data/train/questions")[0].value == 15
    (preview,) = found.Tensors("text/train_0/text_summary")
    text = preview.tensor_proto.string_val[0].decode()
    assert "x 4]" in text or re.search(r"\[&lt;image&gt; x \d+\]", text)
    assert QUESTIONS[0][0] in text
    supervised = [point.value for point in found.Scalars("train/supervised_tokens")]
    assert len(supervised) == STEPS
    assert min(supervised) > 5, "five answers, each with its end token"


@needs_wandb
def test_wandb_writes_its_files_where_nobody_is_logged_in(tiny_directory, picture_paths, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert find_wandb_mode() == "offline"
    notes = Notes()
    tracking = TrackingSettings(report_to=("wandb",), probe_steps=6, image_steps=1, histogram_steps=1)
    train(tiny_directory, picture_paths, tmp_path / "mine", tracking, notes=notes, max_steps=2)
    (folder,) = (tmp_path / "mine" / "wandb").glob("offline-run-*")
    (log,) = folder.glob("run-*.wandb")
    content = log.read_bytes()
    for tag in (b"train/loss", b"probe/closed/accuracy", b"train/loss_histogram"):
        assert tag in content
    assert list(folder.rglob("*.png"))
    assert any("wandb sync" in line for line in notes.said)


def test_wandb_goes_online_only_for_those_who_logged_in(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    netrc.write_text("machine api.wandb.ai login user password word\n")
    netrc.chmod(0o600)
    assert find_wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert find_wandb_mode() == "offline"
    monkeypatch.delenv("WANDB_MODE")
    netrc.write_text("nonsense")
    assert find_wandb_mode() == "offline"


def test_a_missing_tracker_names_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as seen:
        check_trackers(("wandb",))
    assert seen.value.message == "Tracking with Weights & Biases needs the package 'wandb', which is not installed."
    assert seen.value.hint == "Install it with: pip install 'medvqa-cli[tracking]'"


def test_pictures_come_back_from_what_the_processor_made(tiny, picture_paths):
    from PIL import Image

    sample = make_samples(picture_paths)[0]
    tensors = make_encoder(tiny).encode_images(sample).tensors
    (picture,) = find_pictures(tensors, tiny.processor.image_processor, 4)
    height, width = picture.shape[1:]
    wanted = tiny.processor.image_processor(Image.open(picture_paths[0]).convert("RGB"), do_normalize=False,
                                            return_tensors="pt")["pixel_values"][0]
    assert (height, width) == tuple(wanted.shape[1:])
    assert torch.allclose(picture, wanted.float(), atol=1e-5)


def test_pictures_of_patches_come_back_too(tmp_path):
    """Qwen-VL's rows of patches: rebuilt from its own processor's output for two pictures of different shapes."""
    from medvqa_cli.models.loading import load_checkpoint
    from medvqa_cli.plugins import models
    from medvqa_cli.settings.model import ModelSettings
    from tests.models.conftest import draw_picture

    models.get("qwen2_vl").build_tiny(tmp_path, texts=["a b"], seed=1)
    loaded = load_checkpoint(models.get("qwen2_vl"), "qwen2_vl", str(tmp_path),
                             ModelSettings(dtype="float32", device="cpu"))
    processor = loaded.processor.image_processor
    side = processor.patch_size * processor.merge_size
    pictures = [draw_picture(n, (side * wide, side * high)) for n, (wide, high) in enumerate([(2, 3), (4, 2)])]
    made = processor(pictures, do_resize=False, return_tensors="pt")
    found = find_pictures(dict(made), processor, 2)
    for picture, back in zip(pictures, found, strict=True):
        wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        assert torch.allclose(back, wanted, atol=1e-4)


def test_grids_hold_every_picture():
    grid = lay_out([torch.ones(3, 5, 4), torch.full((3, 2, 8), 0.5), torch.ones(3, 1, 1)])
    assert grid.shape == (3, 18, 24)
    assert grid.sum() == pytest.approx(3 * (20 + 8 + 1))
    assert find_pictures({"hidden": torch.rand(2, 7)}, None, 4) == []


def test_a_preview_shortens_image_tokens(tiny, picture_paths):
    sample = make_samples(picture_paths)[3]
    encoder = make_encoder(tiny)
    text = preview_sample(sample, encoder)
    count = sum(encoder.encode_images(sample).num_tokens)
    assert f"x {count}]" in text
    assert text.count("<image>") == 1
    prompt, target = text.split("--- target")
    assert sample.question in prompt
    assert sample.answer in target
    assert sample.answer not in prompt


def test_statistics_by_hand(picture_paths):
    facts = describe_samples([*make_samples(picture_paths), *make_samples(picture_paths, 1)[:1]])
    assert facts == pytest.approx({"questions": 6, "images": 2, "questions_per_image": 3, "closed_share": 0.5,
                                   "open_share": 0.5, "without_image_share": 0, "distinct_answers": 5,
                                   "top_answer_share": 1 / 3, "modality/CT": 1.0, "language/en": 1.0})


def test_the_meter_counts_steps_alone():
    ticks = iter([0.0, 2.0, 10.0, 13.0])
    meter = Meter(clock=lambda: next(ticks))
    for _ in range(2):
        meter.start()
        meter.count(100, torch.tensor(6.0), torch.tensor(3))
        meter.stop()
    assert meter.read() == {"train/supervised_tokens": 3.0, "train/supervised_tokens_per_second": 6 / 5,
                            "train/tokens_per_second": 40.0}
    assert meter.read() == {}
    assert meter.take_losses().tolist() == [2.0, 2.0]
    assert meter.take_losses().tolist() == []


def test_probes_are_plain_json(tiny_directory, picture_paths, tmp_path):
    train(tiny_directory, picture_paths, tmp_path, TrackingSettings(probe_fraction=0.0), max_steps=1)
    (probe,) = events_of(tmp_path, "probe")
    assert json.loads(json.dumps(probe)) == probe
