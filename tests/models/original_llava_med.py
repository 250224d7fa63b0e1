"""Tiny checkpoints in the layout of the original LLaVA-Med v1.5, every name written out by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, INNER, HEADS, KEY_VALUE_HEADS, LAYERS = 32, 48, 4, 2, 2
TOWER_WIDTH, TOWER_INNER, TOWER_LAYERS, SIDE, PATCH = 128, 96, 3, 42, 14
TOWER = "model.vision_tower.vision_tower.vision_model."


PIECES = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)),
          "\u2581t", "he", "\u2581le", "si", "on", "sion", "\u2581lesion", "\u2581[", "IN", "ST", "INST",
          "/INST", "ye", "yes", "\u2581yes", *"\u2581[]/INSTthelsionyarQ?.:'")
KINDS = {0: 2, 1: 3, 2: 3}  # unknown, control, control; byte pieces are 6, others 1


def write_sentencepiece(file: Path, pieces: tuple[str, ...] = PIECES) -> int:
    """Write a tokenizer.model, as SentencePiece does, and return its number of pieces."""
    unique = tuple(dict.fromkeys(pieces))
    content = b""
    for number, text in enumerate(unique):
        kind = KINDS.get(number, 6 if text.startswith("<0x") else 1)
        piece = b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x15" + struct.pack("<f", -float(number))
        piece += b"\x18" + bytes([kind])
        content += b"\x0a" + bytes([len(piece)]) + piece
    trainer = b"\x18\x02" + b"\x20" + b"\x80\x7d"  # model_type BPE, vocab_size 16000
    file.write_bytes(content + b"\x12" + bytes([len(trainer)]) + trainer)
    return len(unique)


def make_config(rows: int) -> dict:
    """The keys of the published config.json, with small sizes."""
    return {
        "architectures": ["LlavaMistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False, "hidden_act": "silu", "hidden_size": WIDTH, "image_aspect_ratio": "pad",
        "initializer_range": 0.02, "intermediate_size": INNER, "max_position_embeddings": 32768,
        "mm_hidden_size": TOWER_WIDTH, "mm_patch_merge_type": "flat", "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "model_type": "llava_mistral",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KEY_VALUE_HEADS,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right", "torch_dtype": "bfloat16",
        "transformers_version": "4.36.2", "tune_mm_mlp_adapter": False, "use_cache": True, "use_mm_proj": True,
        "vocab_size": rows}


def language_shapes(rows: int) -> dict[str, tuple[int, ...]]:
    narrow = WIDTH // HEADS * KEY_VALUE_HEADS
    shapes = {"model.embed_tokens.weight": (rows, WIDTH), "lm_head.weight": (rows, WIDTH),
              "model.norm.weight": (WIDTH,),
              "model.mm_projector.0.weight": (WIDTH, TOWER_WIDTH), "model.mm_projector.0.bias": (WIDTH,),
              "model.mm_projector.2.weight": (WIDTH, WIDTH), "model.mm_projector.2.bias": (WIDTH,)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (WIDTH,), at + "post_attention_layernorm.weight": (WIDTH,),
                   at + "self_attn.q_proj.weight": (WIDTH, WIDTH), at + "self_attn.k_proj.weight": (narrow, WIDTH),
                   at + "self_attn.v_proj.weight": (narrow, WIDTH), at + "self_attn.o_proj.weight": (WIDTH, WIDTH),
                   at + "mlp.gate_proj.weight": (INNER, WIDTH), at + "mlp.up_proj.weight": (INNER, WIDTH),
                   at + "mlp.down_proj.weight": (WIDTH, INNER)}
    return shapes


def tower_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    wide = TOWER_WIDTH
    shapes = {"embeddings.class_embedding": (wide,), "embeddings.patch_embedding.weight": (wide, 3, PATCH, PATCH),
              "embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2 + 1, wide),
              "pre_layrnorm.weight": (wide,), "pre_layrnorm.bias": (wide,),
              "post_layernorm.weight": (wide,), "post_layernorm.bias": (wide,)}
    for layer in range(TOWER_LAYERS):
        at = f"encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{at}self_attn.{name}.weight": (wide, wide), f"{at}self_attn.{name}.bias": (wide,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{name}.weight": (wide,), f"{at}{name}.bias": (wide,)}
        shapes |= {at + "mlp.fc1.weight": (TOWER_INNER, wide), at + "mlp.fc1.bias": (TOWER_INNER,),
                   at + "mlp.fc2.weight": (wide, TOWER_INNER), at + "mlp.fc2.bias": (wide,)}
    return {prefix + name: shape for name, shape in shapes.items()}


def draw(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights; norms about 1, so that signals neither die nor explode."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator) * (0.1 if len(shape) > 1 else 0.05)
        is_norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))
        tensors[name] = (noise + (1.0 if is_norm else 0.0)).to(dtype)
    return tensors


def write_original(folder: Path, *, tower: bool = True, shards: int = 1, pickle: bool = False,
                   dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Write a checkpoint and return its tensors."""
    folder.mkdir(parents=True)
    rows = write_sentencepiece(folder / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": False,
                "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>",
                "added_tokens_decoder": {"0": {"content": "<unk>"}, "1": {"content": "<s>"}, "2": {"content": "</s>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tensors = draw(language_shapes(rows) | (tower_shapes(TOWER) if tower else {}), 1, dtype)
    (folder / "config.json").write_text(json.dumps(make_config(rows)))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    if pickle:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        write_shards(folder, tensors, shards)
    return tensors


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_tower(folder: Path, *, whole_clip: bool = True, pickle: bool = False) -> dict[str, torch.Tensor]:
    """Write a CLIP checkpoint as OpenAI's on the hub: both towers, or the vision tower alone."""
    folder.mkdir(parents=True)
    vision = {"model_type": "clip_vision_model", "hidden_size": TOWER_WIDTH, "intermediate_size": TOWER_INNER,
              "num_hidden_layers": TOWER_LAYERS, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
    tensors = draw(tower_shapes("vision_model."), 2)
    rest = {"text_model.final_layer_norm.weight": torch.ones(8), "logit_scale": torch.tensor(4.6),
            "visual_projection.weight": torch.ones(8, TOWER_WIDTH), "text_projection.weight": torch.ones(8, 8),
            "vision_model.embeddings.position_ids": torch.arange((SIDE // PATCH) ** 2 + 1)[None]}
    config = {"model_type": "clip", "vision_config": vision} if whole_clip else vision
    (folder / "config.json").write_text(json.dumps(config))
    stored = tensors | (rest if whole_clip else {})
    if pickle:
        torch.save(stored, folder / "pytorch_model.bin")
    else:
        save_file(stored, folder / "model.safetensors")
    return tensors
