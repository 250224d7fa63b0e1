"""Train and evaluate vision-language models on medical visual question answering."""

__version__ = "0.1.0"
