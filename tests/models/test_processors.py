"""Processors without torchvision, prompts with pictures in their places, answers as templates write them."""

from __future__ import annotations

import json

import pytest
import torch

from medvqa_cli.data.prompts import Turn
from medvqa_cli.models.processors import find_answer_form, mark_images, place_images
from medvqa_cli.models.protocol import ImageInputs
from medvqa_cli.models.tiny import train_tokenizer, write_template
from medvqa_cli.plugins import models
from tests.models.conftest import draw_picture


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("sizes", [[], [(60, 44)], [(100, 40), (44, 90)]])
def test_qwen_positions_are_the_models_own(name, sizes, tmp_path):
    family = models.get(name)
    family.build_tiny(tmp_path, options=family.Options(image_size=96), seed=0)
    processor, model = family.load_processor(str(tmp_path)), family.load_model(str(tmp_path))
    images = family.encode_images(processor, [draw_picture(n, size) for n, size in enumerate(sizes)])
    prompt = family.encode_prompt(processor, [Turn("user", "Is there a lesion?", len(sizes))], images)
    ids = torch.tensor([prompt])
    types = family.mark_tokens(processor, ids, torch.zeros_like(ids).bool())["mm_token_type_ids"]
    wanted, _ = model.model.get_rope_index(ids, mm_token_type_ids=types,
                                           image_grid_thw=images.tensors.get("image_grid_thw"))
    assert family.find_positions(processor, prompt, images).tolist() == wanted[:, 0].tolist()


def test_settings_of_an_absent_video_processor_are_kept(tmp_path):
    family = models.get("qwen2_vl")
    family.build_tiny(tmp_path / "one", seed=0)
    path = tmp_path / "one/processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor", "fps": 3}
    path.write_text(json.dumps(settings), encoding="utf-8")
    family.load_processor(str(tmp_path / "one")).save_pretrained(tmp_path / "two")
    saved = json.loads((tmp_path / "two/processor_config.json").read_text(encoding="utf-8"))
    assert saved["video_processor"] == settings["video_processor"]
    assert saved["processor_class"] == "Qwen2VLProcessor"
    assert family.load_processor(str(tmp_path / "two")).chat_template == family.template


def test_runs_of_image_tokens_become_one_and_their_number():
    images = mark_images({}, ["<a><i><i><i>\n<b><i>", "<i><i>"], "<i>")
    assert images.markers == ("<a><i>\n<b><i>", "<i>")
    assert images.num_tokens == (3, 1, 2)


def test_markers_stand_where_placeholders_stood():
    images = ImageInputs({}, (4, 4), ("[1]", "[2]"))
    assert place_images("a<i>b<i>c", "<i>", images) == "a[1]b[2]c"
    with pytest.raises(ValueError, match=r"holds 3 image placeholders \(<i>\) for 2 images"):
        place_images("<i><i><i>", "<i>", images)


@pytest.mark.parametrize(("template", "lead", "end"), [
    (write_template(user="U: ", assistant="A:", end="<end>\n", image="<i>"), "", "<end>"),
    (write_template(user="U: ", assistant="A:", end="\n", image="<i>"), "", "</s>"),
    (("{% for m in messages %}{{ m['role'] }}: {{ m['content'][0]['text'] }} {% endfor %}"
      "{% if add_generation_prompt %}assistant:{% endif %}"), " ", "</s>"),
])
def test_the_answer_is_written_as_the_template_writes_it(template, lead, end):
    tokenizer = train_tokenizer(["yes"], ["<end>", "<i>"], 300)
    _, found, token = find_answer_form(tokenizer, template)
    assert (found, tokenizer.convert_ids_to_tokens(token)) == (lead, end)


def test_a_template_that_writes_answers_otherwise_is_refused():
    tokenizer = train_tokenizer(["yes"], [], 300)
    with pytest.raises(ValueError, match="does not write an answer as it goes on from the prompt"):
        find_answer_form(tokenizer, "{% for m in messages %}{{ m['role'] }}{% endfor %}")
