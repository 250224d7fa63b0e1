"""How many tokens a question is, known before its picture is decoded, and how many a model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.protocol import ImageInputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from medvqa_cli.models.encoding import EncodedSample, SampleEncoder
    from medvqa_cli.records import VQASample

Size = tuple[int, int]


def find_limit(model: Any) -> int | None:
    """Return the most tokens a model's language model reads; None where it names no bound (T5)."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


class LengthFinder:
    """Encodes samples as they will be, with a grey picture of the same size for each of their pictures.

    How many tokens a picture takes is decided by its size, which stands in its file's header: nothing is decoded, and
    each size is processed once.

    Args:
        encoder: The encoder that will feed the model.
        measure: Returns width and height, in pixels, of a picture's file.
    """

    def __init__(self, encoder: SampleEncoder, measure: Callable[[str], Size]) -> None:
        self._encoder = encoder
        self._measure = measure
        self._sizes: dict[str, Size] = {}
        self._inputs: dict[tuple[Size, ...], ImageInputs] = {}

    def encode(self, sample: VQASample) -> EncodedSample:
        """Return a sample's prompt and answer.

        Raises:
            DataError: If its picture cannot be read, or it cannot be put to the model.
        """
        paths = self._encoder.list_pictures(sample)
        sizes = tuple(self._find_size(path) for path in paths)
        if sizes not in self._inputs:
            self._inputs[sizes] = self._process(sizes)
        return self._encoder.encode_text(sample, self._inputs[sizes])

    def count_image_tokens(self, sample: VQASample) -> int:
        """Return how many of its tokens stand for pictures."""
        self.encode(sample)
        return sum(self._inputs[tuple(map(self._find_size, self._encoder.list_pictures(sample)))].num_tokens)

    def _find_size(self, path: str) -> Size:
        if path not in self._sizes:
            self._sizes[path] = self._measure(path)
        return self._sizes[path]

    def _process(self, sizes: tuple[Size, ...]) -> ImageInputs:
        from PIL import Image

        pictures = [Image.new("RGB", size, (127, 127, 127)) for size in sizes]
        inputs = self._encoder.family.encode_images(self._encoder.processor, pictures)
        return ImageInputs({}, inputs.num_tokens, inputs.markers)
