"""An original LLaVA-Med checkpoint becomes the same model, and every tensor of it is accounted for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    MistralForCausalLM,
)

from medvqa_cli.errors import ModelError
from medvqa_cli.models import weight_files
from medvqa_cli.models.llava_mistral import load_converted, load_tokenizer, plan_conversion, write_checkpoint
from medvqa_cli.models.llava_mistral.conversion import name_original, name_saved
from tests.models.conftest import draw_picture
from tests.models.original_llava_med import (
    PATCH,
    SIDE,
    TOWER,
    TOWER_INNER,
    TOWER_LAYERS,
    TOWER_WIDTH,
    write_original,
    write_shards,
    write_tower,
)

QUESTION = "Is there a lesion?"
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


def take(tensors: dict[str, torch.Tensor], *prefixes: str, cut: str = "") -> dict[str, torch.Tensor]:
    return {name.removeprefix(cut): tensor for name, tensor in tensors.items() if name.startswith(prefixes)}


def run_by_hand(folder: Path, tensors: dict[str, torch.Tensor], tower: dict[str, torch.Tensor], picture: Image.Image):
    """The original's way, from its tensors: text before and after the image embedded apart, features put between.

    Returns its logits, and the ids on both sides of the image.
    """
    config = json.loads((folder / "config.json").read_text())
    clip = CLIPVisionModel(CLIPVisionConfig(
        hidden_size=TOWER_WIDTH, intermediate_size=TOWER_INNER, num_hidden_layers=TOWER_LAYERS, num_attention_heads=2,
        image_size=SIDE, patch_size=PATCH)).eval()
    clip.load_state_dict(tower, strict=True)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "rms_norm_eps", "sliding_window", "max_position_embeddings")
    language = MistralForCausalLM(MistralConfig(
        **{name: config[name] for name in names},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]})).eval()
    language.load_state_dict(take(tensors, "model.embed_tokens", "model.layers", "model.norm", "lm_head"), strict=True)
    projector = nn.Sequential(nn.Linear(TOWER_WIDTH, config["hidden_size"]), nn.GELU(),
                              nn.Linear(config["hidden_size"], config["hidden_size"]))
    projector.load_state_dict(take(tensors, "model.mm_projector.", cut="model.mm_projector."), strict=True)
    tokenizer = load_tokenizer(folder)
    before, after = tokenizer("[INST] ").input_ids, tokenizer(f"\n{QUESTION} [/INST]").input_ids[1:]
    with torch.no_grad():
        features = clip(prepare_by_hand(picture), output_hidden_states=True).hidden_states[-2][:, 1:]
        table = language.get_input_embeddings()
        embedded = torch.cat([table(torch.tensor([before])), projector(features), table(torch.tensor([after]))], dim=1)
        return language(inputs_embeds=embedded).logits, before, after


def prepare_by_hand(picture: Image.Image) -> torch.Tensor:
    """Pad to a square with CLIP's mean colour, resize, normalise."""
    mean, spread = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), tuple(int(255 * value) for value in mean))
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    small = square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = torch.tensor(list(small.tobytes()), dtype=torch.float32).reshape(SIDE, SIDE, 3) / 255
    return ((pixels - torch.tensor(mean)) / torch.tensor(spread)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("case", ["own tower, one file", "own tower, three files", "own tower, old format",
                                  "tower beside it", "tower in place of its own", "bare tower, old format"])
def test_logits_equal_those_of_the_parts_put_together_by_hand(case, tmp_path):
    own_tower, old_format = "beside" not in case and "bare" not in case, "old format" in case
    tensors = write_original(tmp_path / "src", tower=own_tower, shards=3 if "three" in case else 1,
                             pickle=old_format and own_tower)
    tower, folder = take(tensors, TOWER, cut=TOWER), None
    if "own tower" not in case:
        folder = tmp_path / "clip"
        tower = take(write_tower(folder, whole_clip="bare" not in case, pickle=old_format), "vision_model.",
                     cut="vision_model.")
    conversion = plan_conversion(tmp_path / "src", folder, allow_pickle=old_format)
    assert set(conversion.unused) == (set(take(tensors, TOWER)) if "in place" in case else set())
    (tmp_path / "dst").mkdir()
    write_checkpoint(conversion, tmp_path / "dst", max_shard_size="200KB" if "three" in case else "5GB")
    written, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "dst", output_loading_info=True)
    assert not any(info.values()), info
    picture = draw_picture(3, (61, 40))
    expected, before, after = run_by_hand(tmp_path / "src", tensors, tower, picture)
    for model, processor in ((written.eval(), LlavaProcessor.from_pretrained(tmp_path / "dst")),
                             (load_converted(conversion, dtype=torch.float32).eval(), conversion.processor)):
        inputs = processor(text=processor.apply_chat_template(MESSAGES), images=picture, return_tensors="pt")
        message = {"role": "user", "content": [{"type": "image", "image": picture}, *MESSAGES[0]["content"][1:]]}
        at_once = processor.apply_chat_template([message], tokenize=True, return_dict=True, return_tensors="pt")
        assert torch.equal(at_once["input_ids"], inputs["input_ids"])
        ids = inputs["input_ids"][0].tolist()
        assert [token for token in ids if token != processor.image_token_id] == [*before, *after]
        assert ids.index(processor.image_token_id) == len(before)
        with torch.no_grad():
            logits = model(**inputs).logits
        assert torch.allclose(logits[..., : expected.shape[-1]], expected, atol=1e-5)
        assert logits.isfinite().all()


def test_added_rows_are_the_mean_of_the_old_ones(tmp_path):
    tensors = write_original(tmp_path / "src", dtype=torch.bfloat16)
    conversion = plan_conversion(tmp_path / "src")
    rows = len(tensors["lm_head.weight"])
    assert conversion.added == ("<image>", "<pad>")
    assert conversion.config.image_token_index == rows
    assert conversion.config.text_config.pad_token_id == rows + 1
    for old, new in (("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
                     ("lm_head.weight", "lm_head.weight")):
        grown = conversion.tensors[new][...]
        assert grown.shape == conversion.tensors[new].shape == (rows + 2, tensors[old].shape[1])
        assert grown.dtype == torch.bfloat16
        assert torch.equal(grown[:rows], tensors[old])
        mean = tensors[old].float().mean(dim=0).bfloat16()
        assert torch.equal(grown[rows], mean)
        assert torch.equal(grown[rows + 1], mean)


def test_a_padding_token_of_its_own_stays(tmp_path):
    write_original(tmp_path / "src")
    before = plan_conversion(tmp_path / "src").config.text_config.vocab_size - 2
    settings = json.loads((tmp_path / "src" / "tokenizer_config.json").read_text())
    settings["pad_token"] = "<|fill|>"
    settings["added_tokens_decoder"][str(before)] = {"content": "<|fill|>"}
    (tmp_path / "src" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=f"has {before + 1} tokens, the embeddings have {before} rows"):
        plan_conversion(tmp_path / "src")
    change(tmp_path / "src", lambda tensors: {
        name: torch.cat([tensor, tensor[:1]]) if tensor.shape[:1] == (before,) else tensor
        for name, tensor in tensors.items()}, vocab_size=before + 1)
    conversion = plan_conversion(tmp_path / "src")
    assert conversion.added == ("<image>",)
    assert conversion.config.text_config.pad_token_id == before
    assert conversion.config.image_token_index == before + 1


def test_names_go_there_and_back():
    for original, name, saved in (
            (f"{TOWER}encoder.layers.1.mlp.fc1.bias", "model.vision_tower.encoder.layers.1.mlp.fc1.bias",
             "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias"),
            ("model.mm_projector.2.bias", "model.multi_modal_projector.linear_2.bias",
             "multi_modal_projector.linear_2.bias"),
            ("model.norm.weight", "model.language_model.norm.weight", "language_model.model.norm.weight"),
            ("lm_head.weight", "lm_head.weight", "language_model.lm_head.weight")):
        assert name_original(name) == original
        assert name_saved(name) == saved


def change(folder: Path, edit=lambda tensors: tensors, **config) -> None:
    """Change a written checkpoint's tensors and configuration."""
    from safetensors.torch import load_file

    tensors = edit(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors, 1)
    values = json.loads((folder / "config.json").read_text()) | config
    kept = {name: value for name, value in values.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(kept))


def without(name: str):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.startswith(name)}


def with_tensor(name: str, *shape: int):
    return lambda tensors: tensors | {name: torch.zeros(shape)}


@pytest.mark.parametrize(("edit", "message"), [
    (with_tensor("model.layers.0.self_attn.q_proj.bias", 32),
     r"holds a tensor that LLaVA-Med v1.5 does not have: 'model.layers.0.self_attn.q_proj.bias'"),
    (with_tensor("model.layers.7.mlp.up_proj.weight", 48, 32), r"does not have: 'model.layers.7.mlp.up_proj.weight'"),
    (with_tensor("model.mm_projector.4.bias", 32), r"does not have: 'model.mm_projector.4.bias'"),
    (with_tensor("strange", 2), r"does not have: 'strange'"),
    (with_tensor("model.image_newline", 32), r"does not have: 'model.image_newline'"),
    (without("model.layers.1.mlp.up_proj"), r"lacks a tensor .* asks for: 'model.layers.1.mlp.up_proj.weight'"),
    (without("model.mm_projector.0"), r"lacks 2 tensors .* asks for: 'model.mm_projector.0.weight'"),
    (without("lm_head"), r"lacks a tensor .* asks for: 'lm_head.weight'"),
    (without(f"{TOWER}encoder.layers.1.layer_norm1.b"), rf"asks for: '{TOWER}encoder.layers.1.layer_norm1.bias'"),
    (without(f"{TOWER}embeddings.patch"), r"The vision tower in .* is incomplete"),
    (without(TOWER), r"holds no vision tower; it was trained with 'openai/clip-vit-large-patch14-336'"),
    (with_tensor("model.layers.1.mlp.down_proj.weight", 32, 47),
     r"'model.layers.1.mlp.down_proj.weight' in .* has the shape \[32, 47\], where \[32, 48\] is expected"),
    (with_tensor("model.mm_projector.0.weight", 32, 64), r"projector.0.weight' .* \[32, 64\], where \[32, 128\]"),
])
def test_every_tensor_is_accounted_for(edit, message, tmp_path):
    write_original(tmp_path / "src")
    change(tmp_path / "src", edit)
    with pytest.raises(ModelError, match=message) as failure:
        plan_conversion(tmp_path / "src")
    assert failure.value.hint


def test_buffers_that_older_versions_saved_are_left_out(tmp_path):
    write_original(tmp_path / "src")
    buffers = (f"{TOWER}embeddings.position_ids", "model.layers.0.self_attn.rotary_emb.inv_freq")
    for name in buffers:
        change(tmp_path / "src", with_tensor(name, 4))
    conversion = plan_conversion(tmp_path / "src")
    assert set(conversion.unused) == set(buffers)


@pytest.mark.parametrize(("config", "message"), [
    ({"model_type": "llava"}, "is of the type 'llava', not an original LLaVA-Med"),
    ({"model_type": "absent"}, "is of the type 'None'"),
    ({"vocab_size": "absent"}, "lacks the number 'vocab_size'"),
    ({"vocab_size": True}, "lacks the number 'vocab_size': it is True"),
    ({"num_attention_heads": 0}, "lacks the number 'num_attention_heads': it is 0"),
    ({"mm_vision_select_layer": 99}, "describes no model: mm_vision_select_layer is 99, the vision tower has 3 layers"),
    ({"rope_theta": "much"}, "describes no model: .*'much'"),
    ({"rope_theta": None}, "describes no model"),
    ({"hidden_act": "nope"}, "describes no model: 'nope'"),
    ({"rms_norm_eps": "a"}, "describes no model: .*'rms_norm_eps'"),
    ({"tie_word_embeddings": True}, "says tie_word_embeddings = True"),
    ({"mm_projector_type": "absent"}, "says mm_projector_type = 'linear'"),
    ({"mm_projector_type": "mlp3x_gelu"}, "says mm_projector_type = 'mlp3x_gelu'"),
    ({"image_aspect_ratio": "anyres"}, "says image_aspect_ratio = 'anyres'"),
    ({"mm_use_im_start_end": True}, "says mm_use_im_start_end = True"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "says rope_scaling"),
    ({"mm_vision_tower": "laion/CLIP-ViT-L-14-laion2B"}, "whose heads and activation cannot be told"),
    ({"num_hidden_layers": 3}, "asks for: 'model.layers.2.self_attn.q_proj.weight'"),
    ({"hidden_size": 64}, "where .* is expected"),
])
def test_a_config_that_says_something_else_is_refused(config, message, tmp_path):
    write_original(tmp_path / "src")
    change(tmp_path / "src", **config)
    with pytest.raises(ModelError, match=message) as failure:
        plan_conversion(tmp_path / "src")
    assert failure.value.hint


def test_sliding_window_and_feature_choice_come_from_the_config(tmp_path):
    write_original(tmp_path / "src")
    change(tmp_path / "src", sliding_window=128, mm_vision_select_feature="cls_patch", mm_vision_select_layer=-1,
           image_aspect_ratio="absent")
    conversion = plan_conversion(tmp_path / "src")
    config, patches = conversion.config, (SIDE // PATCH) ** 2
    assert config.text_config.sliding_window == 128
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-1, "full")
    assert not conversion.processor.image_processor.do_pad
    text = conversion.processor(text="<image>", images=draw_picture(1), return_tensors="pt")
    assert text["input_ids"].tolist()[0].count(config.image_token_index) == patches + 1


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(),
     r"1 of 3 weight files are missing, the first is 'model-00002-of-00003.safetensors'"),
    (lambda folder: (cut := folder / "model-00003-of-00003.safetensors").write_bytes(cut.read_bytes()[:-50]),
     r"model-00003-of-00003.safetensors' cannot be read"),
    (lambda folder: (folder / "model-00001-of-00003.safetensors").write_text("version https://git-lfs.example/spec/v1"),
     r"model-00001-of-00003.safetensors' cannot be read"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "is no index of weight files"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}'),
     "names something that is no file beside it"),
    (lambda folder: [path.unlink() for path in folder.glob("model*")], "holds no weights"),
    (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json' is damaged"),
    (lambda folder: (folder / "tokenizer.model").unlink(), "neither tokenizer.json nor tokenizer.model"),
    (lambda folder: (cut := folder / "tokenizer.model").write_bytes(cut.read_bytes()[:-3]), "no SentencePiece model"),
    (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json' is damaged"),
])
def test_a_half_downloaded_checkpoint_is_one_error(damage, message, tmp_path):
    write_original(tmp_path / "src", shards=3)
    damage(tmp_path / "src")
    with pytest.raises(ModelError, match=message) as failure:
        plan_conversion(tmp_path / "src")
    assert "ownload" in failure.value.hint or "folder" in failure.value.hint


def test_without_an_index_the_numbers_of_the_files_tell_what_is_missing(tmp_path):
    write_original(tmp_path / "src", shards=3)
    (tmp_path / "src" / "model.safetensors.index.json").unlink()
    assert len(plan_conversion(tmp_path / "src").tensors) == 80
    (tmp_path / "src" / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="the first is 'model-00003-of-00003.safetensors'"):
        plan_conversion(tmp_path / "src")


def test_pickles_are_read_only_when_allowed_and_never_run(tmp_path):
    write_original(tmp_path / "src", pickle=True)
    with pytest.raises(ModelError, match=r"are pickle files \('pytorch_model.bin'\)") as failure:
        plan_conversion(tmp_path / "src")
    assert "--allow-pickle" in failure.value.hint
    torch.save({"lm_head.weight": Path("run me")}, tmp_path / "src" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        plan_conversion(tmp_path / "src", allow_pickle=True)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "config.json").write_text('{"model_type": "siglip"}'), "of the type 'siglip', not CLIP"),
    (lambda folder: (folder / "config.json").unlink(), "is no checkpoint"),
    (lambda folder: save_file({"vision_model.pre_layrnorm.bias": torch.zeros(128)}, folder / "model.safetensors"),
     "clip' lacks .* asks for: 'vision_model.embeddings.class_embedding'"),
    (lambda folder: (folder / "model.safetensors").unlink(), "clip' holds no weights"),
])
def test_a_bad_vision_tower_is_one_error(damage, message, tmp_path):
    write_original(tmp_path / "src", tower=False)
    write_tower(tmp_path / "clip")
    damage(tmp_path / "clip")
    with pytest.raises(ModelError, match=message):
        plan_conversion(tmp_path / "src", tmp_path / "clip")


def test_one_tensor_is_read_at_a_time_and_one_shard_kept(tmp_path, monkeypatch):
    """Count tensors alive while a checkpoint is written: never more than one shard's and the one being read."""
    import weakref

    write_original(tmp_path / "src", shards=2)
    alive: weakref.WeakSet = weakref.WeakSet()
    most, take_stored = 0, weight_files._take_stored

    def watched(file, name):
        nonlocal most
        tensor = take_stored(file, name)
        alive.add(tensor)
        most = max(most, sum(item.nbytes for item in alive))
        return tensor

    monkeypatch.setattr(weight_files, "_take_stored", watched)
    conversion = plan_conversion(tmp_path / "src")
    assert most == 0, "planning reads no weight"
    (tmp_path / "dst").mkdir()
    files = write_checkpoint(conversion, tmp_path / "dst", max_shard_size="400KB")
    largest = max(tensor.num_bytes for tensor in conversion.tensors.values())
    assert len(files) > 3
    assert largest <= most <= 400_000 + largest
    assert conversion.num_bytes > 3 * most


def test_a_damaged_number_is_found(tmp_path):
    write_original(tmp_path / "src")

    def spoil(tensors):
        tensors["model.layers.1.mlp.gate_proj.weight"][3, 4] = float("nan")
        return tensors

    change(tmp_path / "src", spoil)
    (tmp_path / "dst").mkdir()
    with pytest.raises(ModelError, match=r"'model.layers.1.mlp.gate_proj.weight' in .* holds NaN or infinite values"):
        write_checkpoint(plan_conversion(tmp_path / "src"), tmp_path / "dst")


def test_a_tensor_in_two_files_is_an_error(tmp_path):
    write_original(tmp_path / "src", shards=2)
    parts = sorted((tmp_path / "src").glob("*.safetensors"))
    shutil.copy(parts[0], parts[1])
    with pytest.raises(ModelError, match="lies in two files"):
        plan_conversion(tmp_path / "src")
