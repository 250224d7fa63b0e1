"""The sizes of published checkpoints, as their config.json states them: enough to build the same model at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Sizes = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A published checkpoint without its weights. What is not named is as transformers has it by default.

    Attributes:
        family: The family's name.
        parameters: How many parameters the checkpoint has: what it is built with must have as many.
        vision: Configuration of the vision tower.
        text: Configuration of the language model.
        rest: What stands beside these two in config.json.
        image_size: Side of the picture the processor makes, in pixels.
        patch_size: Side of a patch to the processor, in pixels. A small model's draws two by two patches together;
            where the checkpoint draws four by four, this is twice its own.
        processor: Attributes of the processor that the checkpoint sets otherwise than a small model of the family.
        picture: Attributes of its image processor, likewise.
    """

    family: str
    parameters: int
    vision: Sizes
    text: Sizes
    rest: Sizes = field(default_factory=dict)
    image_size: int
    patch_size: int = 14
    processor: Sizes = field(default_factory=dict)
    picture: Sizes = field(default_factory=dict)


def _tower(width: int, mlp: int, depth: int, heads: int, **more: Any) -> Sizes:
    return {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": depth, "num_attention_heads": heads,
            **more}


def _text(width: int, mlp: int, depth: int, heads: tuple[int, int], vocabulary: int, **more: Any) -> Sizes:
    """Return a language model's configuration; `heads` are those of queries, and of keys and values."""
    return _tower(width, mlp, depth, heads[0], num_key_value_heads=heads[1], vocab_size=vocabulary, **more)


def _mrope(theta: float, *section: int, **more: Any) -> Sizes:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": list(section), **more}}


CLIP = _tower(1024, 4096, 24, 16, model_type="clip_vision_model", image_size=336, patch_size=14, projection_dim=768,
              vocab_size=32_000)
"""CLIP ViT-L/14 at 336 pixels (Radford et al. 2021, arXiv:2103.00020)."""
SIGLIP = _tower(1152, 4304, 27, 16, model_type="siglip_vision_model", patch_size=14, vision_use_head=False)
"""SigLIP SO400M/14 (Zhai et al. 2023, arXiv:2303.15343)."""
INTERN_VIT = _tower(1024, 4096, 24, 16, image_size=[448, 448], patch_size=[14, 14], attention_bias=True,
                    norm_type="layer_norm", use_qk_norm=False, layer_scale_init_value=0.1)
QWEN2_VISION = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN3_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
                "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [5, 11, 17]}
VICUNA_7B = _text(4096, 11_008, 32, (32, 32), 32_064, model_type="llama")
MISTRAL_7B = _text(4096, 14_336, 32, (32, 8), 32_064, model_type="mistral", sliding_window=None)
QWEN2_SMALL = (896, 4864, 24, (14, 2))
QWEN2_2B = (1536, 8960, 28, (12, 2))
QWEN2_7B = (3584, 18_944, 28, (28, 4))
WIDE_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SQUARE_GRIDS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
SECTION_2, SECTION_3 = (16, 24, 24), (24, 20, 20)


def _llava_next(parameters: int, text: Sizes) -> Architecture:
    return Architecture(family="llava_next", parameters=parameters, vision=CLIP, text=text, image_size=336,
                        rest={"image_grid_pinpoints": WIDE_GRIDS}, picture={"image_grid_pinpoints": WIDE_GRIDS})


def _onevision(parameters: int, text: Sizes, *, tied: bool) -> Architecture:
    return Architecture(family="llava_onevision", parameters=parameters, image_size=384,
                        vision={**SIGLIP, "num_hidden_layers": 26, "image_size": 384},
                        text={**text, "model_type": "qwen2", "tie_word_embeddings": tied},
                        rest={"image_grid_pinpoints": SQUARE_GRIDS, "vision_feature_layer": -1,
                              "tie_word_embeddings": tied}, picture={"image_grid_pinpoints": SQUARE_GRIDS})


def _internvl(parameters: int, text: Sizes) -> Architecture:
    return Architecture(family="internvl", parameters=parameters, vision=INTERN_VIT, image_size=448,
                        text={**text, "model_type": "qwen2"}, rest={"tie_word_embeddings": False},
                        picture={"max_patches": 12})


def _qwen2(family: str, parameters: int, text: Sizes, *, tied: bool) -> Architecture:
    width = text["hidden_size"]
    own = {"embed_dim": 1280, "hidden_size": width, "mlp_ratio": 4} if family == "qwen2_vl" else {
        "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": width, "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31]}
    return Architecture(family=family, parameters=parameters, vision={**QWEN2_VISION, **own},
                        text={**text, **_mrope(1e6, *SECTION_2)}, rest={"tie_word_embeddings": tied}, image_size=448)


def _qwen3(parameters: int, text: Sizes, *, tied: bool, **vision: Any) -> Architecture:
    return Architecture(
        family="qwen3_vl", parameters=parameters, image_size=448, patch_size=16, rest={"tie_word_embeddings": tied},
        vision={**QWEN3_VISION, **vision, "out_hidden_size": text["hidden_size"]},
        text={**text, "head_dim": 128, **_mrope(5e6, *SECTION_3, mrope_interleaved=True)})


def _smolvlm(parameters: int, text: Sizes) -> Architecture:
    return Architecture(family="smolvlm", parameters=parameters, image_size=512, patch_size=2 * 16,
                        vision=_tower(768, 3072, 12, 12, image_size=512, patch_size=16),
                        text={**text, "model_type": "llama", "head_dim": 64},
                        rest={"scale_factor": 4, "tie_word_embeddings": False},
                        picture={"size": {"longest_edge": 2048}})


GEMMA_4B = Architecture(
    family="gemma3", parameters=4_300_079_472, image_size=896, patch_size=2 * 14, vision={**SIGLIP, "image_size": 896},
    text=_text(2560, 10_240, 34, (8, 4), 262_208, head_dim=256, sliding_window=1024),
    rest={"mm_tokens_per_image": 256})
ARCHITECTURES: Mapping[str, Architecture] = {
    "llava_1.5_7b": Architecture(family="llava", parameters=7_063_427_072, vision=CLIP, text=VICUNA_7B, image_size=336),
    "llava_1.5_13b": Architecture(family="llava", parameters=13_350_839_296, vision=CLIP, image_size=336,
                                  text=_text(5120, 13_824, 40, (40, 40), 32_000, model_type="llama")),
    "llava_next_mistral_7b": _llava_next(7_566_747_648, MISTRAL_7B),
    "llava_next_vicuna_7b": _llava_next(7_063_431_168, VICUNA_7B),
    "llava_onevision_0.5b": _onevision(893_618_208, _text(*QWEN2_SMALL, 151_936), tied=True),
    "llava_onevision_7b": _onevision(8_030_348_832, _text(*QWEN2_7B, 152_064), tied=False),
    "internvl3_1b": _internvl(938_193_024, _text(*QWEN2_SMALL, 151_674)),
    "internvl3_2b": _internvl(2_088_957_440, _text(*QWEN2_2B, 151_674)),
    "internvl3_8b": _internvl(7_944_373_760, _text(*QWEN2_7B, 151_674)),
    "qwen2_vl_2b": _qwen2("qwen2_vl", 2_208_985_600, _text(*QWEN2_2B, 151_936), tied=True),
    "qwen2_vl_7b": _qwen2("qwen2_vl", 8_291_375_616, _text(*QWEN2_7B, 152_064), tied=False),
    "qwen2_5_vl_3b": _qwen2("qwen2_5_vl", 3_754_622_976, _text(2048, 11_008, 36, (16, 2), 151_936), tied=True),
    "qwen2_5_vl_7b": _qwen2("qwen2_5_vl", 8_292_166_656, _text(*QWEN2_7B, 152_064), tied=False),
    "qwen3_vl_2b": _qwen3(2_127_532_032, _text(2048, 6144, 28, (16, 8), 151_936), tied=True),
    "qwen3_vl_4b": _qwen3(4_437_815_808, _text(2560, 9728, 36, (32, 8), 151_936), tied=True),
    "qwen3_vl_8b": _qwen3(8_767_123_696, _text(4096, 12_288, 36, (32, 8), 151_936), tied=False, depth=27,
                          hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24]),
    "smolvlm2_256m": _smolvlm(256_484_928, _text(576, 1536, 30, (9, 3), 49_280)),
    "smolvlm2_500m": _smolvlm(507_482_304, _text(960, 2560, 32, (15, 5), 49_280)),
    "gemma3_4b": GEMMA_4B,
    "medgemma_4b": GEMMA_4B,
    "paligemma_3b": Architecture(
        family="paligemma", parameters=2_923_466_480, image_size=224, rest={"projection_dim": 2048},
        vision={**SIGLIP, "image_size": 224},
        text=_text(2048, 16_384, 18, (8, 1), 257_216, model_type="gemma", head_dim=256)),
    "blip2_opt_2.7b": Architecture(
        family="blip2_opt", parameters=3_744_761_856, image_size=224, rest={"qformer_config": {}},
        vision=_tower(1408, 6144, 39, 16, image_size=224, patch_size=14), processor={"num_query_tokens": 32},
        text={"model_type": "opt", "hidden_size": 2560, "ffn_dim": 10_240, "num_hidden_layers": 32,
              "num_attention_heads": 32, "word_embed_proj_dim": 2560, "vocab_size": 50_304}),
}
"""By the short names that families' cards give checkpoints. The parameters are those the hub counts."""
