"""How training pictures are varied, from settings and questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.data.augmentation import Augmentation
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


def build_augmentation(settings: Settings, samples: Sequence[VQASample]) -> Augmentation | None:
    """Return how a training varies pictures; None if it does not.

    Args:
        settings: `train.augment` and `seed` count.
        samples: All training questions: one that names a side keeps its picture from being flipped.
    """
    from medvqa_cli.data.augmentation import Augmentation, find_sided

    wanted = settings.train.augment
    if wanted.mode == "none":
        return None
    return Augmentation(wanted, settings.seed, find_sided(samples) if wanted.flip != "never" else frozenset())


def describe_augmentation(augmentation: Augmentation | None, samples: Sequence[VQASample]) -> dict[str, Any]:
    """Return what the manifest says: the settings, and with flips how many pictures are never flipped."""
    from medvqa_cli.settings.schema import to_tree

    if augmentation is None:
        return {}
    images = {path for sample in samples for path in sample.images}
    flips = augmentation.settings.flip != "never"
    return to_tree(augmentation.settings) | ({"images": len(images), "never_flipped": len(augmentation.sided & images)}
                                             if flips else {})
