"""The version of atras, and of what it writes."""

__version__ = "0.2.0"

SCHEMA = 2
"""Number of the schema of a run's frames, its run.json and search.json. 1 had `adaptive` for `white-box`, other columns
for attacks, and an attack's options among those of the run."""
