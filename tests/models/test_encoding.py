"""Conversations of every style reach the model whole, cached by all that decides them, packed without a difference."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from pathlib import Path

import pytest
import torch
from PIL import Image

from medvqa_cli.data.prompts import build_turns
from medvqa_cli.errors import SettingsError
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.batches import build_batch, compare_packed_loss
from medvqa_cli.models.encoding import BLANK_GREY, Cache, EncodedSample, KeptText, SampleEncoder
from medvqa_cli.models.packing import find_common_prefix
from medvqa_cli.models.protocol import ImageInputs
from medvqa_cli.records import VQASample
from medvqa_cli.settings.data import Exemplar, PromptSettings
from tests.models.conftest import QUESTIONS


def show_exemplar(image: str | None = None) -> tuple[Exemplar, ...]:
    return (Exemplar(question="Is it CT?", answer="no", image=Path(image) if image else None),)


STYLES = ("plain", "short", "minimal", "chain_of_thought", "think")


class Reader:
    """Opens pictures and remembers which."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: str) -> Image.Image:
        self.read.append(path)
        return Image.open(path).convert("RGB")


def make_encoder(loaded, prompt=None, **options) -> SampleEncoder:
    return SampleEncoder(loaded.family, loaded.processor, options.pop("reader", Reader()),
                         prompt=prompt or PromptSettings(), **options)


def make_samples(path: str | None, **values) -> list[VQASample]:
    return [VQASample(dataset="d", split="train", question_id=str(number), image_id="i", question=question,
                      answer=answer, answer_type="open", images=(path,) if path else (), **values)
            for number, (question, answer) in enumerate(QUESTIONS)]


def decode(loaded, ids) -> str:
    return loaded.tokenizer.decode(ids)


@pytest.mark.parametrize("exemplar", [None, "text", "picture"])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_packs_without_a_difference(tiny, picture_paths, style, exemplar):
    shown = {None: (), "text": show_exemplar(), "picture": show_exemplar(picture_paths[2])}[exemplar]
    prompt = PromptSettings(style=style, exemplars=shown, options="always")
    for values in ({}, {"history": (("What is it?", "CT"),), "context": ("a fact",), "options": ("yes", "MRI")}):
        samples = make_samples(picture_paths[0], **values)
        encoder = make_encoder(tiny, prompt)
        plain, packed = compare_packed_loss(tiny.model, encoder, samples)
        assert packed == pytest.approx(plain, rel=1e-5)
        images = encoder.encode_images(samples[0])
        shared = find_common_prefix([encoder.encode_text(sample, images).prompt for sample in samples])
        assert shared > sum(images.num_tokens), "the pictures are not shared"


def test_samples_of_different_histories_pack_together(tiny, picture_paths):
    first, second, third, *_ = make_samples(picture_paths[0])
    conversation = [first, dataclasses.replace(second, history=((first.question, first.answer),)),
                    dataclasses.replace(third, history=((first.question, first.answer),
                                                        (second.question, second.answer)))]
    plain, packed = compare_packed_loss(tiny.model, make_encoder(tiny), conversation)
    assert packed == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_the_ids_say_what_the_turns_say(tiny, picture_paths, style):
    prompt = PromptSettings(style=style, exemplars=show_exemplar())
    sample = make_samples(picture_paths[0], context=("a fact",))[0]
    encoder = make_encoder(tiny, prompt)
    encoded = encoder.encode_text(sample, encoder.encode_images(sample))
    text = decode(tiny, encoded.prompt)
    assert all(turn.text in text for turn in build_turns(sample, prompt))
    assert text.count("<image>") == 16
    assert decode(tiny, encoded.answer) == {
        "chain_of_thought": " The answer is (yes).</s>", "think": " <answer>yes</answer></s>"}.get(style, " yes</s>")


def test_the_cache_tells_apart_all_that_decides_the_ids(tiny, picture_paths):
    sample = make_samples(picture_paths[0])[0]
    variants = [sample, *(dataclasses.replace(sample, **change) for change in (
        {"question": "Is it?"}, {"answer": "no"}, {"context": ("a fact",)}, {"history": (("Is it?", "no"),)},
        {"history": (("Is it?", "yes"),)}, {"options": ("liver", "heart")}, {"options": ("heart", "liver")},
        {"images": (picture_paths[0], picture_paths[1])}, {"images": ()}, {"answer_type": "closed"}))]
    encoder = make_encoder(tiny, PromptSettings(closed_style="minimal"))
    encoded = [encoder.encode_text(variant, encoder.encode_images(variant)) for variant in variants]
    assert len(set(encoded)) == len(variants)
    again = [encoder.encode_text(variant, encoder.encode_images(variant)) for variant in variants]
    assert again == encoded


def test_a_kept_text_takes_the_memory_of_its_words_alone(tiny):
    texts = [text for _, text in zip(range(40), itertools.product("abcdefg", repeat=6), strict=False)]
    encoder, sizes = make_encoder(tiny), {}
    for count in (10, 10_000):
        images = ImageInputs({}, (count, 2), (tiny.processor.image_token,) * 2)
        tracemalloc.start()
        for text in texts:
            sample = dataclasses.replace(make_samples("a.png")[0], question=" ".join(text), images=("a", "b"))
            encoded = encoder.encode_text(sample, images)
            assert encoder.encode_text(sample, images) == encoded
            assert encoded.prompt.count(tiny.processor.image_token_id) == count + 2
        sizes[count] = tracemalloc.get_traced_memory()[0] / len(texts)
        tracemalloc.stop()
    assert sizes[10_000] < 5_000  # 80,000 were the placeholders kept one by one
    assert sizes[10] < 5_000


def test_texts_beyond_the_bound_are_forgotten_the_oldest_first():
    text = KeptText.squeeze(EncodedSample((1, 9, 9, 9, 1, 1, 9), (3,)), 9)
    assert (list(text.prompt), text.runs) == ([1, 9, 1, 1, 9], (3, 1))
    assert text.expand(9) == EncodedSample((1, 9, 9, 9, 1, 1, 9), (3,))
    cache, made = Cache(2 * text.count_bytes(), KeptText.count_bytes), []
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get((key,), lambda key=key: made.append(key) or text)
    assert made == ["a", "b", "c", "b"]


def test_equal_conversations_are_tokenized_once(tiny, picture_paths, monkeypatch):
    calls = []
    encode = tiny.family.encode_prompt
    monkeypatch.setattr(type(tiny.family), "encode_prompt",
                        lambda self, *args: calls.append(args) or encode(*args))
    encoder = make_encoder(tiny)
    for path, sample in itertools.product(picture_paths, make_samples(None)):
        pictured = dataclasses.replace(sample, images=(path,), question_id=path)
        encoder.encode_text(pictured, encoder.encode_images(pictured))
    assert len(calls) == len(QUESTIONS)


def test_an_exemplars_picture_stands_first_and_is_read_once(tiny, picture_paths):
    first, second, shown = picture_paths
    prompt = PromptSettings(exemplars=show_exemplar(shown))
    reader = Reader()
    encoder = make_encoder(tiny, prompt, reader=reader, cache_bytes=2**20)
    samples = [make_samples(path)[0] for path in (first, second, first)]
    inputs = [encoder.encode_images(sample) for sample in samples]
    assert reader.read == [shown, first, second]
    assert inputs[2] is inputs[0]
    alone = [make_encoder(tiny).encode_images(make_samples(path)[0]).tensors["pixel_values"] for path in picture_paths]
    assert inputs[0].tensors["pixel_values"].equal(torch.cat([alone[2], alone[0]]))
    assert inputs[1].tensors["pixel_values"].equal(torch.cat([alone[2], alone[1]]))
    assert inputs[0].num_tokens == (16, 16)
    text = decode(tiny, encoder.encode_text(samples[0], inputs[0]).prompt)
    assert text.index("<image>") < text.index("Is it CT?") < text.rindex("<image>") < text.index(samples[0].question)


def test_blank_images_leave_an_exemplars_picture_as_it_is(tiny, picture_paths):
    prompt = PromptSettings(exemplars=show_exemplar(picture_paths[2]))
    sample = make_samples(picture_paths[0])[0]
    seen = make_encoder(tiny, prompt).encode_images(sample).tensors["pixel_values"]
    blank = make_encoder(tiny, prompt, blank_images=True).encode_images(sample).tensors["pixel_values"]
    assert blank[0].equal(seen[0])
    grey = tiny.family.encode_images(tiny.processor, [Image.new("RGB", (60, 44), BLANK_GREY)]).tensors["pixel_values"]
    assert blank[1].equal(grey[0])
    assert not blank[1].equal(seen[1])


@pytest.mark.parametrize("pictured", [False, True])
def test_questions_without_a_picture_are_learned_and_answered(tiny, picture_paths, pictured):
    prompt = PromptSettings(exemplars=show_exemplar(picture_paths[2] if pictured else None))
    samples = make_samples(None)
    encoder = make_encoder(tiny, prompt)
    plain, packed = compare_packed_loss(tiny.model, encoder, samples)
    assert packed == pytest.approx(plain, rel=1e-5)
    assert ("pixel_values" in build_batch(encoder, [samples], packed=True)) == pictured
    engines = [TransformersEngine(tiny, encoder, shared_prefix=shared) for shared in (False, True)]
    answers = [[answer.text for answer in engine.generate(samples, Decoding(6))] for engine in engines]
    assert answers[0] == answers[1]


def test_a_prompt_that_cannot_be_used_is_refused_at_once(tiny, tmp_path):
    with pytest.raises(SettingsError, match="lacks the field"):
        make_encoder(tiny, PromptSettings(template="Hello"))
    with pytest.raises(SettingsError, match="exemplar 1 does not exist"):
        make_encoder(tiny, PromptSettings(exemplars=(Exemplar(question="q", answer="a", image=tmp_path / "no.png"),)))
