"""The reacher with an arm of three links instead of two."""

import copy
import functools
from collections.abc import Callable, Mapping
from xml.etree import ElementTree

from dm_control.rl import control
from dm_control.suite import common, reacher

# Metres: radius of the target.
_EASY_TARGET = 0.05
_HARD_TARGET = 0.015

_LINK = "0.09 0 0"  # metres, from each body to the next one
_RANGE = "-80 80"  # degrees, of all joints but the first


def three_link_model() -> str:
    """XML of the suite's reacher with a link more, and shorter links.

    The arm's one body becomes two, `arm0` and `arm1`, with the joints `shoulder0` and
    `shoulder1`; wrist, finger, target and arena stay what they are in the suite.
    """
    model = ElementTree.fromstring(reacher.get_model_and_assets()[0])
    upper = _find(model, ".//body[@name='arm']")
    hand = _find(upper, "body")
    upper.remove(hand)
    lower = copy.deepcopy(upper)
    for index, body in enumerate((upper, lower)):
        body.set("name", f"arm{index}")
        _find(body, "geom").attrib.update(name=f"arm{index}", fromto=f"0 0 0 {_LINK}")
        _find(body, "joint").set("name", f"shoulder{index}")
    upper.append(lower)
    lower.append(hand)
    for body in (lower, hand):
        _find(body, "joint").attrib.update(limited="true", range=_RANGE)
    for body in (lower, hand, _find(hand, "body")):
        body.set("pos", _LINK)

    actuator = _find(model, "actuator")
    actuator.insert(0, copy.deepcopy(_find(actuator, "motor")))
    for index, motor in enumerate(actuator.findall("motor")[:2]):
        motor.attrib.update(name=f"shoulder{index}", joint=f"shoulder{index}")
    return ElementTree.tostring(model, encoding="unicode")


def _find(element: ElementTree.Element, path: str) -> ElementTree.Element:
    found = element.find(path)
    assert found is not None, path
    return found


def _load(target_size: float, random: int) -> control.Environment:
    physics = reacher.Physics.from_xml_string(three_link_model(), common.ASSETS)
    task = reacher.Reacher(target_size, random=random)
    return control.Environment(physics, task, time_limit=20.0)


TASKS: Mapping[str, Callable[[int], control.Environment]] = {
    "three_easy": functools.partial(_load, _EASY_TARGET),
    "three_hard": functools.partial(_load, _HARD_TARGET),
}
