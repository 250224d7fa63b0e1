"""VQASample to token ids and image tensors, each picture processed once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prompts import build_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from medvqa_cli.models.protocol import ImageInputs, ModelFamily
    from medvqa_cli.records import VQASample

BLANK_GREY = (127, 127, 127)
MAX_TEXTS = 100_000


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """Token ids of one question and its answer; the prompt's image placeholders are expanded."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class ImageCache:
    """Processed pictures, the least recently used thrown out beyond `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._size = 0
        self._entries: OrderedDict[tuple[str, ...], ImageInputs] = OrderedDict()

    def get(self, key: tuple[str, ...], make: Callable[[], ImageInputs]) -> ImageInputs:
        """Return the entry of `key`, made by `make` if it is not there."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        entry = make()
        size = _size_in_bytes(entry)
        if size <= self.max_bytes:
            self._entries[key] = entry
            self._size += size
        while self._size > self.max_bytes:
            self._size -= _size_in_bytes(self._entries.popitem(last=False)[1])
        return entry


def _size_in_bytes(inputs: ImageInputs) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in inputs.tensors.values())


class SampleEncoder:
    """Feeds one family: text by its template, pictures by its processor.

    Args:
        family: The model family.
        processor: Its processor.
        read_image: Opens a path as an RGB picture.
        instruction: Text added after every question.
        blank_images: Replace every picture by a grey one of the same size.
        cache_bytes: Memory for processed pictures.
    """

    def __init__(self, family: ModelFamily, processor: Any, read_image: Callable[[str], Image.Image], *,
                 instruction: str = "", blank_images: bool = False, cache_bytes: int = 0) -> None:
        self.family = family
        self.processor = processor
        self.instruction = instruction
        self.blank_images = blank_images
        self._read_image = read_image
        self._images = ImageCache(cache_bytes)
        self._texts: dict[tuple[object, ...], EncodedSample] = {}

    def encode_images(self, sample: VQASample) -> ImageInputs:
        """Return the sample's pictures as model inputs."""
        return self._images.get(sample.images, lambda: self._process_images(sample.images))

    def encode_text(self, sample: VQASample, images: ImageInputs) -> EncodedSample:
        """Return prompt and answer ids; equal questions with equally many image tokens are tokenized once."""
        key = (sample.question, sample.answer, images.num_tokens)
        if key not in self._texts:
            if len(self._texts) >= MAX_TEXTS:
                self._texts.clear()
            turns = build_turns(sample, self.instruction)
            self._texts[key] = EncodedSample(
                tuple(self.family.encode_prompt(self.processor, turns, images)),
                tuple(self.family.encode_answer(self.processor, sample.answer)))
        return self._texts[key]

    def _process_images(self, paths: Sequence[str]) -> ImageInputs:
        pictures = [self._read_image(path) for path in paths]
        if self.blank_images:
            pictures = [self._blank(picture) for picture in pictures]
        return self.family.encode_images(self.processor, pictures)

    @staticmethod
    def _blank(picture: Image.Image) -> Image.Image:
        from PIL import Image

        return Image.new("RGB", picture.size, BLANK_GREY)
