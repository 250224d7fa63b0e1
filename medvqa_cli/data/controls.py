"""Questions as trust controls put them: with another question's image, without any, with their options moved on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from medvqa_cli.data.prompts import build_turns
from medvqa_cli.data.selection import hash_key
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings


class Shuffled(NamedTuple):
    """Samples with another question's images; `other_modality`: how many got them from another modality."""

    samples: list[VQASample]
    other_modality: int


def shuffle_images(samples: Sequence[VQASample], seed: int, *, same_modality: bool = False) -> Shuffled:
    """Give each sample the images of another one: never its own, and the same for all questions about an image.

    The images are put in an order drawn with the seed, and each gives way to the next that shares no file with it, so
    that nearly all are shown as often as before. Samples without an image stay as they are.

    Args:
        samples: Questions of one split.
        seed: Of the order; the order of the samples does not matter.
        same_modality: Take the next image of the same modality; where there is none, of any.

    Raises:
        DataError: If an image has no other to give way to.
    """
    shown: dict[tuple[str, str], VQASample] = {}
    for sample in samples:
        if sample.images:
            shown.setdefault(_name_image(sample), sample)
    order = sorted(shown.values(), key=lambda sample: hash_key(seed, sample.image_id))
    given = {_name_image(sample): _find_next(order, place, same_modality=same_modality)
             for place, sample in enumerate(order)}
    changed = [_show(sample, given[_name_image(sample)].images) if sample.images else sample for sample in samples]
    return Shuffled(changed, sum(given[_name_image(sample)].modality != sample.modality
                                 for sample in samples if sample.images))


def _show(sample: VQASample, images: tuple[str, ...]) -> VQASample:
    """Return a sample with other images, without what describes its own in pixels."""
    return replace(sample, images=images, masks=(), boxes=())


def _name_image(sample: VQASample) -> tuple[str, str]:
    return sample.dataset, sample.image_id


def _find_next(order: Sequence[VQASample], place: int, *, same_modality: bool) -> VQASample:
    """Return the first sample behind a place, going round, whose images are others."""
    own, taken = order[place], set(order[place].images)
    found: VQASample | None = None
    for step in range(1, len(order)):
        other = order[(place + step) % len(order)]
        if taken.isdisjoint(other.images):
            if not same_modality or other.modality == own.modality:
                return other
            found = found or other
    if found is None:
        raise DataError(f"Image '{own.image_id}' has no other image of '{own.dataset}/{own.split}' to give way to.",
                        "Images can be shuffled where a split has at least two: raise --limit, or use another control.")
    return found


def drop_images(samples: Sequence[VQASample]) -> list[VQASample]:
    """Return the samples without their images."""
    return [_show(sample, ()) for sample in samples]


def rotate_options(samples: Sequence[VQASample], places: int, prompt: PromptSettings) -> list[VQASample]:
    """Return the samples whose prompt shows more than `places` options, these moved on by so many places.

    Gold answers are options' texts, so they stay as they are. Questions whose prompt would not change are left out.

    Args:
        samples: Questions.
        places: 0 keeps the order, and every sample that any rotation would change.
        prompt: How questions are put: it decides whether options are shown.
    """
    chosen = [sample for sample in samples if len(sample.options) > places and shows_order(sample, prompt)]
    return [replace(sample, options=(*sample.options[places:], *sample.options[:places])) for sample in chosen]


def shows_order(sample: VQASample, prompt: PromptSettings) -> bool:
    """Tell whether a question's prompt would be another one if its options stood in another order."""
    if len(sample.options) < 2:
        return False
    turned = replace(sample, options=(*sample.options[1:], sample.options[0]))
    return build_turns(sample, prompt) != build_turns(turned, prompt)
