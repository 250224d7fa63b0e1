"""A text encoder for BERTScore, named by its user: nothing is downloaded by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    # A text's tokens as vectors [tokens, width], and [tokens] which of them the tokenizer put around it.
    Embedded = tuple[NDArray[np.float32], NDArray[np.bool_]]

BATCH = 32


def load_text_encoder(checkpoint: str, layer: int | None = None,
                      device: str = "cpu") -> Callable[[Sequence[str]], list[Embedded]]:
    """Return a function from texts to the vectors of their tokens, as `scoring.bertscore` takes it.

    Args:
        checkpoint: Folder or hub id of an encoder (BERT, RoBERTa, MiniLM...).
        layer: Which hidden layer gives the vectors, counted from 1; the last if not given.
        device: Where it runs.

    Raises:
        ModelError: If it cannot be loaded, or has fewer layers.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The text encoder '{checkpoint}' cannot be loaded: {str(error).splitlines()[0]}",
                         "Name a folder or a hub id of an encoder with evaluation.encoder (--encoder).") from error
    layers = getattr(model.config, "num_hidden_layers", 0)
    if layer is not None and layer > layers:
        raise ModelError(f"The text encoder '{checkpoint}' has {layers} layers, not {layer}.",
                         f"Set evaluation.encoder_layer to 1 to {layers}.")
    model = model.to(device).eval()

    def encode(texts: Sequence[str]) -> list[Embedded]:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found: dict[int, Embedded] = {}
        for start in range(0, len(order), BATCH):
            places = order[start:start + BATCH]
            rows = _encode_batch([texts[place] for place in places], tokenizer, model, layer or layers, device)
            found.update(zip(places, rows, strict=True))
        return [found[place] for place in range(len(texts))]

    return encode


@torch.inference_mode()
def _encode_batch(texts: list[str], tokenizer: Any, model: Any, layer: int, device: str) -> list[Embedded]:
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    rows = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest)
    vectors = model(**rows.to(device), output_hidden_states=True).hidden_states[layer]
    ends = torch.tensor([token for token in (tokenizer.cls_token_id, tokenizer.sep_token_id) if token is not None])
    kept, special = rows["attention_mask"].bool().cpu(), torch.isin(rows["input_ids"].cpu(), ends)
    return [(row[mask].float().numpy(), marks[mask].numpy())
            for row, mask, marks in zip(vectors.cpu(), kept, special, strict=True)]
