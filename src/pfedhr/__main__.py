"""`python -m pfedhr` is the command `pfedhr`."""

from pfedhr.cli import main

main()
