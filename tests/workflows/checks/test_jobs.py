"""What the short jobs find wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvqa_cli.errors import ModelError
from medvqa_cli.progress import SILENT
from medvqa_cli.records import Prediction, write_jsonl
from medvqa_cli.runs import Run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.checks.advice import NO_FALL, NOT_FINITE, advise
from medvqa_cli.workflows.checks.bench import Bench
from medvqa_cli.workflows.checks.jobs import Jobs, list_steps
from medvqa_cli.workflows.checks.outcome import FaultError, Listener
from medvqa_cli.workflows.checks.portions import portion_data
from medvqa_cli.workflows.checks.scope import SanityScope, Subject, choose_subjects
from tests.data.builders import make_sample

SCOPE = SanityScope(train_samples=3, test_samples=2, calibration_samples=4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A bench whose tiny LLaVA is loaded as any checkpoint is: by the user's settings."""
    home = tmp_path_factory.mktemp("jobs")
    own = make_settings({"model": {"family": "llava", "device": "cpu", "dtype": "float32"},
                         "train": {"learning_rate": 5e-3}, "infer": {"max_new_tokens": 3}})
    settings = portion_data(own, SCOPE, home)
    tiny = Bench(choose_subjects(settings, SCOPE)[0], SCOPE, settings, home / "tiny", Listener(SILENT))
    tiny.load()
    subject = Subject("llava", tiny.settings.model, tiny=False)
    return Bench(subject, SCOPE, settings, home / "llava", Listener(SILENT))


def change(bench: Bench, **train) -> Jobs:
    settings = bench.settings.model_copy(update={"train": bench.settings.train.model_copy(update=train)})
    return Jobs(Bench(bench.subject, SCOPE, settings, bench.folder / str(train), Listener(SILENT)))


def test_what_was_saved_must_be_what_was_trained(bench):
    jobs = Jobs(bench)
    assert "on 3 questions, packed rows. Trained: 34.8 K" in jobs.train()
    assert jobs.load_again().startswith(f"loss {jobs.loss:.3f} as in training; 2 answers, such as '")
    weights = jobs.run.path / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(FaultError, match=f"what was trained gives a loss of .* ended with {jobs.loss:.4f}"):
        jobs.load_again()


def test_a_loss_that_does_not_fall_is_found(bench):
    with pytest.raises(FaultError, match="The loss did not fall: .* after the first step, .* after step 8") as caught:
        change(bench, learning_rate=1e-30).train()
    assert caught.value.hint == NO_FALL


def test_a_loss_that_is_no_number_is_found(bench):
    with pytest.raises(ModelError, match="The training has diverged at step 2 of 8: the loss is nan") as caught:
        change(bench, learning_rate=1e30).train()
    assert advise(caught.value) == NOT_FINITE


def test_calibration_without_training_is_of_the_model_as_it_is(bench):
    jobs = Jobs(bench)
    found = jobs.calibrate()
    metrics = json.loads(next(bench.settings.paths.runs.glob("infer-*/calibration/metrics.json")).read_text())
    assert found == f"ECE {metrics['ece']:.3f} on 2 questions, 4 answers each, of the model as it is"


def test_odd_answers_are_told(bench, tmp_path):
    jobs, run = Jobs(bench), Run(tmp_path)
    rows = [Prediction(sample=make_sample(number, answer="yes" if number % 2 else "no", answer_type="closed"),
                       answer="", logprob=-1.0) for number in range(10)]
    write_jsonl(run.path / "predictions.jsonl", rows)
    bench.listener.warnings.clear()
    assert jobs._describe_answers(run) == "10 answers, such as ''"
    assert [text.partition(":")[0] for text in bench.listener.warnings] == ["The model has collapsed",
                                                                            "Every answer is empty"]
    write_jsonl(run.path / "predictions.jsonl", [Prediction(sample=rows[0].sample, answer="a", logprob=float("nan"))])
    with pytest.raises(FaultError, match="The log-probability of the answer 'a' is nan"):
        jobs._describe_answers(run)


@pytest.mark.parametrize(("scope", "left_out"), [
    (SanityScope(), set()), (SanityScope(inference_only=True), {"training", "adapter"}),
    (SanityScope(inference_only=True, skip_calibration=True), {"training", "adapter", "calibration"})])
def test_steps_can_be_left_out(bench, scope, left_out):
    whole = ["load", "image tokens", "packing", "inference", "parameters", "training", "adapter", "calibration"]
    steps = list_steps(Bench(bench.subject, scope, bench.settings, bench.folder, bench.listener))
    assert [step.name for step in steps] == [name for name in whole if name not in left_out]
    places = {step.name: place for place, step in enumerate(steps)}
    assert all(places[need] < places[step.name] for step in steps for need in step.needs if need != "data")
