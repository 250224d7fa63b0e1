"""The LLaVA family feeds the model exactly what transformers' own processor would."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from medvqa_cli.data.prompts import Turn
from medvqa_cli.models.families.llava import PLUGIN
from medvqa_cli.models.processors import expand_placeholders, tokenize_continuation, tokenize_prompt
from medvqa_cli.models.protocol import ImageInputs
from medvqa_cli.models.tiny import train_tokenizer
from tests.models.conftest import draw_picture


@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_prompts_equal_the_processors_own(tiny, num_images):
    pictures = [draw_picture(seed) for seed in range(num_images)]
    turns = [Turn("user", "Is there a lesion?", num_images), Turn("assistant", "yes"), Turn("user", "Where?")]
    images = PLUGIN.encode_images(tiny.processor, pictures)
    question = [{"type": "image"}] * num_images + [{"type": "text", "text": "Is there a lesion?"}]
    messages = [{"role": "user", "content": question},
                {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
                {"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    text = tiny.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = tiny.processor(text=[text], images=pictures or None, return_tensors="pt")
    assert PLUGIN.encode_prompt(tiny.processor, turns, images) == expected["input_ids"][0].tolist()
    if num_images:
        assert images.tensors["pixel_values"].equal(expected["pixel_values"])
        assert images.num_tokens == (16,) * num_images


def test_an_answer_continues_the_prompt(tiny):
    prompt = "USER: Is there a lesion? ASSISTANT:"
    answer = PLUGIN.encode_answer(tiny.processor, "left lung")
    together = tiny.tokenizer(prompt + " left lung", add_special_tokens=False).input_ids
    assert tokenize_prompt(tiny.tokenizer, prompt) + answer == [*together, tiny.tokenizer.eos_token_id]


def test_a_continuation_that_merges_with_its_anchor_is_tokenized_alone():
    tokenizer = train_tokenizer(["abab abab abab"] * 20, [], 300)
    whole = tokenizer("ab", add_special_tokens=False).input_ids
    assert len(whole) == 1, "the test needs 'ab' to be one token"
    assert tokenize_continuation(tokenizer, "a", "b") == tokenizer("b", add_special_tokens=False).input_ids


def test_placeholders_must_match_the_images():
    assert expand_placeholders([1, 9, 2, 9], 9, [2, 3]) == [1, 9, 9, 2, 9, 9, 9]
    with pytest.raises(ValueError, match="1 image placeholders for 2 images"):
        expand_placeholders([1, 9], 9, [2, 3])


def test_a_question_cannot_smuggle_in_an_image(tiny):
    with pytest.raises(ValueError, match="placeholders"):
        PLUGIN.encode_prompt(tiny.processor, [Turn("user", "What is <image>?")], ImageInputs())


def test_equal_seeds_build_equal_checkpoints(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        PLUGIN.build_tiny(tmp_path / name, texts=["Is it normal?", "yes"], seed=seed)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"] != weights["c"]


def test_options_are_strict():
    with pytest.raises(ValidationError, match="extra_forbidden"):
        PLUGIN.Options(layers=3)
    with pytest.raises(ValueError, match="multiple of patch_size"):
        PLUGIN.build_tiny("unused", options=PLUGIN.Options(image_size=50, patch_size=12))
