"""What a frozen vision tower and its projector make of a picture, computed once and kept.

A picture's features are a function of what the tower is fed and of its weights alone, so both are the key: the bytes of
the processed pixels (which the file, a mask and the processor's configuration decide), and a hash of every weight and
buffer outside the language model, of the configuration and of the libraries. Nothing stale can be read. Each row's
pictures go through the tower by themselves, so that features do not depend on what else was in the batch.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from medvqa_cli.models.batches import PICTURES, join_images, to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.models.protocol import ImageInputs, ModelLayout

POOLED, DEEP = "pooled", "deep"
PIXELS = "pixel_"
"""How the names of image tensors begin that nothing but the tower wants."""
Features = dict[str, torch.Tensor]
"""Of one row: "pooled" [tokens, width] or [tiles, tokens, width], and "deep.N" [tokens, width] of the N-th depth."""


class FeatureStore(Protocol):
    """Where features are kept."""

    def get(self, key: str) -> Features | None:
        """Return an entry; None if it is not there."""

    def put(self, key: str, features: Features) -> None:
        """Keep an entry, if there is room for it."""


class FeatureMemory:
    """Features in memory; the least recently used are thrown out beyond `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._entries: OrderedDict[str, Features] = OrderedDict()

    def get(self, key: str) -> Features | None:
        """Return an entry; None if it is not there."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: str, features: Features) -> None:
        """Keep an entry, unless it alone is larger than the bound."""
        if key in self._entries or count_bytes(features) > self.max_bytes:
            return
        self._entries[key] = features
        self.size += count_bytes(features)
        while self.size > self.max_bytes:
            self.size -= count_bytes(self._entries.popitem(last=False)[1])


@dataclass(slots=True)
class ReadyFeatures:
    """What a model takes in place of pixels, by the names of transformers' `get_image_features`."""

    pooler_output: Any
    deepstack_features: Any = None
    vision_outputs: Any = None
    qformer_outputs: Any = None


@dataclass(slots=True)
class FeatureCache:
    """Puts kept features in the place of a batch's pictures.

    Attributes:
        model: The model, PEFT's wrapper taken off.
        store: Where features are kept.
        weights: Hash of the weights that make them, see `hash_vision`.
        hits: Rows whose features were there.
        misses: Rows whose features were computed.
    """

    model: Any
    store: FeatureStore
    weights: str
    hits: int = 0
    misses: int = 0

    def fill(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of `build_batch(..., apart=True)` on the model's device, features in the place of pixels."""
        rest = {name: value for name, value in batch.items() if name != PICTURES}
        pictures: Sequence[ImageInputs] = [inputs for inputs in batch.get(PICTURES, ()) if inputs.tensors]
        if not pictures:
            return to_device(rest, self.model)
        others = {name: tensor for name, tensor in join_images(pictures).items() if not name.startswith(PIXELS)}
        rows = {id(inputs): inputs for inputs in pictures}
        known = {place: self._find(inputs) for place, inputs in rows.items()}
        output = self._join([known[id(inputs)] for inputs in pictures])
        return {**to_device({**rest, **others}, self.model), "pixel_values": None,
                "mm_encoder_outputs": {"image": output}}

    def is_steady(self, inputs: ImageInputs) -> bool:
        """Return whether the tower makes the same of a picture in training as in evaluation: no dropout is active."""
        was_training, found = self.model.training, []
        with torch.random.fork_rng():
            for mode in (True, False):
                self.model.train(mode)
                found.append(self._compute(inputs))
        self.model.train(was_training)
        return all(found[0][name].equal(features) for name, features in found[1].items())

    def _find(self, inputs: ImageInputs) -> Features:
        key = f"{self.weights}/{hash_pictures(inputs)}"
        features = self.store.get(key)
        if features is None:
            features = self._compute(inputs)
            self.store.put(key, features)
            self.misses += 1
        else:
            self.hits += 1
        return features

    @torch.no_grad()
    def _compute(self, inputs: ImageInputs) -> Features:
        taken = inspect.signature(self.model.get_image_features).parameters
        tensors = {name: tensor for name, tensor in inputs.tensors.items() if name in taken}
        output = self.model.get_image_features(**to_device(tensors, self.model), return_dict=True)
        pooled = output.pooler_output
        deep = getattr(output, "deepstack_features", None) or []
        return {POOLED: _flatten(pooled), **{f"{DEEP}.{depth}": _flatten(found) for depth, found in enumerate(deep)}}

    def _join(self, rows: Sequence[Features]) -> ReadyFeatures:
        device = next(self.model.parameters()).device
        parts = {name: [row[name].to(device) for row in rows] for name in rows[0]}
        deep = [parts[name] for name in sorted(parts, key=_find_depth) if name != POOLED]
        pooled = parts[POOLED] if rows[0][POOLED].ndim == 2 else torch.cat(parts[POOLED])
        return ReadyFeatures(pooled, deep or None)


def takes_features(model: Any) -> bool:
    """Return whether a model's forward takes features in the place of pixels, by transformers' own argument."""
    return hasattr(model, "get_image_features") and "mm_encoder_outputs" in inspect.signature(model.forward).parameters


def list_vision_state(model: Any, layout: ModelLayout) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of every weight and buffer that is not the language model's."""
    output = model.get_output_embeddings()
    apart = set() if output is None else {id(tensor) for tensor in output.parameters()}
    for source in (model.named_parameters(), model.named_buffers()):
        for name, tensor in source:
            if not name.startswith(f"{layout.language_model}.") and id(tensor) not in apart:
                yield name, tensor


def hash_vision(model: Any, layout: ModelLayout) -> str:
    """Return a hash of everything but pixels that decides features: weights, configuration, device and libraries."""
    import transformers

    digest = hashlib.sha256()
    facts = [model.config.to_dict(), str(getattr(model.config, "_attn_implementation", "")), torch.__version__,
             transformers.__version__, next(model.parameters()).device.type]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in list_vision_state(model, layout):
        _update(digest, name, tensor.detach())
    return digest.hexdigest()[:32]


def hash_pictures(inputs: ImageInputs) -> str:
    """Return a hash of what the tower is fed of one row's pictures."""
    digest = hashlib.sha256()
    for name in sorted(inputs.tensors):
        _update(digest, name, inputs.tensors[name])
    return digest.hexdigest()


def count_bytes(features: Features) -> int:
    """Return the memory that an entry takes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in features.values())


def _update(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
    digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _flatten(found: Any) -> torch.Tensor:
    """Return features of several pictures as one tensor of its own on the CPU."""
    whole = found if isinstance(found, torch.Tensor) else torch.cat(list(found))
    return whole.detach().cpu().clone(memory_format=torch.contiguous_format)


def _find_depth(name: str) -> int:
    return int(name.removeprefix(f"{DEEP}.")) if name != POOLED else -1
