"""Prepared data: the Arrow store, and the look at every image on the way into it."""
