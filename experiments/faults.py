"""A fault campaign: what a training of LeNet-5 on digits does after kills, damaged files, full disks and the like.

Every case disturbs a run, and then resumes it. It passes if each command ends with status 0 or with one message that
names the file, no command shows a traceback, and the finished run has the metrics, the result and, to the byte, the
parameters and the optimizer's state of a run that nothing disturbed. A case that must stop passes if it names the file.

    python experiments/faults.py --moments 4 --each 1 --seconds 60    # a small share: printed, not written
    python experiments/faults.py --write

The second writes experiments/results/faults.json, and the table in docs/training.md.

Some cases need the right to mount a small file system; without it they use limits of the process, and say so.
"""

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from reports import write_report

from jaxcnn.cli import main as jaxcnn
from jaxcnn.files import cache_folder, write_text
from jaxcnn.training.checkpoint import Checkpoints

DOCS = Path(__file__).parents[1] / "docs" / "training.md"
OPTIONS = ["--model", "lenet5", "--epochs", "6", "--batch-size", "256", "--augment", "none", "--checkpoint-epochs", "1"]
TIMED = ("images_per_second", "waiting_for_data", "checksum", "run")
# Resuming says one of these when it leaves something out.
SAID = ("skipped a damaged checkpoint", "there is no checkpoint yet", "resuming after step", "is already finished")


class Done(NamedTuple):
    """A command that has ended.

    Attributes:
      status: its exit status; negative for a signal.
      output: what it printed.
    """

    status: int
    output: str


class Outcome(NamedTuple):
    """What a case came to.

    Attributes:
      kind: the kind of the fault.
      how: "resumed", "stopped" or "undisturbed".
      said: the lines that say what was skipped, or why it stopped.
      faults: what is wrong; empty for a case that passes.
    """

    kind: str
    how: str
    said: list[str]
    faults: list[str]


def _child(arguments: Sequence[str], output: str, limits: Sequence[tuple[int, int]], cache: str | None) -> None:
    if cache is not None:
        os.environ["JAXCNN_CACHE_DIR"] = cache
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    for kind, limit in limits:
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    if any(kind == resource.RLIMIT_FSIZE for kind, _ in limits):
        # Python's own choice, which multiprocessing keeps: a write fails instead of a signal that ends the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        status = jaxcnn(list(arguments))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    # As the interpreter at the end of a command, without the handlers of multiprocessing.
    os._exit(status)


class Campaign:
    """The place of all runs, and the undisturbed one.

    Args:
      root: an empty folder.
      seed: seed of all choices.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed, self.number = root, seed, itertools.count()
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.context = multiprocessing.get_context("forkserver")
        # A process starts with these modules, as they are before any device is used: a second saved each time.
        self.context.set_forkserver_preload(["jaxcnn.cli.train", "jaxcnn.cli.commands", "orbax.checkpoint", "faults"])
        self.good = self.new("undisturbed")
        # The first run compiles, the second one tells the time.
        for folder in (self.new("compile"), self.good):
            began = time.monotonic()
            _expect(self.train(folder).status == 0, "the undisturbed run ends")
        self.seconds = time.monotonic() - began
        self.partial = self.new("partial")
        while not self._stopped_midway():
            shutil.rmtree(self.partial, ignore_errors=True)
        # Compiles what a resumed run has beside that.
        _expect(not self.checked("undisturbed", self.copy(self.partial)).faults, "a resumed run ends as the other")
        self.other = self.new("other")
        _expect(self.train(self.other, "--seed", "1").status == 0, "another run ends")

    def _stopped_midway(self) -> bool:
        """Kills a run after its second checkpoint; false if it has gone too far."""
        process, _ = self.start(self.partial)
        while process.is_alive() and len(_steps(self.partial)) < 2:
            time.sleep(0.005)
        process.kill()
        process.join()
        return len(_steps(self.partial)) == 2 and not (self.partial / "result.json").exists()

    def random(self, *words: Any) -> random.Random:
        """Returns the random numbers of a case."""
        return random.Random(f"{self.seed} {words}")

    def new(self, name: str) -> Path:
        """Returns a path for a new folder."""
        return self.root / f"{name}-{next(self.number)}"

    def copy(self, folder: Path) -> Path:
        """Copies the folder of a run."""
        return Path(shutil.copytree(folder, self.new("copy")))

    def start(
        self, folder: Path, *words: str, limits: Sequence[tuple[int, int]] = (), cache: str | None = None
    ) -> tuple[Any, Path]:
        """Starts a training, and returns the process and the file of its output."""
        output = self.new("output")
        arguments = ["train", *(OPTIONS if "--resume" not in words else []), "--run-dir", str(folder), *words]
        process = self.context.Process(target=_child, args=(arguments, str(output), limits, cache))
        process.start()
        return process, output

    def end(self, process: Any, output: Path) -> Done:
        """Waits for a process."""
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
            return Done(-99, "hung for 120 s")
        return Done(process.exitcode, output.read_text(errors="replace"))

    def train(self, folder: Path, *words: str, **options: Any) -> Done:
        """Trains to the end."""
        return self.end(*self.start(folder, *words, **options))

    def resumed(self, folder: Path, *words: str, **options: Any) -> Done:
        """Resumes a run; starts it if it was killed before it had a folder."""
        started = (folder / "config.json").exists()
        return self.train(folder, *(("--resume",) if started else words), **options)

    def checked(
        self,
        kind: str,
        folder: Path,
        *,
        before: Sequence[Done] = (),
        names: str | None = None,
        words: Sequence[str] = (),
    ) -> Outcome:
        """Resumes a run and compares it with the undisturbed one.

        Args:
          kind: the kind of the fault.
          folder: the folder of the run.
          before: the commands that were disturbed.
          names: what the message must name if the command stops; None if it may not stop.
          words: options of a run that must be started again.
        """
        done = self.resumed(folder, *words)
        faults = [
            f"{what} in the output of a command: {one.output[-2000:]}"
            for one in (*before, done)
            for what in ("Traceback", "Fatal Python error", "core dumped", "hung for")
            if what in one.output
        ]
        errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
        if done.status:
            if done.status != 2 or len(errors) != 1:
                faults.append(f"status {done.status}, output {done.output[-2000:]}")
            elif names is None or names not in done.output:
                faults.append(f"stopped without naming {names}: {errors[0]}")
            return Outcome(kind, "stopped", [_plain(line, folder) for line in errors], faults)
        said = [_plain(line, folder) for line in done.output.splitlines() if any(words in line for words in SAID)]
        return Outcome(kind, "resumed", said, [*faults, *self.differences(folder)])

    def differences(self, folder: Path, good: Path | None = None) -> list[str]:
        """Lists in what a finished run differs from the undisturbed one."""
        good = good or self.good
        lines = []
        for name, read in (
            ("metrics.jsonl", _metrics),
            ("result.json", _result),
            ("best.npz", _best),
            ("state", _state),
        ):
            try:
                one, other = read(folder), read(good)
            except Exception as error:
                lines.append(f"{name} cannot be read: {error!r:.200}")
                continue
            if one != other:
                lines.append(f"{name} differs")
        if left := [path.name for path in folder.glob(".*.tmp")]:
            lines.append(f"unfinished files are left: {left}")
        return lines


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(f"expected that {what}, which it does not; the campaign cannot start")


def _plain(line: str, folder: Path) -> str:
    return line.replace(str(folder), "RUN")[:400]


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in (folder / "checkpoints").glob("[0-9]*")]
    return sorted(int(name) for name in names if name.isdecimal())


def _newest(folder: Path) -> Path:
    return folder / "checkpoints" / str(_steps(folder)[-1])


def _metrics(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def _result(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {name: value for name, value in result.items() if name not in TIMED}


def _best(folder: Path) -> dict[str, bytes]:
    with np.load(folder / "best.npz") as content:
        return {name: content[name].tobytes() for name in content.files if name != "about"}


def _state(folder: Path) -> dict[str, bytes]:
    restored = Checkpoints(folder / "checkpoints").restore_leaves("train_state/")
    return {name: np.asarray(leaf).tobytes() for name, leaf in restored.tree.items()} | {"step": bytes(restored.step)}


def _place(folder: Path) -> str:
    """Tells how far a run was when it was killed."""
    if not (folder / "config.json").exists():
        return "before the folder"
    if list(folder.glob("*.png")):
        return "while drawing"
    if (folder / "result.json").exists():
        return "between result and pictures"
    if list(folder.glob("checkpoints/*tmp*")) or list(folder.glob(".*.tmp")):
        return "inside a save"
    return "in training" if _steps(folder) else "before the first checkpoint"


# ---- kills ----


def kill_at(campaign: Campaign, moment: int) -> Outcome:
    """Kills a run at a random moment, and every fourth one a second time after it is resumed."""
    numbers, folder = campaign.random("kill", moment), campaign.new("killed")
    disturbed = []
    for words in [()] if moment % 4 else [(), ("--resume",)]:
        resumes = words and (folder / "config.json").exists()
        process, output = campaign.start(folder, *(words if resumes else ()))
        process.join(numbers.uniform(0, 1.05 * campaign.seconds))
        process.kill()
        process.join()
        disturbed.append(Done(process.exitcode, output.read_text(errors="replace") if output.exists() else ""))
    return campaign.checked(f"SIGKILL {_place(folder)}", folder, before=disturbed)


def _killed_when(campaign: Campaign, kind: str, condition: Callable[[Path], bool], delay: float = 0.0) -> Outcome:
    folder = campaign.new("killed")
    process, output = campaign.start(folder)
    while process.is_alive() and not condition(folder):
        pass
    time.sleep(delay)
    process.kill()
    process.join()
    return campaign.checked(kind, folder, before=[Done(process.exitcode, output.read_text(errors="replace"))])


def kill_in_save(campaign: Campaign, moment: int) -> Outcome:
    """Kills a run as soon as the n-th save has begun, or a few milliseconds later."""
    numbers, seen = campaign.random("save", moment), set()
    wanted = numbers.randint(1, 6)

    def saving(folder: Path) -> bool:
        seen.update(path.name.partition(".")[0] for path in folder.glob("checkpoints/*tmp*"))
        return len(seen) >= wanted

    return _killed_when(campaign, "SIGKILL when a save begins", saving, numbers.uniform(0, 0.02))


def kill_before_pictures(campaign: Campaign, moment: int) -> Outcome:
    """Kills a run after it has written its result, before or while it draws."""
    delay = campaign.random("pictures", moment).uniform(0, 0.4)
    return _killed_when(campaign, "SIGKILL after the result", lambda folder: (folder / "result.json").exists(), delay)


def kill_in_preparation(campaign: Campaign, moment: int) -> Outcome:
    """Kills a run while it surveys a folder of pictures for the first time, and the cache of it is written."""
    numbers, folder = campaign.random("prepare", moment), campaign.new("pictures")
    pictures, good, seconds = _pictures(campaign)
    words = ("--data", str(pictures))
    cache = _cache(campaign)
    process, output = campaign.start(folder, *words, cache=cache)
    process.join(numbers.uniform(0.2, 0.6) * seconds)
    process.kill()
    process.join()
    before = [Done(process.exitcode, output.read_text(errors="replace") if output.exists() else "")]
    done = campaign.resumed(folder, *words, cache=cache)
    faults = [f"Traceback: {one.output[-2000:]}" for one in (*before, done) if "Traceback" in one.output]
    if done.status:
        faults.append(f"status {done.status}: {done.output[-2000:]}")
    said = [_plain(line, folder) for line in done.output.splitlines() if any(word in line for word in SAID)]
    return Outcome("SIGKILL inside data preparation", "resumed", said, faults or campaign.differences(folder, good))


@functools.cache
def _pictures(campaign: Campaign) -> tuple[Path, Path, float]:
    """Writes the digits as pictures; returns their folder, an undisturbed run and its seconds."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    root = campaign.new("digits")
    for place, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(image * 15, np.ones((4, 4))).astype(np.uint8)).save(folder / f"{place:04d}.png")
    good = campaign.new("undisturbed")
    began = time.monotonic()
    _expect(campaign.train(good, "--data", str(root), cache=_cache(campaign)).status == 0, "a run on pictures ends")
    return root, good, time.monotonic() - began


def _cache(campaign: Campaign) -> str:
    """Makes a cache that knows no pictures yet, but the compiled kernels."""
    cache = campaign.new("cache")
    cache.mkdir()
    for library in cache_folder().glob("*.so"):
        (cache / library.name).symlink_to(library)
    return str(cache)


# ---- damaged files ----


def _damage(
    campaign: Campaign, kind: str, case: int, change: Callable[[Path, random.Random], Any], **options: Any
) -> Outcome:
    folder = campaign.copy(campaign.partial)
    named = change(folder, campaign.random(kind, case))
    return campaign.checked(kind, folder, **({"names": named} if named else {}), **options)


def _a_file(folder: Path, numbers: random.Random) -> Path:
    return numbers.choice(sorted(path for path in _newest(folder).rglob("*") if path.is_file() and path.stat().st_size))


def _truncate(folder: Path, numbers: random.Random) -> None:
    file = _a_file(folder, numbers)
    os.truncate(file, numbers.randrange(file.stat().st_size))


def _flip(file: Path, numbers: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
    file.write_bytes(content)


def _flip_one(folder: Path, numbers: random.Random) -> None:
    _flip(_a_file(folder, numbers), numbers)


def _delete_one(folder: Path, numbers: random.Random) -> None:
    _a_file(folder, numbers).unlink()


def _rename(folder: Path, numbers: random.Random) -> str | None:
    newest = _newest(folder)
    step = numbers.choice([int(newest.name) + 1, int(newest.name) + 4, 1, 10**6])
    newest.rename(newest.with_name(str(step)))
    return "checkpoints"


def _leave_empty(folder: Path, numbers: random.Random) -> str | None:
    step = int(_newest(folder).name)
    name = numbers.choice([str(step + 4), str(step + 1), "100000", "abc", f"{step + 4}.orbax-checkpoint-tmp-12"])
    (folder / "checkpoints" / name).mkdir()
    return "checkpoints"


def _damage_all(folder: Path, numbers: random.Random) -> str:
    for step in _steps(folder):
        for file in (folder / "checkpoints" / str(step)).rglob("*"):
            if file.is_file() and file.stat().st_size:
                os.truncate(file, file.stat().st_size // 2)
    return "checkpoints"


def _cut_metrics(folder: Path, numbers: random.Random) -> str:
    file = folder / "metrics.jsonl"
    os.truncate(file, numbers.randrange(file.stat().st_size))
    return "metrics.jsonl"


def _damage_metrics(folder: Path, numbers: random.Random) -> str:
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n")
    place = numbers.randrange(len(lines) - 1)
    change = numbers.choice(["flip", "drop", "double", "empty", "other"])
    line = bytearray(lines[place])
    if change == "flip":
        line[numbers.randrange(len(line))] ^= 1 << numbers.randrange(8)
        lines[place] = bytes(line)
    elif change == "drop":
        del lines[place]
    elif change == "double":
        lines.insert(place, lines[place])
    else:
        lines[place] = b"" if change == "empty" else b"{}"
    file.write_bytes(b"\n".join(lines))
    return "metrics.jsonl"


def _edit_config(folder: Path, numbers: random.Random) -> str:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    name, value = numbers.choice([("learning_rate", 0.1), ("epochs", 9), ("split_seed", 3), ("seed", 7)])
    config["recipe"][name] = value
    file.write_text(json.dumps(config, indent=2))
    return "config.json"


def _damage_config(folder: Path, numbers: random.Random) -> str:
    file = folder / "config.json"
    if numbers.random() < 0.5:
        _flip(file, numbers)
    else:
        os.truncate(file, numbers.randrange(file.stat().st_size))
    return "config.json"


def _damage_best(folder: Path, numbers: random.Random) -> str | None:
    file = folder / "best.npz"
    numbers.choice([lambda: _flip(file, numbers), lambda: os.truncate(file, 100), file.unlink])()
    return None


def _set_clock(folder: Path, numbers: random.Random) -> None:
    """As if the clock had been set back, or was wrong: the files are of the future, or of the year 1970."""
    for path in [*folder.rglob("*"), folder]:
        at = numbers.choice([0, time.time() + 10**8, time.time() - 10**8])
        os.utime(path, (at, at))


def swap_checkpoint(campaign: Campaign, case: int) -> Outcome:
    """Puts a checkpoint of another run in the place of the newest one, or after it."""

    def change(folder: Path, numbers: random.Random) -> None:
        newest, theirs = _newest(folder), _newest(campaign.other)
        target = newest if numbers.random() < 0.5 else newest.with_name(theirs.name)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(theirs, target)

    return _damage(campaign, "a checkpoint of another run", case, change)


def swap_file(campaign: Campaign, case: int) -> Outcome:
    """Puts a file of another run in the place of that of the run."""

    def change(folder: Path, numbers: random.Random) -> str:
        name = numbers.choice(["config.json", "metrics.jsonl", "result.json"])
        shutil.copy(campaign.other / name, folder / name)
        # The metrics are the first file that does not belong to a run of another configuration.
        return "metrics.jsonl" if name == "config.json" else name

    return _damage(campaign, "a file of another run", case, change)


# ---- the system ----


@contextlib.contextmanager
def small_disk(campaign: Campaign, size: int) -> Iterator[Path | None]:
    """Mounts a file system of a few bytes; None where that is not allowed."""
    place = campaign.new("disk")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        allowed = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        allowed = False
    try:
        yield place if allowed else None
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(place)], check=True)


def fill_disk(campaign: Campaign, case: int) -> Outcome:
    """Lets a disk become full at some byte of the run, makes room, and resumes."""
    numbers = campaign.random("disk", case)
    size = int(2 ** numbers.uniform(13, 22))
    with small_disk(campaign, size) as disk:
        if disk is None:
            folder = campaign.new("full")
            limit = int(2 ** numbers.uniform(9, 18))
            before = campaign.train(folder, limits=[(resource.RLIMIT_FSIZE, limit)])
            return campaign.checked("disk full (limit of a file)", folder, before=[_stopped(before, str(folder))])
        before = campaign.train(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=100M", str(disk)], check=True)
        return campaign.checked("disk full", disk / "run", before=[_stopped(before, "run")])


def read_only(campaign: Campaign, case: int) -> Outcome:
    """Resumes a run on a disk that is read-only, and again when it can be written."""
    with small_disk(campaign, 10**8) as disk:
        if disk is None:
            return Outcome("read-only", "not tried", ["mounting is not allowed"], [])
        folder = Path(shutil.copytree(campaign.partial, disk / "run"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = campaign.train(folder, "--resume")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        return campaign.checked("read-only", folder, before=[_stopped(before, "run", may_end=False)])


def _stopped(done: Done, name: str, *, may_end: bool = True) -> Done:
    """Marks the output of a command that neither ended well nor stopped with one message that names the folder."""
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    good = (may_end and done.status == 0) or (done.status == 2 and len(errors) == 1 and name in errors[0])
    return done if good else Done(done.status, f"Traceback or no message, status {done.status}: {done.output}")


def few_descriptors(campaign: Campaign, case: int) -> Outcome:
    """Lets a run have few file descriptors, and resumes it with the usual number."""
    limit = campaign.random("descriptors", case).randint(8, 64)
    folder = campaign.new("descriptors")
    before = campaign.train(folder, limits=[(resource.RLIMIT_NOFILE, limit)])
    return campaign.checked("file descriptors exhausted", folder, before=[_stopped(before, "")])


def delete_folder(campaign: Campaign, case: int) -> Outcome:
    """Deletes the folder while the run trains."""
    numbers, folder = campaign.random("delete", case), campaign.new("deleted")
    process, output = campaign.start(folder)
    while process.is_alive() and not (folder / "config.json").exists():
        time.sleep(0.002)
    process.join(numbers.uniform(0, 0.5) * campaign.seconds)
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
    done = campaign.end(process, output)
    errors = [_plain(line, folder) for line in done.output.splitlines() if line.startswith("error: ")]
    stopped = done.status == 2 and len(errors) == 1 and "RUN" in errors[0] and "Traceback" not in done.output
    faults = [] if stopped else [f"status {done.status}: {done.output[-2000:]}"]
    return Outcome("folder deleted during the run", "stopped", errors, faults)


def two_processes(campaign: Campaign, case: int) -> Outcome:
    """Resumes a run while another process trains in the folder."""
    numbers, folder = campaign.random("two", case), campaign.copy(campaign.partial)
    first, output = campaign.start(folder, "--resume")
    first.join(numbers.uniform(0.1, 0.7) * campaign.seconds)
    second = campaign.train(folder, "--resume")
    # Either one may have come first, or the first had ended.
    return campaign.checked(
        "two processes on one run",
        folder,
        before=[
            _stopped(campaign.end(first, output), str(folder)),
            _stopped(second, str(folder)),
        ],
    )


def cases(campaign: Campaign, moments: int, each: int) -> list[Callable[[], Outcome]]:
    """Lists the cases.

    Args:
      campaign: the campaign.
      moments: number of random moments of a kill.
      each: number of cases of every other kind.
    """
    damages = (
        ("a checkpoint truncated", _truncate),
        ("a byte of a checkpoint flipped", _flip_one),
        ("a file of a checkpoint deleted", _delete_one),
        ("a checkpoint renamed", _rename),
        ("an empty folder left", _leave_empty),
        ("all checkpoints truncated", _damage_all),
        ("metrics cut", _cut_metrics),
        ("a line of the metrics damaged", _damage_metrics),
        ("config edited", _edit_config),
        ("config damaged", _damage_config),
        ("best weights damaged", _damage_best),
        ("clock set back", _set_clock),
    )
    functions = (
        kill_in_save,
        kill_before_pictures,
        kill_in_preparation,
        swap_checkpoint,
        swap_file,
        fill_disk,
        read_only,
        few_descriptors,
        delete_folder,
        two_processes,
    )
    return [
        *(functools.partial(kill_at, campaign, moment) for moment in range(moments)),
        *(functools.partial(function, campaign, case) for function in functions for case in range(each)),
        *(functools.partial(_damage, campaign, kind, case, change) for kind, change in damages for case in range(each)),
    ]


def run_cases(
    campaign: Campaign, chosen: Sequence[Callable[[], Outcome]], workers: int, seconds: float
) -> list[Outcome]:
    """Runs cases, several at once, as many as begin in time.

    Args:
      campaign: the campaign.
      chosen: the cases.
      workers: number of cases at once.
      seconds: after these no case begins.

    Returns:
      Their outcomes.
    """
    deadline = time.monotonic() + seconds

    def outcome(case: Callable[[], Outcome]) -> Outcome | None:
        if time.monotonic() > deadline:
            return None
        try:
            return case()
        except Exception as error:
            # A case that cannot be tried does not stop the others, but fails.
            return Outcome(f"{case}"[:80], "not tried", [], ["".join(traceback.format_exception(error))])

    with ThreadPoolExecutor(workers) as pool:
        return [one for one in pool.map(outcome, chosen) if one is not None]


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Counts the outcomes of each kind."""
    rows = []
    for kind in dict.fromkeys(sorted(one.kind for one in outcomes)):
        mine = [one for one in outcomes if one.kind == kind]
        how = Counter(one.how for one in mine)
        examples = Counter(line for one in mine for line in one.said)
        rows.append(
            {
                "fault": kind,
                "cases": len(mine),
                "resumed": how["resumed"],
                "stopped": how["stopped"],
                "failed": sum(bool(one.faults) for one in mine),
                "says": [line for line, _ in examples.most_common(3)],
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Writes the table of the docs."""
    lines = [
        "| fault | cases | resumed, equal to the byte | stopped, the file named | failed |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['fault']} | {row['cases']} | {row['resumed']} | {row['stopped']} | {row['failed']} |" for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Runs the campaign; returns 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200, help="number of kills at random moments")
    parser.add_argument("--each", type=int, default=8, help="number of cases of every other kind")
    parser.add_argument("--workers", type=int, default=2, help="number of cases at once")
    parser.add_argument("--seconds", type=float, default=7200.0, help="no case begins after these")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the damages")
    parser.add_argument("--only", default="", help="run the kinds of cases whose function has this in its name")
    parser.add_argument("--write", action="store_true", help="write the results and the table of the docs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        campaign = Campaign(Path(root), options.seed)
        chosen = [case for case in cases(campaign, options.moments, options.each) if options.only in str(case)]
        # In random order, so that a campaign that ends early has seen all kinds.
        campaign.random("order").shuffle(chosen)
        began = time.monotonic()
        outcomes = run_cases(campaign, chosen, options.workers, options.seconds)
        seconds = time.monotonic() - began
    rows = summary(outcomes)
    print(table(rows))
    for one in outcomes:
        for fault in one.faults:
            print(f"\nFAILED: {one.kind}: {fault}")
    failed = any(one.faults for one in outcomes)
    if not options.write:
        return int(failed)
    write_report(
        __file__,
        {
            "seed": options.seed,
            "cases_planned": len(chosen),
            "cases": len(outcomes),
            "kills_at_random_moments": sum(one.kind.startswith("SIGKILL ") for one in outcomes),
            "seconds": round(seconds),
            "undisturbed_seconds": round(campaign.seconds, 2),
            "kinds": rows,
        },
    )
    text = DOCS.read_text()
    begin, end = "<!-- faults: start -->\n", "<!-- faults: end -->"
    head, _, rest = text.partition(begin)
    write_text(DOCS, f"{head}{begin}{table(rows)}\n{end}{rest.partition(end)[2]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
