"""Op cross_entropy: the mean loss of a batch and its gradient in one pass."""
