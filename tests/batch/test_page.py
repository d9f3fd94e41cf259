"""The page in a browser: an index that filters, edits that can be looked at to the last pixel."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from quick import FAST, draw_inputs, manifest_of, pixels
from shown import EVIL, SHORT, Watched, chromium, screenshot, tab

from msbd_dist.batch import steps, tiles
from msbd_dist.batch.compare import measure
from msbd_dist.batch.measures import MEASURES
from msbd_dist.batch.page import (
    Row,
    as_json,
    commands,
    composed,
    row_of,
    show,
    write_edit,
    write_page,
)
from msbd_dist.batch.patch import Patch
from msbd_dist.batch.record import EditResult, load_edit, load_run
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.single import edit_manifest
from msbd_dist.batch.tiles import around
from msbd_dist.canvas.export import Edited
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ImageError

THOUSAND = 1000


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two edits, one of which fails, in a folder whose name needs quoting. Tiles are
    small, so that a small picture has many."""
    folder = tmp_path_factory.mktemp("shown")
    draw_inputs(folder)
    evil = {**FAST, "prompt": SHORT, "samples": 3}
    manifest = manifest_of(folder, evil, {**FAST, "image": "nothing.png", "prompt": EVIL})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", 128)
        result = run_manifest(manifest, folder / "a run #1 ü", executor="serial")
    assert [edit.state for edit in result.edits] == ["done", "failed"], [
        str(edit.error) for edit in result.edits
    ]
    return Path(result.out)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def index(browser: Browser, out: Path) -> Iterator[Watched]:
    with tab(browser) as watched:
        watched.page.goto((out / "report.html").as_uri())
        watched.page.wait_for_selector(".row")
        yield watched


@pytest.fixture
def edit(browser: Browser, out: Path) -> Iterator[Watched]:
    with tab(browser) as watched:
        watched.page.goto((out / "e0" / "edit.html").as_uri())
        settle(watched.page)
        yield watched


def settle(page: Page) -> None:
    """Wait until all that is in sight of the viewer is drawn."""
    page.wait_for_timeout(50)  # what was pressed is taken in with the next frame
    page.wait_for_selector("canvas[data-state=complete]")


def opened(folder: Path, name: str = "e0") -> steps.Edit:
    files = open_files(folder) / name
    record = load_edit(files)
    picture = Picture.open(record.spec.image)
    return steps.Edit(record, files, picture, steps.ledger_of(files, record))


def ids(page: Page) -> list[str]:
    return page.locator(".row .name").all_text_contents()


# ---------------------------------------------------------------- the index


def test_the_index_has_failures_first_and_words_as_text(index: Watched) -> None:
    page = index.page
    assert ids(page) == ["e1", "e0"]
    rows = page.locator(".row")
    assert "nothing.png: no such file" in rows.nth(0).inner_text()
    assert [rows.nth(i).locator(".says").text_content() for i in range(2)] == [EVIL, SHORT]
    assert page.locator(".row script, .row b, .row .words img").count() == 0
    assert "score" in rows.nth(1).inner_text()
    assert rows.nth(1).locator("img").evaluate("image => image.decode().then(() => true)")
    assert re.match(r"2 edits, ended ", page.locator("#summary").inner_text())
    index.check()


def test_it_filters_and_sorts_and_remembers(index: Watched) -> None:
    page = index.page
    page.get_by_role("searchbox").fill("NO SUCH bold")
    assert ids(page) == ["e1"]
    assert "1 of 2 edits" in page.locator("#summary").inner_text()
    page.get_by_role("button", name="done").click()
    assert ids(page) == []
    assert page.locator("#nothing").is_visible()
    page.get_by_role("searchbox").fill("")
    assert ids(page) == ["e0"]
    page.get_by_role("button", name="failed").click()
    page.locator("#sort").select_option("by name")
    assert ids(page) == ["e0", "e1"]
    page.reload()
    page.wait_for_selector(".row")
    assert ids(page) == ["e0", "e1"]
    assert page.get_by_role("button", name="done").get_attribute("aria-pressed") == "true"
    index.check()


def test_it_works_with_the_keyboard(index: Watched) -> None:
    page = index.page
    page.keyboard.press("/")
    page.keyboard.type("e0")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "e0"
    page.keyboard.press("Enter")
    page.wait_for_url("**/e0/edit.html")
    page.get_by_role("link", name="All edits").press("Enter")
    page.wait_for_url("**/report.html")
    index.check()


def test_an_open_index_follows_the_run(browser: Browser, tmp_path: Path) -> None:
    files = open_files(tmp_path)
    rows = [Row(id=f"e{i}", state="waiting", prompt="a red star") for i in range(40)]
    write_page(files, [replace(rows[0], state="running", share=0.25), *rows[1:]])
    with tab(browser, viewport={"width": 390, "height": 600}) as watched:
        page = watched.page
        page.clock.install()
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector(".row")
        assert "under way" in page.locator("#summary").inner_text()
        assert "running 25 %" in page.locator(".row").first.inner_text()
        page.locator("#filter").fill("red")
        page.locator(".row a, .row .name").nth(30).scroll_into_view_if_needed()
        page.evaluate("document.querySelectorAll('.row')[5].dataset.same = 'yes'")
        before = page.evaluate("scrollY")
        done = replace(rows[0], state="done", score=31.5, seconds=75.0)
        write_page(files, [done, replace(rows[1], state="running", share=0.5), *rows[2:]])
        page.clock.fast_forward(10_500)
        expect(page.locator(".row").first).to_contain_text("running 50 %")
        assert ids(page)[0] == "e1"
        assert "score 31.50" in page.locator(".row").last.text_content()
        assert "1 min 15 s" in page.locator(".row").last.text_content()
        assert page.locator("#filter").input_value() == "red"
        assert abs(page.evaluate("scrollY") - before) < 100
        assert page.locator("[data-same]").count() == 1  # rows without news are left alone
        page.clock.fast_forward(90_000)
        expect(page.locator("#summary")).to_contain_text("may have been killed")
        watched.check()


def test_a_thousand_edits_are_laid_out_at_once_and_their_pictures_come_when_seen(
    browser: Browser, out: Path, tmp_path: Path
) -> None:
    words = "a red star on grass with a blue ring beside it"
    states = ("done", "failed", "kept", "running", "waiting")
    rows = [
        Row(
            id=f"edit-{i:04}",
            state=states[i % 5],
            prompt=f"{words} {i}",
            score=20 + i % 17 / 3,
            seconds=10.0 + i,
            share=0.5,
            error=f"/data/picture-{i}.tif: no such file" if i % 5 == 1 else None,
            thumb=f"edit-{i:04}/thumb.webp",
            link=f"edit-{i:04}/edit.html",
        )
        for i in range(THOUSAND)
    ]
    for row in rows:
        (tmp_path / row.id).mkdir()
        shutil.copy(out / "e0" / "previews" / "thumb.webp", tmp_path / row.id)
    write_page(open_files(tmp_path), rows)
    with tab(browser) as watched:
        page = watched.page
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.goto((tmp_path / "report.html").as_uri())
        expect(page.locator(".row")).to_have_count(THOUSAND)
        measured = session.send("Performance.getMetrics")["metrics"]
        counted = {metric["name"]: metric["value"] for metric in measured}
        loaded = page.evaluate("[...document.images].filter(i => i.naturalWidth).length")
        assert counted["LayoutCount"] < 20
        assert counted["LayoutObjects"] < 3 * THOUSAND  # of 16,000 nodes: those that are in sight
        assert loaded < 100
        page.locator("#filter").fill("picture-996.tif")
        assert ids(page) == ["edit-0996"]
        page.locator("#filter").fill("")
        page.locator("#sort").select_option("longest first")
        assert ids(page)[0] == "edit-0999"
        watched.check()


def test_an_index_without_its_rows_says_so(browser: Browser, out: Path, tmp_path: Path) -> None:
    shutil.copy(out / "report.html", tmp_path)
    with tab(browser) as watched:
        watched.page.goto((tmp_path / "report.html").as_uri())
        expect(watched.page.locator("#summary")).to_contain_text("copy the run's whole folder")


# ---------------------------------------------------------------- an edit


def test_an_edits_page_has_all_of_it(edit: Watched, out: Path) -> None:
    page, entry = edit.page, json.loads((out / "report.json").read_text())["edits"][0]
    assert page.title() == "e0: edit"
    assert page.locator("#prompt").text_content() == SHORT
    assert page.locator("main b, main img[src=x]").count() == 0
    figures = page.locator("section[aria-labelledby=candidates] figure")
    assert figures.count() == 3
    assert page.locator("figure.chosen").inner_text().startswith(f"Candidate {entry['chosen'] + 1}")
    assert [f"score {s:.2f}" in figures.nth(i).inner_text() for i, s in enumerate(entry["scores"])]
    images = page.locator("figure img")
    assert images.count() == 3 + 3  # candidates and stages
    assert images.evaluate_all("all => Promise.all(all.map(i => i.decode())).then(() => true)")
    measures = page.locator("section[aria-labelledby=measures] tbody tr")
    assert measures.count() == len(MEASURES)
    rows = dict(zip([one.key for one in MEASURES], measures.all_inner_texts(), strict=True))
    assert entry["measures"]["changed_outside"] == 0
    assert f"{entry['measures']['edge_colour']:.2f}" in rows["edge_colour"]
    assert f"{entry['measures']['edge_colour_before']:.2f}" in rows["edge_colour"]
    shown = json.loads((out / "e0/tiles/index.json").read_text())
    assert entry["measures"]["seam_ratio"] == shown["seams"]["overall"]
    assert entry["measures"]["clip"] > 0
    losses = page.get_by_role("img", name=re.compile(r"Stage \d: loss from .* in 1 step"))
    assert losses.count() == 3
    times = page.locator(".times").inner_text()
    assert [name in times for name in ("Stage 3", "Taking in", "Previews", "Writing")] == [True] * 4
    assert entry["seconds"]["work"] > 0
    ledgered = [sum(kinds.values()) for kinds in entry["seconds"]["stages"]]
    driver = sum(entry["seconds"]["driver"].values())
    assert entry["seconds"]["work"] == pytest.approx(sum(ledgered) + driver, abs=0.01)
    commands = page.locator("pre").all_inner_texts()
    assert commands[0] == f"msbd run {out.parent}/manifest.yaml --out '{out}-again'"
    assert commands[1] == f"msbd verify '{out}' e0"
    table = page.locator("section[aria-labelledby=do-it-again]").inner_text()
    assert [str(entry[key]) in table for key in ("seed", "plan", "sha256", "models")] == [True] * 4
    for name in page.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))"):
        assert (out / "e0" / name).exists(), name
    edit.check()


def test_measures_of_a_run_are_those_of_its_files(out: Path) -> None:
    (entry, _) = json.loads((out / "report.json").read_text())["edits"]
    image, mask = (str(out.parent / name) for name in ("image.png", "mask.png"))
    output = str(out / "e0" / "output.png")
    found = measure(image, output, mask, prompt=SHORT, models=ModelSpec())
    assert found.exact
    assert found.measures == pytest.approx(entry["measures"], abs=1e-3)


def test_the_slider_moves_and_every_pixel_is_the_outputs(edit: Watched, out: Path) -> None:
    """At 1:1 each pixel of the screen is one of the output, or before it of the image."""
    page, record = edit.page, load_edit(open_files(out) / "e0")
    box = around(record.plan.bbox, record.plan.source_box)
    page.keyboard.press("1")
    page.keyboard.press("m")  # without the outline
    for value, file in (("0", out / "e0" / "output.png"), ("1000", record.spec.image)):
        page.get_by_role("slider").fill(value)
        settle(page)
        x, y, ratio = map(float, str(page.locator("canvas").get_attribute("data-origin")).split())
        assert ratio == 1
        seen = screenshot(page, "canvas")
        x0, y0 = int(x), max(int(y), 0)
        lines = slice(y0 - int(y), min(len(seen), int(y) + box.height) - int(y))
        wanted = pixels(file)[box.slices][lines]
        found = seen[y0 : y0 + len(wanted), x0 : x0 + box.width]
        assert len(wanted) > 200
        np.testing.assert_array_equal(found, wanted)
    edit.check()


def test_the_slider_works_by_keyboard_and_by_hand(edit: Watched) -> None:
    page = edit.page
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    settle(page)
    after = screenshot(page, "canvas")
    page.keyboard.press("End")
    settle(page)
    before = screenshot(page, "canvas")
    assert (before != after).any(-1).mean() > 0.1
    place = page.locator("canvas").bounding_box()
    assert place
    page.mouse.move(place["x"] + place["width"] * 0.4, place["y"] + 50)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.25, place["y"] + 60)
    page.mouse.up()
    assert int(slider.input_value()) == pytest.approx(250, abs=5)
    page.keyboard.press("]")
    page.locator("canvas").focus()
    page.keyboard.press("]")
    assert int(slider.input_value()) == pytest.approx(350, abs=5)
    edit.check()


def test_zoom_moves_and_overlays(edit: Watched) -> None:
    page = edit.page
    zoom = page.locator("output")
    page.get_by_role("button", name="Show every pixel").click()
    settle(page)
    assert zoom.inner_text() == "1:1"
    page.keyboard.press("+")
    page.keyboard.press("+")
    settle(page)
    assert zoom.inner_text() == "400 %"
    here = page.locator("canvas").get_attribute("data-origin")
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator("canvas").get_attribute("data-origin") != here
    page.keyboard.press("0")
    settle(page)
    for key, name in (("m", "Mask outline"), ("s", "Seams")):
        button, before = page.get_by_role("button", name=name), screenshot(page, "canvas")
        pressed = button.get_attribute("aria-pressed")
        page.keyboard.press(key)
        settle(page)
        assert {pressed, button.get_attribute("aria-pressed")} == {"true", "false"}
        assert (screenshot(page, "canvas") != before).any()
    page.locator(".list button").first.click()  # the largest seam
    settle(page)
    assert zoom.inner_text() == "1:1"
    edit.check()


@pytest.mark.parametrize("width", [390, 1200])
def test_dark_and_light_can_be_read_and_nothing_sticks_out(
    browser: Browser, out: Path, width: int
) -> None:
    luminances = []
    for scheme in ("light", "dark"):
        viewport = {"width": width, "height": 800}
        with tab(browser, color_scheme=scheme, viewport=viewport, device_scale_factor=2) as watched:
            page = watched.page
            for name in ("report.html", "e0/edit.html"):
                page.goto((out / name).as_uri())
                page.wait_for_selector(".row, canvas[data-state=complete]")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                colours = page.evaluate(
                    """() => {
                      const paper = getComputedStyle(document.body).backgroundColor;
                      const words = ".soft, .state, .error, a, p:not(.place), td, th";
                      const all = document.querySelectorAll(words);
                      return [paper, ...[...all].map((e) => getComputedStyle(e).color)];
                    }"""
                )
                paper, *inks = [luminance(colour) for colour in colours]
                luminances.append(paper)
                for ink in inks:
                    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5
            watched.check()
    assert min(luminances[:2]) > 0.8
    assert max(luminances[2:]) < 0.1


def luminance(colour: str) -> float:
    """Relative, of WCAG, from ``rgb(r, g, b)``."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_an_edit_without_tiles_shows_its_row(browser: Browser, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "e0" / "tiles")
    write_edit(opened(tmp_path / "copy"))
    with tab(browser) as watched:
        watched.page.goto((tmp_path / "copy" / "e0" / "edit.html").as_uri())
        watched.page.wait_for_selector("img.plain")
        assert watched.page.locator("canvas").count() == 0
        watched.check()


def test_where_a_large_edit_has_no_tiles_of_its_own_pixels_smaller_ones_are_shown(
    browser: Browser, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "LEVEL", 20_000)
    shutil.copytree(out, tmp_path / "copy")
    edit = opened(tmp_path / "copy")
    plan = edit.record.plan
    patch = Patch(edit.canvas(plan.final), np.dtype(edit.record.dtype))
    show(edit, Edited(edit.picture, plan.bbox, patch, patch))
    write_edit(edit)
    with tab(browser) as watched:
        page = watched.page
        page.goto((tmp_path / "copy" / "e0" / "edit.html").as_uri())
        settle(page)
        assert page.get_by_text("The part is large").is_visible()
        page.keyboard.press("1")
        page.keyboard.press("m")
        page.get_by_role("slider").fill("0")
        settle(page)
        box = around(plan.bbox, plan.source_box)
        x, y, _ = map(float, str(page.locator("canvas").get_attribute("data-origin")).split())
        seen = screenshot(page, "canvas")[max(int(y), 0) :, int(x) :][: box.height, : box.width]
        exact = pixels(out / "e0" / "output.png")[box.slices][max(-int(y), 0) :][: len(seen)]
        away = np.abs(seen.astype(int) - exact).mean(-1)
        assert 0.02 < (away == 0).mean() < 0.9  # some tiles are the picture's own pixels
        assert away.mean() < 12  # and the others look like it
        watched.check()


# ---------------------------------------------------------------- without a browser


def test_what_is_in_a_page_can_not_leave_its_place() -> None:
    text = as_json({"prompt": EVIL + "{{script}}<!--"})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text)["prompt"] == EVIL + "{{script}}<!--"
    page = composed("edit.html", ("common.js",), text).decode()
    assert text in page
    assert page.count("</script>") == 2


def test_a_page_names_nothing_outside(out: Path) -> None:
    for name in ("report.html", "e0/edit.html"):
        page = (out / name).read_text()
        addresses = set(re.findall(r"https?://[^\"'\s]*", page))
        assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not a place
        assert "default-src 'none'" in page
        assert "unsafe" not in page


def test_rows_know_what_became_of_an_edit(out: Path) -> None:
    files, spec = open_files(out), load_edit(open_files(out) / "e0").spec
    done = row_of(files, EditResult(id="e0", state="kept", output="x"))
    assert (done.state, done.prompt, done.error) == ("kept", SHORT, None)
    assert (done.thumb, done.link) == ("e0/previews/thumb.webp", "e0/edit.html")
    assert done.score is not None
    assert done.seconds
    failed = EditResult(id="e1", state="failed", error=ImageError("no such file"))
    assert row_of(files, failed) == Row(id="e1", state="failed", error="no such file")
    assert row_of(files, failed, spec).prompt == SHORT
    assert row_of(files, EditResult(id="e0", state="stopped")).prompt == SHORT


def test_a_page_that_can_not_be_written_costs_a_warning(
    out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report.js").mkdir()
    write_page(open_files(tmp_path), [])
    assert "report.html is not written" in caplog.text
    shutil.copytree(out / "e0", tmp_path / "e0")
    (tmp_path / "e0" / "edit.html").unlink()
    (tmp_path / "e0" / "edit.html").mkdir()
    write_edit(opened(tmp_path))
    assert "edit e0 has no page" in caplog.text


def test_an_edit_of_the_command_line_is_said_as_one(out: Path) -> None:
    edit, run = opened(out), load_run(open_files(out))
    assert run
    spec = replace(edit.record.spec, output="/data/my star.png", prompt="it's; a star")
    edit = replace(edit, record=replace(edit.record, spec=spec))
    models = replace(run.models, family="/models/sd", device="cpu")
    single = replace(run, manifest="/data/my star.png", models=models)
    words = next(iter(commands(edit, single)))
    assert words[:3] == ["msbd", "edit", spec.image]
    assert words[4:7] == ["it's; a star", "-o", "/data/my star.png"]
    settings = [value for key, value in pairwise(words) if key == "--set"]
    again = edit_manifest(*words[2:5], output=words[6], models=ModelSpec(), settings=settings)
    assert again.edits[0].method == spec.method
    assert words[-4:] == ["--models", "/models/sd", "--device", "cpu"]
