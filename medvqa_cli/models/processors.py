"""Parts of processors that several families need, with or without torchvision (family plugins may use it)."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.models.protocol import ImageInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from medvqa_cli.data.prompts import Turn

TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}


def load_processor(checkpoint: str, class_name: str) -> Any:
    """Return a checkpoint's processor, of a transformers class.

    Where torchvision is missing, a class that wants a video processor is put together from its other parts: all video
    processors of transformers need torchvision. Image processors then work with PIL.
    """
    import transformers

    processor_class = find_processor_class(class_name)
    if processor_class is getattr(transformers, class_name):
        return processor_class.from_pretrained(checkpoint)
    settings, _ = processor_class.get_processor_dict(checkpoint)
    parts = {"image_processor": transformers.AutoImageProcessor.from_pretrained(checkpoint),
             "tokenizer": transformers.AutoTokenizer.from_pretrained(checkpoint),
             "video_processor": make_absent_video_processor(settings.get("video_processor"))}
    return processor_class.from_args_and_dict([parts[name] for name in processor_class.get_attributes()], settings)


@functools.cache
def find_processor_class(name: str) -> Any:
    """Return a processor class of transformers, or one of the same name that takes a stand-in for a video processor."""
    import transformers
    from transformers.utils import is_torchvision_available

    processor_class = getattr(transformers, name)
    if "video_processor" not in processor_class.get_attributes() or is_torchvision_available():
        return processor_class

    def check_argument(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(argument)
        return processor_class.check_argument_for_proper_class(self, argument_name, argument)

    return type(name, (processor_class,), {"check_argument_for_proper_class": check_argument,
                                           "__module__": processor_class.__module__})


def make_absent_video_processor(settings: dict[str, Any] | None = None) -> Any:
    """Return a stand-in for a video processor, which processes nothing and keeps the settings of the real one.

    Args:
        settings: What a processor's configuration says of its video processor; saved again as it is.
    """
    from transformers.video_processing_utils import VideoProcessorMixin

    class AbsentVideoProcessor(VideoProcessorMixin):
        """Takes the place of a video processor where torchvision is missing."""

        merge_size = 2
        temporal_patch_size = 2

        def __init__(self) -> None:
            """Skip the set-up of a video processor, which needs torchvision."""

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("videos need torchvision")

        def to_dict(self) -> dict[str, Any]:
            return settings or {}

    return AbsentVideoProcessor()


def process_images(processor: Any, images: Sequence[Image.Image], image_token: int) -> ImageInputs:
    """Return images as a processor of transformers makes them, with the text that it puts in their place.

    Args:
        processor: The processor; its `image_token` is the placeholder in a prompt.
        images: The images of one sample.
        image_token: Id of the token that stands where an image feature goes.
    """
    if not images:
        return ImageInputs()
    found = processor(text=[processor.image_token * len(images)], images=[list(images)], return_tensors="pt",
                      return_text_replacement_offsets=True)
    texts = [change["replacement"] for change in found.pop("text_replacement_offsets")[0]]
    tensors = {name: value for name, value in found.items() if name not in TEXT_INPUTS}
    return mark_images(tensors, texts, processor.tokenizer.convert_ids_to_tokens(image_token))


def mark_images(tensors: dict[str, Any], texts: Sequence[str], image_token: str) -> ImageInputs:
    """Return image inputs whose texts in the prompt have each run of image tokens drawn together to one."""
    runs = re.compile(f"(?:{re.escape(image_token)})+")
    counts = [len(run) // len(image_token) for text in texts for run in runs.findall(text)]
    return ImageInputs(tensors, tuple(counts), tuple(runs.sub(lambda _: image_token, text) for text in texts))


def place_images(text: str, placeholder: str, images: ImageInputs) -> str:
    """Put the images' markers where a prompt's text has placeholders.

    Raises:
        ValueError: If there are more or fewer placeholders than images.
    """
    pieces = text.split(placeholder)
    if len(pieces) - 1 != len(images.markers):
        raise ValueError(f"the prompt holds {len(pieces) - 1} image placeholders ({placeholder}) for "
                         f"{len(images.markers)} images")
    return pieces[0] + "".join(marker + piece for marker, piece in zip(images.markers, pieces[1:], strict=True))


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return turns in the form chat templates take: content as a list of image and text parts."""
    return [{"role": turn.role,
             "content": [{"type": "image"}] * turn.num_images + [{"type": "text", "text": turn.text}]}
            for turn in turns]


@functools.lru_cache(maxsize=16)
def find_answer_form(tokenizer: Any, template: str) -> tuple[str, str, int]:
    """Return how a chat template goes on with an answer.

    Returns:
        The prompt's text before an answer, what the template puts between it and the answer, such as a blank, and the
        id of the token that ends an answer: the special token behind it, or the tokenizer's end of sequence.

    Raises:
        ValueError: If the template writes a conversation with an answer otherwise than prompt and answer.
    """
    answer = "ANSWER"
    messages = [{"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in (("user", "Q"), ("assistant", answer))]
    prompt = tokenizer.apply_chat_template(messages[:1], chat_template=template, add_generation_prompt=True,
                                           tokenize=False)
    whole = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    lead, found, rest = whole.removeprefix(prompt).partition(answer)
    if not whole.startswith(prompt) or not found or lead.strip():
        raise ValueError("the chat template does not write an answer as it goes on from the prompt")
    end = next((token for token in sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
                if rest.lstrip().startswith(token)), tokenizer.eos_token)
    return prompt, lead, tokenizer.convert_tokens_to_ids(end)


def tokenize_prompt(tokenizer: Any, text: str) -> list[int]:
    """Return a prompt's token ids with the tokenizer's own special tokens, the first of them never twice."""
    bos = tokenizer.bos_token
    add_special = not (bos and text.startswith(bos))
    ids: list[int] = tokenizer(text, add_special_tokens=add_special).input_ids
    if add_special and ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def tokenize_continuation(tokenizer: Any, anchor: str, text: str) -> list[int]:
    """Return the ids of `text` as it follows `anchor`.

    Tokenizers treat the start of a string specially (a SentencePiece one puts a blank there), so the text is not
    tokenized alone unless its tokens merge with the anchor's.
    """
    before: list[int] = tokenizer(anchor, add_special_tokens=False).input_ids
    both: list[int] = tokenizer(anchor + text, add_special_tokens=False).input_ids
    if both[: len(before)] == before and len(both) > len(before):
        return both[len(before):]
    alone: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return alone


def expand_placeholders(ids: Sequence[int], placeholder: int, counts: Sequence[int]) -> list[int]:
    """Repeat the n-th placeholder counts[n] times, as the model wants one for every image feature.

    Raises:
        ValueError: If the prompt does not hold exactly one placeholder for each run of image tokens.
    """
    found = sum(token == placeholder for token in ids)
    if found != len(counts):
        raise ValueError(f"the prompt holds {found} image placeholders for {len(counts)} images")
    expanded: list[int] = []
    remaining = iter(counts)
    for token in ids:
        expanded.extend([token] * (next(remaining) if token == placeholder else 1))
    return expanded
