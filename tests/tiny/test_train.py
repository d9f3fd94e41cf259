"""Each part learns, from a seed alone, whoever computes and however often it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file, save_file

from msbd_dist.core.gang import Alone
from msbd_dist.core.levels import level_at
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.bundle import load
from msbd_dist.models.card import resolve
from msbd_dist.tiny.scenes import Scene
from msbd_dist.tiny.train import clip, command, data, unet, upscaler, vae
from msbd_dist.tiny.train.command import Job, prepare, train
from msbd_dist.tiny.train.loop import Part, Trainer, learning_rate
from msbd_dist.tiny.train.settings import (
    NATIVE,
    SETTINGS,
    Clip,
    Prediction,
    Recipe,
    Settings,
    Unet,
    Upscaler,
    Vae,
)
from msbd_dist.tiny.train.words import LENGTH, WORDS, tokenizer


def brief(recipe: Recipe, *, batch: int = 4, **changes: float) -> Recipe:
    return replace(recipe, steps=8, restart=None, batch=batch, warmup=2, ema=0.0, **changes)  # type: ignore[arg-type]


QUICK = Settings(
    vae=Vae(
        recipe=brief(SETTINGS.vae.recipe, learning_rate=1e-4),
        channels=(32, 32, 32, 32),
        crop=32,
        whitening=8,
    ),
    unet=Unet(
        recipe=brief(SETTINGS.unet.recipe, batch=8),
        channels=(32, 32, 32),
        pictures=16,
        segments=8,
        chunk=8,
        text_width=32,
        text_layers=1,
        text_heads=1,
    ),
    clip=Clip(recipe=brief(SETTINGS.clip.recipe, batch=16), pictures=32, chunk=16),
    upscaler=Upscaler(
        recipe=brief(SETTINGS.upscaler.recipe), pictures=4, chunk=2, side=128, crop=48, blocks=1
    ),
    checkpoint_seconds=0.0,
)


def job(work: Path, part: str, **changes: object) -> Job:
    values = {"settings": QUICK, "device": "cpu", "processes": 1, "deadline": None}
    return Job(part=part, work=work, **{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts, trained for a few steps by the command's own functions."""
    work = tmp_path_factory.mktemp("tiny")
    for part in command.PARTS:
        assert train(job(work, part))
    return work / "family"


# --- learning ---


def part_of(name: str, work: Path) -> Part:
    made = job(work, name)
    command.prepare(made)
    return command.build(made)


@pytest.mark.parametrize("name", command.PARTS)
def test_each_part_learns_in_a_few_steps(name: str, family: Path, tmp_path: Path) -> None:
    (tmp_path / "family").symlink_to(family)
    part = part_of(name, tmp_path)
    trainer = Trainer(part, tmp_path, torch.device("cpu"))

    def loss() -> float:
        with torch.no_grad():
            return float(np.mean([part.loss(np.random.default_rng(s), 8) for s in range(4)]))

    before = loss()
    while not trainer.finished:
        trainer.advance(Alone())
    assert loss() < 0.98 * before


def test_the_product_loads_what_was_trained(family: Path) -> None:
    card = resolve(ModelSpec(family=str(family)))
    assert (card.family.native, card.family.segment) == (128, 192)
    models = load(card, device="cpu")
    model = models.latent
    assert model.prediction == SETTINGS.unet.prediction
    z = model.encode(torch.rand(1, 3, 128, 128))
    x0 = model.denoiser(model.text("a red star"), guidance=6.0)(
        z, level_at(model.alphas_cumprod, 501)
    )
    assert model.decode(x0).shape == (1, 3, 128, 128)
    assert len(models.scorer(torch.rand(2, 3, 128, 128), "a red star")) == 2


def test_nothing_of_this_machine_is_written(family: Path) -> None:
    for file in family.rglob("*.json"):
        assert "name_or_path" not in file.read_text(), file
        assert str(family.parent) not in file.read_text(), file


# --- the same, whoever computes ---


def weights(work: Path, part: str = "upscaler") -> dict[str, torch.Tensor]:
    state = load_file(work / part / "checkpoint.safetensors")
    assert state["turn"] == QUICK.upscaler.recipe.steps
    return {name: value for name, value in state.items() if name.startswith("module.")}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("whole")
    assert train(job(work, "upscaler"))
    return work


def test_two_processes_do_what_one_does(uninterrupted: Path, tmp_path: Path) -> None:
    assert train(job(tmp_path, "upscaler", processes=2))
    assert_equal(weights(tmp_path), weights(uninterrupted))


def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    uninterrupted: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "upscaler" / "checkpoint.safetensors"
    process = get_context("spawn").Process(target=train, args=(job(tmp_path, "upscaler"),))
    process.start()
    while not checkpoint.exists():
        assert process.is_alive()
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    killed_at = int(load_file(checkpoint)["turn"])
    assert 0 < killed_at < QUICK.upscaler.recipe.steps
    assert train(job(tmp_path, "upscaler"))
    assert_equal(weights(tmp_path), weights(uninterrupted))
    lines = (tmp_path / "upscaler" / "losses.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert set(steps) == set(range(QUICK.upscaler.recipe.steps))


def test_a_killed_command_leaves_nobody_training(tmp_path: Path) -> None:
    endless = replace(QUICK.upscaler.recipe, steps=10**6)
    settings = replace(QUICK, upscaler=replace(QUICK.upscaler, recipe=endless))
    endless_job = job(tmp_path, "upscaler", settings=settings, processes=2)
    process = get_context("spawn").Process(target=train, args=(endless_job,))
    process.start()
    checkpoint = tmp_path / "upscaler" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.is_alive()
        time.sleep(0.01)
    trainers = psutil.Process(process.pid).children(recursive=True)
    assert len(trainers) >= 2
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(trainers, timeout=30)
    assert not alive


def test_a_finished_training_is_not_repeated(uninterrupted: Path) -> None:
    losses = (uninterrupted / "upscaler" / "losses.jsonl").read_text()
    assert train(job(uninterrupted, "upscaler"))
    assert (uninterrupted / "upscaler" / "losses.jsonl").read_text() == losses


def test_training_stops_when_its_time_is_up(tmp_path: Path) -> None:
    assert not train(job(tmp_path, "upscaler", deadline=time.monotonic() - 1))
    assert not (tmp_path / "family").exists()


def test_the_unet_asks_for_the_autoencoder_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train vae first"):
        train(job(tmp_path, "unet"))


def test_the_command_says_what_is_missing_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert command.main(["--part", "unet", "--work", str(tmp_path)]) == 2
    assert len(caplog.messages) == 1


def test_latents_of_another_encoder_are_not_used(family: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(family.parent, work)
    file = work / "family" / "vae" / "diffusion_pytorch_model.safetensors"
    vae = load_file(file)
    save_file(vae | {name: vae[name] + 1 for name in vae if name.startswith("decoder.")}, file)
    prepare(job(work, "unet"))
    save_file(vae | {name: vae[name] + 1 for name in vae if name.startswith("encoder.")}, file)
    with pytest.raises(ModelError, match="another autoencoder"):
        prepare(job(work, "unet"))


# --- what is learned from ---


def test_every_known_word_is_one_token_and_unknown_ones_fall_apart() -> None:
    words = tokenizer()
    assert all(len(words(word).input_ids) == 3 for word in WORDS)
    assert words.convert_ids_to_tokens(words("a cat").input_ids)[1:-1] == [
        "a</w>",
        "c",
        "a",
        "t</w>",
    ]
    assert words.eos_token_id == len(words) - 1


def test_no_caption_is_cut_or_has_unknown_words() -> None:
    words = tokenizer()
    captions = {data.captioned(seed, NATIVE)[1] for seed in range(300)}
    assert "" in captions
    assert {word for text in captions for word in text.split()} <= set(WORDS)
    assert max(len(words(text).input_ids) for text in captions) <= LENGTH


def test_the_empty_prompt_never_shows_a_whole_object() -> None:
    drawn = (data.captioned(seed, NATIVE) for seed in range(400))
    scenes: list[Scene] = [scene for scene, words in drawn if not words]
    assert len(scenes) > 20
    assert all(o.radius >= 0.4 * NATIVE for scene in scenes for o in scene.objects)


def test_wrong_captions_are_wrong() -> None:
    for seed in range(200):
        scene, right, wrong = clip._example(seed)
        assert right != wrong
        assert scene.background.kind in right or right.startswith(("a ", "an "))


def test_parts_draw_from_seeds_far_apart() -> None:
    recipes = [part.recipe for part in (QUICK.vae, QUICK.unet, QUICK.clip, QUICK.upscaler)]
    drawn = [
        range(recipe.seed, recipe.seed + pictures)
        for recipe, pictures in zip(
            recipes,
            (0, SETTINGS.unet.pictures + SETTINGS.unet.segments, SETTINGS.clip.pictures, 0),
            strict=True,
        )
    ]
    assert all(one.stop <= other.start for one, other in pairwise(drawn))


# --- noise ---


def test_v_prediction_goes_with_zero_terminal_snr() -> None:
    assert float(unet.scheduler("v_prediction").alphas_cumprod[-1]) == pytest.approx(0, abs=1e-9)
    assert float(unet.scheduler("epsilon").alphas_cumprod[-1]) == pytest.approx(0.0047, rel=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_target_and_the_noised_latent_give_back_the_clean_one(prediction: Prediction) -> None:
    clean, noise = torch.randn(2, 5, 4, 3, 3)
    levels = unet.scheduler(prediction).alphas_cumprod
    a = levels[torch.tensor([1, 250, 500, 750, 900])].view(-1, 1, 1, 1)
    noised, target = unet._noised(prediction, clean, noise, a)
    back = (
        (noised - (1 - a).sqrt() * target) / a.sqrt()
        if prediction == "epsilon"
        else a.sqrt() * noised - (1 - a).sqrt() * target
    )
    torch.testing.assert_close(back, clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_level_counts_and_none_more_than_min_snr_allows(prediction: Prediction) -> None:
    levels = unet.scheduler(prediction).alphas_cumprod
    weight = unet.weights(prediction, levels, 5.0)
    assert weight.isfinite().all()
    assert (weight > 0).all()
    assert float(weight.mean()) == pytest.approx(1)


def test_levels_are_spread_over_all_and_denser_in_the_middle() -> None:
    drawn = np.concatenate([unet._levels(np.random.default_rng(s), 20) for s in range(200)])
    share = ((drawn >= 250) & (drawn < 850)).mean()
    assert drawn.min() < 20
    assert drawn.max() > 980
    assert share == pytest.approx(0.7 * 0.6 + 0.3, abs=0.03)


def test_the_learning_rate_warms_up_and_falls() -> None:
    recipe = Recipe(steps=100, batch=2, learning_rate=1.0, warmup=10, seed=0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == max(rates[8:12])
    assert rates[-1] == pytest.approx(recipe.last_rate, abs=2e-3)
    again = replace(recipe, steps=160, restart=100)
    assert [learning_rate(again, step) for step in range(100)] == rates
    assert max(learning_rate(again, step) for step in range(100, 160)) == pytest.approx(0.5, 0.1)
    assert learning_rate(again, 159) == pytest.approx(0.5 * recipe.last_rate, abs=2e-3)


# --- whitening and starts ---


def test_whitened_latents_have_unit_variance(family: Path) -> None:
    model = load(resolve(ModelSpec(family=str(family))), device="cpu").latent
    pictures = [data.render(data.captioned(seed, NATIVE)[0]) for seed in range(40)]
    latents = model.encode((data.tensor(pictures) + 1) / 2)
    assert latents.mean((0, 2, 3)).abs().max() < 0.5
    assert 0.5 < float(latents.std()) < 1.5


def test_the_untrained_autoencoder_shows_a_blurred_picture() -> None:
    model = vae.untrained(SETTINGS.vae).eval()
    x = data.tensor([data.render(data.captioned(seed, NATIVE)[0]) for seed in range(4)])
    with torch.no_grad():
        y = model.decode(model.encode(x).latent_dist.mean).sample
    assert -10 * torch.log10(((x - y) / 2).pow(2).mean()) > 17


def test_the_untrained_upscaler_shows_an_enlarged_picture() -> None:
    model = upscaler.untrained(SETTINGS.upscaler).eval()
    large = (data.tensor([data.render(data.captioned(3, NATIVE)[0])]) + 1) / 2
    small = torch.nn.functional.avg_pool2d(large, 4)
    with torch.no_grad():
        assert (model(small) - large).abs().mean() < 0.15
