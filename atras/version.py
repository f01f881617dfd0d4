"""The version of atras."""

__version__ = "0.1.0"
