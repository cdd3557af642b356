"""What stands in for D~_r in place of inversion: images that take no time to make."""

from unlearn.registry import import_all
from unlearn.standins.base import STANDINS, StandIn, StandInStage

import_all(__name__, __path__)

__all__ = ["STANDINS", "StandIn", "StandInStage"]
