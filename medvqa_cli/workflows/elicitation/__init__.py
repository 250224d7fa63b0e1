"""How a model is asked for its confidence, method by method."""
