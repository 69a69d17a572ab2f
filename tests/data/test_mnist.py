"""IDX files: pixels and digits, training apart from what is kept aside, varied digits, damaged files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.data import mnist
from malmoi.data.captions import varied

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "images" / "mnist10k"


def idx_bytes(values):
    values = np.asarray(values, np.uint8)
    sizes = b"".join(int(size).to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


@pytest.fixture
def folder(tmp_path):
    grey = np.zeros((3, 28, 28), np.uint8)
    grey[:, 6:22, 12:16] = 255
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(grey)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes([1, 7, 0]))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(grey[:1]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes([1])))
    return tmp_path


def test_ink_on_white_in_a_square_of_32(folder):
    pixels, digits = mnist.read(folder, "train")
    assert pixels.shape == (3, 32, 32, 3)
    assert digits.tolist() == [1, 7, 0]
    assert pixels[0, 0, 0].tolist() == [255] * 3
    assert pixels[0, 16, 16].tolist() == [0] * 3
    assert len(mnist.read(folder, "aside")[0]) == 1


def test_a_digit_is_drawn_once_and_described_in_many_hands(folder):
    made = list(mnist.documents(str(folder), seed=1))
    each = mnist.VARIED + 2
    assert len(made) == 3 * each
    described = [document for document in made if document.given]
    assert len(described) == 3 * (each - 1)
    assert len({document.parts[0] for document in described[: each - 1]}) == each - 1  # no two pictures alike
    assert {document.parts[2] for document in described[: each - 1]} <= {"the digit one", "숫자 일", "le chiffre un"}
    assert made == list(mnist.documents(str(folder), seed=1))
    assert made != list(mnist.documents(str(folder), seed=2))


@pytest.mark.parametrize("variant", range(20))
def test_a_varied_digit_keeps_its_ink_in_the_square(folder, variant):
    picture = mnist.read(folder, "train")[0][0]
    made = varied(picture, mnist.HANDS, randomness.generator(0, "varied", variant))
    ink, before = 255.0 - made, 255.0 - picture
    assert 0.6 < ink.sum() / before.sum() < 1.5
    assert ink[0].sum() + ink[-1].sum() + ink[:, 0].sum() + ink[:, -1].sum() == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an IDX file"),
        (idx_bytes([1, 2]), "not an IDX file of unsigned bytes in 3"),
        (idx_bytes(np.zeros((3, 4, 4)))[:-1], "says 3 x 4 x 4, but holds 47 bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "says 4294967295"),
        (idx_bytes(np.zeros((2, 28, 28))), "has 2 pictures.*3 labels"),
        (idx_bytes(np.zeros((3, 40, 28))), "at most 32 pixels"),
    ],
)
def test_what_is_no_data_set_is_said(folder, data, words):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    with pytest.raises(MalmoiError, match=words):
        mnist.read(folder, "train")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MalmoiError, match=r"holds none of train-images-idx3-ubyte\.gz"):
        mnist.read(tmp_path, "train")


def test_the_real_thing():
    if not SHARED.is_dir():
        pytest.skip("no MNIST beside the project (../shared/data/images/mnist10k)")
    pixels, digits = mnist.read(SHARED, "train")
    aside, _ = mnist.read(SHARED, "aside")
    assert (len(pixels), len(aside), sorted(set(digits.tolist()))) == (8000, 1000, list(range(10)))
    assert not {p.tobytes() for p in pixels} & {p.tobytes() for p in aside}
