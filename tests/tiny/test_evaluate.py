import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.levels import level_at
from msbd_dist.models.card import bundled_folder
from msbd_dist.tiny.evaluate import cases, edits, painted, probe, run
from msbd_dist.tiny.evaluate.card import card
from msbd_dist.tiny.evaluate.command import main
from msbd_dist.tiny.evaluate.family import Edit, Family, guided, planes
from msbd_dist.tiny.evaluate.grids import write_grids
from msbd_dist.tiny.evaluate.measure import Outcome, psnr
from msbd_dist.tiny.evaluate.rows import Row, table
from msbd_dist.tiny.scenes import COLOURS, SHAPES, Background, Scene, SceneObject, render

QUICK = ("vae", "clip", "probe")  # measures without diffusion
SIZE = Size(128, 128)


@pytest.fixture(scope="module")
def family():
    return Family(bundled_folder(), "cpu")


@pytest.fixture(scope="module")
def quick():
    return run.evaluate(bundled_folder(), scale=0.02, device="cpu", measures=QUICK)


@pytest.fixture(scope="module")
def results(quick):
    return json.loads(json.dumps(quick.written()))


def scene(*things):
    return Scene(size=SIZE, background=Background("sand"), objects=things, seed=5, unit=128)


def thing(colour, shape, y=64, x=64, radius=30, rotation=0.1):
    return SceneObject(
        colour=colour, shape=shape, center_y=y, center_x=x, radius=radius, rotation=rotation
    )


# --- cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        cases.any_scenes,
        cases.star_scenes,
        cases.clear_scenes,
        cases.pair_scenes,
        cases.removal_scenes,
        cases.prompted,
        cases.sized,
        cases.insertions,
        cases.unbroken,
    ],
)
def test_cases_are_the_same_whatever_their_count_and_of_seeds_that_training_never_draws(made):
    assert made(9)[:4] == made(4)
    assert all(case.seed >= cases.FIRST for case in made(9))


def test_no_two_kinds_of_cases_share_a_seed():
    made = (cases.any_scenes, cases.single_scenes, cases.pair_scenes, cases.prompted)
    seeds = [case.seed for each in made for case in each(20)]
    assert len(set(seeds)) == len(seeds)


def test_prompts_name_each_kind_on_a_plain_background_and_on_a_pattern():
    prompted = cases.prompted(112)
    for half, plain in ((prompted[:56], True), (prompted[56:], False)):
        assert {case.kind for case in half} == set(cases.KINDS)
        assert all((case.background.colour is None) == plain for case in half)
    assert all(case.background.colour != case.kind.colour for case in prompted)


def test_sizes_are_asked_for_in_turn():
    small, big = cases.sized(2)
    assert small.prompt.startswith(f"a small {small.kind.colour} {small.kind.shape} on ")
    assert big.prompt.startswith(f"a big {big.kind.colour} {big.kind.shape} on ")


def test_masks_of_insertions_are_whole_cells():
    for case in cases.insertions(20):
        assert {edge % cases.CELL for edge in (case.box.y0, case.box.x0, case.box.y1)} == {0}
        assert 5 <= case.box.height // cases.CELL <= 10
        assert case.mask.sum() == case.box.height * case.box.width


# --- probe ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_probe_names_shapes(shape):
    assert probe.name(render(scene(thing("blue", shape)))) == ("blue", shape)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_probe_names_colours(colour):
    assert probe.name(render(scene(thing(colour, "star")))) == (colour, "star")


def test_the_probe_sees_nothing_where_nothing_is():
    assert probe.blobs(render(scene())) == ()
    assert probe.name(render(scene())) == (None, None)


def test_the_probe_knows_an_object_that_the_edge_cuts():
    assert probe.name(render(scene(thing("red", "circle", x=24))))[0] == "red"


def test_the_probe_tells_one_object_from_several():
    one = scene(thing("red", "ring", radius=40))
    places = [(y, x) for y in (36, 92) for x in (36, 92)]
    several = scene(*(thing("red", "ring", y=y, x=x, radius=20) for y, x in places))
    assert probe.likeness(render(one), "red", "ring") > 0.9
    assert probe.likeness(render(several), "red", "ring") < 0.6
    assert probe.likeness(render(one), "red", "square") < 0.8
    assert probe.likeness(render(one), "blue", "ring") == 0


def test_the_probe_measures_places_and_areas():
    (blob,) = probe.blobs(render(scene(thing("red", "square", y=40, x=90, rotation=0))))
    assert (blob.y, blob.x) == pytest.approx((40 / 128, 90 / 128), abs=0.02)
    assert blob.area == pytest.approx((0.82 * 60) ** 2 / 128**2, rel=0.1)


def test_pairs_are_counted():
    one, other = thing("red", "star", x=30, radius=24), thing("blue", "ring", x=96, radius=24)
    asked = replace(scene(one, other), seed=1)
    assert painted.pair_prompt(asked) == "a red star left of a blue ring on sand"
    assert painted.pair_verdict(asked, render(asked)) == {
        "both": 1.0,
        "shapes": 1.0,
        "relation": 1.0,
    }
    swapped = scene(replace(one, center_x=96), replace(other, center_x=30))
    assert painted.pair_verdict(asked, render(swapped))["relation"] == 0.0
    twice = scene(one, other, replace(one, center_y=100, center_x=64, radius=18))
    huge = scene(thing("red", "circle", x=44, radius=48), replace(other, center_x=116))
    third = scene(one, other, thing("green", "heart", y=104, radius=18))
    for wrong in (scene(one), twice, huge, third):
        assert painted.pair_verdict(asked, render(wrong))["both"] == 0.0


# --- edits ----------------------------------------------------------------------------------------


def test_a_jump_is_that_of_the_mean_colours_across_the_edges():
    picture = np.full((64, 64, 3), 100, np.uint8)
    picture[16:40, 8:48] = 151
    assert edits.jump(picture, Box(16, 8, 40, 48)) == pytest.approx(51 / 255)
    assert edits.jump(picture, Box(20, 12, 36, 44)) == 0
    assert edits.texture(picture, Box(20, 12, 36, 44)) == 0
    assert edits.texture(picture, Box(12, 12, 36, 44)) > 0


def test_a_removal_is_judged_by_what_is_left():
    (case,) = cases.removal_scenes(1)
    mask, gone = edits.removal_mask(case), render(replace(case, objects=()))
    assert edits.removal_verdict(case, mask, gone, bare=True)["removed"] == 1
    assert edits.removal_verdict(case, mask, gone, bare=False)["removed"] == 0
    assert edits.removal_verdict(case, mask, render(case), bare=True)["probe"] == 0
    hole = gone.copy()
    hole[mask] //= 3
    assert edits.removal_verdict(case, mask, hole, bare=True)["continued"] == 0


def test_guidance_for_many_prompts_is_guidance_for_each(family):
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = ("a red star on grass", "a blue ring")
    level = level_at(family.latent.alphas_cumprod, 500)
    together = guided(family.latent, prompts, 3.0)(z, level)
    for row, prompt in enumerate(prompts):
        alone = family.latent.denoiser(family.latent.text(prompt), guidance=3.0)(z[[row]], level)
        torch.testing.assert_close(together[[row]], alone, atol=1e-3, rtol=1e-3)


def test_a_picture_does_not_depend_on_its_batch_and_an_edit_keeps_what_is_not_masked(
    family, monkeypatch
):
    monkeypatch.setattr("msbd_dist.tiny.evaluate.family.STEPS", 2)
    (one,) = family.painted(["a red star"], [7], side=128, guidance=3, steps=2)
    _, same = family.painted(["a ring", "a red star"], [8, 7], side=128, guidance=3, steps=2)
    assert abs(one.astype(int) - same).max() <= 2
    (case,) = cases.insertions(1)
    picture = render(case.scene)
    (after,) = family.edited([Edit(picture, case.mask, case.prompt, case.seed)], samples=2)
    changed = (after != picture).any(-1)
    assert not changed[~case.mask].any()
    assert changed[case.mask].mean() > 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [18, 48])
def test_the_probe_tells_how_large_an_object_is(shape, radius):
    picture = render(scene(thing("blue", shape, radius=radius)))
    assert probe.radius(picture, "blue", shape) == pytest.approx(radius / 128, rel=0.15)
    assert probe.radius(picture, "red", shape) == 0


# --- rows, sheets, card ---------------------------------------------------------------------------


def test_the_quick_measures_give_sensible_rows(quick):
    rows = {row.key: row for row in quick.rows}
    assert 25 < rows["vae_psnr"].value < 50
    assert rows["vae_psnr_worst"].value <= rows["vae_psnr"].value < rows["vae_psnr_half"].value
    assert rows["clip_colour"].value > 0.8
    assert rows["probe_colour"].value > 0.8
    assert rows["clip_colour"].cases == 20


def test_the_same_arguments_give_the_same_numbers_in_another_process():
    one, two = (
        run.evaluate(
            bundled_folder(), scale=0.02, device="cpu", processes=processes, measures=("clip",)
        )
        for processes in (1, 2)
    )
    assert one.rows == two.rows


def test_results_say_what_the_folder_holds(results):
    assert results["bytes"] > sum(results["parts"].values()) > 10**6
    assert results["parameters"]["unet"] > 10**6
    assert results["speed"]["seconds"] > 0
    assert results["prediction"] in ("epsilon", "v_prediction")


def test_rows_survive_json(quick, results):
    read = [Row.read(row) for row in results["rows"].values()]
    assert [row.key for row in read] == [row.key for row in quick.rows]
    assert [row.met for row in read] == [row.met for row in quick.rows]


def test_the_table_marks_what_is_missed():
    good = Row(key="a", label="stars", value=0.95, cases=40, bar=0.9, real=1.0)
    bad = Row(key="b", label="seam", value=1.7, cases=9, unit="times", bar=1.5, at_most=True)
    first, second, third = table([good, bad], [replace(good, value=0.5)]).splitlines()
    assert first.split() == ["measure", "value", "bar", "real", "cases", "against"]
    assert second.split() == [
        "stars",
        "95.0",
        "%",
        ">=",
        "90",
        "%",
        "100.0",
        "%",
        "40",
        "50.0",
        "%",
    ]
    assert third.split() == ["seam", "1.70", "x", "<=", "1.50", "x", "9", "MISSED"]


def test_the_card_holds_every_row_and_lists_what_falls_short(results):
    text = card(results)
    assert text.startswith("---\nlicense: apache-2.0\n")
    for row in results["rows"].values():
        assert row["label"] in text
    short = text.split("## What falls short")[1]
    missed = [row["label"] for row in results["rows"].values() if row["met"] is False]
    assert all(f"- {label}: " in short for label in missed)


def test_sheets_are_small_pngs(tmp_path, quick):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    many = [Outcome({}, (noise, noise, noise), "a red star on grass: a blue ring!")] * 24
    write_grids({"removal": many, **quick.outcomes}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"autoencoder.png", "removal.png"}
    for path in tmp_path.iterdir():
        assert path.stat().st_size <= 600_000
        with Pil.open(path) as sheet:
            assert min(sheet.size) > 100


def test_psnr_of_8_bit_pictures():
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black + 255, black) == pytest.approx(0)
    assert psnr(black + 1, black) == pytest.approx(48.13, abs=0.01)


def test_pictures_become_planes():
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[1, 2, 0] = 255
    assert planes([picture]).shape == (1, 3, 2, 3)
    assert planes([picture])[0, 0, 1, 2] == 1


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_all_it_is_asked_for(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(
        "msbd_dist.tiny.evaluate.run.evaluate",
        lambda folder, **options: run_evaluate(folder, **options, measures=("clip",)),
    )
    written = {name: tmp_path / name for name in ("results.json", "README.md")}
    arguments = ["-o", str(written["results.json"]), "--card", str(written["README.md"])]
    folder = str(bundled_folder())
    quickly = ["--scale", "0.004", "--processes", "1", "--device", "cpu", "--against", folder]
    assert main([folder, *arguments, *quickly]) == 0
    results = json.loads(written["results.json"].read_text())
    assert results["rows"] == results["against"]["rows"]
    assert "CLIP names real objects: colour" in capsys.readouterr().out
    assert written["README.md"].read_text() == card(results)


run_evaluate = run.evaluate


def test_a_folder_that_is_no_family_is_said_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert str(tmp_path) in said.err


def test_a_missing_opencv_is_said_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("msbd_dist.tiny.evaluate.command.find_spec", lambda name: None)
    assert main([]) == 2
    assert "pip install opencv-python-headless" in capsys.readouterr().err
