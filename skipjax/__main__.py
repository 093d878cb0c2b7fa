"""``python -m skipjax``."""

import signal
import sys

from skipjax.cli.main import main
from skipjax.memory import restart_with_huge_pages

if __name__ == "__main__":
    if sys.argv[1:2] == ["study"]:  # which trains; its runs inherit the setting
        restart_with_huge_pages()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    sys.exit(main())
