"""Training one part, over one process or several: the map of this package.

A step draws its pictures from (seed, step, shard) alone, so that nothing random is kept between
steps. Each shard of the batch yields a gradient, the shards' gradients are averaged, and every
process takes the same optimizer step; two processes therefore do what one does. A checkpoint holds
weights, optimizer and averaged weights: a killed training goes on from the last one and repeats
what an uninterrupted one does.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from math import cos, pi
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from msbd_dist.tiny.train.settings import Recipe

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Team:
    """The processes that train together; this one is number ``rank``."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def shares(self, shards: int) -> range:
        """The shards that fall to this process."""
        return range(self.rank, shards, self.count)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def join(self, meeting: Path) -> None:
        """Waits for the others at the file ``meeting``."""
        if self.count > 1:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{meeting}",
                rank=self.rank,
                world_size=self.count,
                timeout=timedelta(hours=1),
            )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When to save, to report, and to stop."""

    checkpoint_seconds: float
    report_seconds: float
    deadline: float | None = None  # on time.monotonic()'s clock


class Trainer:
    """A part on its way through its recipe."""

    def __init__(self, part: Part, folder: Path, device: torch.device, team: Team) -> None:
        self.part, self.recipe, self.team = part, part.recipe, team
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
        self.step = 0
        if self.checkpoint.exists():
            self._load(torch.load(self.checkpoint, map_location=device, weights_only=True))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps

    def run(self, pace: Pace) -> None:
        """Steps until the recipe ends or the deadline has passed; saves on the way and at the end.

        The loss of every step goes to ``losses.jsonl``.
        """
        saved = reported = started = time.monotonic()
        first, losses = self.step, []
        while not self.finished and not self._late(pace.deadline):
            losses.append(self.advance())
            now = time.monotonic()
            if now - reported > pace.report_seconds or self.finished:
                self._report(losses[-50:], (now - started) / (self.step - first))
                reported = now
            if now - saved > pace.checkpoint_seconds:
                self.save(losses)
                losses, saved = [], now
        self.save(losses)

    def advance(self) -> float:
        """One step; returns the loss of the whole batch."""
        recipe, shards = self.recipe, self.recipe.shards
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for shard in self.team.shares(shards):
            rng = np.random.default_rng((recipe.seed, self.step, shard))
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.part.loss(rng, recipe.batch // shards)
            (loss / shards).backward()
            total += loss.detach() / shards
        summed = self._share_gradients(total)
        nn.utils.clip_grad_norm_(self.weights, recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return summed

    def averaged(self) -> Part:
        """The part with its averaged weights in place, ready to be written."""
        if self.recipe.ema:
            self.module.load_state_dict(self.average)
        return self.part

    def save(self, losses: list[float]) -> None:
        """Writes a checkpoint, and the losses since the last one."""
        if self.team.leads and losses:
            state = {
                "step": self.step,
                "module": self.module.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
            }
            fresh = self.checkpoint.with_suffix(".new")
            torch.save(state, fresh)
            with (self.folder / "losses.jsonl").open("a") as lines:
                for step, loss in enumerate(losses, self.step - len(losses)):
                    lines.write(json.dumps({"step": step, "loss": round(loss, 6)}) + "\n")
            os.replace(fresh, self.checkpoint)

    def _load(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]

    def _late(self, deadline: float | None) -> bool:
        """Whether any process finds that time is up, so that all stop at the same step."""
        if deadline is None:
            return False
        late = torch.tensor(float(time.monotonic() > deadline))
        return bool(self.team.total(late) > 0)

    def _share_gradients(self, loss: Tensor) -> float:
        """Sums the processes' gradients in one message; returns the summed loss."""
        if self.team.count == 1:
            return float(loss)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.weights]
        flat = torch.cat([g.flatten() for g in gradients] + [loss.view(1)])
        self.team.total(flat)
        sizes = [p.numel() for p in self.weights]
        for weight, part in zip(self.weights, flat[:-1].split(sizes), strict=True):
            weight.grad = part.view_as(weight)
        return float(flat[-1])

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def _report(self, losses: list[float], seconds: float) -> None:
        if self.team.leads:
            left = timedelta(seconds=round((self.recipe.steps - self.step) * seconds))
            log.info(
                "%s  step %d of %d  loss %.4f  %.2f s a step  %s left",
                self.part.name,
                self.step,
                self.recipe.steps,
                float(np.mean(losses)),
                seconds,
                left,
            )


def learning_rate(recipe: Recipe, step: int) -> float:
    """A linear warm-up, then a cosine down to ``last_rate``; once more after a restart, lower."""
    first, last, peak = 0, recipe.restart or recipe.steps, recipe.learning_rate
    if step >= last:
        first, last, peak = last, recipe.steps, peak * recipe.restart_rate
    warm = min(1.0, (step - first + 1) / recipe.warmup)
    cosine = 0.5 * (1 + cos(pi * (step - first) / (last - first)))
    return peak * warm * (recipe.last_rate + (1 - recipe.last_rate) * cosine)
