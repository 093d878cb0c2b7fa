"""How much memory there is, and how glibc hands it out and takes it back. Standard library only."""

import contextlib
import ctypes
import os
import sys

_SETTING = "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Starts this program anew, with the same arguments, so that glibc asks for huge pages.

    XLA takes fresh memory for every step, and in pages of 4 KB the kernel needs longer to hand it
    out than some steps take to compute. glibc reads the setting only when a program starts. Does
    nothing on other systems, in a debugger, or if GLIBC_TUNABLES says anything about it already.
    """
    before = os.environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or "glibc.malloc.hugetlb" in before or sys.gettrace():
        return
    os.environ["GLIBC_TUNABLES"] = f"{before}:{_SETTING}" if before else _SETTING
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def physical_bytes() -> int:
    """How much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def return_freed_memory() -> None:
    """Gives the operating system back what is free, such as the hundreds of MB of a compiler.

    glibc keeps it otherwise. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
