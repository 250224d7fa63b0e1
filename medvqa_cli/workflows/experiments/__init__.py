"""Grids of settings: what varies, the jobs that run it, and what they found; `experiment` puts it together."""
