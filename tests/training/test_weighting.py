"""The loss: of answers alone, weighted by question, divided by the weights of a whole optimiser step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from medvqa_cli.data.balance import weigh_questions
from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.packing import IGNORE
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.training.collation import WEIGHTS, Collator
from medvqa_cli.training.sft import TrainingPlan, build_trainer
from medvqa_cli.training.weighting import spread_weights
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder, make_samples

OFTEN = {"loss_weights": {"answer_type=closed": 3.0}}


def mix_samples(paths):
    """Return questions about three pictures, every third one closed."""
    samples = [sample for image in range(3) for sample in make_samples(paths, image)]
    return [replace(sample, answer_type="closed" if number % 3 == 0 else "open")
            for number, sample in enumerate(samples)]


def train(tiny_directory, directory, samples, *, packed=True, **settings):
    """Train without LoRA; return the losses of all steps, and the weights."""
    torch.manual_seed(0)
    loaded = load_tiny(tiny_directory)
    settings = TrainSettings(**{"max_steps": 3, "batch_size": 2, "learning_rate": 1e-3, "log_steps": 1,
                                "eval_fraction": 0.0, "save_fraction": 0.0, "grouping": "image", **settings})
    model = prepare_training(loaded.model, loaded.family.layout, settings, lora=False)
    plan = TrainingPlan(model, make_encoder(loaded), samples, [], packed, settings, 3, directory / "checkpoints",
                        weights=weigh_questions(settings, samples))
    with JsonlWriter(directory / "events.jsonl") as events:
        trainer, _ = build_trainer(plan, events, SILENT)
        trainer.train()
    losses = [row["loss"] for row in read_jsonl(directory / "events.jsonl") if row["event"] == "log"]
    return losses, {name: weight.detach().clone() for name, weight in model.named_parameters()}


def find_worst(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_weights_lie_on_the_answers_alone():
    labels = torch.tensor([[IGNORE, 5, 6, IGNORE, 7], [IGNORE, IGNORE, 8, IGNORE, IGNORE]])
    assert spread_weights(labels, [2.0, 0.5, 3.0]).tolist() == [[0, 2, 2, 0, 0.5], [0, 0, 3, 0, 0]]
    with pytest.raises(ValueError, match="2 samples have 3 answers"):
        spread_weights(labels, [1.0, 1.0])


@pytest.mark.parametrize("packed", [True, False])
def test_every_answer_gets_its_own_weight(tiny, picture_paths, packed):
    """In rows of packs that are cut by their length too."""
    samples = mix_samples(picture_paths)
    weights = weigh_questions(TrainSettings(**OFTEN), samples)
    encoder = make_encoder(tiny)
    groups = [samples[:5], samples[5:10]]
    longest = max(len(encoder.encode_text(s, encoder.encode_images(s)).prompt) for s in samples)
    batch = Collator(encoder, packed, longest + 20, weights)([(group,) for group in groups])
    seen = {}
    for row, marked in zip(batch["labels"], batch[WEIGHTS], strict=True):
        for token, weight in zip(row.tolist(), marked.tolist(), strict=True):
            assert (token == IGNORE) == (weight == 0)
        seen[len(seen)] = [weight for weight in marked.tolist() if weight]
    lengths = [len(encoder.encode_text(s, encoder.encode_images(s)).answer) for s in samples[:10]]
    expected = [weights.weigh(s) for s, n in zip(samples[:10], lengths, strict=True) for _ in range(n)]
    assert [weight for row in seen.values() for weight in row] == pytest.approx(expected)
    assert len(set(expected)) == 2


def test_only_answers_are_learned(tiny, picture_paths):
    """The loss is the cross-entropy of the answers' tokens by hand; no logit of a question or an image counts."""
    encoder, model = make_encoder(tiny), tiny.model.eval()
    sample = make_samples(picture_paths)[0]
    text = encoder.encode_text(sample, encoder.encode_images(sample))
    batch = build_batch(encoder, [[sample]], packed=False)
    total, tokens = sum_answer_loss(model, batch)
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[0]
    by_hand = sum(functional.cross_entropy(logits[len(text.prompt) + n - 1], torch.tensor(token)).item()
                  for n, token in enumerate(text.answer))
    assert total.item() == pytest.approx(by_hand, rel=1e-5)
    assert int(tokens) == len(text.answer)
    assert encoder.processor.tokenizer.decode(text.answer, skip_special_tokens=True).strip() == sample.answer


def test_packed_and_separate_rows_lose_the_same_weighted(tiny_directory, picture_paths, tmp_path):
    samples = mix_samples(picture_paths)
    (packed, first), (apart, second) = (
        train(tiny_directory, tmp_path / str(way), samples, packed=way, **OFTEN) for way in (True, False))
    assert packed == pytest.approx(apart, rel=1e-4)
    assert find_worst(first, second) < 1e-4
    plain, _ = train(tiny_directory, tmp_path / "plain", samples)
    assert abs(plain[0] - packed[0]) > 1e-3


@pytest.mark.slow
def test_the_divisor_is_that_of_the_whole_step(tiny_directory, picture_paths, tmp_path):
    samples = mix_samples(picture_paths)
    whole, first = train(tiny_directory, tmp_path / "a", samples, **OFTEN)
    parts, second = train(tiny_directory, tmp_path / "b", samples, batch_size=1, gradient_accumulation=2, **OFTEN)
    assert whole == pytest.approx(parts, rel=1e-5)
    assert find_worst(first, second) < 1e-4


def test_a_weight_of_two_is_the_question_twice(tiny_directory, picture_paths, tmp_path):
    samples = mix_samples(picture_paths)[:5]
    twice = [again for sample in samples for again in [sample] * (2 if sample.answer_type == "closed" else 1)]
    weighted, first = train(tiny_directory, tmp_path / "a", samples, batch_size=1,
                            loss_weights={"answer_type=closed": 2.0})
    doubled, second = train(tiny_directory, tmp_path / "b", twice, batch_size=1)
    assert weighted == pytest.approx(doubled, rel=1e-4)
    assert find_worst(first, second) < 1e-4


@pytest.mark.slow
def test_equal_weights_change_nothing(tiny_directory, picture_paths, tmp_path):
    samples = mix_samples(picture_paths)
    equal, _ = train(tiny_directory, tmp_path / "a", samples, loss_weights={"language=en": 7.0})
    plain, _ = train(tiny_directory, tmp_path / "b", samples)
    assert equal == pytest.approx(plain, rel=1e-5)
