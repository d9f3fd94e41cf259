import subprocess
import sys
from dataclasses import replace
from itertools import product
from math import pi

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.core.geometry import Box, Size
from msbd_dist.tiny import scenes
from msbd_dist.tiny.scenes import (
    COLOURS,
    PATTERNS,
    PLAINS,
    RGB,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    caption,
    default_unit,
    photo_like,
    picture,
    random_detail,
    random_mural,
    random_scene,
    render,
    silhouette,
)

SMALL = Size(128, 128)
BACKGROUNDS = [Background(kind) for kind in PLAINS] + [Background(kind, "red") for kind in PATTERNS]
WORDS = {"a", "an", "and", "on", *SHAPES, *COLOURS, *PLAINS, *PATTERNS}

sizes = st.builds(Size, st.integers(1, 300), st.integers(1, 300))
seeds = st.integers(0, 2**63)


def plain_scene(background=BACKGROUNDS[0], *objects, size=SMALL, unit=128.0, seed=5):
    return Scene(size=size, background=background, objects=objects, unit=unit, seed=seed)


def thing(colour="red", shape="star", radius=30.0, at=(64, 64), rotation=0.0):
    return SceneObject(
        colour=colour,
        shape=shape,
        center_y=at[0],
        center_x=at[1],
        radius=radius,
        rotation=rotation,
    )


def shrunk(image, side=128):
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)


# --- the same arguments, the same picture ---


def test_the_same_seed_gives_the_same_bytes():
    size = Size(90, 130)
    assert picture(3, size)[0].tobytes() == picture(3, size)[0].tobytes()
    assert picture(3, size)[1] == picture(3, size)[1]
    assert photo_like(3, size).tobytes() == photo_like(3, size).tobytes()


def test_no_global_random_state_is_read_or_moved():
    before = np.random.get_state()[1].copy()
    first = picture(3, SMALL)[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(0)
    np.testing.assert_array_equal(picture(3, SMALL)[0], first)


def test_other_seeds_give_other_pictures():
    pictures = {picture(seed, Size(48, 48))[0].tobytes() for seed in range(12)}
    assert len(pictures) == 12
    landscapes = {photo_like(seed, Size(48, 48)).tobytes() for seed in range(6)}
    assert len(landscapes) == 6


@pytest.mark.parametrize("background", BACKGROUNDS, ids=lambda b: b.kind)
def test_bands_leave_no_trace(background, monkeypatch):
    scene = plain_scene(background, thing(), size=Size(70, 90))
    whole = render(scene).astype(int)
    monkeypatch.setattr(scenes, "_BAND", 7 * 90)
    assert abs(render(scene).astype(int) - whole).max() <= 1


def test_bands_leave_no_trace_in_a_landscape(monkeypatch):
    whole = photo_like(2, Size(70, 90)).astype(int)
    monkeypatch.setattr(scenes, "_BAND", 1)
    assert abs(photo_like(2, Size(70, 90)).astype(int) - whole).max() <= 1


# --- words ---


@pytest.mark.parametrize(
    ("background", "objects", "words"),
    [
        (Background("grass"), (thing("red", "star"),), "a red star on grass"),
        (
            Background("sand"),
            (thing("blue", "ring"), thing("orange", "square")),
            "a blue ring and an orange square on sand",
        ),
        (Background("wall", "red"), (thing("white", "heart"),), "a white heart on a red wall"),
        (Background("wall", "orange"), (), "an orange wall"),
        (Background("stripes", "red"), (), "red stripes"),
        (Background("water"), (), "water"),
    ],
)
def test_captions_name_objects_and_background(background, objects, words):
    assert caption(plain_scene(background, *objects)) == words


def test_captions_use_only_words_that_the_family_knows():
    captions = [caption(random_scene(seed, SMALL)) for seed in range(400)]
    assert {word for words in captions for word in words.split()} == WORDS


@pytest.mark.parametrize(
    ("center", "words"),
    [
        ((64, 20), "a red star left of a blue ring on grass"),
        ((64, 110), "a red star right of a blue ring on grass"),
        ((20, 70), "a red star above a blue ring on grass"),
        ((110, 60), "a red star below a blue ring on grass"),
    ],
)
def test_captions_can_say_where_one_object_is_seen_from_the_other(center, words):
    things = thing("red", "star", 20, center), thing("blue", "ring", 20, (64, 64))
    scene = plain_scene(Background("grass"), *things)
    assert caption(scene, places=True) == words
    assert caption(scene, places=True, background=False) == words.removesuffix(" on grass")
    assert caption(scene) == "a red star and a blue ring on grass"


@pytest.mark.parametrize(("radius", "size"), [(15, "small "), (30, ""), (60, "big ")])
def test_captions_can_say_how_large_an_object_is(radius, size):
    scene = plain_scene(Background("sand"), thing("orange", "star", radius))
    article = "a" if size else "an"
    assert caption(scene, sizes=True) == f"{article} {size}orange star on sand"
    assert caption(replace(scene, unit=2 * 128.0), sizes=True).startswith("a small") == (
        radius < 40
    )


def test_a_background_alone_is_always_named():
    assert caption(plain_scene(), sizes=True, places=True, background=False) == "sky"


# --- random scenes ---


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_number_of_objects_can_be_chosen(count):
    assert all(
        len(random_scene(seed, Size(200, 300), objects=count).objects) == count
        for seed in range(20)
    )


def test_objects_are_centred_inside_and_keep_apart():
    for seed in range(60):
        size = Size(180, 260)
        scene = random_scene(seed, size, objects=3)
        seen = [silhouette(one, size) for one in scene.objects]
        assert all(0 < o.center_y < 180 and 0 < o.center_x < 260 for o in scene.objects)
        assert (np.sum(seen, axis=0, dtype=int) <= 1).mean() > 0.995
        assert len({(o.colour, o.shape) for o in scene.objects}) == len(scene.objects)


def test_an_object_never_has_the_colour_of_its_background():
    drawn = (random_scene(seed, SMALL) for seed in range(300))
    assert all(o.colour != scene.background.colour for scene in drawn for o in scene.objects)


def test_the_unit_grows_with_the_picture():
    assert default_unit(Size(1, 500)) == 16
    assert default_unit(SMALL) == 128
    assert default_unit(Size(256, 400)) == default_unit(Size(512, 900)) == 256
    assert default_unit(Size(2000, 3000)) == 1000
    assert random_scene(1, Size(2000, 3000)).unit == 1000
    assert random_scene(1, Size(2000, 3000), unit=640).unit == 640


@pytest.mark.parametrize(
    "make",
    [
        lambda: Background("lava"),
        lambda: Background("wall"),
        lambda: Background("wall", "pink"),
        lambda: Background("grass", "green"),
        lambda: thing(colour="pink"),
        lambda: thing(shape="hexagon"),
        lambda: thing(radius=0),
        lambda: plain_scene(size=Size(0, 4)),
        lambda: plain_scene(unit=0),
        lambda: random_scene(1, SMALL, objects=41),
    ],
)
def test_what_the_family_does_not_know_is_refused(make):
    with pytest.raises(ValueError, match=r"must be|takes no|at least"):
        make()


def test_a_detail_shows_at_most_part_of_one_object():
    drawn = [random_detail(seed, SMALL) for seed in range(200)]
    assert all(2 * 128 <= scene.unit <= 6 * 128 for scene in drawn)
    cut = [thing for scene in drawn for thing in scene.objects]
    assert 90 < len(cut) < 170
    assert all(len(scene.objects) <= 1 for scene in drawn)
    covered = [silhouette(one, SMALL).mean() for one in cut]
    assert all(not Box.of(SMALL).contains(one.window) for one in cut)
    assert 0.2 < np.mean(covered) < 0.7
    assert np.mean([0 < share < 1 for share in covered]) > 0.8


def test_any_window_of_a_mural_is_like_a_training_picture():
    size = Size(1200, 2000)
    mural = random_mural(3, size, unit=192.0)
    assert 40 < len(mural.objects) < 70
    assert all(0.1 <= one.radius / 192 <= 0.3 for one in mural.objects)
    seen = sum(silhouette(one, size).astype(int) for one in mural.objects)
    assert seen.max() == 1, "no two objects touch"
    assert all(one.colour != mural.background.colour for one in mural.objects)
    rng = np.random.default_rng(0)
    corners = rng.integers((0, 0), (1200 - 192, 2000 - 192), (50, 2))
    filled = [seen[y : y + 192, x : x + 192].any() for y, x in corners]
    assert np.mean(filled) > 0.8


# --- objects ---


@pytest.mark.parametrize(("colour", "shape"), list(product(COLOURS, SHAPES)))
def test_an_object_has_its_colour_and_leaves_the_rest_alone(colour, shape):
    one = thing(colour, shape, at=(60, 70), rotation=0.2)
    bare, drawn = (plain_scene(Background("wood"), *o) for o in ((), (one,)))
    bare, drawn = render(bare), render(drawn)
    mean = drawn[silhouette(one, SMALL)].mean(0) / 255
    distances = {name: np.abs(mean - rgb).sum() for name, rgb in RGB.items()}
    assert min(distances, key=distances.get) == colour
    untouched = ~silhouette(one, SMALL, shadow=True)
    np.testing.assert_array_equal(drawn[untouched], bare[untouched])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotation", [-0.3, 0.0, 2.0])
def test_objects_and_shadows_stay_in_their_window(shape, rotation):
    size, one = Size(300, 300), thing("blue", shape, 80.0, (150, 150), rotation)
    outside = np.ones((300, 300), bool)
    outside[one.window.slices] = False
    seen = silhouette(one, size, shadow=True)
    assert Box.of(size).contains(one.window)
    assert not (seen & outside).any()
    assert not (silhouette(one, size) & ~seen).any()


def test_an_object_may_reach_beyond_the_picture():
    one = thing("blue", "circle", 40.0, at=(0, 128))
    assert silhouette(one, SMALL).sum() == pytest.approx(pi * 40**2 / 4, rel=0.02)
    corner = render(plain_scene(Background("wall", "red"), one))[:20, -20:].mean((0, 1))
    assert corner.argmax() == 2
    far_off = thing(at=(900, 900))
    assert not silhouette(far_off, SMALL, shadow=True).any()
    np.testing.assert_array_equal(
        render(plain_scene(BACKGROUNDS[0], far_off)), render(plain_scene())
    )


@pytest.mark.parametrize(
    ("shape", "area"),
    [("circle", pi), ("square", 1.64**2), ("ring", pi * (1 - 0.46**2)), ("triangle", 1.299)],
)
def test_shapes_have_their_areas(shape, area):
    seen = silhouette(thing(shape=shape, radius=100, at=(150, 150)), Size(300, 300))
    assert seen.sum() / 100**2 == pytest.approx(area, rel=0.01)


def test_outlines_are_smooth():
    scene = plain_scene(Background("wall", "white"), thing("black", "circle", at=(64.3, 64.3)))
    row = render(scene)[64, :64].mean(-1)
    steps = abs(np.diff(row))
    assert (steps > 25).sum() >= 2
    assert steps.max() < 150


# --- size ---


@pytest.mark.parametrize("background", BACKGROUNDS, ids=lambda b: b.kind)
def test_a_large_scene_shrinks_to_the_training_picture(background):
    one = thing(at=(64, 64))
    large_one = thing(at=(320, 320), radius=150.0)
    small = render(plain_scene(background, one)).astype(np.float32)
    large = shrunk(render(plain_scene(background, large_one, size=Size(640, 640), unit=640.0)))
    assert abs(large.mean((0, 1)) - small.mean((0, 1))).max() < 6
    assert np.corrcoef(large.mean(-1).ravel(), small.mean(-1).ravel())[0, 1] > 0.85
    assert large.std() == pytest.approx(small.std(), rel=0.15)


@pytest.mark.parametrize("background", BACKGROUNDS, ids=lambda b: b.kind)
def test_large_scenes_have_detail_of_two_pixels(background):
    """Shrinking to half and back loses more than it does of an enlarged small scene."""
    scene = plain_scene(background, size=Size(512, 512), unit=1024.0)
    fine, enlarged = render(scene), render(replace(scene, size=SMALL, unit=256.0))
    enlarged = cv2.resize(enlarged, (512, 512), interpolation=cv2.INTER_CUBIC)

    def detail(image):
        half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        back = cv2.resize(half, (512, 512), interpolation=cv2.INTER_LINEAR)
        return (image.astype(np.float32) - back).std()

    assert detail(fine) > 1.5
    assert detail(fine) > 1.3 * detail(enlarged)


@given(size=sizes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_any_size_can_be_drawn(size, seed):
    image, words = picture(seed, size)
    assert image.shape == (size.height, size.width, 3)
    assert image.dtype == np.uint8
    assert set(words.split()) <= WORDS


@given(size=sizes, seed=seeds)
@settings(max_examples=15, deadline=None)
def test_landscapes_of_any_size_can_be_drawn(size, seed):
    image = photo_like(seed, size)
    assert image.shape == (size.height, size.width, 3)
    assert image.dtype == np.uint8


# --- landscapes ---


@pytest.mark.parametrize("seed", range(4))
def test_landscapes_have_a_bright_blue_sky_and_a_darker_ground(seed):
    image = photo_like(seed, Size(240, 360)).astype(np.float32)
    sky, ground = image[:50].mean((0, 1)), image[-50:].mean((0, 1))
    assert sky.mean() > ground.mean() + 30
    assert sky.argmax() == 2


@pytest.mark.parametrize("seed", range(4))
def test_the_ground_gets_finer_towards_the_horizon(seed):
    image = photo_like(seed, Size(600, 1200)).mean(-1)

    def mean_wavelength(y):
        rows = image[y : y + 24]
        power = (abs(np.fft.rfft(rows - rows.mean(1, keepdims=True))) ** 2).mean(0)
        power = (power - np.median(power[-150:])).clip(0)  # less the grain
        return 1200 * power[4:].sum() / (power * np.arange(len(power)))[4:].sum()

    assert mean_wavelength(576) > 1.2 * mean_wavelength(390)


def test_torch_is_not_needed():
    code = "import sys, msbd_dist.tiny.demo; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
