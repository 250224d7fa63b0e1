"""Small random checkpoints: a tokenizer trained on the spot, and numbers that stay put (family plugins may use it)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STOCK_TEXTS = (
    "Is there a lesion in the image?", "Which modality is used to take this image?", "CT", "MRI", "X-ray",
    "Where is the lesion?", "What is the largest organ?", "left lung", "right kidney", "liver",
    "Is the image normal?", "yes", "no", "How many lesions are there?", "one", "two", "none",
)


def train_tokenizer(texts: Sequence[str], special_tokens: Sequence[str], vocabulary_size: int) -> Any:
    """Return a byte-level BPE tokenizer trained on `texts`, padding on the left.

    Every text is learned as it stands in a prompt, after a blank and after a line end. Ids 0, 1, 2 are
    <pad>, <s>, </s>; the special tokens follow. No text is unknown: single bytes remain.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=["<pad>", "<s>", "</s>", *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator([mark + text for text in (texts or STOCK_TEXTS) for mark in (" ", "\n")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   padding_side="left", clean_up_tokenization_spaces=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's random numbers set to `seed`, and put the old state back."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
