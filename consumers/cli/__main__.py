"""`python -m celery_journal.consumers.cli`."""

from .main import main

main(prog_name="celery-journal")
