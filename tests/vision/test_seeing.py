"""Features in the places of placeholders: errors name both numbers; text untouched; cached = uncached; learning."""

import pytest
import torch

from malmoi.config import MalmoiError, ModelConfig, TrainConfig
from malmoi.data.corpus import Document
from malmoi.model.cache import Cache
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.picture import Picture
from malmoi.train.loop import train
from malmoi.vision.batches import SeeingBatches
from malmoi.vision.seeing import SeeingModel
from small_models import BASE

PLACES = [39] * 4


def test_text_gives_the_same_logits_with_or_without_vision(seeing):
    ids = torch.randint(2, 39, (2, 9))
    blind = GPT4LMHeadModel(seeing.config.replace(image_token_id=None)).eval()
    blind.load_state_dict(seeing.language_model.state_dict())
    assert torch.equal(seeing(ids).logits, blind(ids).logits)


def test_a_picture_matters_and_its_place_too(seeing):
    ids = torch.tensor([[2, *PLACES, 3, *PLACES, 4]])
    pixels = torch.randn(2, 3, 16, 16)
    first, turned = seeing(ids, pixel_values=pixels).logits, seeing(ids, pixel_values=pixels.flip(0)).logits
    assert torch.equal(first[:, 0], turned[:, 0])
    assert not torch.allclose(first[:, -1], turned[:, -1])


@pytest.mark.parametrize(
    ("places", "pictures", "said"), [(4, 2, (4, 8)), (8, 1, (8, 4)), (4, 0, (4, 0)), (0, 1, (0, 4))]
)
def test_places_and_features_must_match(seeing, places, pictures, said):
    ids = torch.tensor([[2, *[39] * places, 3]])
    with pytest.raises(MalmoiError, match=rf"{said[0]} image placeholders.*but {said[1]} image features"):
        seeing(ids, pixel_values=torch.randn(pictures, 3, 16, 16))


def test_features_must_have_the_models_width(seeing):
    with pytest.raises(MalmoiError, match=r"shape \(4, 5\)"):
        seeing.language_model(torch.tensor([[2, *PLACES]]), image_features=torch.zeros(4, 5))


def test_features_need_a_token_that_marks_their_places():
    blind = GPT4LMHeadModel(ModelConfig(**BASE))
    with pytest.raises(MalmoiError, match="image_token_id"):
        blind(torch.tensor([[1, 2]]), image_features=torch.zeros(1, 32))
    with pytest.raises(MalmoiError, match="image_token_id"):
        SeeingModel(blind, None)
    with pytest.raises(MalmoiError, match="image_token_id=70 is outside"):
        ModelConfig(**BASE | {"image_token_id": 70})


@pytest.mark.parametrize("cut", [5, 7, 11])
def test_cached_is_uncached(seeing, cut):
    ids = torch.tensor([[2, *PLACES, 3, 5, *PLACES, 4, 8]])
    pixels = torch.randn(2, 3, 16, 16)
    whole = seeing(ids, pixel_values=pixels).logits
    cache, seen = Cache(), int((ids[0, :cut] == 39).sum()) // 4
    if cut == 11:  # in the middle of a picture the features themselves are cut
        features = seeing.vision(pixels)
        begun = seeing.language_model(ids[:, :9], image_features=features[:6], cache=cache).logits
        ended = seeing.language_model(ids[:, 9:], image_features=features[6:], cache=cache).logits
    else:
        begun = seeing(ids[:, :cut], pixel_values=pixels[:seen], cache=cache).logits
        ended = seeing(ids[:, cut:], pixel_values=pixels[seen:], cache=cache).logits
    torch.testing.assert_close(torch.cat((begun, ended), dim=1), whole, atol=2e-5, rtol=1e-4)


def _lessons(pictures):
    names = ("red", "blue", "grey", "pink")
    shown = [Picture.of(pixels) for pixels in pictures]
    return [Document(parts=(p, "is", name), given=((0, 2),)) for p, name in zip(shown, names, strict=True)]


def test_tower_projector_and_language_learn_together(seeing, letters, pictures, tmp_path):
    documents = _lessons(pictures)
    settings = {"vocab_size": 40, "image_size": 16, "features": 4, "sequence_length": 16, "batch_size": 4}
    batches = SeeingBatches(documents, letters, **settings)
    seeing.album = batches.album
    before = {name: parameter.detach().clone() for name, parameter in seeing.named_parameters()}
    config = TrainConfig(max_steps=150, sequence_length=16, per_device_train_batch_size=4, memorization_samples=0)
    losses = [step.loss for step in train(seeing, batches, config, folder=tmp_path / "run")]
    assert losses[-1] < 0.1 < losses[0]
    still = [name for name, parameter in seeing.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []
    said = [seeing.describe(letters, document.parts[:2], max_new_tokens=8) for document in documents]
    assert said == ["red", "blue", "grey", "pink"]


def test_interrupted_is_straight(letters, pictures, seeing, tmp_path):
    settings = {"vocab_size": 40, "image_size": 16, "features": 4, "sequence_length": 32, "batch_size": 1}
    batches = SeeingBatches(_lessons(pictures) * 3, letters, **settings)
    config = TrainConfig(
        max_steps=6, save_steps=3, sequence_length=32, per_device_train_batch_size=1, memorization_samples=0
    )

    def fresh():
        made = SeeingModel.new(GPT4LMHeadModel(seeing.config), seeing.vision.config)
        made.album = batches.album
        return made

    straight, begun, ended = fresh(), fresh(), fresh()
    list(train(straight, batches, config))
    for step in train(begun, batches, config, folder=tmp_path / "run"):
        if step.step == 3:
            break
    list(train(ended, batches, config, folder=tmp_path / "run", resume=True))
    for (name, a), b in zip(straight.named_parameters(), ended.parameters(), strict=True):
        assert torch.equal(a, b), name
