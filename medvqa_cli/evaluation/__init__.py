"""Prediction rows to Score rows and metrics; never imports models."""
