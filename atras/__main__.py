"""`python -m atras`: the command `atras`."""

from atras.cli import main

main()
