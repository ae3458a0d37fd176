"""`python -m tessera` is the `tessera` command."""

from tessera.cli.app import main

main()
