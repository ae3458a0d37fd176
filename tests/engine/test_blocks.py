"""Blocks are held, shared, evicted and given back, and the counts always add up."""

from __future__ import annotations

import pytest

from tessera.engine.blocks import BlockPool, block_hash, root_hash
from tessera.prompt import ImageSpan
from tests.engine.tiny import prompt, random_image


def check(pool: BlockPool, **expected: int) -> None:
    counts = pool.counts()
    assert counts.free + counts.cached + counts.used == counts.total
    assert {name: getattr(counts, name) for name in expected} == expected


def test_known_blocks_are_shared_then_cached_then_evicted_oldest_first_and_ends_before_starts() -> None:
    pool = BlockPool(4)
    mine = pool.allocate(3)
    for block, name in zip(mine, (b"a", b"b", b"c"), strict=True):
        pool.publish(block, name)
    known = pool.lookup([b"a", b"b", b"x", b"c"])
    assert known == mine[:2]  # a prefix ends where it is first unknown
    pool.acquire(known)
    check(pool, free=1, cached=0, used=3)
    pool.release(mine)
    check(pool, free=1, cached=1, used=2)
    pool.release(known)
    check(pool, free=1, cached=3, used=0)
    pool.allocate(2)  # the free one, then c, released first
    assert pool.lookup([b"a", b"b", b"c"]) == mine[:2]
    pool.allocate(1)  # then b, the end of the other prefix
    assert pool.lookup([b"a", b"b"]) == mine[:1]
    check(pool, free=0, cached=1, used=3)
    with pytest.raises(RuntimeError, match="2 blocks asked, 1 available"):
        pool.allocate(2)


def test_room_is_counted_without_the_cached_blocks_that_are_about_to_be_used() -> None:
    pool = BlockPool(3)
    mine = pool.allocate(2)
    pool.publish(mine[0], b"a")
    pool.release(mine)
    assert pool.can_hold(mine[:1], 2)
    assert not pool.can_hold(mine[:1], 3)
    assert pool.can_hold([], 3)


def test_a_content_that_is_known_already_stays_with_its_first_block() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    pool.release([second])
    check(pool, free=1, cached=0, used=1)
    assert pool.lookup([b"a"]) == [first]


def test_the_hash_holds_ids_parents_salt_and_images_with_their_place() -> None:
    one, other = prompt("ab", random_image(1, 2, 3)), prompt("ab", random_image(2, 2, 3))
    assert one.ids == other.ids
    ids = one.ids
    root = root_hash("")
    hashes = {
        block_hash(root, ids, 0, one.images),
        block_hash(root, ids, 0, other.images),
        block_hash(root, ids, 0, ()),
        block_hash(root, ids[:-1], 0, one.images),
        block_hash(root_hash("tenant"), ids, 0, one.images),
        block_hash(block_hash(root, ids, 0, ()), ids, 0, one.images),
    }
    assert len(hashes) == 6
    moved = (ImageSpan(start=one.images[0].start - 1, length=one.images[0].length, image=one.images[0].image),)
    assert block_hash(root, ids, 0, moved) not in hashes
    # Tokens 0 to 2 (bos, a, b) come before the image: the same for both.
    assert block_hash(root, ids[:3], 0, one.images) == block_hash(root, ids[:3], 0, other.images)
    assert block_hash(root, ids[:4], 0, one.images) != block_hash(root, ids[:4], 0, other.images)
