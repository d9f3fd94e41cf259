"""The edge of a mask as a path that can be drawn at any size. numpy only."""

from __future__ import annotations

import numpy as np

from msbd_dist.core.compose import Bools, latent_mask

MOST = 50_000  # unit edges of a path; a mask with more is drawn coarser

Vertex = tuple[int, int]  # y and x


def outline(mask: Bools) -> tuple[int, list[list[Vertex]]]:
    """The edges of a mask (h, w): closed paths around what is True, and their unit.

    A path runs through the middles of the edges between pixels, so that a diagonal is one line.
    Vertices are in halves of ``unit`` pixels: ``unit`` is 1, or a power of 2 where the mask has
    more than `MOST` edges and is first shrunk by maximum.
    """
    unit = 1
    edges = _edges(mask)
    while len(edges[0]) > MOST:
        height, width = mask.shape
        mask = latent_mask(np.pad(mask, ((0, height % 2), (0, width % 2))), 2)
        unit *= 2
        edges = _edges(mask)
    return unit, [_straightened(loop) for loop in _loops(*edges)]


def _edges(mask: Bools) -> tuple[list[Vertex], list[Vertex]]:
    """Starts and ends of all unit edges between True and False, with True on the right."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    starts: list[Vertex] = []
    ends: list[Vertex] = []
    for change, sign, first, last in (
        (down, 1, (0, 0), (0, 1)),
        (down, -1, (0, 1), (0, 0)),
        (right, -1, (0, 0), (1, 0)),
        (right, 1, (1, 0), (0, 0)),
    ):
        ys, xs = np.nonzero(change == sign)
        starts += zip((ys + first[0]).tolist(), (xs + first[1]).tolist(), strict=True)
        ends += zip((ys + last[0]).tolist(), (xs + last[1]).tolist(), strict=True)
    return starts, ends


def _loops(starts: list[Vertex], ends: list[Vertex]) -> list[list[Vertex]]:
    """Edges joined end to start: the middles of each loop's edges, in half pixels."""
    following: dict[Vertex, list[Vertex]] = {}
    for start, end in zip(starts, ends, strict=True):
        following.setdefault(start, []).append(end)
    loops = []
    while following:
        start = here = next(iter(following))
        loop = []
        while here in following:
            there = following[here].pop()
            if not following[here]:
                del following[here]
            loop.append((here[0] + there[0], here[1] + there[1]))
            here = there
        assert here == start, "as many edges begin at a vertex as end there"
        loops.append(loop)
    return loops


def _straightened(loop: list[Vertex]) -> list[Vertex]:
    """Without the vertices that lie on the line between their neighbours."""
    kept = []
    for before, here, after in zip([loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True):
        if (here[0] - before[0], here[1] - before[1]) != (after[0] - here[0], after[1] - here[1]):
            kept.append(here)
    return kept
