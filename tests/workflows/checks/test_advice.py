"""Classic failures are known by what libraries say of them."""

from __future__ import annotations

import pytest
import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.records import AnswerSample, Prediction, VQASample
from medvqa_cli.workflows.checks import advice


@pytest.mark.parametrize(("error", "words"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "--lora-r 4, --batch-size 1"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), "--quantization 4bit"),
    (ModelError("'x' does not fit into the device's memory."), "--gradient-checkpointing"),
    (MemoryError(), "smaller pictures"),
    (ValueError("Image features and image tokens do not match, tokens: 17, features: 1024"), "processor_config.json"),
    (ValueError("You have to specify either decoder_input_ids or decoder_inputs_embeds"), "SEQ_2_SEQ_LM"),
    (ValueError("Target modules {'v_proj', 'q_proj'} not found in the base model."), "T5 has q and v"),
    (RuntimeError("mat1 and mat2 must have the same dtype, but got Half and Float"), "--dtype"),
    (RuntimeError("missing_keys: ['lm_head.weight']"), "not loaded right"),
    (IndexError("index out of range in self"), "beyond the embedding"),
    (RuntimeError("probability tensor contains either `inf`, `nan` or element < 0"), "--dtype bfloat16"),
])
def test_classic_failures_are_known(error, words):
    assert words in advice.advise(error)


@pytest.mark.parametrize("error", [KeyError("nanny"), ValueError("an infant's image"), RuntimeError("else")])
def test_other_errors_get_no_advice(error):
    assert advice.advise(error) == ""


def test_a_real_shortage_of_memory_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.float32)
    assert advice.advise(caught.value) == advice.MEMORY


def predict(gold: str, answer: str, *samples: AnswerSample) -> Prediction:
    sample = VQASample(dataset="d", split="test", question_id="0", image_id="0", question="Q?", answer=gold,
                       answer_type="closed")
    return Prediction(sample=sample, answer=answer, samples=samples)


def test_a_collapse_is_told_with_what_helps():
    rows = [predict("yes", "Yes, it is")] * 5 + [predict("no", "yes")] * 5 + [predict("liver", "lung")] * 9
    warning = advice.find_collapse(rows, 2e-4)
    assert warning.startswith(
        "The model has collapsed: 100% of 10 answers to yes/no questions are 'yes', which is the truth of at most 50%. "
        "What helps: more questions")
    assert warning.endswith("(--learning-rate 6e-5).")


@pytest.mark.parametrize("rows", [
    [predict("yes", "yes")] * 30,
    [predict("yes", "yes")] * 4 + [predict("no", "yes")] * 5,
    [predict("yes", "yes")] * 9 + [predict("no", "no")] * 3,
    [],
], ids=["the truth is uniform", "too few", "not over 0.9", "none"])
def test_no_collapse(rows):
    assert advice.find_collapse(rows, 1e-4) == ""


def test_every_sampled_answer_counts():
    rows = [predict(gold, "no", AnswerSample("no", 10)) for gold in ("yes", "no")]
    assert "100% of 20 answers" in advice.find_collapse(rows, 1e-4)
    rows[0] = predict("yes", "yes", AnswerSample("yes", 6), AnswerSample("no", 4))
    assert advice.find_collapse(rows, 1e-4) == ""
