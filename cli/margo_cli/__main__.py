"""`python -m margo_cli`."""

from margo_cli.main import main

main()
