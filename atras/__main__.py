"""`python -m atras`: the command `atras`."""

from .cli import main

main()
