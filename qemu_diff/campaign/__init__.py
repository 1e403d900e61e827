"""A whole campaign: the matrix of cells, and the run that fills it."""
