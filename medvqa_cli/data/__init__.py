"""Files on disk to VQASample rows."""
