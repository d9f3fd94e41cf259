"""Training one part, over one process or several: the map of this package.

A step draws its pictures from (seed, step, shard) alone, so that nothing random is kept between
steps. Each shard of the batch yields a gradient, the shards' gradients are averaged, and every
process takes the same optimizer step; two processes therefore do what one does. A checkpoint holds
weights, optimizer and averaged weights: a killed training goes on from the last one and repeats
what an uninterrupted one does. The steps are the turns of `core.gang`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import cos, pi
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msbd_dist.core.gang import State, Sum, Team, carry_on, from_time_to_time
from msbd_dist.core.reduction import GradientSum
from msbd_dist.tiny.train.settings import Recipe

log = logging.getLogger(__name__)

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


class Part(Protocol):
    """One model of the family, and what it learns from."""

    name: str
    recipe: Recipe
    module: nn.Module

    def loss(self, rng: np.random.Generator, count: int) -> Tensor:
        """The mean loss of ``count`` pictures, all randomness from ``rng``."""
        ...

    def write(self, folder: Path) -> None:
        """Writes what was trained into a family's folder."""
        ...


class Processes:
    """A team of the processes that were started together, over gloo."""

    def __init__(self, rank: int, size: int, meeting: Path) -> None:
        """Waits for the others at the file ``meeting``."""
        self.rank, self.size = rank, size
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=size,
            timeout=timedelta(hours=1),
        )

    def start_sum(self, values: Tensor) -> Sum:
        return _Work(dist.all_reduce(values, async_op=True))

    def max(self, values: Tensor) -> None:
        dist.all_reduce(values, dist.ReduceOp.MAX)

    def send(self, values: Tensor, root: int) -> None:
        dist.broadcast(values, root)


class _Work:
    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> None:
        self._work.wait()


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When to save, to report, and to stop."""

    checkpoint_seconds: float
    report_seconds: float
    deadline: float | None = None  # on time.monotonic()'s clock

    def is_over(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline


class Trainer:
    """A part on its way through its recipe: each turn is a step (`core.gang.Turns`)."""

    def __init__(self, part: Part, folder: Path, device: torch.device) -> None:
        self.part, self.recipe = part, part.recipe
        self.device, self.folder = device, folder
        self.module = part.module.to(device).train()
        self.weights = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.weights if p.ndim > 1]},
                {"params": [p for p in self.weights if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
            betas=self.recipe.betas,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        self.average = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.turn = 0
        self._gradient = GradientSum(self.weights, "fast")
        self._losses: list[float] = []  # of the steps since the last checkpoint

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def finished(self) -> bool:
        return self.turn >= self.last

    def run(self, pace: Pace, team: Team) -> None:
        """Steps until the recipe ends or the deadline has passed; saves on the way and at the end.

        The first process of the team reads the checkpoint, saves and reports; the loss of every
        step goes to ``losses.jsonl``. ArithmeticError where a loss or a gradient is not finite.
        """
        if team.rank == 0 and self.checkpoint.exists():
            self.restore(load_file(self.checkpoint))
        on_turn = self._on_turn(pace) if team.rank == 0 else None
        carry_on(self, team, on_turn=on_turn, stop=pace.is_over if pace.deadline else None)
        if team.rank == 0:
            self.save()

    def averaged(self) -> Part:
        """The part with its averaged weights in place, ready to be written."""
        if self.recipe.ema:
            self.module.load_state_dict(self.average)
        return self.part

    def save(self) -> None:
        """Writes a checkpoint, and the losses since the last one."""
        if not self._losses:
            return
        fresh = self.checkpoint.with_suffix(".new")
        save_file({k: v.detach().cpu().clone() for k, v in self.state().items()}, fresh)
        with (self.folder / "losses.jsonl").open("a") as lines:
            for step, loss in enumerate(self._losses, self.turn - len(self._losses)):
                lines.write(json.dumps({"step": step, "loss": round(loss, 6)}) + "\n")
        os.replace(fresh, self.checkpoint)
        self._losses = []

    def _on_turn(self, pace: Pace) -> Callable[[int], None]:
        started, first = time.monotonic(), self.turn
        save = from_time_to_time(pace.checkpoint_seconds, self.save)

        def report() -> None:
            self._report((time.monotonic() - started) / (self.turn - first))

        tell = from_time_to_time(pace.report_seconds, report)

        def on_turn(turn: int) -> None:
            tell(turn)
            save(turn)

        return on_turn

    # -- turns -------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        return self.recipe.steps

    @property
    def identity(self) -> tuple[int, ...]:
        return self.recipe.seed, self.recipe.steps, sum(weight.numel() for weight in self.weights)

    def begin(self, team: Team) -> None:
        self._gradient = GradientSum(self.weights, "fast")

    def advance(self, team: Team) -> float:
        """One step; returns the loss of the whole batch."""
        recipe, shards = self.recipe, self.recipe.shards
        for shard in range(team.rank, shards, team.size):
            rng = np.random.default_rng((recipe.seed, self.turn, shard))
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.part.loss(rng, recipe.batch // shards) / shards
            loss.backward()
            self._gradient.add_loss(loss.detach())
            for index, weight in enumerate(self.weights):
                if weight.grad is not None:
                    self._gradient.add(index, weight.grad)
            self.optimizer.zero_grad(set_to_none=True)
        gradients, summed = self._gradient.total(team)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(self.weights, recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.turn)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.turn += 1
        self._update_average()
        self._losses.append(summed)
        return summed

    def state(self) -> State:
        """Weights and buffers, their averages, AdamW's moments, and the step."""
        module = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        average = {f"average.{name}": value for name, value in self.average.items()}
        return {**module, **average, **self._moments(), "turn": torch.tensor(self.turn)}

    def _moments(self) -> dict[str, Tensor]:
        kept = self.optimizer.state
        return {
            f"{name}.{index}": kept[weight].get(name, torch.zeros_like(weight))
            for name in MOMENTS
            for index, weight in enumerate(self.weights)
        }

    def blank(self, turn: int) -> State:
        return {name: torch.empty_like(value) for name, value in self.state().items()}

    def restore(self, state: State) -> None:
        shapes = {name: value.shape for name, value in self.state().items()}
        if shapes != {name: value.shape for name, value in state.items()}:
            raise ValueError("the state of another training")
        self.turn = int(state["turn"])
        self.module.load_state_dict(_below("module.", state))
        self.average = {k: v.to(self.device) for k, v in _below("average.", state).items()}
        for index, weight in enumerate(self.weights):
            moments = {name: state[f"{name}.{index}"].to(self.device) for name in MOMENTS}
            step = torch.tensor(float(self.turn), device=self.device)
            self.optimizer.state[weight] = {"step": step, **moments}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.turn) / (10 + self.turn))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def _report(self, seconds: float) -> None:
        left = timedelta(seconds=round((self.last - self.turn) * seconds))
        log.info(
            "%s  step %d of %d  loss %.4f  %.2f s a step  %s left",
            self.part.name,
            self.turn,
            self.last,
            float(np.mean(self._losses[-50:])),
            seconds,
            left,
        )


def _below(prefix: str, state: State) -> dict[str, Tensor]:
    """What is named so, without the prefix."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def learning_rate(recipe: Recipe, step: int) -> float:
    """A linear warm-up, then a cosine down to ``last_rate``; once more after a restart, lower."""
    first, last, peak = 0, recipe.restart or recipe.steps, recipe.learning_rate
    if step >= last:
        first, last, peak = last, recipe.steps, peak * recipe.restart_rate
    warm = min(1.0, (step - first + 1) / recipe.warmup)
    cosine = 0.5 * (1 + cos(pi * (step - first) / (last - first)))
    return peak * warm * (recipe.last_rate + (1 - recipe.last_rate) * cosine)
