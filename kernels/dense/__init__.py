"""Op dense: a dense layer and its activation, for one candidate or, under vmap, for all at once."""
