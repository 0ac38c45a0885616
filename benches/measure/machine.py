"""The machine: what it is, its caches, and how fast its disk may be."""

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

MIB = 1 << 20
V1 = Path("/sys/fs/cgroup/blkio")
V2 = Path("/sys/fs/cgroup")
# More than a limited disk gives at once after it was idle.
CREDIT_BYTES = 32 * MIB
# How much of a file may still be in memory where it is to be read from the disk.
STILL_CACHED_MAX = 0.01

# What measurements use that a machine may not have; scripts/prepare --bench knows their packages.
TOOLS = (
    "borg", "dd", "filefrag", "fincore", "fio", "losetup", "mkfs.xfs", "qemu-storage-daemon", "redis-benchmark",
    "redis-server", "restic", "rsync", "strace", "tar",
)


def absent_tools():
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def facts(directory):
    """One line that says on what the figures were measured."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    found = subprocess.run(
        ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False
    )
    kind = found.stdout.strip().replace("ext2/ext3", "ext4")
    return f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB of memory, {kind}, Linux {platform.release()}"


def load_average():
    return os.getloadavg()[0]


def disk_of(path):
    """"MAJOR:MINOR" of the whole disk that `path` is on, or None where there is none of its own."""
    device = os.stat(path).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    folder = Path("/sys/dev/block") / name
    if not folder.exists():
        return None
    if (folder / "partition").exists():
        return (folder.resolve().parent / "dev").read_text(encoding="ascii").strip()
    return name


def resident_share(path):
    """How much of a file is in memory, from 0 to 1."""
    bytes_ = os.stat(path).st_size
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said.strip() or 0) / max(bytes_, 1)


def forget(path):
    """Takes a file out of the page cache, what is clean of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def make_cold(paths):
    """None of the files is in memory. The rest of the machine keeps its cache, if that is possible."""
    os.sync()
    for path in paths:
        forget(path)
    if all(resident_share(path) <= STILL_CACHED_MAX for path in paths):
        return
    drop_caches()
    for path in paths:
        share = resident_share(path)
        if share > STILL_CACHED_MAX:
            raise RuntimeError(f"{share:.0%} of {path} stay in memory: it cannot be read from the disk")


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def make_warm(paths):
    os.sync()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(8 * MIB):
                pass


class Throttle:
    """A limit on what this process and all that it starts may read of one disk, together."""

    def __init__(self, directory):
        self.folder = None
        self.home = None
        self.credit = Path(directory) / "credit"
        self.device = disk_of(directory)
        self.missing = self.why_not()
        if not self.missing:
            self.enter()

    def why_not(self):
        if os.geteuid() != 0:
            return "only root may slow a disk down"
        if self.device is None:
            return "the directory is on no disk of its own"
        if (V1 / "blkio.throttle.read_bps_device").exists():
            self.version, self.root = 1, V1
            return ""
        controllers = V2 / "cgroup.controllers"
        if controllers.exists() and "io" in controllers.read_text(encoding="ascii").split():
            self.version, self.root = 2, V2
            return ""
        return "neither the blkio cgroup nor the io controller is there"

    def enter(self):
        own = "blkio" if self.version == 1 else ""
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if own in controllers.split(",") if own else controllers == "":
                self.home = self.root / path.lstrip("/")
        folder = self.root / f"stillfs-bench.{os.getpid()}"
        try:
            if self.version == 2:
                (self.root / "cgroup.subtree_control").write_text("+io", encoding="ascii")
            folder.mkdir()
            self.folder = folder
            (folder / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        except OSError as error:
            self.missing = f"the cgroup cannot be made: {error}"
            self.leave()

    def limit(self, bytes_per_second):
        """0 takes the limit away."""
        if self.version == 1:
            name, words = "blkio.throttle.read_bps_device", f"{self.device} {bytes_per_second}"
        else:
            name, words = "io.max", f"{self.device} rbps={bytes_per_second or 'max'}"
        (self.folder / name).write_text(words, encoding="ascii")

    def spend(self):
        """What the kernel lets through at once after a pause is used up by a file that nobody measures."""
        if not self.credit.exists():
            self.credit.write_bytes(os.urandom(CREDIT_BYTES))
        make_cold([self.credit])
        with open(self.credit, "rb", buffering=0) as file:
            while file.read(MIB):
                pass

    def leave(self):
        """Back to where the process was. Others in the cgroup must have ended; called at the end."""
        if self.folder is None:
            return
        (self.home / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        for _ in range(100):
            try:
                self.folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError(f"{self.folder} is still in use")
        self.folder = None


def room(directory):
    return shutil.disk_usage(directory).free
