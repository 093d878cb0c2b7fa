"""Memory in huge pages, without which a CPU spends much of a training step on page faults."""

import os
import sys

_SETTING = "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Starts this program anew, with the same arguments, so that glibc asks for huge pages.

    It reads the setting only when a program starts. XLA takes fresh memory for every step, and in
    pages of 4 KB the kernel needs longer to hand it out than some steps take to compute. Does
    nothing on other systems, in a debugger, or if GLIBC_TUNABLES says anything about it already.
    """
    before = os.environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or "glibc.malloc.hugetlb" in before or sys.gettrace():
        return
    os.environ["GLIBC_TUNABLES"] = f"{before}:{_SETTING}" if before else _SETTING
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
