"""The machine, the folders to measure in, and the state of their caches."""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .model import BenchFailed

MIB = 2**20
MEMORY = Path("/dev/shm")
FILL_NEEDS_BYTES = 3072 * MIB  #: with less memory available, none is filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the bench works. Every folder is its own and empty."""

    work: Path  #: state directories, qBittorrent's profile; on a disk
    ssd: Path
    hdd: Path
    memory: Path | None  #: on a tmpfs; None when the machine has none that is large enough
    about: str  #: what they are, for the report


@contextmanager
def places(
    given: list[Path], *, ssd_bytes: int, hdd_bytes: int, memory_bytes: int
) -> Iterator[Places]:
    """Make the folders and take them away again.

    Args:
        given: the SSD folder and the HDD folder; empty to choose.
        ssd_bytes: what the SSD must hold.
        hdd_bytes: what the HDD must hold.
        memory_bytes: what is copied to memory at once.

    Raises:
        BenchFailed: the folders do not serve.
    """
    with ExitStack() as stack:
        work = _folder_in(Path(tempfile.gettempdir()), stack)
        if given:
            ssd, hdd = (_folder_in(path, stack) for path in given)
            how = "both folders were given"
        else:
            hdd = _folder_in(Path(tempfile.gettempdir()), stack)
            ssd, how = _another_file_system(work, ssd_bytes, stack)
        if ssd.stat().st_dev == hdd.stat().st_dev:
            raise BenchFailed(f"{ssd} and {hdd} lie on one file system; give two with --folder")
        for path, need in ((ssd, ssd_bytes), (hdd, hdd_bytes)):
            if shutil.disk_usage(path).free < need:
                raise BenchFailed(f"{path} needs {need // MIB} MiB free; give another --folder")
        memory = None
        if MEMORY.is_dir() and file_system(MEMORY) == "tmpfs":
            room = min(shutil.disk_usage(MEMORY).free, _available_bytes())
            if room > 3 * memory_bytes:  # the source's cached pages, the copy, and some air
                memory = _folder_in(MEMORY, stack)
        about = f"SSD folder: {file_system(ssd)}; HDD folder: {file_system(hdd)}; {how}"
        yield Places(work=work, ssd=ssd, hdd=hdd, memory=memory, about=about)


def _folder_in(parent: Path, stack: ExitStack) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="qbm-bench-", dir=parent))
    except OSError as error:
        raise BenchFailed(f"no folder can be made in {parent}: {error}") from error
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder.resolve()


def _another_file_system(work: Path, data_bytes: int, stack: ExitStack) -> tuple[Path, str]:
    """A file system image as the SSD, where that is allowed; else memory."""
    image, mounted = work / "ssd.img", work / "ssd"
    problem = "not root"
    if os.geteuid() == 0:
        try:
            # Written by mkfs and by the test data only: from then on it is read.
            _run("truncate", "-s", str(data_bytes + data_bytes // 10 + 64 * MIB), image)
            _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", image)
            mounted.mkdir()
            _run("mount", "-o", "loop", image, mounted)
        except (OSError, subprocess.CalledProcessError) as error:
            problem = f"no loop mount: {error}"
        else:
            stack.callback(_run, "umount", "-l", mounted)
            # Its pages shall be cached once, not also below as pages of the image.
            device = _mounted_device(mounted)
            direct = subprocess.run(
                ["losetup", "--direct-io=on", device], check=False, stderr=subprocess.DEVNULL
            )
            return _folder_in(mounted, stack), (
                "no folder was given, so the SSD is an ext4 image, mounted through a loop device, "
                "on the disk that is also the HDD"
                + ("" if direct.returncode == 0 else "; the image's own pages stay cached")
            )
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < data_bytes:
        raise BenchFailed(f"there is no second file system ({problem}); give two with --folder")
    return _folder_in(MEMORY, stack), f"no folder was given ({problem}), so the SSD is memory"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def drop_cached(paths: Iterable[Path]) -> None:
    """Let the kernel forget the cached pages of clean files."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def warm(paths: Iterable[Path]) -> None:
    """Read files into the page cache."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(8 * MIB):
                pass


def fill_and_free(goal_bytes: int) -> int:
    """Use memory and give it back, so that what is allocated next is at hand.

    The host of a virtual machine may take free memory back; the next to allocate some waits
    for it. Without this, the side that needs more memory pays for a pause before its run.

    Args:
        goal_bytes: how much; at most a third of what is available is filled.

    Returns:
        How much it was; 0 when less than `FILL_NEEDS_BYTES` are available.
    """
    available = _available_bytes()
    if available < FILL_NEEDS_BYTES:
        return 0
    filled = min(goal_bytes, available // 3)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, filled, flags=flags).close()
    return filled


def settle(folder: Path) -> None:
    """Empty a folder and let its disk finish what that takes."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    sync(folder)


def sync(folder: Path) -> None:
    """Have all that was written to a file system on its disk."""
    _run("sync", "-f", folder)


def describe(used: Places) -> dict[str, str]:
    """What a reader must know of the machine to judge the figures. No names of hosts."""
    return {
        "CPU": f"{os.cpu_count()} cores, {_cpu_model()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "memory": f"{_available_bytes() // MIB} MiB free of {_memory('MemTotal') // MIB}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 minutes before)",
        "folders": used.about,
        "state directory": file_system(used.work),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _available_bytes() -> int:
    return _memory("MemAvailable")


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path``."""
    return _mount(path)[1]


def _mounted_device(path: Path) -> str:
    return _mount(path)[0]


def _mount(path: Path) -> tuple[str, str]:
    """Device and type of the file system that holds ``path``."""
    found, longest = ("?", "?"), -1
    for line in Path("/proc/mounts").read_text().splitlines():
        device, where, kind, *_ = line.split(" ")
        where = where.encode().decode("unicode_escape")
        if path.is_relative_to(where) and len(where) >= longest:
            found, longest = (device, kind), len(where)
    return found
