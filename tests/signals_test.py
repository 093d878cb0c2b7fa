import signal
import subprocess
import sys
import threading

import pytest

from skipjax import signals


@pytest.fixture(autouse=True)
def usual_handlers():
    """Also where Ctrl-C is ignored, as shells have it for what runs behind them."""
    before = handlers()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals.noted() as noted:
        signal.raise_signal(signal.SIGINT)
        assert noted() == 0
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_acts(number):
    before, acted = signal.getsignal(number), []
    signal.signal(number, lambda *_: acted.append(number))
    planted = handlers()
    try:
        with pytest.raises(ValueError, match="done"), signals.noted() as noted:  # noqa: PT012
            assert noted() == 0
            signal.raise_signal(number)
            assert noted() == number
            assert acted == []
            signal.raise_signal(number)
            assert acted == [number]
            raise ValueError("done")  # as a run that ends because of it
        assert handlers() == planted
        assert acted == [number]
    finally:
        signal.signal(number, before)


def test_a_signal_that_nobody_heeded_is_not_lost():
    before = handlers()
    with pytest.raises(KeyboardInterrupt), signals.noted():
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_a_block_without_signals_changes_nothing():
    before = handlers()
    with signals.noted() as noted:
        assert noted() == 0
        assert handlers() != before
    assert handlers() == before


def test_another_thread_goes_without():
    found = []

    def run():
        with signals.noted() as noted:
            found.append(noted())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [0]


def test_sigterm_cleans_up_and_exits_with_143():
    program = """
import signal
from skipjax.signals import clean_up_on_sigterm
clean_up_on_sigterm("all is kept")
try:
    signal.raise_signal(signal.SIGTERM)
finally:
    print("cleaned up")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (143, "cleaned up\n")
    assert found.stderr == "skipjax: terminated; all is kept.\n"
