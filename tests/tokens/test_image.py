"""The image tokenizer: codes and ids are the same thing, any picture goes in, a folder gives the same one back."""

import json

import numpy as np
import pytest
import torch

from malmoi.config import ImageTokenizerConfig, MalmoiError
from malmoi.tokens.image import ImageTokenizer, Quantizer
from malmoi.tokens.picture import Picture, png

pytest.importorskip("PIL.Image")

SMALL = ImageTokenizerConfig(image_size=32, grid=8, levels=(4, 3, 2), hidden_channels=8, num_blocks=1)


@pytest.fixture(scope="module")
def image_tokenizer():
    return ImageTokenizer(SMALL).eval()


def noise(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("levels", [(2,), (3,), (8, 5, 5, 5), (7, 5, 5, 5, 5), (4, 3, 2)])
def test_every_code_is_reached_and_has_one_id(levels):
    quantizer = Quantizer(levels)
    ids = torch.arange(int(np.prod(levels)))
    codes = quantizer.codes(ids)
    assert torch.equal(quantizer.ids(codes), ids)
    assert len(torch.unique(codes, dim=0)) == len(ids)
    assert codes.abs().max() <= 1
    wide = torch.linspace(-20, 20, 4001)[:, None].expand(-1, len(levels))
    rounded = quantizer(wide)
    assert torch.allclose(quantizer.codes(quantizer.ids(rounded)), rounded, atol=1e-5)
    for number, level in enumerate(levels):  # each number of the vector takes every one of its values
        assert len(torch.unique(quantizer.codes(quantizer.ids(rounded))[:, number])) == level


def test_rounding_lets_the_gradient_pass():
    z = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    Quantizer((4, 3, 2))(z).sum().backward()
    assert (z.grad > 0).all()


@pytest.mark.parametrize(("size", "grid"), [(32, 8), (48, 8), (48, 16), (40, 8), (64, 8), (256, 8), (256, 32)])
def test_every_size_and_grid_goes_in_and_comes_out(size, grid):
    made = ImageTokenizer(SMALL.replace(image_size=size, grid=grid))
    pixels = noise(1, size)
    ids = made.encode_pixels(pixels)
    assert ids.shape == (1, grid, grid)
    assert made.decode_pixels(ids).shape == pixels.shape
    assert made.decode_pixels(ids).dtype == np.uint8


def test_files_bytes_and_pictures_of_any_shape(image_tokenizer, tmp_path):
    wide = noise(1, 50)[0][:20]
    (tmp_path / "wide.png").write_bytes(png(wide))
    ways = [tmp_path / "wide.png", str(tmp_path / "wide.png"), png(wide), Picture.of(wide), Picture.of(wide).open()]
    grids = [image_tokenizer.encode(way) for way in ways]
    assert all(np.array_equal(grid, grids[0]) for grid in grids)
    assert image_tokenizer.decode(grids[0]).size == (32, 32)
    assert np.array_equal(
        np.asarray(image_tokenizer.decode(grids[0].ravel())), np.asarray(image_tokenizer.decode(grids[0]))
    )


def test_many_pictures_are_encoded_as_each_alone_and_only_once(image_tokenizer, monkeypatch):
    pictures = [Picture.of(picture) for picture in noise(5, 32, seed=4)]
    together = image_tokenizer.encode_pictures([*pictures, pictures[0]])
    assert np.array_equal(together[0], together[5])
    for picture, grid in zip(pictures, together, strict=False):
        assert np.array_equal(ImageTokenizer(SMALL).encode(picture.open()), grid)
    monkeypatch.setattr(image_tokenizer, "encode_pixels", lambda pixels: pytest.fail("was known"))
    assert np.array_equal(image_tokenizer.encode_pictures(pictures[:2])[1], together[1])


def test_there_and_back_through_a_folder(image_tokenizer, tmp_path):
    image_tokenizer.save_pretrained(tmp_path)
    assert sorted(p.name for p in (tmp_path / "image_tokenizer").iterdir()) == ["config.json", "model.safetensors"]
    for place in (tmp_path, tmp_path / "image_tokenizer"):
        opened = ImageTokenizer.from_pretrained(place)
        assert opened.config == image_tokenizer.config
        assert np.array_equal(opened.encode_pixels(noise(2, 32)), image_tokenizer.encode_pixels(noise(2, 32)))


def test_damaged_folders_are_named(image_tokenizer, tmp_path):
    with pytest.raises(MalmoiError, match="holds no image tokenizer"):
        ImageTokenizer.from_pretrained(tmp_path)
    image_tokenizer.save_pretrained(tmp_path)
    config, weights = (tmp_path / "image_tokenizer" / name for name in ("config.json", "model.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MalmoiError, match=r"model\.safetensors: does not fit"):
        ImageTokenizer.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "hidden_channels": 16}))
    with pytest.raises(MalmoiError, match=r"model\.safetensors: does not fit"):
        ImageTokenizer.from_pretrained(tmp_path)
    config.write_text(json.dumps({**said, "hidden_channels": 1024, "num_blocks": 16}))  # ten gigabytes, it says
    with pytest.raises(MalmoiError, match=r"model\.safetensors: does not fit"):
        ImageTokenizer.from_pretrained(tmp_path)
    config.write_text(json.dumps({**said, "gird": 8}))
    with pytest.raises(MalmoiError, match=r"config\.json: is not an image tokenizer's.*grid"):
        ImageTokenizer.from_pretrained(tmp_path)


def test_what_is_no_picture_is_refused(image_tokenizer):
    with pytest.raises(MalmoiError, match="0 to 23, but 0 to 24"):
        image_tokenizer.decode([0] * 63 + [24])
    with pytest.raises(MalmoiError, match="64 image tokens, but 63"):
        image_tokenizer.decode([0] * 63)
    with pytest.raises(MalmoiError, match=r"\(pictures, 32, 32, 3\)"):
        image_tokenizer.encode_pixels(noise(1, 40))
