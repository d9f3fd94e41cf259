"""The latent model against diffusers, and the bundled family against its own CLIP."""

from __future__ import annotations

import shutil
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    TCDScheduler,
)
from folders import edit_json, loaded
from torch import Tensor
from torch.func import functional_call

from msbd_dist.core.levels import CLEAN, Level, level_at
from msbd_dist.core.sampling import Denoiser
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import PromptError
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve
from msbd_dist.models.latent import Conditioning, LatentModel
from msbd_dist.models.learned import in_full
from msbd_dist.models.loading import hermetic

Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def at(latent: LatentModel, t: int) -> Level:
    return level_at(latent.alphas_cumprod, t)


def ddim(denoise: Denoiser, z: Tensor, alphas: Tensor, steps: int) -> Tensor:
    """Plain deterministic DDIM from noise."""
    stride = len(alphas) // steps
    times = [i * stride + 1 for i in reversed(range(steps))]
    for t, earlier in zip(times, [*times[1:], None], strict=True):
        a = float(alphas[t])
        b = 1.0 if earlier is None else float(alphas[earlier])
        x0 = denoise(z, Level(t, a, 1 - a))
        z = sqrt(b) * x0 + sqrt(1 - b) * (z - sqrt(a) * x0) / sqrt(1 - a)
    return z


@pytest.mark.parametrize("prompt", ["a red star", "a blue ring"])
def test_the_bundled_family_paints_what_the_prompt_says(bundled: Models, prompt: str) -> None:
    latent = bundled.latent
    denoise = latent.denoiser(latent.text(prompt), guidance=bundled.card.family.guidance)
    z = ddim(denoise, noise(1, 4, 16, 16), latent.alphas_cumprod, steps=10)
    picture = latent.decode(z)
    others = ["a red circle", "a blue star", "a green heart", "a yellow ring", "a red square"]
    scores = {text: bundled.scorer(picture, text)[0] for text in [prompt, *others, "grass"]}
    assert max(scores, key=lambda text: scores[text]) == prompt


def test_encode_then_decode_gives_the_picture_back(bundled: Models, scene: Tensor) -> None:
    z = bundled.latent.encode(scene)
    assert (z.shape, z.dtype) == ((1, 4, 16, 16), torch.float32)
    back = bundled.latent.decode(z)
    psnr = -10 * torch.log10((back.clamp(0, 1) - scene).square().mean())
    assert psnr > 25


def test_latents_are_scaled_as_in_diffusers(bundled: Models, scene: Tensor) -> None:
    vae = bundled.latent.parts.vae
    with torch.no_grad():
        expected = vae.encode(scene * 2 - 1).latent_dist.mean * 0.18215
        picture = vae.decode(expected / 0.18215).sample / 2 + 0.5
    assert torch.equal(bundled.latent.encode(scene), expected)
    assert torch.equal(bundled.latent.decode(expected), picture)


def test_alphas_are_the_models_own(made: Path, bundled: Models) -> None:
    alphas = bundled.latent.alphas_cumprod
    assert (alphas.shape, alphas.dtype) == ((1000,), torch.float64)
    assert alphas[[981, 391, 241]].sqrt().tolist() == pytest.approx([0.0760, 0.6626, 0.8298], 1e-3)
    assert loaded(made / "v").latent.alphas_cumprod[-1] == 0


@pytest.mark.parametrize(
    "betas",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.01] * 1000},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
    ],
)
def test_every_beta_schedule_is_read_from_the_folder(
    made: Path, tmp_path: Path, betas: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    edit_json(folder / "scheduler" / "scheduler_config.json", **betas)
    kept = {k: v for k, v in betas.items() if k in ("beta_schedule", "trained_betas")}
    options = {"beta_schedule": "scaled_linear", **kept}
    expected = DDIMScheduler(beta_start=0.00085, beta_end=0.012, **options).alphas_cumprod
    latent = loaded(folder).latent
    assert torch.equal(latent.alphas_cumprod, expected.double())
    assert latent.prediction == "epsilon"


@pytest.mark.parametrize(("folder", "t"), [("eps", 981), ("eps", 1), ("v", 981), ("v", 999)])
def test_a_step_equals_diffusers_ddim(made: Path, folder: str, t: int) -> None:
    latent = loaded(made / folder).latent
    scheduler = DDIMScheduler.from_pretrained(made / folder, subfolder="scheduler")
    scheduler.set_timesteps(50)
    scheduler.timesteps = torch.tensor([t])
    cond = latent.text("a red star")
    with torch.no_grad():
        raw = latent.parts.unet(Z, t, cond.prompt.expand(2, -1, -1)).sample
    expected = scheduler.step(raw, t, Z, eta=0.0)
    x0 = latent.denoiser(cond, guidance=1)(Z, at(latent, t))
    torch.testing.assert_close(x0, expected.pred_original_sample, rtol=1e-4, atol=1e-4)
    a = float(latent.alphas_cumprod[t])
    b = float(latent.alphas_cumprod[t - 20] if t > 20 else latent.alphas_cumprod[0])
    eps = (Z - sqrt(a) * x0) / sqrt(1 - a)
    step = sqrt(b) * x0 + sqrt(1 - b) * eps
    torch.testing.assert_close(step, expected.prev_sample, rtol=1e-4, atol=1e-4)


def test_a_model_that_predicts_the_sample_is_taken_at_its_word(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    latent = loaded(folder).latent
    cond = latent.text("")
    raw = latent.parts.unet(Z, 500, cond.prompt.expand(2, -1, -1)).sample
    assert torch.equal(latent.denoiser(cond, guidance=1)(Z, at(latent, 500)), raw)


def test_guidance_is_linear_between_negative_and_prompt(made: Path) -> None:
    latent = loaded(made / "v").latent
    cond = latent.text("a red star", "a blue ring")
    level = at(latent, 500)
    by = {s: latent.denoiser(cond, guidance=s)(Z, level) for s in (0.5, 1.0, 7.5)}
    negative = latent.denoiser(latent.text("a blue ring"), guidance=1)(Z, at(latent, 500))
    for s in (0.5, 7.5):
        expected = negative + s * (by[1.0] - negative)
        torch.testing.assert_close(by[s], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(negative, by[1.0])


@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
def test_rows_may_have_prompts_of_their_own(made: Path, guidance: float) -> None:
    latent = loaded(made / "v").latent
    texts = [latent.text("a red star", "a blue ring"), latent.text("a ring"), latent.text("")]
    z = torch.randn(3, *Z.shape[1:], generator=torch.Generator().manual_seed(3))
    level = at(latent, 500)
    together = latent.denoiser(Conditioning.rows(texts), guidance=guidance)(z, level)
    for row, text in enumerate(texts):
        alone = latent.denoiser(text, guidance=guidance)(z[[row]], level)
        torch.testing.assert_close(together[[row]], alone, rtol=1e-4, atol=1e-4)


def test_guidance_0_paints_no_words_whatever_the_prompts_say(made: Path) -> None:
    latent = loaded(made / "v").latent
    nothing = latent.denoiser(latent.text(""), guidance=1)(Z, at(latent, 500))
    for pair in (("a red star", "a blue ring"), ("a red star", ""), ("", "a blue ring")):
        assert torch.equal(
            latent.denoiser(latent.text(*pair), guidance=0)(Z, at(latent, 500)), nothing
        )


SPACINGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "stable diffusion": (DDIMScheduler, {"steps_offset": 1, "set_alpha_to_one": False}),
    "no offset": (DDIMScheduler, {"steps_offset": 0}),
    "trailing": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "linspace": (DDIMScheduler, {"timestep_spacing": "linspace", "set_alpha_to_one": False}),
    "turbo": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "euler": (EulerDiscreteScheduler, {"timestep_spacing": "leading", "steps_offset": 1}),
    "lcm": (LCMScheduler, {}),
    "lcm of 100": (LCMScheduler, {"original_inference_steps": 100}),
    "tcd": (TCDScheduler, {}),
}


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers' own, of numpy
@pytest.mark.parametrize("kind", SPACINGS)
def test_steps_are_where_the_folders_scheduler_has_them(
    made: Path, tmp_path: Path, kind: str
) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    make, options = SPACINGS[kind]
    scheduler = make(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **options)
    scheduler.save_pretrained(folder / "scheduler")
    latent, clean = loaded(folder).latent, options.get("set_alpha_to_one", True)
    for steps in (1, 2, 3, 4, 50):
        scheduler.set_timesteps(steps)
        found = latent.schedule(steps)
        assert [step.start.t for step in found] == [int(t) for t in scheduler.timesteps]
        assert found[-1].end == (CLEAN if clean else at(latent, 0))


def test_guidance_0_and_1_cost_half(made: Path) -> None:
    latent = loaded(made / "eps").latent
    sizes: list[int] = []
    latent.parts.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for guidance in (0.0, 1.0, 2.0):
        latent.denoiser(latent.text("a"), guidance=guidance)(Z, at(latent, 10))
    assert sizes == [2, 2, 4]


def test_one_file_gives_what_its_folder_gives(made: Path) -> None:
    folder = loaded(made / "eps").latent
    single = loaded(made / "single.safetensors", config=str(made / "eps")).latent
    for part in ("unet", "vae", "text_encoder"):
        theirs = dict(getattr(folder.parts, part).named_parameters())
        ours = dict(getattr(single.parts, part).named_parameters())
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    results = [_everything(latent) for latent in (folder, single)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def _everything(latent: LatentModel) -> Tensor:
    z = latent.encode(torch.full((2, 3, 64, 64), 0.25))
    return latent.decode(latent.denoiser(latent.text("a red star"), guidance=3)(z, at(latent, 300)))


def test_results_are_the_same_every_time(bundled: Models, scene: Tensor) -> None:
    again = load(resolve(ModelSpec()), device="cpu").latent
    for latent in (bundled.latent, again):
        z = latent.encode(scene)
        x0 = latent.denoiser(latent.text("a red star"), guidance=6)(z, at(latent, 400))
        assert torch.equal(
            x0, bundled.latent.denoiser(again.text("a red star"), guidance=6)(z, at(latent, 400))
        )
        assert torch.equal(latent.decode(z), bundled.latent.decode(z))


def test_tuning_the_decoder_leaves_the_pretrained_weights_alone(bundled: Models) -> None:
    latent = bundled.latent
    before = {k: v.clone() for k, v in latent.parts.vae.state_dict().items()}
    z = noise(1, 4, 4, 4)
    weights = latent.decoder_weights()
    plain = latent.decode(z)
    assert not plain.requires_grad
    assert torch.equal(latent.decode(z, weights).detach(), plain)
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    latent.decode(z, weights).square().mean().backward()
    assert all(w.grad is not None and w.grad.any() for k, w in weights.items() if "bias" in k)
    optimizer.step()
    assert not torch.equal(latent.decode(z, weights), plain)
    assert torch.equal(latent.decode(z), plain)
    after = latent.parts.vae.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in latent.decoder.parameters())


def test_products_in_bfloat16_give_nearly_the_same_gradient(bundled: Models) -> None:
    z, gradients = noise(1, 4, 12, 12, seed=4), []
    for half in (False, True):
        weights = bundled.latent.decoder_weights()
        picture = bundled.latent.decode(z, weights, half=half)
        assert picture.dtype == torch.float32
        (picture**2).mean().backward()
        grads = [weight.grad for weight in weights.values()]
        assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)
        gradients.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    exact, rough = gradients
    assert not torch.equal(exact, rough)
    assert torch.cosine_similarity(exact, rough, dim=0) > 0.99


def test_a_gradient_through_the_decoder_is_of_the_given_weights_only(bundled: Models) -> None:
    latent = bundled.latent
    name = "decoder.conv_out.weight"
    params = {name: latent.decoder_weights()[name]}
    z = latent.encode(torch.full((1, 3, 32, 32), 0.5))
    picture = functional_call(latent.decoder, params, (z,))
    assert torch.equal(picture, latent.decode(z, params))
    (gradient,) = torch.autograd.grad(picture.square().sum(), list(params.values()))

    def loss(step: float) -> float:
        moved = {name: params[name].detach() + step * gradient / gradient.norm()}
        return float(latent.decode(z, moved).square().sum())

    assert (loss(0.01) - loss(-0.01)) / 0.02 == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_embeddings_are_cached_and_the_negative_prompt_counts(bundled: Models) -> None:
    latent = bundled.latent
    cond = latent.text("a red star", "a blue ring")
    assert cond.prompt.shape == (1, 24, 128)
    assert latent.text("a red star").prompt is cond.prompt
    assert torch.equal(cond.negative, latent.text("a blue ring").prompt)


@pytest.mark.parametrize("which", ["prompt", "negative prompt"])
def test_a_prompt_that_is_too_long_is_refused(
    bundled: Models, which: str, capfd: pytest.CaptureFixture[str]
) -> None:
    latent = bundled.latent
    fits = "star " * 22
    latent.text(fits, fits)
    long = "a red star on green grass " * 4
    with pytest.raises(PromptError) as caught:
        latent.text(*([long] if which == "prompt" else ["", long]))
    message = str(caught.value)
    assert message.startswith(f"{which} has 26 tokens with start and end, this text encoder holds")
    assert message.endswith("holds 24: shorten it; 'green grass' does not fit")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("a <toy> on grass", "a <toy> <toy>_1 <toy>_2 on grass"),
        ("<toy>", "<toy> <toy>_1 <toy>_2"),
        ("<toy> and <toy>", "<toy> <toy>_1 <toy>_2 and <toy> <toy>_1 <toy>_2"),
        ("a <toy> <toy>_1 <toy>_2 on grass", "a <toy> <toy>_1 <toy>_2 on grass"),
        ("an <one>", "an <one>"),
        ("a <to", "a <to"),
        ("", ""),
    ],
)
def test_a_learned_word_stands_for_all_its_vectors(text: str, full: str) -> None:
    assert in_full(text, {"<toy>", "<toy>_1", "<toy>_2", "<one>", "<|endoftext|>"}) == full
    assert in_full(text, {"<toy>", "<one>"}) == text


def test_a_learned_word_of_several_vectors_is_embedded_as_in_diffusers(
    made: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "made"))
    edit_json(folder / "scheduler" / "scheduler_config.json", steps_offset=1)
    with hermetic():
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        pipe.load_textual_inversion({"<toy>": noise(3, 32, seed=5)}, token="<toy>")
        pipe.save_pretrained(tmp_path / "sd")
    latent = loaded(tmp_path / "sd").latent
    for prompt in ("a <toy> star", "a red star"):
        wanted, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(latent.text(prompt).prompt, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(PromptError, match="has 31 tokens"):
        latent.text("<toy> " * 9 + "star star")
