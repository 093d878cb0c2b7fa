"""When, on what and with which versions a measurement was made."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipjax import __version__


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """JSON-able facts: date, hardware, versions of Python, skipjax and `packages`."""
    cpu = platform.processor()
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": {"cpu": cpu, "cpus": os.cpu_count(), "memory_gb": round(memory / 2**30)},
        "versions": {
            "python": platform.python_version(),
            "skipjax": __version__,
            **versions,
        },
    }


def described(facts: dict[str, Any]) -> str:
    """The same in a line."""
    hardware = "{cpu}, {cpus} CPUs, {memory_gb} GB".format(**facts["hardware"])
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{hardware}; {versions}; {facts['date'][:10]}"
