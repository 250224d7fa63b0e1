"""How much memory a model takes: a formula, term by term, from its sizes and from what goes through it at once.

Let e be the bytes of a number (4 in float32, else 2), P the parameters, B the rows of a batch, T the tokens of a row
(image tokens + questions x text tokens), V the vocabulary, L the blocks, h the width of the residual stream, a that of
the queries, c that of keys and values together, m what the MLP's first layers put out, f what its last layer reads.

weights: P e. Quantised, a weight of the language model's linear layers takes 0.5 + 0.127/8 bytes in 4-bit (NF4 with
    double quantisation, Dettmers et al. 2023, arXiv:2305.14314, section 3) or 1 byte in 8-bit; everything else (vision
    tower, projector, embeddings, norms, head) keeps e bytes for inference, and 4 for training, as peft casts it.
dequantised weight: 4-bit: the largest linear layer, e bytes a weight, as it is multiplied.
adapters: r (in + out) values for every adapted layer, float32; the projector in its own format where it is trained.
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
activations of the projector: where it is trained, what its linear layers read and put out.
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

    from medvqa_cli.models.shapes import ModelShape, PictureSize

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
    rank: int = 16
    dropout: float = 0.05
    on_gpu: bool = True

    @property
    def number_bytes(self) -> int:
        """Bytes of a number outside quantised weights (e)."""
        return NUMBER_BYTES[self.dtype]

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

    The terms and their coefficients stand at the top of this module; those that are 0 are left out. Gradients are
    counted beside all activations: they are there from the second forward pass of an optimiser step on.
    """
    terms = {"weights": estimate_weights(shape, work)}
    if work.quantization == "4bit":
        terms["dequantised weight"] = shape.largest_linear * work.number_bytes
    terms |= _count_training_states(shape, work) | count_kept(shape, work)
    terms["logits"] = shape.vocabulary * _count_logits(work)
    if work.tuning == "none":
        terms["key-value cache"] = sum(_cache(stack, work) for stack in _caching(shape.language))
    if work.picture:
        terms["pictures"] = work.rows * work.picture.values * (FLOAT32 + work.number_bytes)
    terms["working tensors"] = max((_work(stack, tokens, work) for stack, tokens in _passes(shape, work)), default=0)
    terms["allocator"] = round(ALLOCATOR_SHARE * sum(terms.values()))
    return {name: size for name, size in terms.items() if size}


def estimate_weights(shape: ModelShape, work: Workload) -> int:
    """Return the bytes of the weights, without adapters."""
    total = sum(shape.parameters.values())
    if work.quantization == "none":
        return total * work.number_bytes
    rest = work.number_bytes if work.tuning == "none" else FLOAT32
    return round(shape.quantizable * WEIGHT_BYTES[work.quantization] + (total - shape.quantizable) * rest)


def count_adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Return the parameters of LoRA adapters."""
    return sum(rank * (target.width_in + target.width_out) for stack in shape.language for target in stack.targets)


def count_kept(shape: ModelShape, work: Workload) -> dict[str, int]:
    """Return the bytes of activations that a forward pass keeps, by part; without logits and the loss."""
    kept: dict[str, int] = {}
    if work.tuning != "none":
        kept["activations of the language model"] = sum(
            _keep(stack, tokens, work, is_trained=work.tuning == "full") for stack, tokens in _pass_text(shape, work))
    if "vision tower" in work.trained_parts:
        kept["activations of the vision tower"] = sum(
            _keep(stack, work.patches, work, is_trained=True) for stack in shape.vision)
    elif shape.holds_vision_states:
        kept["activations of the vision tower"] = sum(
            _states(stack, work.patches, work) for stack in shape.vision)
    if "projector" in work.trained_parts and work.picture:
        kept["activations of the projector"] = (
            work.rows * work.picture.tokens * shape.projector_width * work.number_bytes)
    kept["attention masks"] = sum(_mask(stack, tokens, work) for stack, tokens in _pass_text(shape, work))
    return kept


def _count_training_states(shape: ModelShape, work: Workload) -> dict[str, int]:
    if work.tuning == "none":
        return {}
    adapters = FLOAT32 * count_adapter_parameters(shape, work.rank) if work.tuning == "lora" else 0
    own = work.number_bytes if work.quantization == "none" else FLOAT32
    trained = adapters + own * sum(shape.parameters[part] for part in work.trained_parts)
    return {"adapters": adapters, "gradients": trained, "optimiser states": 2 * trained}


def _pass_text(shape: ModelShape, work: Workload) -> Iterator[tuple[Stack, int]]:
    """Yield the language model's stacks and the tokens that pass them, of all rows."""
    for stack in shape.language:
        yield stack, work.rows * (work.questions * work.answer_tokens if stack.decodes else work.tokens)


def _passes(shape: ModelShape, work: Workload) -> Iterator[tuple[Stack, int]]:
    yield from ((stack, work.patches) for stack in shape.vision)
    yield from _pass_text(shape, work)


def _keep(stack: Stack, tokens: int, work: Workload, *, is_trained: bool) -> int:
    """Return what a stack keeps of tokens for the backward pass, in bytes."""
    block = tokens * _block_bytes(stack, work, is_trained=is_trained)
    block += work.rows * work.tokens * stack.cross * work.number_bytes
    adapters = tokens * _adapter_bytes(stack.targets, work) if work.tuning == "lora" else 0
    kept = tokens * _norm_bytes(stack, stack.width, work, is_trained=is_trained)
    if work.checkpointing:
        return kept + _states(stack, tokens, work) + block + adapters // stack.depth
    return kept + stack.depth * block + adapters


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
