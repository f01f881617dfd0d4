"""Op step: the whole training step of a population, its evaluation and its input gradients."""
