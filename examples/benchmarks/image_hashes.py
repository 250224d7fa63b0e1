"""How far apart the perceptual hashes of altered copies, of neighbouring slices and of different pictures are.

    python examples/benchmarks/image_hashes.py DATA     (a folder with slake/ and vqa_rad/)

Last figures, 642 pictures of SLAKE and 315 of VQA-RAD, pillow 13.0 (2026-11-21), in bits of 256:

    copies of 120 pictures           median  90 %  largest  within 24
    JPEG quality 30                       2     4        8     100.0 %
    half the size                         0     2        6     100.0 %
    224 x 224                             2     2        6     100.0 %
    1.2 times the brightness              6    12       20     100.0 %
    1.3 times the contrast                8    16       24     100.0 %
    gamma 0.8                             8    14       20     100.0 %
    a line of text in a corner           10    18       26      98.3 %
    turned by 1 degree                   12    22       36      95.0 %
    1 % cut off each side                16    28       36      80.8 %
    2 % cut off each side                33    52       70      24.2 %

    pairs of different pictures      closest  within 8, 16, 24, 32, 40
    SLAKE, 205,761 pairs                   4  17, 72, 144, 237, 330
    VQA-RAD, 49,455 pairs                 68  0, 0, 0, 0, 0
    one of each, 202,230 pairs            66  0, 0, 0, 0, 0

    SLAKE's pairs within 24: 141 are at most 4 numbers apart, the others 5, 15 and 462; all three show one patient
"""

from __future__ import annotations

import io
import itertools
import random
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from medvqa_cli.data.analysis.image_hashes import MAX_DISTANCE, hash_look
from medvqa_cli.data.images import read_image


def save_as_jpeg(image, quality):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def crop(image, share):
    dx, dy = int(image.width * share), int(image.height * share)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


def write_text(image):
    copy = image.copy()
    ImageDraw.Draw(copy).text((5, 5), "R 12:33", fill="white", font_size=max(12, image.height // 20))
    return copy


CHANGES = {
    "JPEG quality 30": lambda image: save_as_jpeg(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "224 x 224": lambda image: image.resize((224, 224)),
    "1.2 times the brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "1.3 times the contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "gamma 0.8": lambda image: image.point(lambda level: 255 * (level / 255) ** 0.8),
    "a line of text in a corner": write_text,
    "turned by 1 degree": lambda image: image.rotate(1),
    "1 % cut off each side": lambda image: crop(image, 0.01),
    "2 % cut off each side": lambda image: crop(image, 0.02),
}


def measure(first, second):
    return (int(first, 16) ^ int(second, 16)).bit_count()


def compare_copies(paths, looks):
    print(f"{'copies of ' + str(len(paths)) + ' pictures':<32} median  90 %  largest  within {MAX_DISTANCE}")
    found = {name: [] for name in CHANGES}
    for path in paths:
        image = read_image(path)
        for name, change in CHANGES.items():
            found[name].append(measure(looks[path], hash_look(change(image))))
    for name, bits in found.items():
        near = np.mean(np.array(bits) <= MAX_DISTANCE)
        print(f"{name:<32} {np.median(bits):6.0f} {np.percentile(bits, 90):5.0f} {max(bits):8} {100 * near:8.1f} %")


def compare_pairs(title, pairs, looks):
    bits = np.array([measure(looks[one], looks[other]) for one, other in pairs])
    counts = ", ".join(str((bits <= limit).sum()) for limit in (8, 16, 24, 32, 40))
    print(f"{title + f', {len(bits):,} pairs':<32} {bits.min():7}  {counts}")


def main():
    root = Path(sys.argv[1])
    slake = sorted((root / "slake").glob("*/*/source.jpg"))
    rad = sorted((root / "vqa_rad").glob("*/*.jpg"))
    looks = {path: hash_look(read_image(path)) for path in slake + rad}
    draw = random.Random(0)
    compare_copies(draw.sample(slake, 60) + draw.sample(rad, 60), looks)
    print(f"\n{'pairs of different pictures':<32} closest  within 8, 16, 24, 32, 40")
    compare_pairs("SLAKE", itertools.combinations(slake, 2), looks)
    compare_pairs("VQA-RAD", itertools.combinations(rad, 2), looks)
    compare_pairs("one of each", itertools.product(slake, rad), looks)
    numbers = {path: int(re.search(r"\d+", path.parent.name)[0]) for path in slake}
    gaps = sorted(abs(numbers[one] - numbers[other]) for one, other in itertools.combinations(slake, 2)
                  if measure(looks[one], looks[other]) <= MAX_DISTANCE)
    print(f"\nSLAKE's pairs within {MAX_DISTANCE}: {sum(gap <= 4 for gap in gaps)} are at most 4 numbers apart, the "
          f"others {', '.join(str(gap) for gap in gaps if gap > 4)}")


if __name__ == "__main__":
    main()
