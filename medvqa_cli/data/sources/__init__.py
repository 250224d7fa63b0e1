"""Data-set plugins: one file each, its name is the data set's name, it exposes PLUGIN."""
