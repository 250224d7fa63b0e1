"""Files of every kind as rows, archives unpacked, hub copies laid out; `data/reading.py` is what plugins import."""
