"""Op adam: one optimizer step of every member over one flat buffer."""
