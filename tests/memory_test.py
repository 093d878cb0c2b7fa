import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from skipjax.memory import restart_with_huge_pages
print("begun", flush=True)
restart_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
@pytest.mark.parametrize(
    ("before", "after", "starts"),
    [
        (None, "glibc.malloc.hugetlb=1", 2),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1", 2),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0", 1),
    ],
)
def test_the_program_starts_anew_once_with_its_arguments(before, after, starts, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("GLIBC_TUNABLES", None)
    if before is not None:
        environment["GLIBC_TUNABLES"] = before
    running = subprocess.Popen(
        [sys.executable, "program.py", "--a=b c", ""],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = running.communicate(timeout=60)[0].splitlines()
    assert lines[:-1] == ["begun"] * starts
    assert lines[-1] == f"{running.pid} {after} --a=b c "
    assert running.returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
def test_freed_memory_is_returned():
    program = """
import os
from skipjax.memory import return_freed_memory

def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [bytes(60_000) for _ in range(3000)]
kept = blocks[::300]  # between what is freed, so that glibc cannot give it back by itself
last = bytes(60_000)
del blocks
before = held()
return_freed_memory()
print(before - held() > 50e6)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr
