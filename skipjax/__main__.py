"""``python -m skipjax``."""

import signal
import sys

from skipjax.cli.main import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    sys.exit(main())
