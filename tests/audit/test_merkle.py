"""The Merkle tree is that of RFC 6962, at every size and for every proof."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# The entries and roots with which RFC 6962 implementations test each other (certificate-transparency, 2013).
ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
sizes = st.integers(1, 700)


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(4)) for number in range(size)]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_published_vectors(size: int) -> None:
    tree = Frontier()

    tree.extend(LEAVES[:size])

    assert tree.root().hex() == ROOTS[size - 1]
    assert tree_root(LEAVES[:size]).hex() == ROOTS[size - 1]


def test_empty_tree_has_the_hash_of_nothing() -> None:
    assert Frontier().root() == tree_root([]) == EMPTY_ROOT == sha256(b"").digest()


def test_proofs_are_those_of_the_published_vectors() -> None:
    inclusion = [node.hex() for node in inclusion_proof(0, LEAVES)]
    consistency = [node.hex() for node in consistency_proof(6, LEAVES)]

    assert inclusion == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert consistency == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[3],
    ]
    assert consistency_proof(8, LEAVES) == []


@given(sizes)
def test_frontier_has_the_root_of_the_definition(size: int) -> None:
    leaves = leaves_of(size)
    tree = Frontier()

    tree.extend(leaves)

    assert (tree.size, tree.root()) == (size, tree_root(leaves))


@given(st.integers(0, 700), st.integers(0, 300))
def test_log_goes_on_from_its_unfinished_tiles_alone(before: int, after: int) -> None:
    leaves = leaves_of(before + after)
    tree = Frontier()
    tree.extend(leaves[:before])

    resumed = Frontier.from_edge(tree.edge)
    resumed.extend(leaves[before:])

    assert (resumed.size, resumed.root()) == (before + after, tree_root(leaves))
    tree.extend(leaves[before:])
    assert tree.edge == resumed.edge


def test_third_tile_level_is_begun_at_65536_leaves() -> None:
    tree = Frontier()
    tree.extend(leaves_of(65_536 + 257))

    resumed = Frontier.from_edge(tree.edge)

    assert [len(tile) for tile in tree.edge] == [1, 1, 1]
    assert (resumed.size, resumed.root()) == (tree.size, tree.root())


def test_copy_grows_without_the_original() -> None:
    tree = Frontier()
    tree.extend(leaves_of(300))
    before = tree.root()

    tree.copy().extend(leaves_of(300))

    assert (tree.size, tree.root()) == (300, before)


def test_edge_of_nothing_is_an_empty_tree() -> None:
    tree = Frontier.from_edge([])

    tree.append(LEAVES[0])

    assert tree.root().hex() == ROOTS[0]


@given(sizes, st.data())
def test_inclusion_of_every_leaf_is_proved(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))

    proof = inclusion_proof(index, leaves)

    assert verify_inclusion(leaves[index], index, size, proof, tree_root(leaves))


@given(sizes, st.data())
def test_inclusion_proof_fits_nothing_else(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(-2, size + 2).filter(lambda number: number != index))
    proof = inclusion_proof(index, leaves)
    root = tree_root(leaves)

    assert not verify_inclusion(leaf_hash(b"another"), index, size, proof, root)
    assert not verify_inclusion(leaves[index], other, size, proof, root)
    assert not verify_inclusion(leaves[index], index, size, [*proof, root], root)
    assert not proof or not verify_inclusion(leaves[index], index, size, proof[:-1], root)


@given(sizes, st.data())
def test_consistency_of_every_prefix_is_proved(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    old = data.draw(st.integers(1, size))

    proof = consistency_proof(old, leaves)

    assert verify_consistency(old, size, tree_root(leaves[:old]), tree_root(leaves), proof)


@given(sizes, st.data())
def test_consistency_proof_fits_no_rewritten_history(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(old, leaves)
    old_root, root = tree_root(leaves[:old]), tree_root(leaves)

    assert not verify_consistency(old, size, leaf_hash(b"another"), root, proof)
    assert not verify_consistency(old, size, old_root, leaf_hash(b"another"), proof)
    assert not verify_consistency(old, size, old_root, root, [*proof, root])
    assert not proof or not verify_consistency(old, size, old_root, root, proof[:-1])


@given(st.integers(-3, 70), st.integers(-3, 70), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_made_up_proofs_are_refused(old: int, new: int, proof: list[bytes]) -> None:
    root = node_hash(LEAVES[0], LEAVES[1])

    assert not verify_inclusion(LEAVES[2], old, new, proof, root)
    assert not verify_consistency(old, new, LEAVES[2], root, proof)


@pytest.mark.parametrize("index", [-1, 8])
def test_no_inclusion_proof_outside_the_tree(index: int) -> None:
    with pytest.raises(ValueError, match="not in a tree of 8"):
        inclusion_proof(index, LEAVES)


@pytest.mark.parametrize("size", [0, 9])
def test_no_consistency_proof_from_nothing_or_from_later(size: int) -> None:
    with pytest.raises(ValueError, match="no proof"):
        consistency_proof(size, LEAVES)
