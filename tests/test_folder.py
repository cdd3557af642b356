"""Image folders: what is read of them, how, and what is said when it cannot be."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps

from tests.copies import start
from tests.helpers import make_folder
from unlearn import UserError
from unlearn.data import SOURCES, Pair
from unlearn.data.shots import class_folders, contents
from unlearn.scenarios import SCENARIOS, Task, load_task

RAMP = np.tile(np.array([0, 10, 51, 128, 200, 255], np.uint8), (4, 1))
STRANGE = os.fsdecode(b"caf\xe9")


def load(root: Path) -> Pair:
    return SOURCES["folder"]().load(root)


def identity(root: Path) -> str:
    return SOURCES["folder"]().identity(root)


def task(root: Path, size: int | None) -> Task:
    scenario = SCENARIOS["class_folder"]("class_folder", {}, class_name="a")
    return load_task(scenario, "folder", root, size, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "mine", classes="ab", number=2)


def pixels_of(root: Path, name: str, content: bytes | Image.Image, **how: object) -> np.ndarray:
    """What is read of one image, put first into the folder: (H, W, 3)."""
    path = root / "train" / "a" / f"!{name}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **how)
    x = load(root).train.x[0]
    assert x.dtype == torch.uint8
    return x.permute(1, 2, 0).numpy()


def assert_near(found: np.ndarray, wanted: np.ndarray, most: int = 1) -> None:
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, -1)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= most


def png(
    pixels: np.ndarray,
    depth: int,
    kind: int,
    *chunks: tuple[bytes, bytes],
    size: tuple[int, int] | None = None,
) -> bytes:
    """A PNG of rows of bytes as they lie in the file; ``size`` is what it says of itself."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    width, height = size or (pixels[0].nbytes * 8 // depth // channels, len(pixels))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(
    pixels: np.ndarray, bits: int, photometric: int = 1, form: int = 1, most: int | None = None
) -> bytes:
    """A little-endian TIFF of one channel; ``most`` is the largest value that it says it has."""
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height}
    tags |= {279: pixels.nbytes, 339: form}
    tags |= {} if most is None else {281: most}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", k, 4, 1, v) for k, v in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels.tobytes()


def profile(space: bytes, **tags: bytes) -> bytes:
    """A colour profile of a monitor."""
    start, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", start + len(data), len(content))
        data += content
    d50 = struct.pack(">3i", 63190, 65536, 54061)
    header = bytes(4) + b"\x02\x40\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += d50 + bytes(48)
    whole = header + struct.pack(">I", len(tags)) + table + data
    return struct.pack(">I", len(whole) + 4) + whole


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IHH", 1, round(value * 256), 0)


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


WIDE = RAMP.astype(np.uint16) * 257
TWELVE_BITS = np.array([[0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00]], np.uint8)


@pytest.mark.parametrize(
    "name",
    ["png 16", "tiff 16", "tiff 16 packed", "tiff float", "pgm 16", "pgm 10", "tiff reversed"],
)
def test_numbers_wider_than_8_bits_are_scaled_by_their_own_range(root: Path, name: str) -> None:
    made: dict[str, tuple[str, bytes | Image.Image, dict[str, object]]] = {
        "png 16": ("x.png", Image.fromarray(WIDE), {}),
        "tiff 16": ("x.tif", Image.fromarray(WIDE), {}),
        "tiff 16 packed": ("x.TIFF", Image.fromarray(WIDE), {"compression": "tiff_lzw"}),
        "tiff float": ("x.tif", Image.fromarray(RAMP.astype(np.float32) / 255), {}),
        "pgm 16": ("x.pgm", b"P5 6 4 65535\n" + WIDE.astype(">u2").tobytes(), {}),
        "pgm 10": ("x.pgm", b"P5 6 4 1023\n" + (WIDE // 64).astype(">u2").tobytes(), {}),
        "tiff reversed": ("x.tif", tiff(65535 - WIDE, 16, photometric=0), {}),
    }
    file, content, how = made[name]
    assert_near(pixels_of(root, file, content, **how), RAMP)


def test_12_bits_are_scaled_by_4095(root: Path) -> None:
    raw = b"".join(TWELVE_BITS.tobytes() for _ in range(4))
    file = tiff(np.frombuffer(raw, np.uint8).reshape(4, 6), 12)
    file = file.replace(struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4))
    assert_near(pixels_of(root, "x.tif", file), np.tile([255, 0, 128, 0], (4, 1)))


def test_numbers_of_16_bits_that_use_less(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    narrow = WIDE // 16
    assert_near(pixels_of(root, "x.tif", tiff(narrow, 16, most=4095)), RAMP)
    assert not caplog.text
    assert_near(pixels_of(root, "a.tif", tiff(narrow, 16)), RAMP // 16)
    assert f"end at {narrow.max()} of 65535" in caplog.text


def test_16_bit_colour(root: Path) -> None:
    colour = np.stack([WIDE, WIDE[:, ::-1], WIDE], -1).astype(">u2")
    wanted = np.stack([RAMP, RAMP[:, ::-1], RAMP], -1)
    assert_near(pixels_of(root, "x.png", png(colour, 16, 2)), wanted)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (Image.fromarray(RAMP.astype(np.float32)), "0 to 255"),
        (Image.fromarray(np.full((4, 6), np.nan, np.float32)), "floats"),
        (Image.fromarray(RAMP.astype(np.float32) / 255 - 0.5), "0 to 1"),
        (Image.fromarray(RAMP.astype(np.int32)), "integers"),
        (tiff(RAMP.astype(np.uint32), 32), "32-bit"),
        (tiff(RAMP.astype(np.int16), 16, form=2), "sign"),
        (tiff(RAMP.view(np.int8), 8, form=2), "sign"),
    ],
)
def test_numbers_of_no_known_range_are_refused(
    root: Path, content: bytes | Image.Image, word: str
) -> None:
    with pytest.raises(UserError, match=rf"^data_dir: .*x\.tif.*{word}"):
        pixels_of(root, "x.tif", content)


GREY, ALPHA = np.full((4, 6), 100, np.uint8), np.tile([0, 51, 102, 153, 204, 255], (4, 1))
SEEN = np.rint(GREY * (ALPHA / 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_under_what_is_transparent_lies_black(root: Path, mode: str) -> None:
    alpha = ALPHA.astype(np.uint8)
    channels = [GREY, alpha] if mode == "LA" else [GREY, GREY, GREY, alpha]
    image = Image.fromarray(np.stack(channels, -1))
    image = image.quantize(16) if mode == "P" else image
    assert_near(pixels_of(root, "x.png", image), SEEN)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (png(RAMP, 8, 0, (b"tRNS", struct.pack(">H", 128))), RAMP * (RAMP != 128)),
        (
            png(WIDE.astype(">u2"), 16, 0, (b"tRNS", struct.pack(">H", 51400))),
            RAMP * (RAMP != 200),
        ),
        (
            png(np.full((4, 1), 0b00011011, np.uint8), 2, 0, (b"tRNS", b"\0\1")),
            np.tile([0, 0, 170, 255], (4, 1)),
        ),
        (
            png(np.full((4, 9), 0xABCD, ">u2"), 16, 2, (b"tRNS", b"\xab\xcd" * 3)),
            np.zeros((4, 3)),
        ),
        (
            png(
                np.tile(np.arange(4, dtype=np.uint8), (4, 1)),
                8,
                3,
                (b"PLTE", bytes([9] * 3 + [90] * 3 + [180] * 3 + [240] * 3)),
                (b"tRNS", bytes([255, 0, 128])),
            ),
            np.tile([9, 0, 90, 240], (4, 1)),
        ),
    ],
)
def test_one_value_or_palette_entry_is_transparent(
    root: Path, file: bytes, wanted: np.ndarray
) -> None:
    assert_near(pixels_of(root, "x.png", file), wanted)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_other_modes(root: Path, mode: str) -> None:
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not read the YCbCr TIFF that it writes")
    half = Image.new("L", (6, 4), 128)
    grey = Image.fromarray(RAMP)
    made = {
        "1": Image.fromarray(RAMP > 100),
        "CMYK": Image.merge("CMYK", [Image.fromarray(255 - RAMP)] * 3 + [Image.new("L", (6, 4))]),
        "LAB": Image.merge("LAB", [grey, half, half]),
    }
    wanted = {"1": np.where(RAMP > 100, 255, 0)}.get(mode, RAMP)
    # L* is not a share of sRGB's greys.
    most = 10 if mode == "LAB" else 1
    assert_near(pixels_of(root, "x.tif", made.get(mode) or grey.convert(mode)), wanted, most)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(root: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.kron(RAMP, np.ones((4, 4), np.uint8)) // 2).convert("RGB")
    image.paste((250, 250, 250), (0, 0, 8, 8))
    how = {"lossless": True} if ending == "webp" else {}
    found = pixels_of(root, f"x.{ending}", image, exif=exif, **how)
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    plain.getexif()[274] = orientation
    assert_near(found, np.asarray(ImageOps.exif_transpose(plain)), 8 if ending == "jpg" else 0)


def test_damaged_exif_does_no_harm(root: Path) -> None:
    how = {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff", "quality": 100}
    assert_near(pixels_of(root, "x.jpg", Image.fromarray(RAMP), **how), RAMP, 4)


def test_a_colour_profile_is_converted_to_srgb(root: Path) -> None:
    curves = {f"{c}TRC": gamma(2.2) for c in "rgb"}
    primaries = {"rXYZ": xyz(0.143, 0.061, 0.714), "bXYZ": xyz(0.436, 0.222, 0.014)}
    swapped = profile(b"RGB ", **curves, **primaries, gXYZ=xyz(0.385, 0.717, 0.097))
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    found = pixels_of(root, "x.png", red, icc_profile=swapped)
    assert_near(found, np.tile([0, 0, 255], (4, 6, 1)), 12)
    transparent = Image.new("RGBA", (6, 4), (255, 0, 0, 128))
    found = pixels_of(root, "x.png", transparent, icc_profile=swapped)
    assert_near(found, np.tile([0, 0, 128], (4, 6, 1)), 12)


def test_a_grey_profile_is_converted_to_srgb(root: Path) -> None:
    linear = profile(b"GRAY", kTRC=gamma(1.0), wtpt=xyz(0.9642, 1, 0.8249))
    shares = RAMP / 255
    small = shares <= 0.0031308
    wanted = np.where(small, 12.92 * shares, 1.055 * shares ** (1 / 2.4) - 0.055) * 255
    assert_near(pixels_of(root, "x.png", Image.fromarray(RAMP), icc_profile=linear), wanted, 3)


def test_srgb_and_profiles_that_do_not_fit_change_nothing(root: Path) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = profile(b"GRAY", kTRC=gamma(1.0), wtpt=xyz(0.9642, 1, 0.8249))
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for given in (own, grey, b"no profile"):
        found = pixels_of(root, "x.png", Image.fromarray(colours), icc_profile=given)
        assert_near(found, colours, 0)


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "gif"])
def test_of_several_pages_the_first_is_read_and_said_so(
    root: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Image.new("RGB", (6, 4), (200,) * 3), Image.new("RGB", (6, 4))
    how = {"save_all": True, "append_images": [second]}
    assert_near(pixels_of(root, f"x.{ending}", first, **how), np.full((4, 6), 200))
    assert f"!x.{ending}: only the first" in caplog.text


@pytest.mark.parametrize(
    "litter",
    [
        "train/.ipynb_checkpoints/0-checkpoint.png",
        "test/.hidden/0.png",
        "train/a/.ipynb_checkpoints/0-checkpoint.png",
        "train/a/deep/.cache/0.png",
        "train/a/._0.png",
        "train/.DS_Store",
        "train/a/.DS_Store",
        "test/Thumbs.db",
        "train/__MACOSX/a/0.png",
        "train/a/@eaDir/0.png",
        "train/a/desktop.ini",
        "train/a/README.txt",
        "train/labels.csv",
        "train/a/deep/notes.md",
        "other/a/0.png",
    ],
)
def test_litter_changes_nothing(root: Path, litter: str) -> None:
    before, known = load(root), identity(root)
    (root / litter).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "train" / "b" / "1.png", root / litter)
    after = load(root)
    assert after.classes == before.classes
    for one, other in ((before.train, after.train), (before.test, after.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
    assert identity(root) == known


def test_litter_and_pipes_among_test_images(root: Path) -> None:
    for litter in ("__MACOSX", "@eaDir", ".hidden"):
        shutil.copytree(root / "train" / "b", root / "test" / litter)
    assert list(class_folders(str(root / "test"), "scenario.test")) == ["a", "b"]
    os.mkfifo(root / "test" / "a" / "pipe.png")
    with pytest.raises(UserError, match=r"^scenario\.test: .*pipe\.png' .* no regular file"):
        contents(str(root / "test"), "scenario.test")
    (root / "test" / "a" / "round").symlink_to("round")
    with pytest.raises(UserError, match=r"^scenario\.test: .*test/a' cannot be read"):
        class_folders(str(root / "test"), "scenario.test")


def test_what_is_left_out_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "a" / "scan.heic").write_bytes(b"")
    (root / "train" / "stray.png").write_bytes(b"")
    load(root)
    assert len(caplog.records) == 1
    assert "stray.png" in caplog.text or "scan.heic" in caplog.text
    assert "and 1 more" in caplog.text


def test_images_at_all_depths_and_in_capitals_are_read_in_order(root: Path) -> None:
    folder = root / "train" / "a"
    for i, name in enumerate(["2021/may/X.PNG", "2021/1.Png", "0.png", "z.JPG"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i,) * 3).save(folder / name)
    train = load(root).train
    assert train.y.tolist() == [0] * 5 + [1] * 2
    assert train.x[[0, 2, 3, 4], 0, 0, 0].tolist() == [2, 3, 1, 0]


def test_links_are_followed_but_not_in_circles(root: Path) -> None:
    shutil.move(root / "train" / "a", root.parent / "elsewhere")
    (root / "train" / "a").symlink_to(root.parent / "elsewhere")
    (root / "train" / "a" / "one.png").symlink_to(root / "train" / "b" / "0.png")
    known = identity(root)
    (root / "train" / "a" / "round").symlink_to(root / "train" / "a")
    (root / "train" / "a" / "up").symlink_to(root)
    pair = load(root)
    assert torch.bincount(pair.train.y).tolist() == [3, 2]
    assert identity(root) == known
    Image.new("RGB", (16, 16)).save(root.parent / "elsewhere" / "1.png")
    assert identity(root) != known


def damaged(root: Path, kind: str) -> str:
    """Damage a folder; returns what the error must name."""
    path = root / "train" / "b" / "1.png"
    if kind == "pixels":
        path.write_bytes(path.read_bytes()[:80])
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "broken link":
        path.unlink()
        path.symlink_to("nowhere")
    elif kind == "link to itself":
        path.unlink()
        path.symlink_to(path)
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(png(np.zeros((1, 1), np.uint8), 8, 0, size=(20000, 10000)))
    elif kind == "empty class":
        path = root / "train" / "empty"
        path.mkdir()
    elif kind == "no classes":
        path = root / "test"
        shutil.rmtree(path)
        path.mkdir()
    elif kind == "a file":
        path = root / "test"
        shutil.rmtree(path)
        path.write_text("")
    return str(path)


@pytest.mark.parametrize(
    "kind",
    [
        *("pixels", "text", "empty", "broken link", "link to itself", "pipe", "huge"),
        *("empty class", "no classes", "a file"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(root: Path, kind: str) -> None:
    name = damaged(root, kind)
    identity(root)
    with pytest.raises(UserError) as error:
        load(root)
    assert str(error.value).startswith("data_dir: ")
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_of_no_width_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"^data_dir: .*x\.ppm"):
        pixels_of(root, "x.ppm", b"P6 0 0 255\n")


@pytest.mark.parametrize(
    "error",
    [
        Image.DecompressionBombError("too large"),
        struct.error("unpack"),
        SyntaxError("broken"),
        zlib.error("incorrect"),
        EOFError(),
        MemoryError(),
        IndexError("range"),
        KeyError("tag"),
        TypeError("none"),
        NotImplementedError("filter"),
        ZeroDivisionError("zero"),
        OverflowError("large"),
        RecursionError("deep"),
        AssertionError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_any_error_of_an_image_library_names_the_file(
    root: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", fails)
    with pytest.raises(UserError, match=r"^data_dir: .*0\.png.*\(.+\)"):
        load(root)


def test_a_large_image_below_the_limit_is_read_without_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 - 1)
    assert len(load(root).train) == 4
    assert not list(recwarn)


def test_names_that_are_not_utf8_are_read(root: Path) -> None:
    before = identity(root)
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / f"{STRANGE}.png")
    assert identity(root) != before
    assert len(load(root).train) == 5
    for split in ("train", "test"):
        (root / split / "b").rename(root / split / STRANGE)
    names = load(root).classes
    assert names == ["a", "caf\\xe9"]
    assert len(identity(root)) == 16


@pytest.mark.parametrize("name", [STRANGE, "new\nline", "bell\a"])
def test_names_that_cannot_be_printed_are_named_all_the_same(root: Path, name: str) -> None:
    (root / "train" / "a" / f"{name}.png").write_text("no picture")
    with pytest.raises(UserError) as error:
        load(root)
    assert str(error.value).isprintable()
    assert str(error.value).encode()
    assert name[:3] in str(error.value)
    for split in ("train", "test"):
        shutil.rmtree(root / split / "a")
    (root / "train" / name).mkdir()
    shutil.copy(root / "train" / "b" / "0.png", root / "train" / name)
    with pytest.raises(UserError, match=name[:3]) as error:
        load(root)
    assert str(error.value).isprintable()


def test_classes_that_differ_are_named(root: Path) -> None:
    for split, names in (("train", "cdefghijk"), ("test", "z")):
        for name in names:
            shutil.copytree(root / "train" / "a", root / split / name)
    with pytest.raises(UserError) as error:
        load(root)
    message = str(error.value)
    assert message.startswith("data_dir: ")
    assert "only in train/: c, d, e, f, g, 4 more" in message
    assert "only in test/: z" in message


Change = Callable[[Path], object]
CHANGES: dict[str, Change] = {
    "nested": lambda r: Image.new("RGB", (9, 9)).save(r / "train" / "a" / "2021" / "may" / "n.png"),
    "same size": lambda r: Image.new("RGB", (16, 16), (1, 2, 3)).save(r / "test" / "b" / "s.bmp"),
    "same size and time": lambda r: _rewrite_unseen(r / "test" / "b" / "s.bmp"),
    "renamed": lambda r: (r / "train" / "a" / "0.png").rename(r / "train" / "a" / "9.png"),
    "moved": lambda r: (r / "train" / "a" / "0.png").rename(r / "train" / "b" / "9.png"),
    "deleted": lambda r: (r / "test" / "a" / "0.png").unlink(),
    "swapped": lambda r: _swap(r / "train" / "a" / "0.png", r / "train" / "b" / "0.png"),
    "class renamed": lambda r: [(r / s / "b").rename(r / s / "c") for s in ("train", "test")],
}


def _rewrite_unseen(path: Path) -> None:
    before = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_identity_follows_every_change(
    root: Path, change: str, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = root / "train" / "a" / "2021" / "may"
    nested.mkdir(parents=True)
    shutil.copy(root / "train" / "a" / "0.png", nested / "n.png")
    Image.new("RGB", (16, 16)).save(root / "test" / "b" / "s.bmp")
    if settled:  # as if the files were old when they were read
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 60)
    before = identity(root)
    assert identity(root) == before
    shutil.copytree(root, root.parent / "copy")
    assert identity(root.parent / "copy") == before
    if settled:
        time.sleep(0.02)
    CHANGES[change](root)
    assert identity(root) != before


def test_unchanged_contents_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn.data.folder.UNSETTLED", 0.05)
    time.sleep(0.1)
    before = identity(root)
    monkeypatch.setattr("unlearn.data.folder._contents", lambda _: pytest.fail("read again"))
    assert identity(root) == before


def test_identity_does_not_depend_on_how_the_folder_is_called(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert identity(Path()) == identity(root) == identity(Path("..", root.name))


def as_one(root: Path, size: int | None) -> list[torch.Tensor]:
    """All images decoded at the first one's size, and only then fitted."""
    sets = []
    shape = None
    for split in ("train", "test"):
        arrays = []
        for path in sorted((root / split).glob("*/*")):
            with Image.open(path) as image:
                rgb = image.convert("RGB")
            shape = shape or rgb.size
            if rgb.size != shape:
                rgb = rgb.resize(shape, Image.Resampling.BILINEAR)
            arrays.append(np.asarray(rgb))
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        if size is not None and max(x.shape[2:]) > size:
            small = F.interpolate(x.float(), (size, size), mode="bilinear", antialias=True)
            x = small.round().clamp(0, 255).to(torch.uint8)
        elif size is not None:
            h, w = x.shape[2:]
            top, left = (size - h) // 2, (size - w) // 2
            x = F.pad(x, (left, size - w - left, top, size - h - top))
        sets.append(x)
    return sets


@pytest.mark.parametrize("size", [16, 24, 48, None])
@pytest.mark.parametrize("first", [(32, 32), (40, 60), (12, 20), (300, 204), (16, 16)])
def test_fitting_each_image_gives_what_fitting_all_does(
    root: Path, first: tuple[int, int], size: int | None
) -> None:
    rng = np.random.default_rng(0)
    shapes = [first, (16, 16), (64, 48), (8, 100), first]
    for i, shape in enumerate(shapes):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train" / "a" / f"!{i}.png")
    found = task(root, size)
    for x, wanted in zip((found.train.x, found.test.x), as_one(root, size), strict=True):
        assert torch.equal(x, wanted)


def memory_of_loading(root: Path) -> None:
    scenario = SCENARIOS["class_folder"]("class_folder", {}, class_name="a")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_task(scenario, "folder", root, 16, None).shape == (3, 16, 16)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


@pytest.mark.slow
def test_memory_goes_by_the_small_size(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2000), (90, 60, 30)).save(root / "train" / "a" / "!.jpg")
    for i in range(20):
        (root / "train" / "a" / f"{i}.jpg").symlink_to(root / "train" / "a" / "!.jpg")
    process = start(tmp_path / "said", memory_of_loading, root)
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "said" / "err").read_text()
    grown = int((tmp_path / "said" / "out").read_text())
    assert grown < 250_000  # KiB; all of them at their own size are twice as much


def test_any_image_size_is_taken(tmp_path: Path) -> None:
    make_folder(tmp_path, size=30)
    assert task(tmp_path, None).shape == (3, 30, 30)
    assert task(tmp_path, 32).shape == (3, 32, 32)
