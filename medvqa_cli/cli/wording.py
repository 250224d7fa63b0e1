"""Numbers of things in words."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return a number with its thing in the singular or plural: "1 question", "14,028 questions"."""
    return f"{number:,} {name_things(number, noun)}"


def name_things(number: int, noun: str) -> str:
    """Return a thing's name in the singular or plural, as its number asks for."""
    return noun if number == 1 else f"{noun}s"
