"""The vision cache of a training: opened where it is exact, refused with the reason where it would not be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.features import FeatureCache, FeatureStore
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings

FOLDER = ".vision-cache"
"""Below the folder of prepared data sets: runs on the same data share it."""
MIB = 2**20
OFF = "Use --vision-cache off"


def open_vision_cache(settings: Settings, loaded: LoadedModel, encoder: SampleEncoder, samples: Sequence[VQASample],
                      progress: Progress) -> FeatureCache | None:
    """Return the cache that the settings ask for; None if they ask for none.

    Raises:
        SettingsError: If it would not be exact: pixels change, the model takes no features, or what makes them is
            trained or random.
    """
    mode = settings.train.vision_cache
    if mode == "off":
        return None
    check_vision_cache(settings)
    from medvqa_cli.models.features import FeatureCache, hash_vision, list_vision_state, takes_features

    model = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    if not takes_features(model):
        _refuse(settings, f"the family '{loaded.family_name}' takes no vision features in the place of pixels", OFF)
    layout = loaded.family.layout
    trained = next((name for name, tensor in list_vision_state(model, layout) if tensor.requires_grad), None)
    if trained:
        _refuse(settings, f"'{trained}' is trained: what the vision tower and the projector make of a picture changes "
                          "with every step", f"{OFF}, or train adapters of the language model only")
    cache = FeatureCache(model, _open_store(settings), hash_vision(model, layout))
    pictured = next((sample for sample in samples if sample.images), None)
    if pictured and not cache.is_steady(encoder.encode_images(pictured)):
        _refuse(settings, f"dropout is active in the vision tower or the projector of '{loaded.checkpoint}': they make "
                          "something else of a picture each time", OFF)
    progress.say(f"Vision features are kept {'in memory' if mode == 'memory' else 'in files'}: at most "
                 f"{settings.train.vision_cache_mb:,} MiB.")
    return cache


def check_vision_cache(settings: Settings) -> None:
    """Refuse settings under which a picture's features are not fixed, or not whole in one process.

    Raises:
        SettingsError: If the cache is on and they do not go together.
    """
    train = settings.train
    if train.vision_cache == "off":
        return
    if train.augment.mode != "none":
        _refuse(settings, f"train.augment.mode is '{train.augment.mode}': pictures change with every epoch",
                f"{OFF}, or --augment none")
    if settings.mask.mode != "none" and settings.mask.classes == "question":
        _refuse(settings, "mask.classes is 'question': pictures change with every question",
                f"{OFF}, or --mask-classes all")
    if train.deepspeed or train.fsdp:
        _refuse(settings, "DeepSpeed and FSDP spread the vision tower's weights over processes", OFF)


def describe_vision_cache(settings: Settings, cache: FeatureCache | None) -> dict[str, Any]:
    """Return what the manifest says of the cache: where features were kept, and how often they were there."""
    return {} if cache is None else {"vision_cache": {"mode": settings.train.vision_cache, "weights": cache.weights,
                                                      "hits": cache.hits, "misses": cache.misses}}


def _open_store(settings: Settings) -> FeatureStore:
    from medvqa_cli.models.feature_files import FeatureFiles
    from medvqa_cli.models.features import FeatureMemory

    most = settings.train.vision_cache_mb * MIB
    if settings.train.vision_cache == "memory":
        return FeatureMemory(most)
    return FeatureFiles(settings.paths.prepared / FOLDER, most)


def _refuse(settings: Settings, reason: str, advice: str) -> None:
    raise SettingsError(f"train.vision_cache is '{settings.train.vision_cache}', but {reason}.", f"{advice}.")
