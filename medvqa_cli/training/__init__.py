"""Training loops and what they write."""
