"""``python -m skipjax``."""

import sys

from skipjax.cli.main import main, when_stopped
from skipjax.memory import restart_with_huge_pages
from skipjax.signals import clean_up_on_sigterm

if __name__ == "__main__":
    if sys.argv[1:2] == ["study"]:  # which trains; its runs inherit the setting
        restart_with_huge_pages()
    clean_up_on_sigterm(when_stopped(sys.argv[1:]))
    sys.exit(main())
