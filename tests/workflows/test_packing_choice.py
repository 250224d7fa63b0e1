"""Whether questions are packed is decided once, by a first batch with pictures, and never by numbers that are none."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medvqa_cli.records import VQASample
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.workflows.fitting import decide_packing
from medvqa_cli.workflows.train import train_sft
from tests.models.conftest import load_tiny, picture_paths  # noqa: F401
from tests.models.test_packing import make_encoder
from tests.models.test_packing import make_samples as make_questions

SETTINGS = SimpleNamespace(train=TrainSettings(), model=SimpleNamespace(attention="auto"))
COMPARE = "medvqa_cli.models.batches.compare_packed_loss"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    from medvqa_cli.plugins import models

    folder = tmp_path_factory.mktemp("tiny")
    models.get("llava").build_tiny(folder, seed=1)
    return load_tiny(folder)


def make_samples(images, number):
    return [VQASample(dataset="d", split="train", question_id=f"{images}-{n}", image_id=str(images), question="Q?",
                      answer="yes", answer_type="closed", images=images) for n in range(number)]


@pytest.mark.parametrize(("losses", "packs"), [
    ((3.0, 3.0), True), ((3.0, 3.1), False), ((3.0, float("nan")), False), ((float("nan"), 3.0), False),
    ((3.0, float("inf")), False), ((float("inf"), float("inf")), False)])
def test_a_loss_that_is_no_number_does_not_pass_for_an_equal_one(loaded, listener, monkeypatch, losses, packs):
    monkeypatch.setattr(COMPARE, lambda *_: losses)
    samples = make_samples(("a.png",), 2)
    assert decide_packing(SETTINGS, loaded, make_encoder(loaded), samples, listener) is packs
    assert len(listener.warnings) == (not packs)


def test_the_first_batch_has_a_picture_if_any_question_has(loaded, listener, monkeypatch):
    seen = []
    monkeypatch.setattr(COMPARE, lambda model, encoder, group: (seen.append(group), (1.0, 1.0))[1])
    samples = [*make_samples((), 9), *make_samples(("a.png",), 2), *make_samples(("b.png",), 3)]
    decide_packing(SETTINGS, loaded, make_encoder(loaded), samples, listener)
    decide_packing(SETTINGS, loaded, make_encoder(loaded), samples[:9], listener)
    assert [[sample.images for sample in group] for group in seen] == [[("b.png",)] * 3, [()] * 3]


@pytest.mark.parametrize("packed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_resumed_run_packs_as_it_did(own_run, monkeypatch, packed):
    settings, run = own_run
    run.weights.rename(run.path / "gone")
    run.update_manifest(packed=packed)
    monkeypatch.setattr(COMPARE, lambda *_: pytest.fail("decided anew"))
    again = train_sft(settings, resume="small")
    assert again.read_json("manifest.json")["packed"] is packed


def test_a_run_that_was_stopped_before_it_decided_decides(own_run):
    settings, run = own_run
    run.weights.rename(run.path / "gone")
    manifest = run.read_json("manifest.json")
    del manifest["packed"]
    run.manifest.write_text(json.dumps(manifest), encoding="utf-8")
    assert train_sft(settings, resume="small").read_json("manifest.json")["packed"] is True


@pytest.mark.parametrize(("length", "is_short"), [(None, False), (45, True), (400, False)])
def test_packs_of_one_question_are_told(loaded, listener, picture_paths, length, is_short):  # noqa: F811
    settings = SimpleNamespace(train=TrainSettings(pack_length=length), model=SETTINGS.model)
    samples = make_questions(picture_paths)
    assert decide_packing(settings, loaded, make_encoder(loaded), samples, listener) is True
    assert [text.startswith("Packs of 45 tokens (train.pack_length) hold one question each, since an image with what "
                            "stands before its question takes ") for text in listener.warnings] == [True] * is_short
