"""Pictures from strangers: every kind, mode and damage ends in upright RGB or in one clear sentence."""

import base64
import io
import pickle
import struct
import zlib

import numpy as np
import pytest

from malmoi.config import MalmoiError
from malmoi.tokens.picture import MAX_PIXELS, MAX_SCANS, Picture, box_of, fit, open_picture, png, to_picture

Image = pytest.importorskip("PIL.Image")


def encoded(picture, kind="PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def quarters(mode="RGB"):
    """Red, green, blue and grey quarters of an 8 x 6 picture: every turn of it is another picture."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:3, :4], pixels[:3, 4:], pixels[3:, :4], pixels[3:, 4:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 128
    return Image.fromarray(pixels).convert(mode)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_kinds_are_told_by_their_content(kind, tmp_path):
    path = tmp_path / "picture.txt"  # a name proves nothing
    path.write_bytes(encoded(quarters(), kind))
    picture = open_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    assert np.array_equal(np.asarray(open_picture(path.read_bytes())), np.asarray(picture))


def test_lossless_pixels_come_through_exactly():
    for data in (encoded(quarters()), encoded(quarters(), "WEBP", lossless=True)):
        assert np.array_equal(np.asarray(open_picture(data)), np.asarray(quarters()))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    if mode == "I;16":
        data = encoded(Image.fromarray(np.array([[0, 65_535], [65_535, 0]], np.uint16)))
    else:
        made = grey.convert("RGB").convert(mode) if mode in ("P", "CMYK") else grey.convert(mode)
        data = encoded(made, "JPEG", quality=100) if mode == "CMYK" else encoded(made)
    pixels = np.asarray(open_picture(data)).astype(int)
    assert pixels.shape == (2, 2, 3)
    assert np.abs(pixels[..., 0] - np.asarray(grey)).max() <= (60 if mode == "CMYK" else 0)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    deep = np.array([[0, 257, 32_768, 65_535]], np.uint16)
    assert np.asarray(open_picture(encoded(Image.fromarray(deep))))[0, :, 0].tolist() == [0, 1, 128, 255]
    clear = raw_png(1, 1, 16, 0, b"\0" + struct.pack(">H", 500), chunk(b"tRNS", struct.pack(">H", 500)))
    assert np.asarray(open_picture(clear))[0, 0].tolist() == [255, 255, 255]


def test_transparency_lies_over_white():
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    half.putpixel((0, 0), (0, 0, 0, 0))
    pixels = np.asarray(open_picture(encoded(half)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [255, 127, 127]
    palette = quarters("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert np.asarray(open_picture(encoded(palette)))[0, 0].tolist() == [255, 255, 255]
    colour_key = raw_png(1, 1, data=b"\0\1\2\3", extra=chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert np.asarray(open_picture(colour_key))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_sideways_is_turned_back(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quarters(), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = open_picture(data)
    assert picture.size == expected.size == ((8, 6) if orientation < 5 else (6, 8))
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize("notes", [b"Exif\0\0MM\0*garbage", b"\xff" * 40, b""])
def test_damaged_notes_do_not_cost_the_picture(notes):
    assert open_picture(encoded(quarters(), "JPEG", exif=notes)).size == (8, 6)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind != "PNG" else {})
    )
    assert np.asarray(open_picture(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_cut_of_a_file_is_refused_in_one_sentence(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
    data = encoded(noise, kind)
    for length in [0, 1, 3, 11, *range(12, len(data) - 40, max(1, len(data) // 40))]:
        with pytest.raises(MalmoiError) as error:
            open_picture(data[:length])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_flipped_bytes_give_a_picture_or_one_sentence(kind):
    data = bytearray(encoded(quarters().resize((40, 30)), kind))
    random = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(data)
        for place in random.integers(0, len(data), 3):
            broken[place] = int(random.integers(0, 256))
        try:
            picture = open_picture(bytes(broken))
            assert picture.mode == "RGB"
        except MalmoiError as error:
            assert "\n" not in str(error)


def test_a_bomb_is_refused_by_its_header():
    side = 4001
    assert side * side > MAX_PIXELS
    for width, height in ((side, side), (12_000, 12_000), (60_000, 60_000), (2_000_000_000, 2_000_000_000)):
        with pytest.raises(MalmoiError, match="pixels"):
            open_picture(raw_png(width, height))
    with pytest.raises(MalmoiError, match="70,000"):
        open_picture(raw_png(70_000, 1))
    with pytest.raises(MalmoiError):
        open_picture(raw_png(0, 5))
    with pytest.raises(MalmoiError, match="damaged PNG"):  # as many pixels as it says, but nothing behind them
        open_picture(raw_png(3000, 3000))


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(quarters(), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(MalmoiError, match="scans"):
        open_picture(data[:scan] + data[scan:-2] * (MAX_SCANS + 1) + data[-2:])
    assert open_picture(data).size == (8, 6)


def test_a_text_bomb_inside_a_png_is_refused_or_ignored():
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000))
    with pytest.raises(MalmoiError, match="damaged PNG"):
        open_picture(raw_png(1, 1, data=b"\0\1\2\3", extra=bomb))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"hello, I am a picture.png", "something else"),
        (b"RIFF\0\0\0\0WAVE", "something else"),
    ],
)
def test_what_is_no_picture_is_named(data, said):
    with pytest.raises(MalmoiError, match=said):
        open_picture(data)


def test_a_place_without_a_picture_is_named(tmp_path):
    with pytest.raises(MalmoiError, match="no such file"):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(MalmoiError, match="not a file"):
        open_picture(tmp_path)


def test_a_file_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("malmoi.tokens.picture.MAX_BYTES", 100)
    path = tmp_path / "long.png"
    path.write_bytes(encoded(quarters().resize((60, 60))))
    for source in (path, path.read_bytes()):
        with pytest.raises(MalmoiError, match="at most 100"):
            open_picture(source)


@pytest.mark.parametrize(
    ("width", "height"), [(8, 6), (6, 8), (1, 1), (1, 5000), (5000, 1), (32, 32), (33, 32), (48, 7)]
)
def test_any_shape_is_fitted_and_taken_out_again(width, height):
    fitted = fit(Image.new("RGB", (width, height), (10, 20, 30)), 32)
    left, top, right, bottom = fitted.box
    assert fitted.pixels.shape == (32, 32, 3)
    assert max(right - left, bottom - top) == 32
    assert abs((right - left) * height - (bottom - top) * width) <= max(width, height)  # proportions, to half a pixel
    inside = fitted.pixels[top:bottom, left:right]
    assert (inside == (10, 20, 30)).all()
    assert fitted.pixels.astype(int).sum() == inside.astype(int).sum() + 255 * 3 * (32 * 32 - inside[..., 0].size)
    assert to_picture(fitted.pixels, fitted.box).size == (right - left, bottom - top)
    again = open_picture(png(fitted.pixels, fitted.box))
    assert np.array_equal(np.asarray(again), inside)


def test_a_picture_of_the_right_size_is_not_touched():
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 255, (32, 20, 3), np.uint8))
    fitted = fit(picture, 32)
    assert fitted.box == (6, 0, 26, 32)
    assert np.array_equal(fitted.pixels[:, 6:26], np.asarray(picture))


def test_wrong_pixels_and_boxes_are_refused():
    square = np.zeros((4, 4, 3), np.uint8)
    for wrong in (square.astype(np.float32), square[0], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(MalmoiError, match="uint8"):
            to_picture(wrong)
    for box in ((0, 0, 5, 4), (2, 0, 2, 4), (-1, 0, 2, 2)):
        with pytest.raises(MalmoiError, match="box"):
            png(square, box)
    assert box_of(10, 10, 4) == (0, 0, 4, 4)


def test_a_picture_waits_until_it_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(quarters()))
    one, two = Picture(tmp_path / "a.png"), Picture.of(np.asarray(quarters()))
    assert one.data() == encoded(quarters()) and one.digest() == Picture(encoded(quarters())).digest()
    assert np.array_equal(np.asarray(one.open()), np.asarray(two.open()))
    assert Picture(tmp_path / "none.png") != one  # nothing is read to compare or to make one
    with pytest.raises(MalmoiError, match="no such file"):
        Picture(tmp_path / "none.png").digest()
    assert pickle.loads(pickle.dumps(two)) == two and hash(two) == hash(Picture.of(np.asarray(quarters())))


def test_a_url_holds_the_picture_itself_or_is_refused():
    data = encoded(quarters())
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert Picture.from_url(url) == Picture(data)
    for other in (
        "http://example.org/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "",
    ):
        with pytest.raises(MalmoiError, match="must be a data URI"):
            Picture.from_url(other)
    with pytest.raises(MalmoiError, match="not valid base64"):
        Picture.from_url("data:image/png;base64,äöü")


def test_a_url_that_is_too_long_is_not_decoded(monkeypatch):
    monkeypatch.setattr("malmoi.tokens.picture.MAX_BYTES", 10)
    with pytest.raises(MalmoiError, match="too long"):
        Picture.from_url("data:image/png;base64," + "A" * 40)
