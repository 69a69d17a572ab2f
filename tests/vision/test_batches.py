"""Documents with pictures as rows: places that name their picture, what is learned, errors."""

import numpy as np
import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.data.corpus import Document
from malmoi.tokens.picture import Picture
from malmoi.train.memory import in_pieces
from malmoi.vision.batches import SeeingBatches

SETTINGS = {"vocab_size": 40, "image_size": 16, "features": 4, "sequence_length": 16, "batch_size": 2}


@pytest.fixture
def documents(pictures):
    one, two = Picture.of(pictures[0]), Picture.of(pictures[1])
    return [
        Document(parts=(one, "ab", "cd"), given=((0, 2),)),
        Document(parts=("x", two, one, "y"), given=((1, 3),)),
        Document(text="hello"),
    ]


def test_places_name_their_picture(documents, letters, pictures):
    batches = SeeingBatches(documents, letters, **SETTINGS)
    assert [lesson.ids.tolist() for lesson in batches.lessons] == [
        [40, 41, 42, 43, 2, 3, 4, 5, 1],
        [25, 44, 45, 46, 47, 40, 41, 42, 43, 26, 1],
        [9, 6, 13, 13, 16, 1],
    ]
    assert np.array_equal(batches.album.pixels, pictures[:2])


def test_only_what_is_not_given_is_a_label(documents, letters):
    batch = SeeingBatches(documents, letters, **SETTINGS).batch(0)
    labels = batch.labels[batch.labels != -100]
    assert labels.max() < 40
    assert batch.num_target_tokens == len(labels)
    lesson = SeeingBatches(documents[:1], letters, **SETTINGS).batch(0)
    assert lesson.labels[0].tolist() == [-100] * 5 + [4, 5, 1] + [-100] * 8
    assert lesson.position_ids[0, :9].tolist() == list(range(9))


def test_batches_are_a_function_of_seed_and_step(documents, letters):
    one, same = (SeeingBatches(documents * 5, letters, **SETTINGS, seed=3) for _ in range(2))
    for step in (4, 0, 9):
        assert torch.equal(one.batch(step).input_ids, same.batch(step).input_ids)
    assert one.fingerprint() == same.fingerprint()
    assert one.fingerprint() != SeeingBatches(documents * 5, letters, **SETTINGS, seed=4).fingerprint()
    assert sum(one.steps_per_epoch(e) for e in range(4)) * 2 >= 4 * one._plan.num_rows


def test_every_document_is_read_once_an_epoch(documents, letters):
    batches = SeeingBatches(documents * 4, letters, **SETTINGS | {"batch_size": 1})
    read = torch.cat([batches.batch(step).labels for step in range(batches.steps_per_epoch(0))])
    learned = sum(int(lesson.learned[1:].sum()) for lesson in batches.lessons)
    assert int((read != -100).sum()) == learned


def test_a_batch_in_pieces_still_knows_its_pictures(seeing, documents, letters):
    batches = SeeingBatches(documents, letters, **SETTINGS)
    seeing.album, batch = batches.album, batches.batch(0)
    whole = seeing.hidden_states(batch.input_ids, document_ids=batch.document_ids)
    parts = [seeing.hidden_states(p.input_ids, document_ids=p.document_ids) for p in in_pieces([batch], 2)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=2e-5, rtol=1e-4)
    half = seeing.hidden_states(batch.input_ids[:, :3], document_ids=batch.document_ids[:, :3])  # cut inside a picture
    torch.testing.assert_close(half, whole[:, :3], atol=2e-5, rtol=1e-4)


def test_what_cannot_be_learned_is_said(documents, letters):
    with pytest.raises(MalmoiError, match=r"11 tokens, more than sequence_length=10"):
        SeeingBatches(documents, letters, **SETTINGS | {"sequence_length": 10})
    with pytest.raises(MalmoiError, match="no document"):
        SeeingBatches([], letters, **SETTINGS)
    drawn = [Document(parts=("x", documents[0].parts[0]))]
    with pytest.raises(MalmoiError, match="tokenizer knows only text"):
        SeeingBatches(drawn, letters, **SETTINGS)
