"""A computation in turns that a team of processes shares, and that can be resumed anywhere.

Each member holds the whole state. A member that is lost costs nothing but the turn that it was in:
the others form a new team, agree on the member that is furthest, and go on from there. So do
newcomers, and a process that reads a stored state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

State = Mapping[str, Tensor]
"""Everything that decides how a computation goes on."""


class Sum(Protocol):
    """A reduction on its way; `wait` returns when the buffer holds the sum."""

    def wait(self) -> None: ...


class Team(Protocol):
    """The processes that share one computation; this one is number ``rank`` of ``size``.

    Every process must make the same calls in the same order. All change the tensor in place.
    """

    rank: int
    size: int

    def start_sum(self, values: Tensor) -> Sum:
        """Begin to sum over all processes."""
        ...

    def max(self, values: Tensor) -> None:
        """The greatest of each element."""
        ...

    def send(self, values: Tensor, root: int) -> None:
        """What ``root`` has, for all."""
        ...


class _Done:
    def wait(self) -> None:
        return None


class Alone:
    """A team of one."""

    rank, size = 0, 1

    def start_sum(self, values: Tensor) -> Sum:
        return _Done()

    def max(self, values: Tensor) -> None:
        return None

    def send(self, values: Tensor, root: int) -> None:
        return None


class Turns(Protocol):
    """A computation in ``last`` turns, of which ``turn`` are finished."""

    @property
    def turn(self) -> int: ...
    @property
    def last(self) -> int: ...

    @property
    def identity(self) -> tuple[int, ...]:
        """Numbers that all members of a team must have alike."""
        ...

    def begin(self, team: Team) -> None:
        """The team has agreed on the state: prepare for turns of this team."""
        ...

    def advance(self, team: Team) -> object:
        """Do the next turn together. What the team raises may end it; the state stays whole."""
        ...

    def state(self) -> State:
        """The state after the finished turns."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state. ValueError, and nothing changed, where it is not one of this."""
        ...

    def blank(self, turn: int) -> State:
        """Tensors of the shapes that the state has after ``turn`` turns, to receive it."""
        ...


def carry_on(
    turns: Turns,
    team: Team,
    *,
    on_turn: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> bool:
    """Go on to the end; False where it was stopped before.

    ``on_turn`` receives the number of finished turns. ``stop`` is asked before each turn; all
    members stop where one of them says so. Raises what the team raises when it breaks.
    """
    agree(turns, team)
    turns.begin(team)
    while turns.turn < turns.last:
        if stop is not None and _any(stop(), team):
            return False
        turns.advance(team)
        if on_turn is not None:
            on_turn(turns.turn)
    return True


def agree(turns: Turns, team: Team) -> None:
    """The same computation everywhere, at the furthest turn of any member."""
    identity = turns.identity
    mine = torch.tensor([*identity, turns.turn])
    ends = torch.stack([mine, -mine])
    team.max(ends)
    if not torch.equal(ends[0, :-1], -ends[1, :-1]):
        raise RuntimeError("the processes of a gang were given different computations")
    newest, oldest = int(ends[0, -1]), int(-ends[1, -1])
    if newest == oldest:
        return
    root = torch.tensor([team.size - team.rank if turns.turn == newest else 0])
    team.max(root)
    state = turns.state() if turns.turn == newest else turns.blank(newest)
    for values in state.values():
        team.send(values, team.size - int(root))
    turns.restore(state)


def from_time_to_time(seconds: float, save: Callable[[], None]) -> Callable[[int], None]:
    """An ``on_turn`` that saves when the last time is ``seconds`` ago."""
    saved = time.monotonic()

    def on_turn(_: int) -> None:
        nonlocal saved
        if time.monotonic() - saved > seconds:
            save()
            saved = time.monotonic()

    return on_turn


def _any(one: bool, team: Team) -> bool:
    all_ = torch.tensor([int(one)])
    team.max(all_)
    return bool(all_[0])
