"""What a data set holds, what is odd about it, and whether one may train on it."""
