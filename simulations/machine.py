"""What this machine has, as far as every system that Python runs on can say."""

import psutil


def cores() -> int:
    """The cores that this process may use: all there are, where no system call tells of fewer."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory."""
    return int(psutil.virtual_memory().total)
