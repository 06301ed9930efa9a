"""The race: every contestant has a separate process, and only one of them runs at a time."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

from jaxcnn.benchmark.peers import CONTESTANTS, OURS, implied
from jaxcnn.benchmark.spec import Mode, Precision, Spec
from jaxcnn.benchmark.worker import PROCESS
from jaxcnn.environment import OtherWork
from jaxcnn.types import Layer, Shape

ROUND_SECONDS = 0.5
"""How long a round of one contestant lasts, unless a single step takes longer."""

WARM_SECONDS = 10.0
"""A first step of at least this length is enough warm-up: there is no round for it."""

PATIENCE_SECONDS = 30.0
PATIENCE_ROUNDS = 3
"""A contestant that has run for this time in at least this number of rounds skips the others."""


@dataclass(frozen=True)
class Contest:
    """A model and the settings for which contestants are compared.

    Attributes:
      name: name of the model, for the record.
      model: the layer value; a detector, or what gives logits, or a map of them.
      image_shape: (height, width, channels) of one image.
      batch_size: images in a step.
      mode: "train" (forward in training, mean softmax cross-entropy or the detector's loss, backward, SGD with momentum
        0.9) or "infer".
      precision: dtype of the computation; parameters, moments and the loss are float32.
      devices: number of devices that share the batch.
      peers: names of `jaxcnn.benchmark.peers.PEERS`.
      rounds: number of rounds that count, at least 1; a round before them does not.
    """

    name: str
    model: Layer
    image_shape: Shape
    batch_size: int
    mode: Mode = "train"
    precision: Precision = "float32"
    devices: int = 1
    peers: tuple[str, ...] = ()
    rounds: int = 7

    def spec(self, contestant: str) -> Spec:
        """Returns what the process of a contestant measures."""
        settings = self.image_shape, self.batch_size, self.mode, self.precision, self.devices
        return Spec(contestant, self.model, *settings, self.name)

    def check(self) -> None:
        """Refuses a model that cannot be measured, before any process starts.

        Raises:
          ValueError: the model does not take the images, its result is not one array, or it cannot be sent to another
            process.
        """
        spec = self.spec(OURS)
        spec.output_shape  # noqa: B018 - it raises.
        spec.to_json()


@dataclass
class Outcome:
    """The outcome of a contestant.

    Attributes:
      contestant: its name.
      status: "measured", "missing" (not installed, or not possible here) or "failed".
      reason: why it is missing or failed.
      ready: its answer before the first round: parameters, seconds of its cold start, facts.
      warm_start: seconds of the parts of its start with the programs that an earlier process has kept; None for the
        peers, which keep none.
      rounds: its answers to the rounds that count.
    """

    contestant: str
    status: str = "measured"
    reason: str | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    warm_start: dict[str, float | None] | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> list[list[float]]:
        """Seconds of a step: for each round its samples."""
        return [answer["samples"] for answer in self.rounds]

    @property
    def seconds(self) -> float:
        """Seconds of all its rounds together."""
        return sum(sum(answer["samples"]) * answer["steps"] for answer in self.rounds)


class Race(NamedTuple):
    """The result of `race`.

    Attributes:
      contest: the contest.
      outcomes: the outcome of each contestant: jaxcnn first, then the peers in the order of the table.
      busy_cores: mean number of CPU cores that other programs kept busy during the race; None if unknown.
    """

    contest: Contest
    outcomes: list[Outcome]
    busy_cores: float | None


class Stopped(Exception):
    """A contestant that cannot go on; `status` and the message say why."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Runner(Protocol):
    """A contestant that is ready."""

    ready: dict[str, Any]

    def round(self, seconds: float) -> dict[str, Any]:
        """Runs a round and returns its answer; see `jaxcnn.benchmark.worker`."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class WorkerProcess:
    """A contestant in a separate process; a context manager.

    Args:
      spec: what it measures.

    Raises:
      Stopped: it cannot run here, or failed.
    """

    def __init__(self, spec: Spec) -> None:
        imports = CONTESTANTS[spec.contestant].imports
        absent = [name for name in {name.partition(".")[0] for name in imports} if not importlib.util.find_spec(name)]
        if absent:
            raise Stopped("missing", f"not installed; {CONTESTANTS[spec.contestant].install}")
        if spec.contestant == OURS:
            _build_kernels()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(time.time()), *imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(spec),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = self._process.stdin, self._process.stdout
        try:
            self.ready = self._ask(spec.to_json())["ready"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def round(self, seconds: float) -> dict[str, Any]:
        """Runs a round and returns its answer."""
        return self._ask(json.dumps({"seconds": seconds}))["round"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, line: str) -> dict[str, Any]:
        questions, answers = self._pipes
        try:
            questions.write(line + "\n")
            questions.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise Stopped("failed", self._last_words())
        fields = json.loads(answer)
        for status in ("missing", "failed"):
            if status in fields:
                raise Stopped(status, fields[status])
        return fields

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")


def race(
    contest: Contest,
    *,
    report: Callable[[str], None] = lambda text: None,
    start: Callable[[Spec], Runner] = WorkerProcess,
    round_seconds: float = ROUND_SECONDS,
) -> Race:
    """Measures jaxcnn and its peers in turns.

    First each contestant gets ready alone; jaxcnn does so twice, the second time with the programs that it has kept.
    Then they run round by round, in alternating order, so that a slowdown or drift of the machine affects all of them.
    The first round of each does not count, and is skipped if the first step takes at least `WARM_SECONDS`. A contestant
    that has run for `PATIENCE_SECONDS` in at least `PATIENCE_ROUNDS` rounds skips the others.

    Args:
      contest: the contest.
      report: called with a line of text about each stage.
      start: gets a contestant ready.
      round_seconds: duration of a round; a round has at least one step.

    Returns:
      The outcome of each contestant, and the load of the machine by other programs.
    """
    with OtherWork() as others:
        outcomes = _run(contest, report, start, round_seconds)
    return Race(contest, outcomes, others.cores)


def _run(
    contest: Contest, report: Callable[[str], None], start: Callable[[Spec], Runner], round_seconds: float
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    runners: dict[str, Runner] = {}
    title = f"{contest.name}, {contest.mode}"
    with ExitStack() as stack:

        def get_ready(name: str, programs: str | None = None) -> Outcome:
            outcomes.append(outcome := Outcome(name))
            report(f"{title}: {name} gets ready")
            spec = replace(contest.spec(name), programs=programs)
            with _stopping(outcome):
                runners[name] = runner = start(spec)
                outcome.ready = runner.ready
                if programs:
                    runner.close()
                    report(f"{title}: {name} gets ready again, with the programs that it has kept")
                    runners[name] = runner = start(spec)
                    outcome.warm_start = runner.ready["cold_start"]
                stack.callback(runner.close)
            return outcome

        ours = get_ready(OURS, stack.enter_context(tempfile.TemporaryDirectory()))
        on_gpu = ours.status == "measured" and ours.ready["facts"]["device"]["platform"] == "gpu"
        for name in implied(contest.peers, gpu=on_gpu):
            _check_comparable(ours, get_ready(name))
        report(f"{title}: warming up")
        for outcome in outcomes:
            if outcome.ready and outcome.ready["cold_start"]["first_step"] < WARM_SECONDS:
                _round(outcome, runners, round_seconds)
                outcome.rounds.clear()
        for turn in range(contest.rounds):
            report(f"{title}: round {turn + 1} of {contest.rounds}")
            # Forwards and backwards, so that no contestant always runs after the same one.
            for outcome in outcomes if turn % 2 else outcomes[::-1]:
                if len(outcome.rounds) < PATIENCE_ROUNDS or outcome.seconds < PATIENCE_SECONDS:
                    _round(outcome, runners, round_seconds)
    return outcomes


def _round(outcome: Outcome, runners: dict[str, Runner], seconds: float) -> None:
    if outcome.status == "measured":
        with _stopping(outcome):
            outcome.rounds.append(runners[outcome.contestant].round(seconds))


@contextmanager
def _stopping(outcome: Outcome) -> Iterator[None]:
    """Notes in an outcome why its contestant cannot go on."""
    try:
        yield
    except Stopped as stopped:
        outcome.status, outcome.reason = stopped.status, str(stopped)


def _check_comparable(ours: Outcome, peer: Outcome) -> None:
    """Refuses a peer with another model, or on another kind of device."""
    if ours.status != "measured" or peer.status != "measured":
        return
    expected, counted = ours.ready["parameters"], peer.ready["parameters"]
    place, other = (outcome.ready["facts"]["device"]["platform"] for outcome in (ours, peer))
    if expected != counted:
        peer.status = "failed"
        peer.reason = f"expected the same architecture, of {expected:,} parameters, got {counted:,}"
    elif place != other:
        peer.status = "missing"
        peer.reason = f"jaxcnn runs on {place}, it on {other}; install its build for {place}"


@functools.cache
def _build_kernels() -> None:
    """Builds the C++ kernels, which happens once for each machine: it is part of no start.

    Another process does so, since this one must not take an accelerator's memory.
    """
    code = "import jax; from jaxcnn.ops.lowering import native; jax.default_backend() == 'cpu' and native.ready()"
    environment = {**os.environ, "PYTHONPATH": _python_path(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment, check=False)


def _python_path() -> str:
    """Returns where to look for modules: what this process can import, such as the model's module, others can too."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _environment(spec: Spec) -> dict[str, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": _python_path(),
        "KERAS_BACKEND": "jax",
        # All contestants share the device's memory, and none may take most of it in advance.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    # With programs that were kept before, the start would not be cold.
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAXCNN_COMPILATION_CACHE"):
        environment.pop(name, None)
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "true" if spec.programs else "false"
    if CONTESTANTS[spec.contestant].imports == ("torch",):
        # There JAX only reads the layer value: it must not take memory of the device.
        environment["JAX_PLATFORMS"] = "cpu"
    if spec.devices > 1:
        environment["JAX_NUM_CPU_DEVICES"] = str(spec.devices)
    return environment
