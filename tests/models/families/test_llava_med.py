"""The family loads original checkpoints as they are, converted ones and its own runs' models."""

from __future__ import annotations

import json

import pytest
import torch

from medvqa_cli.data.prompts import Turn
from medvqa_cli.errors import ModelError
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.workflows.models import known_checkpoints
from tests.models.conftest import draw_picture
from tests.models.original_llava_med import write_original

CPU = ModelSettings(device="cpu", dtype="float32")


@pytest.fixture
def family():
    return models.get("llava_med")


def test_names_lead_to_the_published_checkpoint():
    for name in ("llava_med", "llava_med_1.5_7b", "llavamed"):
        assert known_checkpoints()[name] == ("llava_med", "microsoft/llava-med-v1.5-mistral-7b")
    assert models.resolve("LLaVA-Med") == "llava_med"


def test_a_tiny_checkpoint_has_the_original_layout(family, tmp_path):
    family.build_tiny(tmp_path / "tiny", seed=1)
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llava_mistral", ["LlavaMistralForCausalLM"])
    index = json.loads((tmp_path / "tiny" / "model.safetensors.index.json").read_text())
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.mm_projector.2.bias",
            "model.layers.1.self_attn.k_proj.weight",
            "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"} <= set(index["weight_map"])
    assert not any("language_model" in name or "linear_1" in name for name in index["weight_map"])
    assert not (tmp_path / "tiny" / "processor_config.json").exists()


def test_nothing_is_written_when_an_original_checkpoint_is_loaded(family, tmp_path):
    write_original(tmp_path / "src", shards=2)
    before = sorted(path.name for path in (tmp_path / "src").iterdir())
    loaded = load_checkpoint(family, "llava_med", str(tmp_path / "src"), CPU)
    assert sorted(path.name for path in (tmp_path / "src").iterdir()) == before
    assert loaded.model.generation_config.pad_token_id == loaded.tokenizer.pad_token_id
    assert family.load_config(str(tmp_path / "src")).text_config.vocab_size == len(loaded.tokenizer)
    loaded.model.save_pretrained(tmp_path / "run")
    loaded.processor.save_pretrained(tmp_path / "run")
    again = load_checkpoint(family, "llava_med", str(tmp_path / "run"), CPU)
    assert again.model.config.model_type == "llava"
    old, new = loaded.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_prompt_and_answer_are_mistrals(family, tmp_path):
    write_original(tmp_path / "src")
    processor = family.load_processor(str(tmp_path / "src"))
    images = family.encode_images(processor, [draw_picture(1)])
    prompt = family.encode_prompt(processor, [Turn("user", "Is there a lesion?", 1)], images)
    answer = family.encode_answer(processor, "yes")
    tokenizer = processor.tokenizer
    assert images.num_tokens == (9,)
    before, after = (tokenizer(text).input_ids for text in ("[INST] ", "\nIs there a lesion? [/INST]"))
    assert prompt == [*before, *[processor.image_token_id] * 9, *after[1:]], "as the original puts the pieces together"
    assert tokenizer.convert_ids_to_tokens(answer) == ["\u2581yes", "</s>"]


def test_pickled_weights_need_leave(family, tmp_path):
    write_original(tmp_path / "src", pickle=True)
    with pytest.raises(ModelError, match="are pickle files"):
        load_checkpoint(family, "llava_med", str(tmp_path / "src"), CPU)
    with pytest.raises(ModelError, match="are pickle files"):
        family.load_model(str(tmp_path / "src"))
    allowed = CPU.model_copy(update={"allow_pickle": True})
    assert load_checkpoint(family, "llava_med", str(tmp_path / "src"), allowed).model is not None


def test_without_a_tower_the_way_out_is_named(family, tmp_path):
    write_original(tmp_path / "src", tower=False)
    with pytest.raises(ModelError, match="holds no vision tower") as failure:
        load_checkpoint(family, "llava_med", str(tmp_path / "src"), CPU)
    assert "medvqa convert llava-med SRC DST --vision-tower" in failure.value.hint
