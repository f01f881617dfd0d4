"""Op projection: steps onto linearised boundaries inside the range of pixels."""
