"""Data sources: whole image sets as uint8 tensors."""

from unlearn.data.base import SOURCES, Images, Pair, Source, digests
from unlearn.registry import import_all

import_all(__name__, __path__)

list_sources = SOURCES.list

__all__ = ["SOURCES", "Images", "Pair", "Source", "digests", "list_sources"]
