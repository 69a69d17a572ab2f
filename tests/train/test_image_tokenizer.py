"""The image tokenizer learns, goes on where it was stopped, and is measured by the usual yardsticks."""

import numpy as np
import pytest
import torch

from malmoi.config import ImageTokenizerConfig, MalmoiError, ModelConfig, TrainConfig
from malmoi.data.batches import Batches
from malmoi.data.corpus import Document
from malmoi.data.shards import build
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.interleave import with_images
from malmoi.tokens.picture import Picture
from malmoi.tokens.vocabulary import learn as learn_vocabulary
from malmoi.train import image_tokenizer as training
from malmoi.train import loop
from malmoi.train.image_tokenizer import batch, learn, psnr, report, split, ssim

pytest.importorskip("PIL.Image")

CONFIG = ImageTokenizerConfig(
    image_size=32, levels=(5, 5, 5), hidden_channels=8, num_blocks=1, max_steps=12, batch_size=4, held_out=0.25
)


def blobs(count: int) -> np.ndarray:
    """Discs of one colour on another."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    made = np.empty((count, 32, 32, 3), np.uint8)
    for picture in made:
        inside = (x - draw.integers(8, 24)) ** 2 + (y - draw.integers(8, 24)) ** 2 < draw.integers(20, 90)
        picture[:] = np.where(inside[..., None], draw.integers(0, 256, 3), draw.integers(0, 256, 3))
    return made


PIXELS = blobs(24)


def test_it_learns_to_paint():
    config = CONFIG.replace(max_steps=40, batch_size=8, learning_rate=5e-3)
    tokenizer = ImageTokenizer(config)
    before = report(tokenizer, PIXELS)
    steps = list(learn(tokenizer, PIXELS))
    after = report(tokenizer, PIXELS)
    assert [step.step for step in steps] == list(range(1, 41))
    assert np.mean([step.loss for step in steps[-5:]]) < 0.6 * np.mean([step.loss for step in steps[:5]])
    assert after.psnr > before.psnr + 2 and after.ssim > before.ssim
    assert 1 < after.perplexity <= after.codes_used <= after.codebook_size == 125


def test_interrupted_is_straight_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_STEPS", 5)
    straight = ImageTokenizer(CONFIG)
    losses = [step.loss for step in learn(straight, PIXELS, folder=tmp_path / "straight")]
    first = ImageTokenizer(CONFIG)
    for step in learn(first, PIXELS, folder=tmp_path / "cut"):
        if step.step == 8:  # killed: what was done since the fifth is lost
            break
    resumed = ImageTokenizer(CONFIG)
    again = [step.loss for step in learn(resumed, PIXELS, folder=tmp_path / "cut", resume=True)]
    assert again == losses[5:]
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    opened = ImageTokenizer.from_pretrained(tmp_path / "cut")
    assert np.array_equal(opened.encode_pixels(PIXELS), straight.encode_pixels(PIXELS))
    assert [path.name for path in tmp_path.rglob("training.safetensors")] == []


def test_a_run_is_not_mixed_with_another(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_STEPS", 2)
    for step in learn(ImageTokenizer(CONFIG), PIXELS, folder=tmp_path):
        if step.step == 4:
            break
    for config, pixels in ((CONFIG.replace(batch_size=5), PIXELS), (CONFIG, PIXELS[:-1])):
        with pytest.raises(MalmoiError, match="other settings or pictures"):
            learn(ImageTokenizer(config), pixels, folder=tmp_path, resume=True)
    place = tmp_path / "image_tokenizer" / "training.safetensors"
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(MalmoiError, match="is damaged"):
        learn(ImageTokenizer(CONFIG), PIXELS, folder=tmp_path, resume=True)
    with pytest.raises(MalmoiError, match="no picture to learn from"):
        learn(ImageTokenizer(CONFIG), PIXELS[:0])


def test_batches_are_functions_of_seed_and_step():
    assert np.array_equal(batch(PIXELS, CONFIG, 3), batch(PIXELS, CONFIG, 3))
    assert not np.array_equal(batch(PIXELS, CONFIG, 3), batch(PIXELS, CONFIG, 4))
    assert not np.array_equal(batch(PIXELS, CONFIG, 3), batch(PIXELS, CONFIG.replace(seed=1), 3))
    assert batch(PIXELS, CONFIG, 0).shape == (4, 32, 32, 3)


def test_what_is_kept_aside_depends_on_the_picture_alone():
    known, new = split(PIXELS, CONFIG)
    assert len(known) + len(new) == 24 and len(new) > 0
    again = split(PIXELS[::-1], CONFIG)[1]
    assert np.array_equal(again[::-1], new)
    assert len(split(PIXELS[:1], CONFIG.replace(held_out=0.5))[0]) == 1  # one picture is learned, wherever it falls


def test_psnr_and_ssim_by_their_definitions():
    a = PIXELS[:2]
    assert psnr(a[0], a[0]) == 60
    grey = np.full((32, 32, 3), 100, np.uint8)
    assert psnr(grey, grey + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert ssim(a, a) == pytest.approx([1, 1])
    b = np.clip(a.astype(int) + np.random.default_rng(1).integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    found = []
    for colour in range(3):  # the definition, window by window
        for top in range(22):
            for left in range(22):
                x, y = (each[0, top : top + 11, left : left + 11, colour].astype(float) for each in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy, both = (
                    window * (p - m) * (q - n) for p, m, q, n in ((x, mx, x, mx), (y, my, y, my), (x, mx, y, my))
                )
                c1, c2 = 2.55**2, 7.65**2
                found.append(
                    (2 * mx * my + c1) * (2 * both.sum() + c2) / ((mx**2 + my**2 + c1) * (vx.sum() + vy.sum() + c2))
                )
    assert ssim(a, b)[0] == pytest.approx(np.mean(found))


def test_a_run_over_texts_and_pictures_ends_with_the_same_bits_after_an_interruption(tmp_path):
    """The loop reads ids and knows nothing of pictures: interrupted = straight, with them too."""
    tokenizer = with_images(
        learn_vocabulary(["a red disc, a blue disc, nothing at all. " * 30], 290), ImageTokenizer(CONFIG).eval()
    )
    documents = [Document(parts=("a disc", Picture.of(picture))) for picture in PIXELS]
    documents += [Document(parts=(Picture.of(picture), "a disc"), given=((0, 1),)) for picture in PIXELS[:8]]
    tokens = build(documents, tokenizer, tmp_path / "tokens")
    settings = TrainConfig(
        sequence_length=160,
        per_device_train_batch_size=2,
        max_steps=6,
        save_steps=2,
        eval_steps=3,
        memorization_samples=0,
    )

    def run(folder, stop=None, resume=False):
        shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = GPT4LMHeadModel(ModelConfig(**shape, max_position_embeddings=160))
        batches = Batches(tokens.view(), 160, 2)
        for step in loop.train(model, batches, settings, folder=folder, resume=resume):
            assert step.loss > 0
            if step.step == stop:
                break
        return model

    straight = run(tmp_path / "straight")
    run(tmp_path / "cut", stop=3)
    resumed = run(tmp_path / "cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
