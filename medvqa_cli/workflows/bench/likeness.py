"""Random weights in the sizes of a real checkpoint: which one is meant, whether it fits, the model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.registry import normalize_name
from medvqa_cli.workflows.bench.needs import check_fit, measure_need
from medvqa_cli.workflows.model_facts import find_folder
from medvqa_cli.workflows.models import build_encoder, choose_family, choose_model, known_checkpoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


def build_like(name: str, settings: Settings, groups: Sequence[Sequence[VQASample]], progress: Progress = SILENT, *,
               trainable: bool = False) -> LoadedModel:
    """Return a model of random weights in the sizes of a real one, drawn in its number format where it runs.

    Args:
        name: What `sketch_like` takes.
        settings: Device, number format, attention, seed, LoRA.
        groups: The questions of each image; its tokenizer knows their words.
        progress: Where to report.
        trainable: Whether it will be trained by LoRA.

    Raises:
        SettingsError: If the weights are to be quantised.
        ModelError: If the sizes are not known, or one question at a time would not fit into memory.
    """
    from medvqa_cli.models.loading import silence_libraries
    from medvqa_cli.models.loading_plan import choose_attention, choose_device, choose_dtype
    from medvqa_cli.models.random_models import build_weights

    if settings.model.quantization not in ("auto", "none"):
        raise SettingsError(f"--like draws random weights, which are not quantised; --quantization is "
                            f"'{settings.model.quantization}'.", "Leave it out, or measure a checkpoint with --model.")
    silence_libraries()
    texts = [text for group in groups for sample in group for text in (sample.question, str(sample.answer))]
    sketch = sketch_like(name, settings, texts)
    device = choose_device(settings.model.device)
    dtype, _ = choose_dtype(settings.model.dtype, device, trains=trainable)
    attention, _ = choose_attention(settings.model.attention, device=device, dtype=dtype,
                                    shares_images=sketch.family.capabilities.packs,
                                    model_class=type(sketch.model).__name__)
    need = measure_need(sketch, build_encoder(sketch, settings), groups, settings, device=device, dtype=dtype,
                        trainable=trainable)
    progress.say(f"Drawing random weights in the sizes of {sketch.checkpoint}: {check_fit(name, need, device)}.")
    return build_weights(sketch, device=device, dtype=dtype, attention=attention, seed=settings.seed)


def sketch_like(name: str, settings: Settings, texts: Sequence[str] = ()) -> LoadedModel:
    """Return the model of a name on torch's meta device.

    Args:
        name: A short name or hub id of a checkpoint, a family (its default checkpoint), or a folder that holds
            config.json and the processor's files.
        settings: The user's aliases.
        texts: What the tokenizer knows, where it is not the checkpoint's own.

    Raises:
        ModelError: If nothing goes by the name, or its sizes are not known on this machine.
    """
    from medvqa_cli.models.architectures import ARCHITECTURES
    from medvqa_cli.models.loading import read_config
    from medvqa_cli.models.random_models import sketch_architecture, sketch_checkpoint

    model = settings.model.model_copy(update={"name": name, "family": None})
    choice = choose_model(settings.model_copy(update={"model": model}))
    hub_ids = {short: hub_id for short, (_, hub_id) in known_checkpoints().items()}
    known = next((short for short in ARCHITECTURES if hub_ids[normalize_name(short)] == choice.checkpoint), None)
    if known:
        architecture = ARCHITECTURES[known]
        return sketch_architecture(known, plugins.models.get(architecture.family), architecture, texts)
    folder = find_folder(choice.checkpoint, None, download=False)
    if folder is None:
        raise ModelError(f"The sizes of '{name}' are not known here.",
                         f"Known: {', '.join(ARCHITECTURES)}. Of any other, a folder with its config.json and "
                         f"tokenizer: `medvqa models info {name} --download-config` fetches them.")
    family_name = choose_family(choice, read_config(folder))
    return sketch_checkpoint(plugins.models.get(family_name), family_name, folder)
