"""VQASample rows to tensors to logits."""
