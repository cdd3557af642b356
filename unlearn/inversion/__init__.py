"""Model inversion (Section 4.1): a conditional generator as a proxy of the training data."""

from unlearn.inversion.generator import AnyGenerator, Generator, Generators
from unlearn.inversion.invert import Inversion, InversionConfig, Inverter, build_generator

__all__ = [
    "AnyGenerator",
    "Generator",
    "Generators",
    "Inversion",
    "InversionConfig",
    "Inverter",
    "build_generator",
]
