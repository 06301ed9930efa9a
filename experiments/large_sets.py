"""Large data sets: many files are listed, a set larger than the memory is read, and a stream leaves the memory flat.

- many-files: a folder of 1.3 million PNG files in 1,000 classes, as many as ImageNet, is opened twice, each time in a
  new process. The second time needs only the index of the first. Times are given as they pass, and of the processor, to
  which other programs add little.
- larger-than-memory: a folder of arrays, larger than the memory of the computer, delivers batches in random order. The
  file has holes, so that it takes no room on the disk; its pixels are zeros.
- ten-epochs: JPEG files of 500x375 are cropped at random to 224x224, for 12 epochs.
- tar-files: the bytes of 20,000 JPEG files of 500x375 in 20 tar files, as WebDataset writes them, are read by a thread
  for each core, in the order in which they are stored and in a random one; cold, when the system holds nothing of the
  tar files in memory, and warm. To be compared with the rates of decoders in data_loading.json.

Memory is the anonymous resident size of the process, which the system cannot take back as it does the pages of a mapped
file. Needs Linux and Pillow. Writes experiments/results/large_sets.json.

    python experiments/large_sets.py                  # about 12 minutes on 2 CPU cores
    python experiments/large_sets.py ten-epochs       # some of them, whose results replace the older ones
"""

import gc
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from reports import read_report, write_report

from jaxcnn import data
from jaxcnn.benchmark.loading import photographs
from jaxcnn.data.prefetch import ahead
from jaxcnn.environment import memory_bytes, usable_cores

FILES, FOLDERS = 1_300_000, 1_000
IMAGE = 128
"""Height and width of an image of the set that is larger than the memory."""
EXCESS = 1.2
"""Its size, divided by that of the memory."""
STEPS = 100
"""Batches of 256 images that it delivers."""
EPOCHS, PHOTOGRAPHS = 12, 128
SHARDS, IN_SHARD, DISTINCT = 20, 1000, 200
"""Tar files, pictures in each, and how many of all pictures are different."""


def resident_mib() -> float:
    """Returns the anonymous memory of this process in MiB."""
    return int(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def many_files(folder: Path) -> dict[str, Any]:
    """Writes small pictures, and opens their folder in two processes, one after the other."""
    from PIL import Image

    for number in range(FOLDERS):
        (folder / "photos" / f"{number:03}").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "one.png")
    content = (folder / "one.png").read_bytes()
    for number in range(FILES):
        path = folder / "photos" / f"{number % FOLDERS:03}" / f"{number:07}.png"
        path.write_bytes(content)
    time.sleep(3)  # files that have just changed are read again the next time
    environment = os.environ | {"JAXCNN_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, __file__, "--open", str(folder / "photos")]
    first, second = (
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    )
    assert first["fingerprint"] == second["fingerprint"]
    return {
        "files": FILES,
        "first": first,
        "second": second,
        "second_processor_seconds_per_million": round(second["processor_seconds"] / FILES * 1e6, 2),
    }


def open_folder(path: str) -> None:
    """Prints the seconds to open a folder of pictures, and to compute its fingerprint, as JSON."""
    started, processor = time.perf_counter(), time.process_time()
    source: Any = data.image_folder(path)
    result = {"fingerprint": source.fingerprint, "examples": len(source)}
    result["seconds"] = round(time.perf_counter() - started, 2)
    result["processor_seconds"] = round(time.process_time() - processor, 2)
    print(json.dumps(result))


def larger_than_memory(folder: Path) -> dict[str, Any]:
    """Reads batches of a folder of arrays in random order."""
    count = int(EXCESS * memory_bytes()) // (3 * IMAGE**2)
    np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, IMAGE, IMAGE, 3))
    np.save(folder / "labels.npy", np.arange(count) % 10)
    started = time.perf_counter()
    source: Any = data.npy_folder(folder)
    place = data.choose_place([source])
    opened, before = round(time.perf_counter() - started, 2), resident_mib()
    batches = data.Batches(source, 256, seed=0)
    images, largest, started = 0, 0.0, time.perf_counter()
    for batch in ahead(batches.at(range(STEPS)), 2):
        images += len(batch["image"])
        largest = max(largest, resident_mib())
    return {
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "set_gib": round(count * 3 * IMAGE**2 / 2**30, 1),
        "place": place.where,
        "opened_seconds": opened,
        "images": images,
        "delivered_gib": round(images * 3 * IMAGE**2 / 2**30, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "added_mib": round(largest - before, 1),
    }


def ten_epochs(folder: Path) -> dict[str, Any]:
    """Streams photographs, and looks at the memory after each epoch."""
    workload = photographs(folder, count=PHOTOGRAPHS)
    batches = data.Batches(workload.source, workload.batch_size, seed=0, prepare=workload.prepare)
    length, after = batches.steps_per_epoch, []
    for epoch in range(EPOCHS):
        for _ in ahead(batches.at(range(epoch * length, (epoch + 1) * length)), 2):
            pass
        gc.collect()
        after.append(round(resident_mib(), 1))
    return {
        "photographs": PHOTOGRAPHS,
        "epoch_mib": round(length * batches[0]["image"].nbytes / 2**20, 1),
        "resident_mib": after,
        "growth_mib": round(max(after[2:]) - after[1], 1),
    }


def tar_files(folder: Path) -> dict[str, Any]:
    """Reads the bytes of pictures in tar files in two orders, cold and warm."""
    pictures = folder / "pictures"
    pictures.mkdir()
    files = photographs(pictures, count=DISTINCT).source
    contents = [(pictures / name).read_bytes() for name in files.names]  # pyright: ignore[reportAttributeAccessIssue]
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:04}.tar", "w") as archive:
            for number in range(shard * IN_SHARD, (shard + 1) * IN_SHARD):
                for extension, content in (("jpg", contents[number % DISTINCT]), ("cls", b"%d" % (number % 10))):
                    member = tarfile.TarInfo(f"{number:06}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    shards = sorted(folder.glob("*.tar"))
    source = data.web_dataset(str(folder / "*.tar"))
    orders = {"stored": np.arange(len(source)), "random": np.random.default_rng(0).permutation(len(source))}

    def read(index: int) -> int:
        shard, offset, size, _ = source.index[index].tolist()
        with source.files[shard].open("rb", buffering=0) as file:
            file.seek(offset)
            return len(file.read(size))

    rates: dict[str, dict[str, float]] = {name: {} for name in orders}
    for name, order in orders.items():
        _forget(shards)
        for state in ("cold", "warm"):
            started = time.perf_counter()
            with ThreadPoolExecutor(usable_cores()) as pool:
                assert sum(pool.map(read, order.tolist())) == int(source.index[:, 2].sum())
            rates[name][state] = round(len(source) / (time.perf_counter() - started), 1)
    return {
        "pictures": len(source),
        "tar_files": SHARDS,
        "mib": round(sum(shard.stat().st_size for shard in shards) / 2**20),
        "images_per_second": rates,
    }


def _forget(files: list[Path]) -> None:
    """Has the system drop what it holds of files in memory."""
    os.sync()
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


CASES = {
    "many-files": many_files,
    "larger-than-memory": larger_than_memory,
    "ten-epochs": ten_epochs,
    "tar-files": tar_files,
}


def main(names: list[str]) -> None:
    """Runs cases, each in a process of its own, prints and writes the results.

    Args:
      names: names of `CASES`; all if empty.
    """
    results = read_report(__file__).get("cases", {}) if names else {}
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--case", name, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout)
        print(f"{name}: {results[name]}", flush=True)
    write_report(__file__, {"cases": {name: results[name] for name in CASES if name in results}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        open_folder(sys.argv[2])
    elif sys.argv[1:2] == ["--case"]:
        print(json.dumps(CASES[sys.argv[2]](Path(sys.argv[3]))))
    else:
        main(sys.argv[1:])
