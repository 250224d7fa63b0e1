"""Presets, names and regular expressions to module names."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration

from medvqa_cli.errors import ModelError
from medvqa_cli.models.protocol import ModelLayout
from medvqa_cli.models.targets import PRESETS, Wanted, find_owner, find_targets, parse_targets, write_pattern
from medvqa_cli.settings.train import LoRASettings
from tests.models.conftest import load_tiny

LAYOUT = ModelLayout(vision_tower="model.vision_tower", projector="model.multi_modal_projector",
                     language_model="model.language_model", lora_targets=("q_proj", "v_proj"))


def build_blip2(text: dict) -> tuple[torch.nn.Module, ModelLayout]:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**shape, "image_size": 16, "patch_size": 8},
        qformer_config={**shape, "encoder_hidden_size": 16, "vocab_size": 20}, text_config=text, num_query_tokens=2,
        image_token_index=49)
    task = "SEQ_2_SEQ_LM" if text["model_type"] == "t5" else "CAUSAL_LM"
    return Blip2ForConditionalGeneration(config), ModelLayout(
        vision_tower="vision_model", projector="language_projection", language_model="language_model",
        lora_targets=("q", "v"), task_type=task)


T5 = {"model_type": "t5", "vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
      "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False}
OPT = {"model_type": "opt", "vocab_size": 50, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32,
       "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}


def last_names(names: list[str]) -> set[str]:
    return {name.removeprefix("language_model.") for name in names}


def test_presets_know_the_spellings_of_t5():
    model, layout = build_blip2(T5)
    attention = {f"encoder.block.0.layer.0.SelfAttention.{p}" for p in "qkvo"} | {
        f"decoder.block.0.layer.{n}.{kind}Attention.{p}" for n, kind in ((0, "Self"), (1, "EncDec")) for p in "qkvo"}
    mlp = {f"encoder.block.0.layer.1.DenseReluDense.{p}" for p in ("wi_0", "wi_1", "wo")} | {
        f"decoder.block.0.layer.2.DenseReluDense.{p}" for p in ("wi_0", "wi_1", "wo")}
    query_value = {name for name in attention if name.endswith((".q", ".v"))}
    for targets, expected in (((), query_value), (("q", "v"), query_value), (("query-value",), query_value),
                              (("attention",), attention), (("mlp",), mlp), (("all-linear",), attention | mlp)):
        assert last_names(find_targets(model, layout, LoRASettings(targets=targets))) == expected


def test_presets_know_the_spellings_of_opt_and_leave_the_head_alone():
    model, layout = build_blip2(OPT)
    attention = {f"model.decoder.layers.0.self_attn.{p}_proj" for p in ("q", "k", "v", "out")}
    mlp = {f"model.decoder.layers.0.fc{n}" for n in (1, 2)}
    assert last_names(find_targets(model, layout, LoRASettings(targets=("attention",)))) == attention
    assert last_names(find_targets(model, layout, LoRASettings(targets=("all-linear",)))) == attention | mlp
    with pytest.raises(ModelError) as failure:
        find_targets(model, layout, LoRASettings())
    assert failure.value.message == "The family's own LoRA targets (q, v) are not in this model."
    assert "q_proj" in failure.value.hint
    with pytest.raises(ModelError, match="'language_model.lm_head' shares its weights with the input embedding"):
        find_targets(model, layout, LoRASettings(targets=("lm_head",)))


def test_a_part_without_linear_layers_is_told():
    """As Gemma 3's projector, which is a bare matrix."""
    model, layout = build_blip2(T5)
    bare = dataclasses.replace(layout, projector="vision_model.post_layernorm")
    with pytest.raises(ModelError) as failure:
        find_targets(model, bare, LoRASettings(parts=("language_model", "projector")))
    assert failure.value.message == "The projector has no linear layer to adapt."
    assert "--tune-projector" in failure.value.hint


def test_a_seq2seq_model_takes_an_adapter_of_its_task():
    from medvqa_cli.models.adapters import attach_lora
    from medvqa_cli.settings.train import TrainSettings

    model, layout = build_blip2(T5)
    adapted = attach_lora(model, layout, TrainSettings())
    assert type(adapted).__name__ == "PeftModelForSeq2SeqLM"
    ids = torch.tensor([[49] * 2 + [5, 6]])
    loss = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.randn(1, 3, 16, 16),
                   labels=torch.tensor([[7, 8, 1]])).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(("targets", "expected"), [
    ((), Wanted()), (("none",), Wanted()),
    (("q_proj", "v_proj"), Wanted(names=("q_proj", "v_proj"))),
    (("all_linear", "lm_head"), Wanted(presets=("all-linear",), names=("lm_head",))),
    (("list:attention", "mlp"), Wanted(names=("attention", "mlp"))),
    ((r"re:.*\.fc[1", "2]"), Wanted(pattern=r".*\.fc[1,2]")),
    ((r".*(q|v)_proj",), Wanted(pattern=r".*(q|v)_proj")),
])
def test_the_grammar_of_targets(targets, expected):
    assert parse_targets(targets) == expected


@pytest.mark.parametrize(("targets", "message", "hint"), [
    (("query",), "No linear layer of the language model is called 'query'.", "q_proj, up_proj, v_proj; to a preset"),
    (("q_proj", "v_prj", "o_prj"),
     "No linear layer of the language model is called 'v_prj', 'o_prj'. Did you mean 'v_proj' or 'o_proj'?", "none"),
    (("atention",), "No linear layer of the language model is called 'atention'. Did you mean 'attention'?", "mlp"),
    (("out_proj",), "No linear layer of the language model is called 'out_proj'. Did you mean", "--lora-parts"),
    (("proj",), "No linear layer of the language model is called 'proj'", "q_proj"),
    (("re:q_proj",), "The regular expression 'q_proj' matches no module.", "try '.*q_proj'"),
    (("re:.*self_attn",), "The regular expression '.*self_attn' matches no linear layer, only 'model.vision_tower.",
     "lm_head"),
    (("re:.*nothing",), "The regular expression '.*nothing' matches no module.", "'lm_head'"),
])
def test_unknown_targets_show_the_nearest_names(targets, message, hint, tiny_directory):
    with pytest.raises(ModelError) as failure:
        find_targets(load_tiny(tiny_directory).model, LAYOUT, LoRASettings(targets=targets))
    assert failure.value.message.startswith(message)
    assert hint in failure.value.hint


def test_the_innermost_part_owns_a_module():
    layout = ModelLayout(vision_tower="model.visual", projector="model.visual.merger", language_model="model",
                         lora_targets=())
    assert [find_owner(name, layout) for name in (
        "model.visual.blocks.0.attn.qkv", "model.visual.merger.mlp.0", "model.visual.merger_list.0", "model.layers.0",
        "lm_head", "modelling")] == ["vision_tower", "projector", "vision_tower", "language_model", "other", "other"]


def test_patterns_are_short_and_exact(tiny_directory):
    model = load_tiny(tiny_directory).model
    names = find_targets(model, LAYOUT, LoRASettings())
    assert write_pattern(names, model) == (r"model\.language_model\.layers\.\d+\.self_attn\.q_proj|"
                                           r"model\.language_model\.layers\.\d+\.self_attn\.v_proj")
    for chosen in (names[:1], names[1:3], [*names[:3], "lm_head"]):
        pattern = write_pattern(chosen, model)
        assert [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)] == chosen


def test_every_preset_states_its_source():
    for name, preset in PRESETS.items():
        assert re.search(r"arXiv:\d{4}\.\d{5}, section \d", preset.source), name
        assert preset.about
