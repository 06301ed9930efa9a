"""The race: every contestant in a process of its own, and only one of them running at any time."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

from jaxcnn.benchmark.peers import CONTESTANTS, OURS, implied
from jaxcnn.benchmark.spec import Mode, Precision, Spec
from jaxcnn.benchmark.worker import PROCESS
from jaxcnn.environment import OtherWork
from jaxcnn.types import Layer, Shape

ROUND_SECONDS = 0.5
"""How long a round of one contestant lasts, unless a single step takes longer."""

WARM_SECONDS = 10.0
"""A first step of at least this length is warm-up enough: there is no round for it."""

PATIENCE_SECONDS = 30.0
PATIENCE_ROUNDS = 3
"""A contestant that has spent so long in at least so many rounds sits the others out."""


@dataclass(frozen=True)
class Contest:
    """What is compared.

    Attributes:
      name: name of the model, for the record.
      model: the layer value; it gives logits, or a map of them.
      image_shape: (height, width, channels) of one image.
      batch_size: images in a step.
      mode: "train" (forward in training, mean softmax cross-entropy, backward, SGD with momentum 0.9) or "infer".
      precision: dtype of the computation; parameters, moments and the loss are float32.
      devices: number of devices that share the batch.
      peers: names of `jaxcnn.benchmark.peers.PEERS`.
      rounds: how many rounds count, at least 1; the one before them does not.
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
        return Spec(contestant, self.model, self.image_shape, self.batch_size, self.mode, self.precision, self.devices)

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
    """How a contestant did.

    Attributes:
      contestant: its name.
      status: "measured", "missing" (not installed, or not possible here) or "failed".
      reason: why it is missing or failed.
      ready: what it answered before its first round: parameters, seconds of its cold start, facts.
      rounds: its answers to the rounds that count.
    """

    contestant: str
    status: str = "measured"
    reason: str | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> list[list[float]]:
        """Seconds of a step: for each round its samples."""
        return [answer["samples"] for answer in self.rounds]

    @property
    def seconds(self) -> float:
        """How long its rounds took together."""
        return sum(sum(answer["samples"]) * answer["steps"] for answer in self.rounds)


class Race(NamedTuple):
    """What `race` found.

    Attributes:
      contest: what was compared.
      outcomes: how each contestant did: jaxcnn first, then the peers in the order of the table.
      busy_cores: how many CPU cores other programs kept busy meanwhile, on average; None where it is not known.
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
    """A contestant in a process of its own; a context manager.

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
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *imports],
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

    First each contestant gets ready alone. Then all of them run one round after the other, in turning order, so that a
    machine that slows down or drifts does so for all. The first round of each does not count, and is left out where a
    step takes more than `WARM_SECONDS`. A contestant that has spent `PATIENCE_SECONDS` in at least `PATIENCE_ROUNDS`
    rounds sits the others out.

    Args:
      contest: what is compared.
      report: is told what happens.
      start: gets a contestant ready.
      round_seconds: how long a round lasts, at least one step; one more before does not count.

    Returns:
      How each did, and how busy the machine was with other things.
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

        def get_ready(name: str) -> Outcome:
            outcomes.append(outcome := Outcome(name))
            report(f"{title}: {name} gets ready")
            with _stopping(outcome):
                runners[name] = start(contest.spec(name))
                stack.callback(runners[name].close)
                outcome.ready = runners[name].ready
            return outcome

        ours = get_ready(OURS)
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
            # To and fro, so that no contestant always runs after the same one.
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
    """Refuses a peer whose model is another one, or that runs on another kind of device."""
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


def _environment(spec: Spec) -> dict[str, str]:
    environment = {
        **os.environ,
        # What this process can import, such as the module of the model, the other one can import too.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "KERAS_BACKEND": "jax",
        # All contestants share the device's memory, and none may take most of it in advance.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # A cold start that finds its program in a cache would not be one.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    if CONTESTANTS[spec.contestant].imports == ("torch",):
        # There JAX only reads the layer value: it must not take memory of the device.
        environment["JAX_PLATFORMS"] = "cpu"
    if spec.devices > 1:
        environment["JAX_NUM_CPU_DEVICES"] = str(spec.devices)
    return environment
