"""VQASample to token ids and image tensors, each picture processed once."""

from __future__ import annotations

import itertools
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medvqa_cli.data.prompts import build_turns, check_prompt, format_target, list_exemplar_images
from medvqa_cli.errors import DataError
from medvqa_cli.models.processors import expand_placeholders
from medvqa_cli.settings.data import PromptSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from medvqa_cli.data.augmentation import Augmentation
    from medvqa_cli.data.prompts import Turn
    from medvqa_cli.models.protocol import ImageInputs, ModelFamily
    from medvqa_cli.records import VQASample

T = TypeVar("T")
BLANK_GREY = (127, 127, 127)
PLAIN = PromptSettings()
TEXT_BYTES = 128 * 2**20
"""Memory for tokenized texts: some 100,000 questions."""
TOKEN_BYTES, ENTRY_BYTES = 8, 800
"""What a token and an entry of them take: an id of 4 bytes, as many letters in the key, and Python's objects."""


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """Token ids of one question and the reply that training teaches; the prompt's image placeholders are expanded."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeptText:
    """An encoded sample as it is kept: ids of 4 bytes, each run of image tokens as one of them with its length."""

    prompt: array[int]
    answer: array[int]
    runs: tuple[int, ...]

    @classmethod
    def squeeze(cls, sample: EncodedSample, image_token: int) -> KeptText:
        """Return what is kept of a sample."""
        prompt, runs = array("i"), []
        for token, run in itertools.groupby(sample.prompt):
            length = len(list(run))
            if token == image_token:
                runs.append(length)
            prompt.extend([token] if token == image_token else [token] * length)
        return cls(prompt, array("i", sample.answer), tuple(runs))

    def expand(self, image_token: int) -> EncodedSample:
        """Return the sample as it was."""
        return EncodedSample(tuple(expand_placeholders(self.prompt, image_token, self.runs)), tuple(self.answer))

    def count_bytes(self) -> int:
        """Return about how much memory it takes with its key."""
        return ENTRY_BYTES + TOKEN_BYTES * (len(self.prompt) + len(self.answer))


class Cache(Generic[T]):
    """Entries that are made when they are first asked for; the least recently used go beyond `max_bytes`."""

    def __init__(self, max_bytes: int, count_bytes: Callable[[T], int]) -> None:
        self.max_bytes = max_bytes
        self._count_bytes = count_bytes
        self._size = 0
        self._entries: OrderedDict[tuple[object, ...], T] = OrderedDict()

    def get(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return the entry of `key`, made by `make` if it is not there."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        entry = make()
        size = self._count_bytes(entry)
        if size <= self.max_bytes:
            self._entries[key] = entry
            self._size += size
        while self._size > self.max_bytes:
            self._size -= self._count_bytes(self._entries.popitem(last=False)[1])
        return entry


def find_lead(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns before the last one with an image."""
    return turns[:max((place for place, turn in enumerate(turns) if turn.num_images), default=0)]


def _name(sample: VQASample) -> str:
    return f"Question '{sample.question_id}' of {sample.dataset}/{sample.split}"


def count_image_bytes(inputs: ImageInputs) -> int:
    """Return the memory of image inputs."""
    return sum(tensor.numel() * tensor.element_size() for tensor in inputs.tensors.values())


class SampleEncoder:
    """Feeds one family: text by its template, pictures by its processor.

    Pictures of exemplars stand before the sample's own, are read once, and go to the family together with them: some
    families treat one picture otherwise than several.

    Args:
        family: The model family.
        processor: Its processor.
        read_image: Opens a path as an RGB picture.
        prompt: How questions are put.
        blank_images: Replace every picture of a sample by a grey one of the same size. Exemplars' pictures stay: they
            are the same for every question and tell nothing of it.
        cache_bytes: Memory for processed pictures.
        augmentation: How pictures of an epoch of training are varied.

    Raises:
        SettingsError: If the prompt's template or an exemplar's picture cannot be used.
    """

    def __init__(self, family: ModelFamily, processor: Any, read_image: Callable[[str], Image.Image], *,
                 prompt: PromptSettings = PLAIN, blank_images: bool = False, cache_bytes: int = 0,
                 augmentation: Augmentation | None = None) -> None:
        check_prompt(prompt)
        self.family = family
        self.processor = processor
        self.prompt = prompt
        self.blank_images = blank_images
        self._read_image = read_image
        self._augmentation = augmentation
        self._images = Cache(cache_bytes, count_image_bytes)
        self._exemplar_paths = list_exemplar_images(prompt)
        self._exemplars: list[Image.Image] = []
        self._texts = Cache(TEXT_BYTES, KeptText.count_bytes)

    def with_prompt(self, prompt: PromptSettings) -> SampleEncoder:
        """Return an encoder that puts questions in another way; processed pictures are shared."""
        other = SampleEncoder(self.family, self.processor, self._read_image, prompt=prompt,
                              blank_images=self.blank_images, augmentation=self._augmentation)
        other._images = self._images
        return other

    @property
    def augments(self) -> bool:
        """Whether pictures of an epoch of training are varied."""
        return self._augmentation is not None

    @property
    def padding_id(self) -> int:
        """The token that fills up short rows."""
        return self.processor.tokenizer.pad_token_id or 0

    @property
    def image_token(self) -> int:
        """The token that stands where an image feature goes."""
        return self.family.find_image_token(self.processor)

    def arrange(self, samples: Sequence[VQASample]) -> list[VQASample]:
        """Return samples of one image with those beside one another whose prompts are the same up to the image.

        They differ before it where exemplars are put in different styles.
        """
        if not self.prompt.exemplars:
            return list(samples)
        leads = [find_lead(build_turns(sample, self.prompt)) for sample in samples]
        return [sample for lead in dict.fromkeys(leads)
                for sample, own in zip(samples, leads, strict=True) if own == lead]

    def list_pictures(self, sample: VQASample) -> tuple[str, ...]:
        """Return the paths of all pictures that a sample is put with: those of exemplars, then its own.

        Raises:
            DataError: If the family cannot take so many.
        """
        self._check_number(sample)
        return (*self._exemplar_paths, *sample.images)

    def encode_images(self, sample: VQASample, epoch: int | None = None) -> ImageInputs:
        """Return the pictures of exemplars and sample, in this order, as model inputs.

        With an epoch of training, the sample's own are varied as that epoch's draw says.

        Raises:
            DataError: If the family cannot take so many.
        """
        epoch = epoch if self._augmentation else None
        key = (*self.list_pictures(sample), f"epoch {epoch}")
        return self._images.get(key, lambda: self._process_images(sample.images, epoch))

    def encode_text(self, sample: VQASample, images: ImageInputs) -> EncodedSample:
        """Return prompt and target ids; equal conversations with equally many image tokens are tokenized once.

        Raises:
            SettingsError: If the prompt's template cannot be used.
            DataError: If the question holds what stands for an image.
        """
        turns, target = build_turns(sample, self.prompt), format_target(sample, self.prompt)
        key = (turns, target, images.num_tokens, images.markers)

        def encode() -> KeptText:
            try:
                prompt = self.family.encode_prompt(self.processor, turns, images)
                answer = self.family.encode_answer(self.processor, target)
            except ValueError as error:
                raise DataError(f"{_name(sample)} cannot be put to this model: {error}.",
                                "Change its text, or leave it out.") from error
            return KeptText.squeeze(EncodedSample(tuple(prompt), tuple(answer)), self.image_token)

        return self._texts.get(key, encode).expand(self.image_token)

    def _check_number(self, sample: VQASample) -> None:
        able, number = self.family.capabilities, len(self._exemplar_paths) + len(sample.images)
        if not number and not able.reads_text_alone:
            raise DataError(f"{_name(sample)} has no image, and this model answers no question without one.",
                            "Leave it out, or take another model (`medvqa models list`).")
        if able.max_images is not None and number > able.max_images:
            raise DataError(f"{_name(sample)} has {number} images with those of exemplars; this model takes at most "
                            f"{able.max_images}.", "Leave it out, or take another model (`medvqa models list`).")

    def _process_images(self, paths: Sequence[str], epoch: int | None) -> ImageInputs:
        if not self._exemplars:
            self._exemplars = [self._read_image(path) for path in self._exemplar_paths]
        pictures = [self._read_image(path) for path in paths]
        if self._augmentation and epoch is not None:
            pictures = [self._augmentation.vary(picture, path, epoch)
                        for picture, path in zip(pictures, paths, strict=True)]
        if self.blank_images:
            pictures = [self._blank(picture) for picture in pictures]
        return self.family.encode_images(self.processor, [*self._exemplars, *pictures])

    @staticmethod
    def _blank(picture: Image.Image) -> Image.Image:
        from PIL import Image

        return Image.new("RGB", picture.size, BLANK_GREY)
