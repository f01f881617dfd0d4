"""Op conv_block: a 3x3 convolution and what follows it, for one candidate or, under vmap, for all at once."""
