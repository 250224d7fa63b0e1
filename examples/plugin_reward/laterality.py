"""laterality: an answer must name the sides that the gold answer names, and no other."""

import re

from medvqa_cli.training.attempts import RewardCard

SIDES = re.compile(r"\b(left|right|bilateral|both)\b", re.IGNORECASE)


class Laterality:
    """1 for the same sides, 0 for none where one is due, -1 for a wrong one: it is the graver mistake."""

    card = RewardCard("Sides named: 1 if right, 0 if missing, -1 if wrong.")

    def rate(self, attempts):
        """Return a number for questions whose gold answer names a side, None for the others."""
        return [compare(find_sides(attempt.answer), find_sides(attempt.sample.answer)) for attempt in attempts]


def find_sides(text):
    """Return the sides that a text names."""
    found = {side.lower() for side in SIDES.findall(text)}
    return {"left", "right"} if found & {"bilateral", "both"} else found


def compare(named, wanted):
    """Return the reward of the sides named, where some are wanted."""
    if not wanted:
        return None
    return 1.0 if named == wanted else -1.0 if named - wanted else 0.0


PLUGIN = Laterality()
