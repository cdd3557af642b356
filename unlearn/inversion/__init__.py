"""Model inversion (Section 4.1): a conditional generator as a proxy of the training data."""

from unlearn.inversion.generator import Generator
from unlearn.inversion.invert import Inversion, InversionConfig, Inverter, build_generator

__all__ = ["Generator", "Inversion", "InversionConfig", "Inverter", "build_generator"]
