"""The candidate with the highest log-probability per token is the answer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.inference import candidates
from medvqa_cli.inference.candidates import choose_answers, rank_options
from medvqa_cli.inference.routing import Offer
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.batches import find_token_losses, stack_plain
from medvqa_cli.models.encoding import EncodedSample
from medvqa_cli.settings.data import PromptSettings
from tests.models.test_packing import make_encoder, make_samples

PLAIN = PromptSettings()
YES_NO = Offer("yesno", (("yes",), ("no",)))
SIDES = Offer("options", (("upper left lung", "left"), ("MRI",), ("liver",)))


def test_the_best_form_stands_for_its_option_and_length_does_not_count():
    choice = rank_options((("a", "aa"), ("b",)), {"a": (-3.0, 1), "aa": (-4.0, 4), "b": (-1.5, 1)})
    assert choice.answer == "aa"  # -1 a token, though -4 in all is the lowest
    assert choice.margin == pytest.approx(0.5)
    assert choice.probabilities == pytest.approx({"aa": 1 / (1 + math.exp(-0.5)), "b": 1 / (1 + math.exp(0.5))})
    assert list(choice.probabilities) == ["aa", "b"]
    assert choice.scores["a"] == (-3.0, 1)


def test_equal_candidates_keep_their_order_and_a_single_one_has_no_margin():
    assert rank_options((("x",), ("y",)), {"x": (-2.0, 2), "y": (-1.0, 1)}).answer == "x"
    assert rank_options((("x",),), {"x": (-2.0, 2)}).margin is None


@given(st.lists(st.tuples(st.floats(-500, 0), st.integers(1, 20)), min_size=1, max_size=8))
def test_probabilities_sum_to_one_however_unlikely_the_candidates(scores):
    choice = rank_options([(str(n),) for n in range(len(scores))], {str(n): score for n, score in enumerate(scores)})
    assert sum(choice.probabilities.values()) == pytest.approx(1.0)
    assert choice.probabilities[choice.answer] == max(choice.probabilities.values())


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_choices_equal_those_of_separate_rows(tiny, picture_paths, shared_prefix):
    """Against teacher forcing of each candidate as a row of its own."""
    encoder = make_encoder(tiny)
    engine = TransformersEngine(tiny, encoder, shared_prefix=shared_prefix)
    samples = make_samples(picture_paths)[:3]
    found = choose_answers(engine, samples, [YES_NO, SIDES, YES_NO], PLAIN)
    for sample, choice in zip(samples, found, strict=True):
        images = encoder.encode_images(sample)
        for form, (logprob, tokens) in choice.scores.items():
            answer = tuple(tiny.family.encode_answer(tiny.processor, form))
            row = EncodedSample(encoder.encode_text(sample, images).prompt, answer)
            with torch.no_grad():
                losses, _ = find_token_losses(tiny.model, {**stack_plain(encoder, [row]), **images.tensors})
            assert tokens == len(answer)
            assert logprob == pytest.approx(-losses.sum().item(), abs=1e-4)
    assert [set(choice.scores) for choice in found] == [{"yes", "no"}, {"upper left lung", "left", "MRI", "liver"},
                                                        {"yes", "no"}]


class Recorder:
    """An engine that knows the log-probabilities and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def score_candidates(self, samples, candidates):
        self.asked.append([list(offered) for offered in candidates])
        return [{text: -float(len(text)) for text in offered} for offered in candidates]

    def count_answer_tokens(self, answer):
        return 1


def test_candidates_are_scored_in_the_form_the_prompt_asks_for(picture_paths):
    engine = Recorder()
    [choice] = choose_answers(engine, make_samples(picture_paths)[:1], [YES_NO], PromptSettings(style="think"))
    assert engine.asked == [[["<answer>yes</answer>", "<answer>no</answer>"]]]
    assert choice.answer == "no"


def test_long_lists_are_scored_in_waves_that_lose_nothing(picture_paths, monkeypatch):
    monkeypatch.setattr(candidates, "MAX_SCORED", 5)
    engine = Recorder()
    offers = [SIDES, YES_NO, YES_NO, SIDES, YES_NO]
    found = choose_answers(engine, make_samples(picture_paths), offers, PLAIN)
    assert [len(wave) for wave in engine.asked] == [1, 2, 1, 1]
    assert [tuple(choice.scores) for choice in found] == [offer.candidates for offer in offers]
    assert choose_answers(engine, [], [], PLAIN) == []
