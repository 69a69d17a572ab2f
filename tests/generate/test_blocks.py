"""The pool of blocks against a plain account of who holds what."""

from hypothesis import given
from hypothesis import strategies as st

from malmoi.generate.blocks import BlockPool, chained_key, root_key


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "release", "remember"]), st.integers(0, 10_000))))
def test_no_block_is_lost_or_given_out_twice(actions):
    pool, held, keys = BlockPool(5), {}, {}
    for action, number in actions:
        if action == "take" and pool.available:
            block = pool.take()
            assert held.get(block, 0) == 0
            held[block] = 1
            keys = {key: other for key, other in keys.items() if other != block}
        elif action != "take" and any(held.values()):
            block = sorted(block for block, count in held.items() if count)[number % sum(map(bool, held.values()))]
            if action == "share":
                pool.share(block)
                held[block] += 1
            elif action == "release":
                pool.release(block)
                held[block] -= 1
            elif block not in keys.values():
                key = root_key(str(number))
                pool.remember(block, key)
                keys.setdefault(key, block)
        assert pool.available == 5 - sum(map(bool, held.values()))
        assert all(pool.find(key) == block for key, block in keys.items())


def test_low_numbers_first_and_of_the_remembered_the_longest_unused():
    pool = BlockPool(3)
    blocks = [pool.take() for _ in range(3)]
    assert blocks == [0, 1, 2]
    for block in blocks:
        pool.remember(block, root_key(str(block)))
        pool.release(block)
    pool.share(0)  # found again and given back: now the newest
    pool.release(0)
    assert [pool.take(), pool.take()] == [1, 2]
    assert pool.find(root_key("0")) == 0
    assert pool.find(root_key("1")) is None


def test_a_key_is_its_whole_past():
    first = chained_key(root_key(""), [1, 2])
    assert chained_key(first, [3, 4]) != chained_key(chained_key(root_key(""), [2, 1]), [3, 4])
    assert chained_key(root_key("a"), [1, 2]) != first
    assert chained_key(root_key(""), [1, 2]) == first
    assert chained_key(root_key(""), [1, 258]) != chained_key(root_key(""), [1, 2, 1])
