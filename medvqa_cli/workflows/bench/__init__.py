"""Benchmarks of this machine: one image with many questions, shared against repeated."""
