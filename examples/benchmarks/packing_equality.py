"""How far packed rows are from separate ones, for each family that packs: loss and gradients, by part of the model.

    python examples/benchmarks/packing_equality.py [FAMILY ...]

A tiny checkpoint of each family's real architecture, random weights, float32 on a CPU; two pictures of unlike sizes
with five and three questions. Adapters with random weights in both matrices, without dropout, stand on every linear
layer of language model, vision tower and projector (a projector without linear layers is trained in full). A tensor's
difference is that of its two gradients, as a share of the norm of the separate rows' one; the table shows the largest
of each part.

Last figures, torch 2.13, transformers 5.23 (2026-11-21):

    family                  loss   vision tower   projector   language model   tensors
    gemma3               0.0e+00        1.4e-06     6.3e-07          8.7e-07        54
    idefics3             0.0e+00        8.7e-07     6.0e-07          7.9e-07        54
    internvl             9.8e-08        9.8e-07     6.8e-07          7.7e-07        56
    llava                1.0e-07        8.1e-07     4.0e-07          6.4e-07        56
    llava_med            2.2e-07        1.0e-06     4.7e-07          8.1e-07        44
    llava_next           0.0e+00        8.0e-07     7.6e-07          7.6e-07        44
    llava_onevision      1.0e-07        1.1e-06     4.5e-07          1.1e-06        56
    phi4_multimodal      1.0e-07        2.7e-06     9.0e-07          9.2e-07        32
    qwen2_5_vl           0.0e+00        1.4e-06     7.5e-07          5.5e-07        52
    qwen2_vl             1.0e-07        1.3e-06     6.1e-07          4.8e-07        48
    qwen3_vl             0.0e+00        2.0e-06     8.1e-07          6.0e-07        52
    smolvlm              0.0e+00        8.7e-07     6.0e-07          7.9e-07        54
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from medvqa_cli.models.adapters import find_part, prepare_training
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings

QUESTIONS = (("Is there a lesion in the left lung?", "yes"), ("What organ is shown?", "the liver"),
             ("Which modality is this?", "magnetic resonance imaging"), ("Is the heart enlarged?", "no"),
             ("Where is the mass?", "upper right lobe"))
PICTURES = ((60, 44, 5), (40, 100, 3))
ZERO = 1e-7
"""A gradient below this norm is rounding: that of a key's bias is zero in truth."""


def compare(family: str, folder: Path) -> tuple[float, dict[str, float], int]:
    """Return a family's difference in loss, the largest one in gradients by part, and how many tensors there are."""
    models.get(family).build_tiny(folder / family, texts=[text for pair in QUESTIONS for text in pair], seed=5)
    settings = ModelSettings(device="cpu", dtype="float32")
    loaded = load_checkpoint(models.get(family), family, str(folder / family), settings)
    model, layout = train_adapters(loaded), loaded.family.layout
    encoder = SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))
    groups = [make_group(folder, number) for number in range(len(PICTURES))]
    (plain_loss, plain), (packed_loss, packed) = (
        find_gradients(model, build_batch(encoder, groups, packed=packed)) for packed in (False, True))
    places = {"vision tower": (layout.vision_tower,), "projector": layout.projectors,
              "language model": (layout.language_model,)}
    moved = {name: ((packed[name] - gradient).norm() / gradient.norm()).item()
             for name, gradient in plain.items() if gradient.norm() > ZERO}
    by_part = {part: max(value for name, value in moved.items() if any(f".{path}." in name for path in paths))
               for part, paths in places.items()}
    return abs(packed_loss / plain_loss - 1), by_part, len(moved)


def train_adapters(loaded: Any) -> Any:
    """Return the model with random adapters everywhere, ready to be trained."""
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    layout = loaded.family.layout
    projector = find_part(loaded.model, layout.projector)
    has_linear = any(isinstance(module, torch.nn.Linear) for module in projector.modules())
    lora = LoRASettings(r=4, alpha=8, dropout=0.0, targets=("all-linear",),
                        parts=("language_model", "vision_tower", *(["projector"] if has_linear else [])))
    model = prepare_training(loaded.model, layout, TrainSettings(lora=lora, tune_projector=not has_linear), lora=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return model.train()


def make_group(folder: Path, number: int) -> list[VQASample]:
    """Draw a picture; return its questions."""
    width, height, count = PICTURES[number]
    draw = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (height, width, 3), generator=draw, dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / f"{number}.png")
    return [VQASample(dataset="d", split="train", question_id=f"{number}-{n}", image_id=str(number), question=question,
                      answer=answer, answer_type="open", images=(str(folder / f"{number}.png"),))
            for n, (question, answer) in enumerate(QUESTIONS[:count])]


def find_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the mean loss of a batch and the gradient of every trained tensor."""
    model.zero_grad(set_to_none=True)
    loss, tokens = sum_answer_loss(model, batch)
    (loss / tokens).backward()
    return loss.item() / int(tokens), {name: parameter.grad.clone() for name, parameter in model.named_parameters()
                                       if parameter.grad is not None}


def main() -> None:
    """Print the table."""
    names = sys.argv[1:] or [name for name in models.names() if models.get(name).capabilities.packs]
    print(f"{'family':<18}{'loss':>10}{'vision tower':>15}{'projector':>12}{'language model':>17}{'tensors':>10}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            loss, parts, tensors = compare(name, Path(folder))
        print(f"{name:<18}{loss:>10.1e}{parts['vision tower']:>15.1e}{parts['projector']:>12.1e}"
              f"{parts['language model']:>17.1e}{tensors:>10}", flush=True)


if __name__ == "__main__":
    main()
