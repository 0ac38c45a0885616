"""Other servers of the same thing: the fleecing export of qemu-storage-daemon."""

import os
import shutil
import time
from functools import partial

from . import machine
from .reader import compare, fio, views, warm_first
from .result import Table, Target
from .scene import Missing, dd, need, wait_for


def fleecing(scene):
    """A still image of a file that is written through qemu: copy-before-write below, snapshot-access above."""
    need("qemu-storage-daemon")
    place = views(scene)
    source = place.of_source()
    folder = scene.folder("fleecing")
    live = folder / "live.bin"
    shutil.copyfile(place.raw, live)
    os.truncate(live, place.bytes // 4096 * 4096)
    spare = folder / "spare.bin"
    with open(spare, "wb") as file:
        file.truncate(live.stat().st_size)
    export, written = folder / "still", folder / "written"
    for point in (export, written):
        point.touch()
    node = "driver=file,locking=off,discard=unmap"
    command = ["qemu-storage-daemon"]
    for words in (
        f"{node},node-name=live,filename={live}",
        f"{node},node-name=spare,filename={spare}",
        "driver=copy-before-write,node-name=before,file=live,target=spare",
        "driver=snapshot-access,node-name=still,file=before",
    ):
        command += ["--blockdev", words]
    for words in (
        f"type=fuse,id=w,node-name=before,mountpoint={written},writable=on",
        f"type=fuse,id=r,node-name=still,mountpoint={export},writable=off",
    ):
        command += ["--export", words]
    process = scene.start(command)
    try:
        wait_for(lambda: export.stat().st_size > 0 or process.poll() is not None, "qemu's export")
        if process.poll() is not None:
            raise Missing(f"qemu-storage-daemon ended with exit code {process.returncode}")
        return compare_all(scene, place, source, live, export)
    finally:
        process.terminate()
        process.wait()
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def compare_all(scene, place, source, live, export):
    table = Table(
        "Against the fleecing export of qemu-storage-daemon, in memory",
        columns=("", "stillfs", "qemu", "ratio (lowest to highest)", "target", ""),
    )

    def theirs(read):
        machine.make_warm([live])
        machine.forget(export)
        return read(export)

    variants = {"ours": partial(warm_first, source, place.file(0)), "theirs": partial(theirs, dd)}
    results = scene.rounds(variants)
    table.rows.append(compare("in a row, dd bs=1M", results["ours"], results["theirs"], Target(6)))
    try:
        need("fio")
    except Missing as missing:
        table.remarks.append(f"Random reads SKIPPED: {missing}.")
        return table
    read = partial(fio, readers=1, seconds=scene.scale.seconds, bytes_=live.stat().st_size)
    variants = {"ours": partial(warm_first, source, place.file(0), read), "theirs": partial(theirs, read)}
    results = scene.rounds(variants)
    row = compare("8 KiB at random places, 1 reader", results["ours"], results["theirs"], Target(4), 1e3, "k/s")
    table.rows.append(row)
    return table
