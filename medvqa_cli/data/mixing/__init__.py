"""Several data sets mixed: the file, the groups, the draw."""
