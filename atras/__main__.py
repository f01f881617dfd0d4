"""`python -m atras`: the command `atras`."""

from atras.cli.run_command import main

main()
