"""The RFC 6962 Merkle tree: what makes a change to any past record visible in one 32-byte root.

`Frontier` is the only state a growing log needs: the roots of its complete subtrees, and the unfinished
C2SP tiles (256 hashes wide), from which the frontier can be built again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash of a leaf (RFC 6962 section 2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node (RFC 6962 section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that only grows: amortised one hash per leaf, and a root in O(log n) at any size."""

    __slots__ = ("_nodes", "edge", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []
        self.edge: list[list[bytes]] = [[]]
        """The unfinished tile of each tile level (C2SP tlog-tiles, "Partial Tiles"), lowest first."""

    @classmethod
    def from_edge(cls, edge: Sequence[Sequence[bytes]]) -> Frontier:
        """The tree whose unfinished tiles these are: how a log goes on without the entries before it."""
        tree = cls()
        tree.edge = [list(tile) for tile in edge] or [[]]
        tree.size = sum(len(tile) << (TILE_HEIGHT * level) for level, tile in enumerate(edge))
        tree._nodes = [node for tile in reversed(tree.edge) for node in _complete_subtrees(tile)]
        return tree

    def copy(self) -> Frontier:
        """A tree that may be thrown away when the write of its new leaves fails."""
        twin = Frontier()
        twin.size, twin._nodes, twin.edge = self.size, list(self._nodes), [list(tile) for tile in self.edge]
        return twin

    def append(self, leaf: bytes) -> None:
        """Add the hash of one more leaf."""
        nodes, size, height = self._nodes, self.size, 0
        nodes.append(leaf)
        self.edge[0].append(leaf)
        while size & 1:
            right = nodes.pop()
            nodes[-1] = node_hash(nodes[-1], right)
            size >>= 1
            height += 1
            if height % TILE_HEIGHT == 0:
                self._finish_tile(height // TILE_HEIGHT, nodes[-1])
        self.size += 1

    def _finish_tile(self, level: int, node: bytes) -> None:
        self.edge[level - 1] = []
        if level == len(self.edge):
            self.edge.append([])
        self.edge[level].append(node)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add the hashes of several leaves, in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The Merkle Tree Hash of all leaves so far."""
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = node_hash(node, root)
        return root


def _complete_subtrees(hashes: Sequence[bytes]) -> list[bytes]:
    nodes, start = [], 0
    for height in reversed(range(TILE_HEIGHT)):
        if len(hashes) & (1 << height):
            nodes.append(tree_root(hashes[start : start + (1 << height)]))
            start += 1 << height
    return nodes


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle Tree Hash over leaf hashes, straight from the definition (RFC 6962 section 2.1)."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else EMPTY_ROOT
    split = _split(len(leaves))
    return node_hash(tree_root(leaves[:split]), tree_root(leaves[split:]))


def _split(size: int) -> int:
    return int(1 << ((size - 1).bit_length() - 1))


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """The audit path of one leaf (RFC 6962 section 2.1.1). Raises `ValueError` for an index outside the tree."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"leaf {index} is not in a tree of {len(leaves)}")
    return _path(index, leaves)


def _path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*_path(index, leaves[:split]), tree_root(leaves[split:])]
    return [*_path(index - split, leaves[split:]), tree_root(leaves[:split])]


def consistency_proof(size: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Proof that the tree over the first `size` leaves is a prefix of this one (RFC 6962 section 2.1.2)."""
    if not 0 < size <= len(leaves):
        raise ValueError(f"no proof from a tree of {size} to one of {len(leaves)}")
    return _subproof(size, leaves, whole=True)


def _subproof(size: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if size == len(leaves):
        return [] if whole else [tree_root(leaves)]
    split = _split(len(leaves))
    if size <= split:
        return [*_subproof(size, leaves[:split], whole=whole), tree_root(leaves[split:])]
    return [*_subproof(size - split, leaves[split:], whole=False), tree_root(leaves[:split])]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that `leaf` stands at `index` of the tree (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, value = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            value = node_hash(sibling, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and value == root


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the old tree is a prefix of the new one (RFC 9162 section 2.1.4.2)."""
    if old_size == new_size:
        return not proof and old_root == new_root
    if not 0 < old_size < new_size:
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # a complete subtree: its root is not part of the proof
        path.insert(0, old_root)
    return bool(path) and _replay(old_size, new_size, old_root, new_root, path)


def _replay(old_size: int, new_size: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root
