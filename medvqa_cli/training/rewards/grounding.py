"""grounding: IoU of the boxes an answer gives with those of the data set, matched one to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import rate_boxes, read_boxes
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class Grounding:
    """Reads boxes "[x1, y1, x2, y2]", in pixels of the source image, behind the last thought."""

    card = RewardCard("IoU with the data set's boxes of those an answer gives: [x1, y1, x2, y2] in pixels.",
                      needs=("boxes",), aliases=("iou",))

    def rate(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return a number in 0-1 where the data set gives boxes."""
        return [rate_boxes(read_boxes(attempt.text.rpartition("</think>")[2]), attempt.sample.boxes)
                for attempt in attempts]


PLUGIN = Grounding()
