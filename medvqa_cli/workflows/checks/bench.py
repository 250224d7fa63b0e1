"""One model on the test bench: what its steps share, and what they do with the loaded model."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import MedVQAError
from medvqa_cli.records import VQASample
from medvqa_cli.workflows.checks.advice import COUNTED_DIFFERENTLY, NOT_FINITE, TASK_TYPE
from medvqa_cli.workflows.checks.outcome import FaultError, Listener, NotApplicableError
from medvqa_cli.workflows.models import build_encoder, choose_model, describe_model, load_choice
from medvqa_cli.workflows.scratch import build_scratch
from medvqa_cli.workflows.tuning import find_tuning

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.models.encoding import EncodedSample, SampleEncoder
    from medvqa_cli.models.protocol import ImageInputs, LoadedModel
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.checks.scope import SanityScope, Subject

SHAPES = ((320, 240), (160, 480))
"""Width and height of the drawn pictures, in pixels: one wide, one tall."""
QUESTIONS = (("Is there a lesion in the image?", "yes"), ("Which organ is shown?", "liver"), ("Is it normal?", "no"))


@dataclass
class Bench:
    """A model, the folder that everything about it goes to, and its steps.

    Attributes:
        subject: The model.
        scope: How much is checked.
        settings: Everything else; of a tiny model, they name its checkpoint from `load` on.
        folder: Where tiny checkpoints, pictures and runs go.
        listener: Where to report.
        loaded: The model, from `load` until `release`.
    """

    subject: Subject
    scope: SanityScope
    settings: Settings
    folder: Path
    listener: Listener
    loaded: LoadedModel | None = None

    def __post_init__(self) -> None:
        paths = self.settings.paths.model_copy(update={"runs": self.folder / "runs"})
        self.settings = self.settings.model_copy(update={"paths": paths, "model": self.subject.model})

    @property
    def model(self) -> LoadedModel:
        """The loaded model."""
        if self.loaded is None:
            raise RuntimeError("the model has not been loaded, or has been let go")
        return self.loaded

    @cached_property
    def samples(self) -> list[VQASample]:
        """Questions about two drawn pictures of different shape, those of the first picture first."""
        from PIL import Image

        self.folder.mkdir(parents=True, exist_ok=True)
        samples = []
        for width, height in SHAPES:
            path = self.folder / f"{width}x{height}.png"
            Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)
            samples += [VQASample(dataset="sanity", split="test", question_id=f"{path.stem}-{number}", answer=answer,
                                  image_id=path.stem, images=(str(path),), question=question, answer_type="open")
                        for number, (question, answer) in enumerate(QUESTIONS)]
        return samples

    def load(self) -> str:
        """Load the model; a tiny one is made first."""
        title = "a tiny random checkpoint" if self.subject.tiny else self.subject.name
        if self.subject.tiny:
            self._build()
        self.loaded = load_choice(choose_model(self.settings), self.settings, self.listener)
        self._check_task_type()
        return f"{self.loaded.family_name} from {title}, {type(self.loaded.model).__name__}"

    def release(self) -> None:
        """Let the loaded model go, and its memory."""
        self.loaded = None
        gc.collect()
        if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_available():
            cuda.empty_cache()
            cuda.reset_peak_memory_stats()

    def check_image_tokens(self) -> str:
        """Compare, for pictures of two shapes, the prompt's image tokens with the features the model makes.

        How many it makes, each model counts in its own way, but most refuse a prompt that holds another number: such a
        one must take the prompt as it is, and refuse it with one image token fewer. Of a model that does not count
        (BLIP-2 leaves out features that have no place), what comes out of its projector is counted.
        """
        encoder = build_encoder(self.model, self.settings)
        found = []
        for sample in (self.samples[0], self.samples[-1]):
            images = encoder.encode_images(sample)
            encoded = encoder.encode_text(sample, images)
            placed = encoded.prompt.count(self.model.family.find_image_token(self.model.processor))
            if placed != sum(images.num_tokens) or not placed:
                raise FaultError(f"The prompt holds {placed} image tokens, the processor states "
                                 f"{sum(images.num_tokens)}.", COUNTED_DIFFERENTLY)
            made = self._count_projected(encoder, encoded, images)
            if made != placed and not self._refuses_one_fewer(encoder, encoded, images):
                raise FaultError(f"The prompt holds {placed} image tokens, but {made} features come out of "
                                 f"'{self.model.family.layout.projector}'.", COUNTED_DIFFERENTLY)
            found.append(f"{placed} for {sample.image_id}")
        return f"in the prompt as many as features: {', '.join(found)}"

    def compare_packing(self) -> str:
        """Compare the loss of an image's questions in one packed row with that of plain rows."""
        from medvqa_cli.models.batches import compare_packed_loss

        if not self.model.family.capabilities.packs:
            raise NotApplicableError("not shared: this family cannot share an image between questions")
        if self.settings.model.attention == "flash":
            raise NotApplicableError("not shared: flash attention takes no block mask")
        group = self.samples[: len(QUESTIONS)]
        plain, packed = compare_packed_loss(self.model.model, build_encoder(self.model, self.settings), group)
        if not abs(plain - packed) <= self.find_tolerance() * abs(plain):
            raise FaultError(f"The packed loss is {packed:.6f}, the plain loss {plain:.6f}.",
                             "Use --packing off and --shared-prefix off, and please report this model.")
        return f"loss {packed:.4f} packed, {plain:.4f} plain"

    def count_parameters(self) -> str:
        """Count the parameters of each part, and those that training by these settings would change."""
        from medvqa_cli.models.adapters import count_parameters, describe_parameters, prepare_training

        loaded, layout = self.model, self.model.family.layout
        full = find_tuning(choose_model(self.settings), self.settings) == "full"
        if loaded.adapter:
            raise NotApplicableError(f"the adapter '{loaded.adapter}' learns on")
        if full and "quantization" in describe_model(loaded):
            raise NotApplicableError("loaded in few bits to answer; full training loads it otherwise, and counts then")
        trained = prepare_training(loaded.model, layout, self.settings.train,
                                   lora=self.settings.train.tuning != "full")
        counts = count_parameters(trained, layout)
        if not sum(trainable for trainable, _ in counts.values()):
            raise FaultError("No parameter would be trained.", "See train.tuning, train.lora and the freezing options.")
        parts = ", ".join(f"{part} {total:,}" for part, (_, total) in counts.items() if total)
        return f"{parts}. {describe_parameters(counts)}"

    def find_tolerance(self) -> float:
        """Return by how large a share two ways to the same loss may differ in the model's number format."""
        facts = describe_model(self.model)
        return 1e-3 if facts["dtype"] == "float32" and "quantization" not in facts else 3e-2

    def _build(self) -> None:
        """Write a tiny checkpoint whose tokenizer knows the questions' words."""
        from medvqa_cli.workflows.data import load_samples

        try:
            texts = load_samples(self.settings, self.settings.data.test_split)
        except MedVQAError:
            texts = []  # faulty data are another step's failure
        choice = build_scratch(self.settings, [*self.samples, *texts], self.folder / "checkpoint")
        own = {"name": choice.checkpoint, "scratch": False, "options": {}, "revision": None, "trust_remote_code": None}
        self.settings = self.settings.model_copy(update={"model": self.subject.model.model_copy(update=own)})

    def _run(self, encoder: SampleEncoder, encoded: EncodedSample, images: ImageInputs) -> None:
        """Run the model on one sample; the loss must be a number."""
        import torch

        from medvqa_cli.models.batches import join_images, stack_plain, sum_answer_loss, to_device

        batch = {**stack_plain(encoder, [encoded]), **join_images([images])}
        with torch.no_grad():
            loss = sum_answer_loss(self.model.model, to_device(batch, self.model.model))[0]
        if not loss.isfinite():
            raise FaultError(f"The loss of one question is {loss.item()}.", NOT_FINITE)

    def _count_projected(self, encoder: SampleEncoder, encoded: EncodedSample, images: ImageInputs) -> int:
        """Run the model on one sample and return the feature vectors that came out of its projector."""
        from medvqa_cli.models.adapters import find_part

        made = []
        projector = find_part(self.model.model, self.model.family.layout.projector)
        hook = projector.register_forward_hook(lambda _module, _inputs, output: made.append(count_vectors(output)))
        try:
            self._run(encoder, encoded, images)
        finally:
            hook.remove()
        return sum(made)

    def _refuses_one_fewer(self, encoder: SampleEncoder, encoded: EncodedSample, images: ImageInputs) -> bool:
        from medvqa_cli.models.encoding import EncodedSample

        prompt = list(encoded.prompt)
        prompt.remove(self.model.family.find_image_token(self.model.processor))
        try:
            self._run(encoder, EncodedSample(tuple(prompt), encoded.answer), images)
        except (ValueError, RuntimeError, LookupError, StopIteration):
            return True
        return False

    def _check_task_type(self) -> None:
        is_pair = getattr(self.model.model.config.get_text_config(), "is_encoder_decoder", False)
        wanted, stated = "SEQ_2_SEQ_LM" if is_pair else "CAUSAL_LM", self.model.family.layout.task_type
        if stated != wanted:
            raise FaultError(f"The family's layout says {stated}, but the language model is {wanted}.", TASK_TYPE)


def count_vectors(output: Any) -> int:
    """Return how many feature vectors a module's output holds: a tensor [..., width], or several."""
    if isinstance(output, (list, tuple)):
        return sum(map(count_vectors, output))
    return output.numel() // output.shape[-1] if hasattr(output, "numel") else 0
