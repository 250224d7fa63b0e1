"""The segmented part of a picture: regions, crops, hit rates."""
