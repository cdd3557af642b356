"""One image file as upright 8-bit sRGB, with nothing cut off, dropped or guessed in silence."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from unlearn.errors import UserError

Turn = Image.Transpose
# EXIF's orientation, and what makes the image upright.
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
ORIENTATION, BITS, PHOTOMETRIC, SAMPLE_FORMAT, MOST = 274, 258, 262, 339, 281
SIGNED, WHITE_IS_ZERO = 2, 0
# In these 8-bit levels a profile may differ from sRGB and still be taken for it.
SAME = 2


def printable(text: str | os.PathLike[str]) -> str:
    r"""A path or a text with ``\xNN`` for bytes that are not UTF-8 and for what cannot be seen."""
    readable = os.fsencode(os.fspath(text)).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in readable)


@contextmanager
def naming(path: str, key: str = "data_dir") -> Iterator[None]:
    """Make a ``UserError`` that names the file out of whatever goes wrong with an image.

    Args:
        key: the setting that is to blame.
    """
    try:
        yield
    # The readers of damaged files raise almost anything.
    except Exception as error:
        why = printable(str(error)) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "no image, or of a kind that is not read"
        raise UserError(key, f"the image '{printable(path)}' cannot be read ({why})") from error


def read_rgb(path: str) -> Image.Image:
    """The file's first image in mode RGB, as it is meant to be seen.

    Integers are scaled by their bit depth, or by the largest value that a TIFF says it has (of
    16-bit colour the upper 8 bits are taken), floats from 0 to 1; other floats, 32-bit and signed
    integers have no known range and are refused. Colours are converted to sRGB from an embedded
    profile; CMYK without one by Pillow's plain formula. Under what is transparent lies black.
    EXIF's orientation is applied.

    Warns:
        UserWarning: of several pages only the first is read; EXIF or the profile is damaged and
            left out; the image is wholly transparent; a 16-bit one uses less than 12 bits.

    Raises:
        ValueError: if the range of its numbers is not known, or it is no regular file.
        Exception: whatever Pillow raises for a file that it cannot read.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no regular file")
    with Image.open(path) as image:
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            warnings.warn("only the first of its images is read", stacklevel=2)
        key = _transparent_value(image)
        image.load()
        if key is not None:
            image.info["transparency"] = key
        turn = _turn(image)
        profile = image.info.get("icc_profile")
        colour, alpha = _separate(_in_8_bits(image))
    rgb = _srgb(colour, profile)
    if alpha is not None:
        rgb = _on_black(rgb, alpha)
    return rgb if turn is None else rgb.transpose(turn)


def _transparent_value(image: ImageFile.ImageFile) -> int | tuple[int, ...] | None:
    """The transparent value of a PNG whose pixels Pillow scales, but not this value."""
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None or not image.tile:
        return None
    scale = {"L;2": 255 // 3, "L;4": 255 // 15}.get(str(image.tile[0][3]))
    if scale is not None:
        return int(key) * scale
    return tuple(k >> 8 for k in key) if image.tile[0][3] == "RGB;16B" else None


def _turn(image: Image.Image) -> Turn | None:
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception as error:
        warnings.warn(f"its EXIF is damaged and left out ({error})", stacklevel=2)
        return None


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Images of wider numbers as mode L, or LA where a value means transparent."""
    tags = getattr(image, "tag_v2", {})
    if tags and SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
        raise ValueError("it holds signed integers; 8 and 16 bits without a sign are read")
    if image.mode not in ("F", "I") and not image.mode.startswith("I;"):
        return image
    numbers = np.asarray(image)
    shares = numbers / _top(image, numbers)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        shares = 1 - shares
    grey = Image.fromarray(np.rint(shares * 255).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray((numbers != key).astype(np.uint8) * 255)))


def _top(image: Image.Image, numbers: np.ndarray) -> float:
    """The number that means white."""
    if image.mode == "F":
        low, high = float(numbers.min()), float(numbers.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"it holds floats from {low:g} to {high:g}; those from 0 to 1 are read"
            )
        return 1
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("it holds 32-bit integers; 8 and 16 bits are read")
    tags, most = getattr(image, "tag_v2", {}), int(numbers.max())
    top = 2 ** int(np.max(tags.get(BITS, 16))) - 1
    said = int(np.max(tags.get(MOST, top)))
    if most <= said < top:  # as of a camera with 12 bits
        return float(said)
    if 0 < 16 * most < top:
        warnings.warn(f"its numbers end at {most} of {top}, so it is dark", stacklevel=2)
    return float(top)


def _separate(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours, in L, RGB, CMYK or LAB, and the alpha channel if there is one."""
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    image = image if plain is None else image.convert(plain)
    if not image.has_transparency_data:
        if image.mode in ("L", "RGB", "CMYK", "LAB"):
            return image, None
        return image.convert("L" if image.mode == "1" else "RGB"), None
    whole = image.convert("RGBA")
    grey = image.mode in ("1", "L", "LA")
    return whole.getchannel("R") if grey else whole.convert("RGB"), whole.getchannel("A")


def _srgb(colour: Image.Image, profile: bytes | None) -> Image.Image:
    change = None
    if colour.mode == "LAB":
        change = _from_lab()
    elif profile:
        try:
            change = _from_profile(profile, colour.mode)
        except (ImageCms.PyCMSError, OSError) as error:
            warnings.warn(f"its colour profile is damaged and left out ({error})", stacklevel=2)
    if change is None:
        return colour.convert("RGB")
    return _changed(colour, change)


def _changed(colour: Image.Image, change: ImageCms.ImageCmsTransform) -> Image.Image:
    given = colour if colour.mode == change.input_mode else colour.convert(change.input_mode)
    return change.apply(given)


@cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )


@lru_cache(maxsize=16)
def _from_profile(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What makes sRGB of an image's colours; None if they are, or the profile is not for them."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    takes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space, "")
    if takes != mode and (takes, mode) != ("RGB", "L"):
        return None
    change = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), takes, "RGB")
    if takes == "CMYK":
        return change
    probe = _probe(takes)
    before, after = (np.asarray(i, int) for i in (probe.convert("RGB"), change.apply(probe)))
    return change if np.abs(before - after).max() > SAME else None


def _probe(mode: str) -> Image.Image:
    """Colours from all over mode L or RGB."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))


def _on_black(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    if alpha.getextrema() == (0, 0):
        warnings.warn("it is wholly transparent, so black", stacklevel=2)
    black = Image.new("RGB", rgb.size)
    black.paste(rgb, mask=alpha)
    return black
