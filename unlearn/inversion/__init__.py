"""Model inversion (Section 4.1): a conditional generator as a proxy of the training data."""

from unlearn.inversion.generator import Generator
from unlearn.inversion.invert import Inversion, InversionConfig, build_generator, invert

__all__ = ["Generator", "Inversion", "InversionConfig", "build_generator", "invert"]
