"""Op ascent: steps of projected gradient ascent with momentum, and the keeping of some rows."""
