"""Model-family plugins: one file each, its name is the family's name, it exposes PLUGIN."""
