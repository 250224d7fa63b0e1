"""What a training shows of itself while it runs."""

from medvqa_cli.training.diagnostics.callback import Diagnostics, Watched

__all__ = ["Diagnostics", "Watched"]
