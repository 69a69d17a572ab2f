"""N-gram tables: equal n-grams share a row wherever they stand, and never reach into another text."""

import pytest
import torch

from malmoi.model.cache import Cache
from malmoi.model.ngrams import ngram_rows
from malmoi.model.position import positions_in_documents
from small_models import build

ROWS = 1_000_003


def rows(ids, size, positions=None, past=None):
    ids = torch.tensor([ids])
    positions = (
        torch.arange(ids.shape[1])[None] + (0 if past is None else len(past)) if positions is None else positions
    )
    return ngram_rows(ids, positions, None if past is None else torch.tensor([past]), size, ROWS)[0].tolist()


def test_the_row_depends_on_the_last_ids_and_their_order():
    found = rows([5, 6, 7, 5, 6, 6, 5], 2)
    assert found[1] == found[4]  # 5 6
    assert len({*found}) == 6  # (start) 5, 5 6, 6 7, 7 5, 6 6, 6 5
    triples = rows([1, 5, 6, 2, 5, 6, 1, 5, 6], 3)
    assert triples[2] == triples[8] != triples[5]


def test_a_past_changes_nothing():
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    for size in (2, 3, 4):
        whole = rows(ids, size)
        for cut in range(1, len(ids)):
            assert rows(ids[cut:], size, past=ids[:cut]) == whole[cut:]


def test_documents_and_padding_are_borders():
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    found = rows([7, 8, 9, 7, 8, 9], 3, positions_in_documents(documents))
    assert found[:3] == found[3:] == rows([7, 8, 9], 3)
    assert rows([1, 1, 7, 8, 9], 3, torch.tensor([[0, 0, 0, 1, 2]]))[2:] == rows([7, 8, 9], 3)


def test_rows_are_spread_evenly():
    ids = torch.randint(0, 60_000, (1, 50_000), generator=torch.Generator().manual_seed(0))
    found = ngram_rows(ids, torch.arange(50_000)[None], None, 2, 4096)
    counts = found.flatten().bincount(minlength=4096)
    assert counts.min() > 0 and counts.max() < 35  # a mean of 12.2; a fair hash lies within 1 to 32 or so
    pairs = torch.cartesian_prod(torch.arange(100), torch.arange(100))  # small ids, all pairs: as good as distinct
    found = ngram_rows(pairs, torch.arange(2)[None], None, 2, 1 << 20)[:, 1]
    assert len(found.unique()) > 9_900


def test_only_the_table_differs_from_a_model_without():
    model = build("ngrams")
    ids = torch.tensor([[1, 2, 3, 1, 2, 3]])
    with torch.no_grad():
        for table in model.model.embed_ngrams.tables:
            table.weight.zero_()
        plain = build("modern")
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if "ngrams" not in k})
        assert torch.equal(model(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("steps", [1, 2])
def test_cached_equals_uncached_after_rows_were_chosen_and_cropped(steps):
    model = build("ngrams")
    ids = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(1))
    cache = Cache()
    with torch.no_grad():
        whole = model(ids[[1, 0, 1]]).logits
        model(ids[:, :8], cache=cache)
        cache.select(torch.tensor([1, 0, 1]))
        cache.crop(9 - steps)
        last = model(ids[[1, 0, 1]][:, 9 - steps :], cache=cache).logits
    torch.testing.assert_close(last, whole[:, 9 - steps :], atol=1e-5, rtol=1e-4)
