"""Op square: the proposals of the square attack and the choice of the better image, in place."""
