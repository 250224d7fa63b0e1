"""The size of a picture: by hand, and its promises for any picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medvqa_cli.data.mixing.resizing import ImageTransform, resize_shape

VAE = ImageTransform(image_stride=16, max_image_size=1024, min_image_size=512)
VIT = ImageTransform(image_stride=14, max_image_size=980, min_image_size=378, max_pixels=2_007_040)


@pytest.mark.parametrize(("transform", "size", "expected"), [
    (VAE, (1024, 1024), (1024, 1024)), (VAE, (2048, 1024), (1024, 512)), (VAE, (4000, 3000), (1024, 768)),
    (VAE, (600, 700), (608, 704)), (VAE, (100, 200), (512, 1024)), (VAE, (4096, 512), (4096, 512)),
    (VIT, (512, 512), (518, 518)), (VIT, (1, 1), (378, 378)), (VIT, (3000, 100), (7756, 252))])
def test_sizes_by_hand(transform, size, expected):
    assert resize_shape(*size, transform) == expected


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 30), st.integers(0, 500), st.integers(0, 1000),
       st.integers(0, 3_000_000) | st.none())
def test_promises(width, height, stride, more, much_more, room):
    lowest = stride + more
    transform = ImageTransform(image_stride=stride, min_image_size=lowest, max_image_size=lowest + much_more,
                               max_pixels=None if room is None else stride**2 + room)
    sides = resize_shape(width, height, transform)
    assert all(side >= stride and side % stride == 0 for side in sides)
    assert room is None or sides[0] * sides[1] <= transform.max_pixels
    assert sides[::-1] == resize_shape(height, width, transform)
    if room is None:
        assert min(sides) > lowest - stride
        assert max(sides) < lowest + much_more + stride or min(sides) < lowest + stride


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="not 0 x 5"):
        resize_shape(0, 5, VAE)
    for values, fault in (((16, 10, 20), r"min_image_size \(20\) is larger"), ((16, 20, 10), r"image_stride \(16\)"),
                          ((16, 64, 32, 255), "leaves no room for a patch of 16 x 16")):
        names = ("image_stride", "max_image_size", "min_image_size", "max_pixels")
        with pytest.raises(ValidationError, match=fault):
            ImageTransform(**dict(zip(names, values, strict=False)))
