"""SqueezeNet: torchvision."""

from jaxcnn.interop.preprocessing import torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models import squeezenet

_PLACES = {
    "squeezenet1_0": (3, 4, 5, 7, 8, 9, 10, 12),
    "squeezenet1_1": (3, 4, 6, 7, 9, 10, 11, 12),
}
"""Positions of the fire modules, which are numbered from fire2 here, among all layers of torchvision."""

_BUILD = {"squeezenet1_0": squeezenet.squeezenet1_0, "squeezenet1_1": squeezenet.squeezenet1_1}


def _rules(places: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    fires = [
        rule
        for i, place in enumerate(places, start=2)
        for rule in (
            (f"fire{i}/squeeze", f"features.{place}.squeeze"),
            (rf"fire{i}/expand/conv(\dx\d)", rf"features.{place}.expand\1"),
        )
    ]
    return (("conv1", "features.0"), *fires, ("head/conv", "classifier.1"))


RECORDS = tuple(
    Record(
        name,
        "torchvision",
        name,
        build,
        Rules("torchvision", _rules(_PLACES[name])),
        torchvision_preprocessing(256, 224),
        head="head/conv",
    )
    for name, build in _BUILD.items()
)
