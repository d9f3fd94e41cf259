"""Decoder optimization (eq. 1 of the paper): the loss, and its descent by one process or many.

    L = mean over m of (D_theta(z) - D_0(z))^2  +  lambda * mean over 1-m of (D_theta(z) - x_in)^2

``z`` is the latent that the stage produced, ``D_0`` the pretrained decoder, ``x_in`` the input. The
means are taken over the masked and unmasked elements of the whole region: each pixel counts once
where segments overlap, because segments enter with their compositing weights. The tuned weights are
a copy; the pretrained ones are never written.

Well inside the mask the best that D_theta can be is D_0, which is at hand. So a stage shows D_theta
outside the mask and in a band along its edge, and D_0 further inside (`shown`), and the loss leaves
out what is further inside. In the band the first mean counts a pixel by its depth: what touches the
background is free to continue it. A pixel's depth is 0 outside the mask, rises in a line with its
distance from the edge, and is 1 where the band ends, one latent cell inside:

    depth             0 ... 0 | 1/8 2/8 ... 7/8   1 ... 1
    first mean        0 ... 0 | 1/8 2/8 ... 7/8   0 ... 0
    second mean       1 ... 1 |  0   0  ...  0    0 ... 0
    share of D_0      0 ... 0 | 1 - (1 - depth)^3 1 ... 1
                             edge               end of the band

An empty prompt paints nothing that is to be kept. What continues the background is to have its
tone, from which D_0 is a little off in every stage: there D_theta shows all over.

Every process holds all weights. A step is: the gradient of its share of the step's segments
(`core/rounds.py`), summed over all processes (`core/reduction.py`), and the same Adam step
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from msbd_dist.core.gang import State, Team, carry_on
from msbd_dist.core.reduction import GradientSum
from msbd_dist.core.rounds import Part, Rounds
from msbd_dist.core.spec import Method, Reduction

HELD_BYTES = 512 << 20  # of segments that a process keeps; others are loaded for each step

ALIKE = 1 - 2**-24  # the depth of masked pixels where D_theta shows all over, as in the paper

Params = dict[str, torch.Tensor]
Decode = Callable[[torch.Tensor, Params | None], torch.Tensor]  # (z, weights or None) -> pixels


@dataclass(frozen=True)
class FitSegment:
    """What the loss needs of one segment; tensors are float32."""

    z: torch.Tensor  # (1, C, h, w): the stage's latent
    target: torch.Tensor  # (1, 3, H, W): D_0(z), the pretrained decoder's picture
    source: torch.Tensor  # (1, 3, H, W): x_in
    depth: torch.Tensor  # (1, 1, H, W) in [0, 1]: how far inside the edit, in bands
    weight: torch.Tensor  # (1, 1, H, W): compositing weights

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in vars(self).values())


@dataclass(frozen=True)
class Areas:
    """Weighted element counts of the whole region: the denominators of the two means."""

    inside: float
    outside: float

    @classmethod
    def of(cls, segments: Iterable[FitSegment]) -> Areas:
        """Of these segments; in whole thousandths, so that their sum has no order."""
        inside = outside = 0
        for s in segments:
            channels = s.source.shape[1]
            mask = s.depth > 0
            inside += channels * round(1e3 * float((s.weight * mask).sum(dtype=torch.float64)))
            outside += channels * round(1e3 * float((s.weight * ~mask).sum(dtype=torch.float64)))
        return cls(inside / 1e3, outside / 1e3)


def segment_loss(
    decode: Decode, params: Params | None, segment: FitSegment, areas: Areas, *, lam: float
) -> torch.Tensor:
    """This segment's share of the loss: a scalar; the shares of all segments sum to L."""
    out, depth = decode(segment.z, params), segment.depth
    band, background = depth * (depth < 1), depth == 0
    inside = (segment.weight * band * (out - segment.target) ** 2).sum()
    outside = (segment.weight * background * (out - segment.source) ** 2).sum()
    return inside / max(areas.inside, 1.0) + lam * outside / max(areas.outside, 1.0)


def shown(tuned: torch.Tensor, plain: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """What a stage shows of D_theta(z) and D_0(z), both (B, 3, H, W); ``depth``: (B, 1, H, W).

    Exactly D_theta where the depth is 0, exactly D_0 where it is 1.
    """
    return torch.lerp(tuned, plain, 1 - (1 - depth) ** 3)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How the loss is descended."""

    lr: float
    lam: float
    reduction: Reduction = "exact"
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's

    @classmethod
    def of(cls, method: Method) -> FitSettings:
        """As a settled method has it. The few steps of samples have a shorter memory."""
        assert method.decoder_lr is not None
        return cls(
            lr=method.decoder_lr,
            lam=method.decoder_lambda,
            reduction=method.decoder_reduction,
            betas=(0.8, 0.9) if method.decoder_batch == "sample" else cls.betas,
        )


class DecoderFit:
    """A decoder on its way from the pretrained weights to the tuned ones.

    It can be taken up by one team after another: `run` goes on from the furthest turn that any
    member has, and leaves a state that is worth keeping whenever it raises (`core.gang.Turns`).
    """

    def __init__(
        self,
        decode: Decode,
        pretrained: Params,
        load: Callable[[int], FitSegment],
        rounds: Rounds,
        settings: FitSettings,
    ) -> None:
        """``load`` gives a segment by its slot; a process asks for its own only."""
        self._decode, self._load = decode, load
        self.rounds, self.settings = rounds, settings
        self.params = {k: v.detach().clone().requires_grad_(True) for k, v in pretrained.items()}
        self._weights = list(self.params.values())
        self._optimizer = torch.optim.Adam(self._weights, lr=settings.lr, betas=settings.betas)
        self._held: dict[int, FitSegment] = {}  # segments that were needed here
        self._areas: Areas | None = None
        self._outside: list[float] = []  # of each segment, its area outside the mask
        self._gradient: GradientSum | None = None  # of a turn, for the team that is at work
        self.turn = 0  # Adam steps so far
        self._losses: list[float] = []  # of each turn

    @property
    def losses(self) -> list[float]:
        """The loss of each whole round, of what its turns saw before their steps: their sum, and of
        samples, each of which stands for all segments, their mean."""
        size = self.rounds.per_round
        ends = range(size, len(self._losses) + 1, size)
        turns = size if self.rounds.sampled else 1
        return [sum(self._losses[end - size : end]) / turns for end in ends]

    def run(self, team: Team, *, on_turn: Callable[[int], None] | None = None) -> Params:
        """Go on to the end; the tuned weights.

        ``on_turn`` is told the number of finished turns. Raises what the team raises when it
        breaks, and ArithmeticError where the loss is not finite.
        """
        carry_on(self, team, on_turn=on_turn)
        return {k: v.detach() for k, v in self.params.items()}

    def use(self, decode: Decode) -> None:
        """Go on with another function of the same results."""
        self._decode = decode

    # -- turns -------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        return self.rounds.steps

    @property
    def identity(self) -> tuple[int, ...]:
        numel = sum(weight.numel() for weight in self._weights)
        return numel, self.rounds.segments, self.rounds.steps

    def begin(self, team: Team) -> None:
        """Forget a turn that has failed, and share the segments anew."""
        self._optimizer.zero_grad(set_to_none=True)
        self._count_areas(team)
        self._gradient = GradientSum(self._weights, self.settings.reduction)

    def advance(self, team: Team) -> None:
        """One Adam step over the turn's segments, each of which one member looks at."""
        assert self._gradient is not None
        part = self.rounds.part(self.turn, self._outside)
        self._accumulate(self._gradient, part[team.rank :: team.size], team)
        self._step(*self._gradient.total(team))

    def _accumulate(self, gradient: GradientSum, parts: Sequence[Part], team: Team) -> None:
        """Add the gradients of these segments; the last one's are sent as they come."""
        assert self._areas is not None
        for number, part in enumerate(parts, 1):
            segment = self._segment(part.slot)
            loss = part.factor * segment_loss(
                self._decode, self.params, segment, self._areas, lam=self.settings.lam
            )
            last = number == len(parts)
            hooks = [
                weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._taker(gradient, i, team, last)
                )
                for i, weight in enumerate(self._weights)
            ]
            try:
                loss.backward()  # type: ignore[no-untyped-call]
            finally:
                for hook in hooks:
                    hook.remove()
            gradient.add_loss(loss.detach())

    def _taker(
        self, gradient: GradientSum, index: int, team: Team, last: bool
    ) -> Callable[[torch.Tensor], None]:
        """Moves a parameter's gradient into the buffer as soon as the pass has finished it."""

        def take(weight: torch.Tensor) -> None:
            assert weight.grad is not None
            gradient.add(index, weight.grad)
            weight.grad = None
            if last:
                gradient.complete(index, team)

        return take

    def _step(self, gradients: list[torch.Tensor], loss: float) -> None:
        for weight, summed in zip(self._weights, gradients, strict=True):
            weight.grad = summed
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr * self.rounds.rate(self.turn)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.turn += 1
        self._losses.append(loss)

    def _count_areas(self, team: Team) -> None:
        """Count the area of all segments, each process that of every ``size``-th one.

        Where all are looked at in every step these are its own, and it forgets others.
        """
        own = range(team.rank, self.rounds.segments, team.size)
        if not self.rounds.sampled:
            self._held = {slot: self._held[slot] for slot in own if slot in self._held}
        if self._areas is None or team.size > 1:
            counts = torch.zeros(self.rounds.segments, 2, dtype=torch.float64)
            for slot in own:
                areas = Areas.of([self._segment(slot)])
                counts[slot, 0], counts[slot, 1] = areas.inside, areas.outside
            whole = (counts * 1e3).round().long()
            team.start_sum(whole).wait()
            inside, outside = (whole.sum(0).double() / 1e3).tolist()
            self._areas = Areas(inside, outside)
            self._outside = (whole[:, 1].double() / 1e3).tolist()

    def _segment(self, slot: int) -> FitSegment:
        """One segment, held from now on where there is room."""
        if slot in self._held:
            return self._held[slot]
        segment = self._load(slot)
        if sum(s.num_bytes for s in self._held.values()) + segment.num_bytes <= HELD_BYTES:
            self._held[slot] = segment
        return segment

    # -- states ------------------------------------------------------------------------------------

    def state(self) -> State:
        """Weights, Adam's moments, losses."""
        moments = [self._optimizer.state[weight] for weight in self._weights]
        rows = [[w.detach() for w in self._weights]]
        for name in ("exp_avg", "exp_avg_sq"):
            rows.append(
                [m.get(name, torch.zeros_like(w)) for m, w in zip(moments, rows[0], strict=True)]
            )
        flat = torch.stack([torch.cat([t.flatten() for t in row]) for row in rows])
        return {"weights": flat, "losses": torch.tensor(self._losses, dtype=torch.float64)}

    def blank(self, turn: int) -> State:
        """Of the shapes that `state` has after so many turns."""
        numel = sum(weight.numel() for weight in self._weights)
        return {"weights": torch.empty(3, numel), "losses": torch.empty(turn, dtype=torch.float64)}

    def restore(self, state: State) -> None:
        """Go on from what `state` gave, here or in another process, wherever its tensors lie.

        ValueError, and nothing changed, where that is not the state of such a fit.
        """
        sizes = [weight.numel() for weight in self._weights]
        _require_state(state, sum(sizes), self.rounds.steps)
        self._losses = state["losses"].tolist()
        self.turn = len(self._losses)
        rows = state["weights"].to(self._weights[0].device)
        weights, first, second = (row.split(sizes) for row in rows)
        with torch.no_grad():
            for weight, w, m, v in zip(self._weights, weights, first, second, strict=True):
                weight.copy_(w.view_as(weight))
                kept: dict[str, Any] = {
                    "step": torch.tensor(float(self.turn)),
                    "exp_avg": m.view_as(weight).clone(),
                    "exp_avg_sq": v.view_as(weight).clone(),
                }
                self._optimizer.state[weight] = kept


def _require_state(state: State, numel: int, most_turns: int) -> None:
    shapes = {name: tuple(values.shape) for name, values in state.items()}
    turns = len(state["losses"]) if len(shapes.get("losses", ())) == 1 else most_turns + 1
    if shapes != {"weights": (3, numel), "losses": (turns,)} or turns > most_turns:
        raise ValueError(
            f"the state of a fit: got {shapes}, wanted (3, {numel}) weights and up to "
            f"{most_turns} losses"
        )
    if not all(bool(values.isfinite().all()) for values in state.values()):
        raise ValueError("the state of a fit: it is not finite")
