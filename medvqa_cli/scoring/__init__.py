"""Strings and numbers to numbers; no torch. Shared by rewards and metrics."""
