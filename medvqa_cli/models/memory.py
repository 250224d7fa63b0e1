"""How much memory a model takes: a formula, term by term, from its sizes and from what goes through it at once.

Let e be the bytes of a number (4 in float32, else 2; 4 in training on quantised weights, where peft casts everything
else to float32), P the parameters, B the rows of a batch, T the tokens of a row (image tokens + questions x text
tokens), V the vocabulary, L the blocks, h the width of the residual stream, a that of the queries, c that of keys and
values together, m what the MLP's first layers put out, f what its last layer reads.

weights: P e. Quantised, a weight of the language model's linear layers takes 0.5 + 0.127/8 bytes in 4-bit (NF4 with
    double quantisation, Dettmers et al. 2023, arXiv:2305.14314, section 3) or 1 byte in 8-bit; everything else (vision
    tower, projector, embeddings, norms, head) e bytes. What is trained takes 4 bytes (`models.precision`).
dequantised weight: 4-bit: the largest linear layer in the number format, as it is multiplied.
adapters: r (in + out) values for every adapted layer, float32; and peft's copy of the projector and of the last layers
    where they are trained beside LoRA, float32 too.
rounded weights: what is trained of the model itself, as a step in 16 bits computes with it: e bytes.
gradients: as many bytes as what is trained.
optimiser states: AdamW's two, each as many bytes as what is trained.
activations of the language model: what L blocks keep for the backward pass,
    B T L (n + e (2a + k + m + s)) bytes, and in full training B T L e (2h + f) more for the weights' gradients:
    n: what the norms keep of their inputs: 4 bytes a value for an RMSNorm (it copies to float32) and e more where it
    is trained, e for a LayerNorm; queries and attention's output are 2a; k, keys and values, is c, or 2a where a mask
    is passed (SDPA then wants them for every head); s is the gate after its activation (f if gated, else 0).
    An adapted layer keeps its own input in float32 where it is cast or dropped out (with the mask of the dropout:
    1 byte a value on a GPU, 4 on a CPU), else one a block for those that share it, and r float32 values.
    With gradient checkpointing: B T L h e for the blocks' inputs, and one block as above, which is computed again.
activations of the vision tower: the same over its patches where it is trained. Frozen, it keeps nothing; families that
    choose one layer's states (LLaVA) hold those of all: patches x L h e.
activations of the projector: where it is trained, what its linear layers read and put out. In full training a
    Q-Former between tower and language model (BLIP-2) keeps as the language model does, over its queries (the image
    tokens), and keys and values of every patch where it looks at them.
attention masks: where rows are padded or packed, SDPA makes one in the number format in every block and keeps it:
    B T^2 e L (1 block with checkpointing), and the bool one. A learned position bias (T5) takes SDPA back to attention
    matrices: three of them for each head (bias, probabilities, dropout), in all cases.
logits: training: 12 V bytes a position (log-softmax, and its gradient twice, float32) at B min(text, B x questions x
    answer tokens) positions, as only columns that hold a label in some row are computed. Inference: B V (e + 4).
key-value cache: inference: B T L c e (2 x layers x heads x head size x tokens x bytes).
pictures: pixel values in float32 and in e bytes.
working tensors: what one block of the dearest part holds while it runs: tokens x (e (3h + m + s + f) + 4h).
allocator: 5 % of all, our allowance for rounding and fragmentation. Not counted: a CUDA context (some 0.5 GB), other
    processes, and what libraries hold.

The activation terms follow Korthikanti et al. 2022 (arXiv:2205.05198, section 4: s b h (34 + 5 a s / h) bytes a layer).
Differs: SDPA keeps no attention matrix, so their 5 a s / h is gone; norms, gates and grouped keys are those of the
models at hand, not GPT's; dropout of the model itself is off; and with LoRA frozen weights need no gradient, so what
they alone read is not kept. An encoder-decoder's decoder is counted over the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medvqa_cli.models.shapes import ModelShape, PictureSize, Stack, Target

Tuning = Literal["none", "lora", "full"]
Quantization = Literal["none", "8bit", "4bit"]

WEIGHT_BYTES = {"8bit": 1.0, "4bit": 0.5 + 0.127 / 8}
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = 4
LOGIT_BYTES = 12
BIASED_MATRICES = 3
ALLOCATOR_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What goes through a model at once, and what of it is trained.

    Attributes:
        picture: One picture; a row holds one. None without pictures.
        rows: Batch size.
        questions: Questions that share a row's picture (packing); 1 without.
        text_tokens: Tokens of one question with its prompt and answer.
        answer_tokens: Those of them that are answer.
        dtype: Number format of the weights that are not quantised.
        quantization: Format of the language model's linear layers.
        tuning: What is trained: nothing (inference), LoRA adapters or everything.
        checkpointing: Whether activations are computed again instead of kept.
        freeze_vision_tower: Keep the vision tower as it is in full training.
        tune_projector: Train the projector beside LoRA.
        last_layers: Last layers of the language model trained in full beside LoRA.
        rank: LoRA's r.
        dropout: LoRA's dropout.
        on_gpu: Whether it runs on a GPU: a CPU keeps larger dropout masks.
    """

    picture: PictureSize | None
    rows: int = 1
    questions: int = 1
    text_tokens: int = 64
    answer_tokens: int = 16
    dtype: str = "bfloat16"
    quantization: Quantization = "none"
    tuning: Tuning = "none"
    checkpointing: bool = False
    freeze_vision_tower: bool = False
    tune_projector: bool = False
    last_layers: int = 0
    rank: int = 16
    dropout: float = 0.05
    on_gpu: bool = True

    @property
    def number_bytes(self) -> int:
        """Bytes of a number outside quantised weights (e)."""
        is_cast = self.quantization != "none" and self.tuning != "none"
        return FLOAT32 if is_cast else NUMBER_BYTES[self.dtype]

    @property
    def tokens(self) -> int:
        """Tokens of a row (T)."""
        return (self.picture.tokens if self.picture else 0) + self.questions * self.text_tokens

    @property
    def patches(self) -> int:
        """Patches of all rows."""
        return self.rows * self.picture.patches if self.picture else 0

    @property
    def is_masked(self) -> bool:
        """Whether attention is given a mask: rows are padded or packed."""
        return self.rows > 1 or self.questions > 1

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Parts whose own weights are trained."""
        if self.tuning == "full":
            return ("projector", "language model", "other") + (() if self.freeze_vision_tower else ("vision tower",))
        return ("projector",) if self.tuning == "lora" and self.tune_projector else ()


def estimate_memory(shape: ModelShape, work: Workload) -> dict[str, int]:
    """Return the peak memory of inference or of a training step in bytes: one entry a term; their sum is the peak.

    The terms and their coefficients stand at the top of this module. Gradients are counted beside all activations: they
    are there from the second forward pass of an optimiser step on.
    """
    is_packed = work.quantization == "4bit"
    terms = {"weights": estimate_weights(shape, work),
             "dequantised weight": shape.largest_linear * NUMBER_BYTES[work.dtype] if is_packed else 0}
    terms |= _count_training_states(shape, work) | count_kept(shape, work)
    terms["logits"] = shape.vocabulary * _count_logits(work)
    terms["key-value cache"] = 0 if work.tuning != "none" else sum(
        _cache(stack, work) for stack in _caching(shape.language))
    terms["pictures"] = work.rows * work.picture.values * (FLOAT32 + work.number_bytes) if work.picture else 0
    terms["working tensors"] = max((_work(stack, tokens, work) for stack, tokens in _passes(shape, work)), default=0)
    return {**terms, "allocator": round(ALLOCATOR_SHARE * sum(terms.values()))}


def estimate_weights(shape: ModelShape, work: Workload) -> int:
    """Return the bytes of the weights, without adapters."""
    packed = WEIGHT_BYTES.get(work.quantization, work.number_bytes)
    others = sum(shape.parameters.values()) - shape.quantizable
    masters = sum(shape.parameters[part] for part in work.trained_parts) if work.tuning == "full" else 0
    return round(shape.quantizable * packed + others * work.number_bytes + masters * (FLOAT32 - work.number_bytes))


def count_adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Return the parameters of LoRA adapters."""
    return sum(rank * (target.width_in + target.width_out)
               for stack in (*shape.vision, *shape.language) for target in stack.targets)


def count_kept(shape: ModelShape, work: Workload) -> dict[str, int]:
    """Return the bytes of activations that a forward pass keeps, by part; without logits and the loss."""
    in_full, number = work.tuning == "full", work.number_bytes
    projector = work.rows * work.picture.tokens * shape.projector_width * number if work.picture else 0
    return {
        "activations of the language model": 0 if work.tuning == "none" else sum(
            _keep(stack, tokens, work, is_trained=in_full) for stack, tokens in _pass_text(shape, work)),
        "activations of the vision tower": _keep_vision(shape, work),
        "activations of the projector": projector * ("projector" in work.trained_parts) + _keep_former(shape, work),
        "attention masks": sum(_mask(stack, tokens, work) for stack, tokens in _pass_text(shape, work)),
    }


def _keep_vision(shape: ModelShape, work: Workload) -> int:
    is_trained = "vision tower" in work.trained_parts
    if is_trained or (work.tuning == "lora" and any(stack.targets for stack in shape.vision)):
        return sum(_keep(stack, work.patches, work, is_trained=is_trained) for stack in shape.vision)
    held = sum(_states(stack, work.patches, work) for stack in shape.vision)
    return held if shape.holds_vision_states else 0


def _keep_former(shape: ModelShape, work: Workload) -> int:
    if work.picture is None or "other" not in work.trained_parts:
        return 0
    queries = work.rows * work.picture.tokens
    return sum(_keep(stack, queries, work, is_trained=True, seen=work.patches) for stack in shape.former)


def _count_training_states(shape: ModelShape, work: Workload) -> dict[str, int]:
    is_lora = work.tuning == "lora"
    own = sum(shape.parameters[part] for part in work.trained_parts)
    own += work.last_layers * shape.language[-1].block_parameters if is_lora else 0
    trained = FLOAT32 * (own + (count_adapter_parameters(shape, work.rank) if is_lora else 0))
    return {"adapters": trained if is_lora else 0,
            "rounded weights": own * work.number_bytes if work.number_bytes < FLOAT32 else 0,
            "gradients": trained, "optimiser states": 2 * trained}


def _pass_text(shape: ModelShape, work: Workload) -> Iterator[tuple[Stack, int]]:
    """Yield the language model's stacks and the tokens that pass them, of all rows."""
    for stack in shape.language:
        yield stack, work.rows * (work.questions * work.answer_tokens if stack.decodes else work.tokens)


def _passes(shape: ModelShape, work: Workload) -> Iterator[tuple[Stack, int]]:
    yield from ((stack, work.patches) for stack in shape.vision)
    yield from _pass_text(shape, work)


def _keep(stack: Stack, tokens: int, work: Workload, *, is_trained: bool, seen: int | None = None) -> int:
    """Return what a stack keeps of tokens for the backward pass, in bytes; `seen` are what cross-attention looks at."""
    block = tokens * _block_bytes(stack, work, is_trained=is_trained)
    block += (work.rows * work.tokens if seen is None else seen) * stack.cross * work.number_bytes
    last = work.last_layers * tokens * work.number_bytes * (stack.inputs + stack.mlp_out) * (not stack.is_vision)
    adapters = tokens * _adapter_bytes(stack.targets, work) if work.tuning == "lora" else 0
    kept = tokens * _norm_bytes(stack, stack.width, work, is_trained=is_trained)
    if work.checkpointing:
        return kept + _states(stack, tokens, work) + block + adapters // stack.depth
    return kept + last + stack.depth * block + adapters


def _block_bytes(stack: Stack, work: Workload, *, is_trained: bool) -> int:
    """Return the bytes that one block keeps of a token."""
    number = work.number_bytes
    keys = 2 * stack.attention if work.is_masked and not stack.is_vision else stack.key_value
    attention = 2 * stack.attention * (2 if stack.cross else 1) + keys
    kept = number * (attention + stack.mlp_in + stack.mlp_copies)
    kept += _norm_bytes(stack, stack.norms, work, is_trained=is_trained)
    return kept + number * (stack.inputs + stack.mlp_out) * is_trained


def _norm_bytes(stack: Stack, width: int, work: Workload, *, is_trained: bool) -> int:
    """Return what norms keep of a token, over so many values of it."""
    if not stack.norms_in_float32:
        return width * work.number_bytes
    return width * (FLOAT32 + work.number_bytes * is_trained)


def _adapter_bytes(targets: Iterable[Target], work: Workload) -> int:
    """Return the bytes that adapters keep of a token."""
    has_own_input = work.number_bytes != FLOAT32 or work.dropout > 0
    mask = (1 if work.on_gpu else FLOAT32) if work.dropout else 0
    return sum((FLOAT32 + mask) * target.width_in if has_own_input else FLOAT32 * target.width_in * target.reads_anew
               for target in targets) + sum(FLOAT32 * work.rank for _ in targets)


def _states(stack: Stack, tokens: int, work: Workload) -> int:
    """Return the residual stream before every block."""
    return tokens * stack.depth * stack.width * work.number_bytes


def _mask(stack: Stack, tokens: int, work: Workload) -> int:
    """Return the attention masks of a stack; where a bias is learned, with the attention matrices it brings back."""
    is_biased = stack.mask_heads > 1
    if not work.is_masked and not is_biased:
        return 0
    copies = stack.depth if work.tuning != "none" and not work.checkpointing else 1
    matrices = stack.mask_heads * BIASED_MATRICES if is_biased else 1
    keys = tokens // work.rows + (work.tokens if stack.cross else 0)
    return tokens * keys * (work.number_bytes * matrices * copies + 1)


def _count_logits(work: Workload) -> int:
    """Return bytes of logits for each word of the vocabulary."""
    if work.tuning == "none":
        return work.rows * (work.number_bytes + FLOAT32)
    text = work.questions * work.text_tokens
    return LOGIT_BYTES * work.rows * min(text, work.rows * work.questions * work.answer_tokens)


def _caching(stacks: Iterable[Stack]) -> list[Stack]:
    """Return the stacks with a key-value cache: of an encoder-decoder only the decoder."""
    every = list(stacks)
    return [stack for stack in every if stack.decodes] or every


def _cache(stack: Stack, work: Workload) -> int:
    own = work.questions * work.answer_tokens if stack.decodes else work.tokens
    return work.rows * stack.depth * work.number_bytes * (own * stack.key_value + work.tokens * stack.cross)


def _work(stack: Stack, tokens: int, work: Workload) -> int:
    mlp = stack.mlp_in + stack.mlp_copies + stack.mlp_out
    return tokens * (work.number_bytes * (3 * stack.width + mlp) + FLOAT32 * stack.width)
