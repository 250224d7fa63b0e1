"""Numbers of things in words."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return a number with its thing in the singular or plural: "1 question", "14,028 questions"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
