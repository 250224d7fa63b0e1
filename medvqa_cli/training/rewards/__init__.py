"""Rewards of `train grpo`, one file each: a plugin's name is its file's."""
