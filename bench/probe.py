"""What the kernel says of a process: CPU seconds, resident memory and its peak."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads, and of children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / _TICK


def peak_rss(pid: int) -> int:
    """Bytes; `reset_peak` begins it anew."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def reset_peak(pid: int) -> int:
    """Set the peak back to what is resident now (proc(5), clear_refs), and return that."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_rss(pid)
