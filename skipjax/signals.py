"""What SIGTERM and SIGINT (Ctrl-C) do to a program. Standard library only."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator


def clean_up_on_sigterm(meaning: str) -> None:
    """From here on, SIGTERM raises SystemExit(143): what is temporary is removed on the way out.

    Args:
      meaning: what becomes of the work, said with it; a sentence without its full stop.
    """

    def end(number, frame):
        print(f"skipjax: terminated; {meaning}.", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], int]]:
    """Within the block, the first SIGTERM or SIGINT is only noted; a second one acts as usual.

    A block that ends in spite of it, and not by an exception, gets the signal at its end. Outside
    the main thread, where signals cannot be caught, nothing changes.

    Yields:
      A function that returns the number of the signal noted, or 0.
    """
    number = 0

    def note(this, frame):
        nonlocal number
        number = this
        restore()

    def restore():
        for which, handler in before.items():
            signal.signal(which, handler)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for which in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(which) != signal.SIG_IGN:  # as shells do for what runs behind them
                before[which] = signal.signal(which, note)
    try:
        yield lambda: number
    finally:
        restore()
    if number:  # and nobody asked any more
        signal.raise_signal(number)
