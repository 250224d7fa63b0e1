"""Phi-4-multimodal: its prompt, its chat templates, and the layout that it does not load."""

from __future__ import annotations

import pytest

from medvqa_cli.data.prompts import Turn
from medvqa_cli.errors import ModelError
from medvqa_cli.models.adapters import attach_lora, count_parameters
from medvqa_cli.models.families.phi4_multimodal import PLUGIN
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import draw_picture

TEXT_ONLY = ("{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
             "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}")
"""As the published repository's main branch has it: content is text."""
BY_PARTS = ("{% for message in messages %}{{ '[' + message['role'] + ']' }}{% for part in message['content'] %}"
            "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '[assistant]' }}{% else %}{{ eos_token }}{% endif %}")


@pytest.mark.parametrize(("template", "opening"), [
    (None, "<|system|>Be brief.<|end|><|user|>{}Is it?<|end|><|assistant|>no<|end|><|user|>Where?<|end|><|assistant|>"),
    (TEXT_ONLY,
     "<|system|>Be brief.<|end|><|user|>{}Is it?<|end|><|assistant|>no<|end|><|user|>Where?<|end|><|assistant|>"),
    (BY_PARTS, "[system]Be brief.<|end|>[user]{}Is it?<|end|>[assistant]no<|end|>[user]Where?<|end|>[assistant]"),
])
def test_a_prompt_is_written_by_the_checkpoints_template_if_that_takes_images(phi4_directory, template, opening):
    processor = PLUGIN.load_processor(str(phi4_directory))
    processor.chat_template = template
    images = PLUGIN.encode_images(processor, [draw_picture(0)])
    turns = [Turn("system", "Be brief."), Turn("user", "Is it?", 1), Turn("assistant", "no"), Turn("user", "Where?")]
    prompt = PLUGIN.encode_prompt(processor, turns, images)
    assert processor.tokenizer.decode(prompt) == opening.format("<|image|>" * images.num_tokens[0])
    answer = PLUGIN.encode_answer(processor, "left lung")
    assert processor.tokenizer.decode(answer) == "left lung<|end|>"


def test_microsofts_own_layout_is_refused_with_the_revision_to_take():
    with pytest.raises(ModelError, match=r"Microsoft's own layout \(model_type 'phi4mm'\)") as failure:
        PLUGIN.loads({"model_type": "phi4mm"})
    assert failure.value.hint.endswith("--model-revision refs/pr/70")
    assert PLUGIN.loads({"model_type": "phi4_multimodal"})
    assert not PLUGIN.loads({"model_type": "llava"})


def test_lora_adapts_the_language_model_and_not_the_encoder_of_sound(phi4_directory):
    model = attach_lora(PLUGIN.load_model(str(phi4_directory)), PLUGIN.layout, TrainSettings(lora=LoRASettings(r=2)))
    adapted = {name.partition(".lora_")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = "base_model.model.model.layers"
    assert adapted == {f"{layers}.{layer}.{part}" for layer in range(2) for part in (
        "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")}
    counts = count_parameters(model, PLUGIN.layout)
    assert counts["language model"][0] > 0 == counts["other"][0]
