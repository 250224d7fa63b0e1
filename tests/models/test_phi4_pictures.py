"""Phi-4's pictures and their tokens equal what transformers' class, the model and a count of pixels say."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from medvqa_cli.errors import DataError
from medvqa_cli.models.batches import to_device
from medvqa_cli.models.families.phi4_multimodal import PLUGIN
from medvqa_cli.models.phi4_pictures import Phi4MultimodalImageProcessorPil, count_tokens, plan_grid
from tests.models.conftest import draw_picture

SHAPES = ((60, 44), (448, 448), (896, 448), (449, 448), (1000, 700), (100, 71), (700, 90), (300, 1500))
FEW = 4
"""Most tiles in the tests on whole pictures: (300, 1500) and (1000, 700) want more."""


def make_pictures(side=448, patch=14, tiles=FEW):
    return Phi4MultimodalImageProcessorPil(size={"height": side, "width": side}, patch_size=patch, dynamic_hd=tiles)


@pytest.mark.parametrize(("size", "grid", "scaled", "tokens"), [
    ((448, 448), (1, 1), (448, 448), 16 * 16 + 16 + 273),
    ((896, 448), (2, 1), (896, 448), 32 * 16 + 16 + 273),
    ((60, 44), (1, 1), (448, 328), 16 * 12 + 12 + 273),  # 120 rows of padding: 8 rows of patches, 4 of tokens
    ((100, 71), (1, 1), (448, 318), 16 * 12 + 12 + 273),  # 9 rows of patches: half a token counts whole
    ((1000, 700), (3, 2), (1280, 896), (16 + 16 + 14) * 32 + 32 + 273),
    ((5000, 3000), (5, 3), (2240, 1344), 80 * 48 + 48 + 273),  # 12 x 7 tiles would be more than 36
])
def test_grids_computed_by_hand(size, grid, scaled, tokens):
    found = plan_grid(*size, 448, 36)
    assert (found.columns, found.rows) == grid
    assert (found.width, found.height) == scaled
    assert count_tokens(found.mark_patches(14), 32) == tokens


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([(56, 14), (60, 12), (64, 16)]), st.integers(1, 12))
def test_tokens_are_those_whose_first_patch_holds_a_pixel_of_the_picture(width, height, sizes, tiles):
    side, patch = sizes
    try:
        grid = plan_grid(width, height, side, tiles)
    except DataError:
        assert max(width / height, height / width) > side / 11
        return
    assert grid.columns * grid.rows <= tiles
    canvas = np.zeros((grid.rows * side, grid.columns * side), dtype=bool)
    canvas[: grid.height, : grid.width] = True
    patches = side // patch
    rows = [[canvas[y: y + patch, x: x + patch].any()
             for left in range(0, canvas.shape[1], side) for x in range(left, left + patches * patch, 2 * patch)]
            for top in range(0, canvas.shape[0], side) for y in range(top, top + patches * patch, 2 * patch)]
    base = -(-patches // 2)
    expected = sum(map(sum, rows)) + sum(map(any, rows)) + 1 + base * (base + 1)
    assert count_tokens(grid.mark_patches(patch), patches) == expected


@pytest.fixture(scope="module")
def library():
    """Transformers' own class, with torch's interpolation in torchvision's place: all but the resizing is its own."""
    tv = SimpleNamespace(
        InterpolationMode=SimpleNamespace(BILINEAR="bilinear", BICUBIC="bicubic"),
        resize=lambda image, size: functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0],
        pad=lambda image, edges, fill: functional.pad(image, (edges[0], edges[2], edges[1], edges[3]), value=fill[0]))
    v2 = ModuleType("torchvision.transforms.v2")
    v2.functional = tv
    path = Path(transformers.__file__).parent / "models/phi4_multimodal/image_processing_phi4_multimodal.py"
    spec = importlib.util.spec_from_file_location("transformers.models.phi4_multimodal.with_a_stand_in", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, item in (("torchvision", ModuleType("torchvision")), ("torchvision.transforms", ModuleType("t")),
                           (v2.__name__, v2), (spec.name, module)):
            patch.setitem(sys.modules, name, item)
        spec.loader.exec_module(module)

    class WithoutTorchvision(module.Phi4MultimodalImageProcessor):
        def __init__(self):
            """Skip the check for torchvision."""

        def resize(self, image, size, resample, antialias):
            assert int(resample) == 3
            return functional.interpolate(image[None], (size.height, size.width), mode="bicubic",
                                          antialias=antialias)[0]

        def rescale_and_normalize(self, image, do_rescale, factor, do_normalize, mean, std):
            return (image.float() - mean[0] / factor) / (std[0] / factor)

    return WithoutTorchvision()


@pytest.mark.parametrize("tiles", [FEW, 36])
def test_pictures_equal_those_of_transformers(library, tiles):
    pictures = [draw_picture(number, size) for number, size in enumerate(SHAPES)]
    ours = make_pictures(tiles=tiles)
    theirs = library._preprocess(
        [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures], do_resize=True,
        size=ours.size, resample=ours.resample, do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3, patch_size=14, dynamic_hd=tiles, return_tensors="pt")
    found = ours(pictures, return_tensors="pt")
    assert found.keys() == theirs.keys()
    for name in ("image_sizes", "image_attention_mask", "num_img_tokens"):
        assert found[name].tolist() == theirs[name].tolist()
    assert torch.allclose(found["image_pixel_values"], theirs["image_pixel_values"], atol=1e-5)


def test_a_grid_as_near_as_another_is_taken_if_the_picture_fills_it_by_half():
    assert (plan_grid(100, 100, 48, 3).columns, plan_grid(100, 100, 48, 4).columns) == (1, 2)
    high = plan_grid(60, 80, 20, 2)
    assert (high.columns, high.rows) == (1, 2), "as far from 1 x 2 as from 1 x 1"
    assert (high.width, high.height) == (20, 26)


def test_padding_is_white_and_a_plain_picture_stays_plain():
    from PIL import Image

    found = make_pictures()(Image.new("RGB", (100, 50), (51, 102, 204)), return_tensors="pt")
    overview, tile = found["image_pixel_values"][0]
    colour = torch.tensor([51, 102, 204]).view(3, 1, 1) / 127.5 - 1
    assert torch.allclose(tile[:, :224], colour.expand(3, 224, 448), atol=1e-6)
    assert torch.equal(tile[:, 224:], torch.ones(3, 224, 448))
    assert torch.allclose(overview, tile, atol=1e-5), "one tile is its own overview"


def test_tiles_are_laid_out_row_by_row():
    picture = draw_picture(1, (96, 96)).resize((96, 96))
    found = make_pictures(48, 12)(picture, return_tensors="pt")
    tiles = found["image_pixel_values"][0, 1:]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1
    for number, (top, left) in enumerate(((0, 0), (0, 48), (48, 0), (48, 48))):
        assert torch.allclose(tiles[number], pixels[:, top: top + 48, left: left + 48], atol=1e-6)
    assert found["image_sizes"].tolist() == [[96, 96]]


def test_a_thin_picture_is_refused(phi4_directory):
    with pytest.raises(DataError, match="A picture of 2000 x 1 pixels is too thin for this model: in its tiles it "
                                        "would be 2240 x 1 pixels"):
        make_pictures(tiles=36)(draw_picture(0, (2000, 1)), return_tensors="pt")
    processor = PLUGIN.load_processor(str(phi4_directory))
    processor.image_processor = SimpleNamespace(size={"height": 448}, dynamic_hd=36)  # transformers' own, say
    with pytest.raises(DataError, match="A picture of 1 x 2000 pixels is too thin"):
        PLUGIN.encode_images(processor, [draw_picture(0, (1, 2000))])


@pytest.mark.parametrize(("side", "patch"), [(448, 14), (60, 12), (48, 12)])
def test_the_model_makes_as_many_features(tmp_path, side, patch):
    options = PLUGIN.Options(image_size=side, patch_size=patch, width=16, heads=2, vision_layers=2, text_layers=1)
    PLUGIN.build_tiny(tmp_path, options=options)
    model, processor = PLUGIN.load_model(str(tmp_path)), PLUGIN.load_processor(str(tmp_path))
    shapes = SHAPES if side < 448 else SHAPES[:2] + SHAPES[4:6]
    made = []
    model.get_submodule(PLUGIN.layout.projector).register_forward_hook(
        lambda module, args, output: made.append(output.shape[1]))
    for number, size in enumerate(shapes):
        images = PLUGIN.encode_images(processor, [draw_picture(number, size)])
        ids = torch.full((1, sum(images.num_tokens)), processor.image_token_id)
        with torch.no_grad():
            model(input_ids=ids, **images.tensors)
        assert [made.pop()] == list(images.num_tokens)


def test_rows_are_counted_rightly_in_bfloat16(tmp_path):
    PLUGIN.build_tiny(tmp_path)
    settings_file = tmp_path / "processor_config.json"
    stored = json.loads(settings_file.read_text(encoding="utf-8"))
    stored["image_processor"]["dynamic_hd"] = 200
    settings_file.write_text(json.dumps(stored), encoding="utf-8")
    model, processor = PLUGIN.load_model(str(tmp_path), dtype=torch.bfloat16), PLUGIN.load_processor(str(tmp_path))
    images = PLUGIN.encode_images(processor, [draw_picture(0, (48 * 140 - 24, 48))])
    assert images.num_tokens == (279 * 2 + 2 + 1 + 6,)
    ids = torch.full((1, sum(images.num_tokens)), processor.image_token_id)
    with torch.no_grad():
        assert model(input_ids=ids, **to_device(dict(images.tensors), model)).logits.isfinite().all()


def test_settings_are_saved_unharmed_under_the_names_of_transformers(phi4_directory, tmp_path):
    processor = PLUGIN.load_processor(str(phi4_directory))
    processor.image_processor.dynamic_hd = 7
    processor.audio_processor.hop_length, processor.audio_processor.preemphasis = 200, 0.5
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    assert stored["processor_class"] == "Phi4MultimodalProcessor"
    assert stored["image_processor"]["image_processor_type"] == "Phi4MultimodalImageProcessor"
    assert stored["audio_processor"]["feature_extractor_type"] == "Phi4MultimodalFeatureExtractor"
    again = PLUGIN.load_processor(str(tmp_path))
    assert (again.audio_processor.hop_length, again.audio_processor.preemphasis) == (200, 0.5)
    assert (again.image_processor.dynamic_hd, again.image_processor.size.height) == (7, 48)
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "processor_config.json").read_text(encoding="utf-8")) == stored


def test_a_checkpoint_that_says_nothing_of_pictures_gets_the_published_settings(phi4_directory, tmp_path):
    """Its native layout on the hub has one file of settings, which speaks of sound alone."""
    shutil.copytree(phi4_directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "Phi4MultimodalFeatureExtractor", "processor_class": "Phi4MultimodalProcessor",
        "audio_compression_rate": 8, "feature_size": 80, "sampling_rate": 16000, "padding_side": "right"}))
    processor = PLUGIN.load_processor(str(tmp_path))
    pictures = processor.image_processor
    assert (pictures.size.height, pictures.patch_size, pictures.dynamic_hd) == (448, 14, 36)
    assert PLUGIN.encode_images(processor, [draw_picture(0, (448, 448))]).num_tokens == (545,)
    assert processor.audio_processor.sampling_rate == 16000
