"""Objects that several stacks agree on, from counts of the voxels that their objects share.

    stacks          a from xy, b from xz, c from yz
    table           a row each combination (a, b, c) that occurs, with its number of voxels; 0: no object there
    objects -> graph: an edge between objects of different stacks that share voxels
    clusters        objects that agree well; clusters that still overlap join, or the larger ones share the smaller
    vote            a combination belongs to a cluster if enough of its objects are members

The rules are empanada's. All voxels of one combination have one fate, so the table says all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
OVERLAP_IOU, OVERLAP_VOXELS = 0.01, 100  # above either, clusters and results are not apart


@dataclass(frozen=True, slots=True)
class Votes:
    """What a consensus is.

    Attributes
    ----------
    voxel
        Objects that must cover a voxel, 1 to the number of stacks.
    cluster_iou
        Intersection over union above which two objects surely are one.
    one_view
        Whether an object that one stack alone has found may stay.
    """

    voxel: int = 2
    cluster_iou: float = 0.75
    one_view: bool = False


def consensus(rows: Ints, voxels: Ints, votes: Votes) -> Ints:
    """The object of each combination, 1 to N without a gap; 0 where there is none.

    Parameters
    ----------
    rows
        Combinations of objects of the stacks, 0 for none: int64 [n, n_stacks]; every row once.
    voxels
        How many voxels have it, int64 [n].
    votes
        The rules.

    Examples
    --------
    >>> rows = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 5]])
    >>> consensus(rows, np.array([90, 10, 50]), Votes())
    array([1, 0, 0])
    """
    n, n_stacks = rows.shape
    if not n:
        return np.zeros(0, np.int64)
    nodes, members = _nodes(rows)
    least = 1 if votes.one_view else n_stacks // 2 + 1
    certain = 0.0 if votes.voxel < least else votes.cluster_iou
    sizes = np.zeros(len(nodes), np.int64)
    for column in range(n_stacks):
        np.add.at(sizes, members[:, column][members[:, column] >= 0], voxels[members[:, column] >= 0])
    links = _links(members, voxels, sizes)
    group_of = _connected(len(nodes), [(i, j) for i, j, _, _ in links])
    links_of: dict[int, list[tuple[int, int, float, int]]] = {}
    for link in links:
        links_of.setdefault(group_of[link[0]], []).append(link)
    nodes_of: dict[int, list[int]] = {}
    for node, group in enumerate(group_of):
        nodes_of.setdefault(group, []).append(node)
    rows_of = _rows_by_node(members, len(nodes))
    made, following = np.zeros(n, np.int64), 1
    for group, inside in nodes_of.items():
        if len(inside) < least:
            continue
        clusters = [c for c in _clusters(inside, links_of.get(group, []), certain) if len(c) >= least]
        results = [_voted(rows_of, cluster, votes.voxel) for cluster in clusters]
        for result in _joined([r for r in results if len(r)], voxels):
            made[result] = following
            following += 1
    return made


def _nodes(rows: Ints) -> tuple[list[tuple[int, int]], Ints]:
    """All objects as (stack, label), stack by stack, and the node of each object of each row; -1 for none."""
    nodes: list[tuple[int, int]] = []
    members = np.full(rows.shape, -1, np.int64)
    for stack, labels in enumerate(rows.T):
        found, index = np.unique(labels, return_inverse=True)
        base = len(nodes) - int(len(found) > 0 and found[0] == 0)
        nodes += [(stack, int(label)) for label in found if label]
        members[:, stack] = np.where(labels > 0, index + base, -1)
    return nodes, members


def _links(members: Ints, voxels: Ints, sizes: Ints) -> list[tuple[int, int, float, int]]:
    """Pairs of objects of different stacks that share voxels: (i, j, intersection over union, voxels)."""
    found: list[tuple[int, int, float, int]] = []
    n_stacks, n = members.shape[1], len(sizes)
    for one in range(n_stacks):
        for two in range(one + 1, n_stacks):
            both = (members[:, one] >= 0) & (members[:, two] >= 0)
            pairs, which = np.unique(members[both, one] * n + members[both, two], return_inverse=True)
            shared = np.bincount(which, voxels[both], len(pairs)).astype(np.int64)
            for i, j, k in zip(pairs // n, pairs % n, shared, strict=True):
                found.append((int(i), int(j), float(k / (sizes[i] + sizes[j] - k)), int(k)))
    return found


def _connected(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """A number for each of n nodes, equal for those that are connected, in the order of their first nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(list(pairs), np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    _, numbers = connected_components(graph, directed=False)
    _, first, index = np.unique(numbers, return_index=True, return_inverse=True)
    return [int(k) for k in np.argsort(np.argsort(first))[index]]


def _rows_by_node(members: Ints, n: int) -> list[Ints]:
    """The rows in which each object occurs."""
    rows, columns = np.nonzero(members >= 0)
    nodes = members[rows, columns]
    order = np.argsort(nodes, kind="stable")
    return np.split(rows[order], np.searchsorted(nodes[order], np.arange(1, n)))


def _clusters(inside: list[int], links: list[tuple[int, int, float, int]], certain: float) -> list[set[int]]:
    """Objects of one connected group in clusters; an object may be in several."""
    place = {node: k for k, node in enumerate(inside)}
    of = _connected(len(inside), [(place[i], place[j]) for i, j, iou, _ in links if iou > certain])
    clusters: dict[int, set[int]] = {}
    for node, k in zip(inside, of, strict=True):
        clusters.setdefault(k, set()).add(node)
    sums: dict[tuple[int, int], list[float]] = {}
    for i, j, iou, shared in links:
        a, b = sorted((of[place[i]], of[place[j]]))
        if a != b:
            total = sums.setdefault((a, b), [0.0, 0.0])
            total[0] += iou
            total[1] += shared
    near: dict[int, set[int]] = {k: set() for k in clusters}
    for (a, b), (ious, voxels) in sums.items():
        n_pairs = len(clusters[a]) * len(clusters[b])
        if ious / n_pairs > OVERLAP_IOU or voxels / n_pairs > OVERLAP_VOXELS:
            near[a].add(b)
            near[b].add(a)
    while any(near.values()):
        centre = max(near, key=lambda k: len(near[k]))  # the first of those with most
        around = near[centre]
        if max(len(clusters[k]) for k in around) > len(clusters[centre]):
            for k in around:
                clusters[k] = clusters[k] | clusters[centre]
            gone = {centre}
        else:
            clusters[centre] = clusters[centre].union(*(clusters[k] for k in around))
            gone = set(around)
        for k in gone:
            del clusters[k], near[k]
        for others in near.values():
            others.difference_update(gone)
    return list(clusters.values())


def _voted(rows_of: list[Ints], cluster: set[int], least: int) -> Ints:
    """The rows of which enough objects are in a cluster."""
    rows, n = np.unique(np.concatenate([rows_of[node] for node in cluster]), return_counts=True)
    return np.asarray(rows[n >= least])


def _joined(results: list[Ints], voxels: Ints) -> list[Ints]:
    """Results, as rows, that overlap as one."""
    sizes = [int(voxels[rows].sum()) for rows in results]
    owners: dict[int, list[int]] = {}
    for number, rows in enumerate(results if len(results) > 1 else []):
        for row in rows.tolist():
            owners.setdefault(row, []).append(number)
    shared: dict[tuple[int, int], int] = {}
    for row, numbers in owners.items():
        for pair in combinations(numbers, 2):
            shared[pair] = shared.get(pair, 0) + int(voxels[row])
    pairs = [
        (i, j) for (i, j), n in shared.items() if n > OVERLAP_VOXELS or n / (sizes[i] + sizes[j] - n) > OVERLAP_IOU
    ]
    made: dict[int, Ints] = {}
    for number, rows in zip(_connected(len(results), pairs), results, strict=True):
        made[number] = np.union1d(made[number], rows) if number in made else rows
    return list(made.values())
