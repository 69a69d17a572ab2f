"""A picture from anywhere as upright RGB pixels, and pixels as a picture again.

A picture file is a program for a decoder, written by a stranger. So nothing is decoded before it is known what it is
and how large it will become: the kind is told by the first bytes (PNG, JPEG or WebP; a name proves nothing), the size
by the header, and only then are pixels made. What a file can say about its pixels in other ways (palettes,
transparency, 16 bits, printing inks, a camera held sideways) is resolved here, so that the rest of the house knows
one form only: `uint8` arrays of shape (height, width, 3), on white.

The tokenizer wants squares of one size. `fit` scales a picture into such a square and pads the rest with white; the
`Box` that it occupies is all that is needed to take the padding off again (`to_picture`, `png`).

A `Picture` is one that nobody has read yet: what stands in documents and conversations.

Needs Pillow (extra `images`), which is imported where it is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 16_000_000  # a 4000 x 4000 picture: 48 MB of pixels
MAX_BYTES = 64 * 2**20  # of a file
MAX_SCANS = 100  # of a progressive JPEG, which has about ten; each makes the decoder go over all its pixels once more
LONGEST_SIDE = 65_535

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are the first ones outside

_ORIENTATION = 0x0112  # the EXIF tag (JEITA CP-3451, table 4): how the camera was held
_OTHERS = {  # beginnings of files that people take for pictures that we read
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file (an SVG drawing?)",
    b"%PDF": "a PDF",
    b"\0\0\1\0": "an icon file",
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture inside a square. `pixels`: (size, size, 3) uint8; `box`: the part that is not padding."""

    pixels: np.ndarray
    box: Box


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a document or a message, read when it is needed. `source`: the bytes of a file, or its path."""

    source: bytes | Path

    def open(self) -> Image.Image:
        """The picture, upright, RGB on white (`open_picture`)."""
        return open_picture(self.source)

    def data(self) -> bytes:
        """The bytes of the picture's file."""
        return self.source if isinstance(self.source, bytes) else _bytes_of(self.source)

    def digest(self) -> str:
        """SHA-256 of the picture's file."""
        return hashlib.sha256(self.data()).hexdigest()

    @staticmethod
    def of(pixels: np.ndarray) -> Picture:
        """A picture of pixels: uint8 of shape (height, width, 3)."""
        return Picture(png(pixels))

    @staticmethod
    def from_url(url: str) -> Picture:
        """A picture from a data URI, `data:image/png;base64,...` (RFC 2397). Nothing else is fetched, ever: an address
        would make a server call wherever a stranger points, a path would show him its files."""
        head, comma, body = url.partition(",")
        if not (head.startswith("data:image/") and head.endswith(";base64") and comma):
            raise MalmoiError(
                f"A picture's url must be a data URI (data:image/png;base64,...), not {url[:40]!r}. Nothing is "
                f"fetched from other places; send the picture itself."
            )
        if len(body) > MAX_BYTES * 4 // 3 + 4:
            raise MalmoiError(f"The picture's data URI is too long: at most {MAX_BYTES:,} bytes of picture are read.")
        try:
            return Picture(base64.b64decode(body, validate=True))
        except (binascii.Error, ValueError):
            raise MalmoiError("The picture's data URI is not valid base64. Encode the file's bytes again.") from None


def pillow() -> Any:
    """Pillow's `Image` module, or the sentence that says how to get it."""
    try:
        from PIL import Image
    except ImportError:
        raise MalmoiError('Pictures need Pillow. Install it: pip install "malmoi[images]".') from None
    return Image


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Read one PNG, JPEG or WebP picture, from a file or from its bytes, as an upright picture in RGB.

    Transparency is laid over white, 16 bits become 8, CMYK becomes RGB, EXIF's orientation is carried out. Of an
    animation the first picture is taken. Raises `MalmoiError` for every file that is something else, damaged, cut
    short, larger than `MAX_PIXELS` or `MAX_BYTES`, or that keeps its decoder busy on purpose.
    """
    image_module = pillow()
    name = "The picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _bytes_of(Path(source))
    if len(data) > MAX_BYTES:
        raise MalmoiError(f"{name}: has {len(data):,} bytes; at most {MAX_BYTES:,} are read. Save it smaller.")
    kind = _kind(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; here they are refused
            picture = image_module.open(io.BytesIO(data), formats=[kind])
            _check_size(picture.size, name)
            picture.load()
            return _upright(_rgb(picture, image_module), _orientation(picture), image_module)
    except MalmoiError:
        raise
    except image_module.DecompressionBombError:
        raise MalmoiError(f"{name}: has far more than {MAX_PIXELS:,} pixels. Make it smaller first.") from None
    except Exception as error:  # decoders of hostile bytes raise nearly everything
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        shown = "PNG" if kind == "PNG" else "JPEG" if kind == "JPEG" else "WebP"
        raise MalmoiError(f"{name}: is a damaged {shown} picture ({reason:.120}). Save it again.") from None


def _bytes_of(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise MalmoiError(f"{path}: {'is not a file' if path.exists() else 'there is no such file'}.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise MalmoiError(f"{path}: has {size:,} bytes; at most {MAX_BYTES:,} are read. Save it smaller.")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _kind(data: bytes, name: str) -> str:
    """Pillow's name for the kind of picture that these bytes are."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        # In the picture's own data a byte 0xff is always followed by a zero: these two begin a scan, nothing else.
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise MalmoiError(f"{name}: is a JPEG of more than {MAX_SCANS} scans, which no camera writes.")
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if not data:
        raise MalmoiError(f"{name}: is empty.")
    other = next((what for start, what in _OTHERS.items() if data.startswith(start)), "something else")
    raise MalmoiError(f"{name}: is not a PNG, JPEG or WebP picture by its content, but {other}. Save it as PNG.")


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise MalmoiError(f"{name}: has no pixels ({width} x {height}).")
    if width * height > MAX_PIXELS or max(size) > LONGEST_SIDE:
        raise MalmoiError(
            f"{name}: is {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} in all are read. Make it smaller first."
        )


def _rgb(picture: Image.Image, image_module: Any) -> Image.Image:
    """Any of Pillow's modes as RGB on white."""
    if picture.mode.startswith("I"):  # 16 bits of grey, of which Pillow's own conversion would cut off all but 8
        deep = np.asarray(picture).astype(np.int64)
        grey = ((deep.clip(0, 65_535) * 255 + 32_767) // 65_535).astype(np.uint8)
        if (clear := picture.info.get("transparency")) is not None:
            grey[deep == clear] = 255
        return image_module.fromarray(grey).convert("RGB")
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        return image_module.alpha_composite(image_module.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a picture with damaged notes is still a picture
        return 1


def _upright(picture: Image.Image, orientation: int, image_module: Any) -> Image.Image:
    turn = image_module.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    return picture.transpose(turns[orientation]) if orientation in turns else picture


def box_of(width: int, height: int, size: int) -> Box:
    """Where a picture of `width` x `height` lies in a square of `size`: as large as possible, in the middle."""
    longest = max(width, height)
    inner_width = max(1, (2 * width * size + longest) // (2 * longest))
    inner_height = max(1, (2 * height * size + longest) // (2 * longest))
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def fit(picture: Image.Image, size: int) -> Fitted:
    """Scale a picture into a square of `size` pixels, its proportions kept, padded with white.

    A picture that is `size` wide or high already is not touched: drawings stay crisp.
    """
    box = box_of(*picture.size, size)
    inner = (box[2] - box[0], box[3] - box[1])
    picture = picture.convert("RGB")
    if picture.size != inner:
        picture = picture.resize(inner, pillow().Resampling.LANCZOS, reducing_gap=4.0)
    pixels = np.full((size, size, 3), 255, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = np.asarray(picture)
    return Fitted(pixels, box)


def to_picture(pixels: np.ndarray, box: Box | None = None) -> Image.Image:
    """Pixels (height, width, 3) uint8 as a Pillow picture; with `box`, without what lies around it."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise MalmoiError(f"Pixels are uint8 of shape (height, width, 3), not {pixels.dtype} {tuple(pixels.shape)}.")
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= pixels.shape[1] and 0 <= top < bottom <= pixels.shape[0]):
            raise MalmoiError(f"The box {box} does not lie in a picture of {pixels.shape[1]} x {pixels.shape[0]}.")
        pixels = pixels[top:bottom, left:right]
    return pillow().fromarray(np.ascontiguousarray(pixels))


def png(pixels: np.ndarray, box: Box | None = None) -> bytes:
    """Pixels as the bytes of a PNG file; with `box`, without what lies around it."""
    buffer = io.BytesIO()
    to_picture(pixels, box).save(buffer, "PNG")
    return buffer.getvalue()
