"""The explorer of a run: its pictures, its numbers, its size, and what it makes of hostile text and files."""

import base64
import hashlib
import io
import json
import math
import random
import re
import struct
import sys
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from digit_latents import clocked, factors, model, translation
from PIL import Image
from tiny_run import SMALL, complaint

from latentflow import FunctionPotential, HopfLaxFlow, PotentialFlow, QuadraticPotential
from latentflow_experiments.cli import main
from latentflow_experiments.errors import DataError, ExperimentError
from latentflow_experiments.explorer.grid import Grid, grids
from latentflow_experiments.explorer.page import (
    Explorable,
    build_page,
    draw_starts,
    flow_in_words,
    open_explorable,
)
from latentflow_experiments.explorer.rendering import Plane, contours, follow_path
from latentflow_experiments.explorer.serving import MOST_BYTES, answer, build_application, decode_upload
from latentflow_experiments.methods.method import FlowMotion
from latentflow_experiments.metrics.composition import Backwards, Superposed, Switched
from latentflow_experiments.metrics.transport import certificate_in_words
from latentflow_experiments.runs import RunFolder

HOSTILE = ("</script><script>window.attacked = 1</script>", 'right & <b>"up"</b> {{TITLE}}')
EVALUATION = {"result": {"errors": {}}, "transport": {}}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")


class Page(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data

    @property
    def values(self):
        return json.loads(self.scripts[-2])

    def picture(self, image, place):
        """Return the picture at a place of a sheet, (height, width, 3)."""
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(self.scripts[image]))).convert("RGB"))
        _, height, width = self.values["shape"]
        row, column = divmod(place, self.values["images"][image]["columns"])
        return sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]

    def cell(self, image, path, time):
        return self.picture(image, self.values["images"][image]["paths"][path]["cells"][time])


def known(potentials, dynamics=HopfLaxFlow, order=(0, 1, 2)):
    """A model whose latents are the digits of an image, as a run."""
    return Explorable(FlowMotion(model(potentials, dynamics).eval(), order), factors(), EVALUATION, "by hand")


def stretch(*factors):
    return QuadraticPotential(4, matrix=torch.diag(torch.tensor(factors)))


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """Runs on moving bars, whose transformations have hostile names: of flows without labels, and of another method."""
    folder = tmp_path_factory.mktemp("explorer")
    generator = np.random.default_rng(0)
    frames = np.zeros((24, 4, 8, 8), np.uint8)
    for n, sequence in enumerate(frames):
        first = generator.integers(0, 4)
        for t, frame in enumerate(sequence):
            (frame if n % 2 else frame.T)[first + t] = 255
    np.savez(folder / "bars.npz", frames=frames, labels=np.arange(24) % 2, names=np.array(HOSTILE))
    for name, options in {"flow": ["--supervision", "weak", "--pde", "hj"], "poflow": ["--method", "poflow"]}.items():
        command = ["train", str(folder / "bars.npz"), "--steps", "2", "--out", str(folder / name), *SMALL, *options]
        assert main(command) == 0
    assert main(["explore", str(folder / "flow"), "--images", "2"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(bars):
    return Page((bars / "flow" / "explorer.html").read_text())


# Pictures and numbers


def test_every_cell_is_the_picture_of_the_model(bars, page):
    """Catches cells of another path, time or image, another order of the flows, and a sheet with losses."""
    run = open_explorable(RunFolder(bars / "flow"))
    starts = draw_starts(run.data, 2, seed=0)
    draw, order = random.Random(0), run.flows.order
    rules = {
        "0.5,1": Superposed(((order[0], 0.5), (order[1], 1.0))),
        "0,0.375": Superposed(((order[1], 0.375),)),
        "switch 1,0 restart": Switched(order[1], order[0], restart=True),
        "switch 0,1 continue": Switched(order[0], order[1], restart=False),
        "back 1": Backwards(order[1]),
    }
    for path, rule in rules.items():
        image, time = draw.randrange(2), draw.randrange(1, 4)
        with torch.inference_mode():
            z = rule.follow(run.flows.model, run.flows.start(starts[image][None, None]), run.data.steps)
            expected = run.flows.model.decode(z[time]).mean[0].clamp(0, 1)
        cell = torch.from_numpy(page.cell(image, path, time).copy()).permute(2, 0, 1) / 255
        assert (cell - expected).abs().max() < 0.5 / 255 + 1e-5
    start = torch.from_numpy(page.picture(1, page.values["images"][1]["start"]).copy()).permute(2, 0, 1)
    assert torch.equal(start[:1], (255 * starts[1]).round().to(torch.uint8))


def test_pictures_that_are_known():
    """Catches flows in the order of the bank, a switch at another time, and a way back that starts at the start."""
    run = known([translation(2), translation(3), translation(1)], order=(2, 0, 1))
    image = draw_starts(run.data, 1, seed=3)
    digits = 255 * image[0, 0, 0].double()
    page = Page(build_page(run, image))

    def moved(*by):
        return (digits + torch.tensor([0, *by], dtype=torch.float64)).round().tolist()

    for path, time, by in (
        ("0,0,0", 4, (0, 0, 0)),
        ("0.5,1,0", 4, (2, 4, 0)),
        ("0.5,0.5,1", 2, (1, 1, 2)),
        ("0,0,0.25", 4, (0, 0, 1)),
        ("switch 2,0 restart", 3, (1, 0, 2)),
        ("switch 0,1 continue", 1, (1, 0, 0)),
        ("back 1", 1, (0, 3, 0)),
    ):
        assert page.cell(0, path, time)[0, :, 0].tolist() == moved(*by), path


def test_numbers_of_a_linear_flow():
    """Catches a speed that is a length, log-determinants that are added, and a margin without the step."""
    run = known([stretch(0.5, 0.0, 0.0, -0.25), translation(1), translation(2)], dynamics=PotentialFlow)
    z0 = torch.tensor([1.0, 2.0, 3.0, 4.0])
    path = follow_path(run.flows.model, Superposed(((0, 1.0), (1, 2.0))), z0, log_q0=-1.0, steps=2)
    factor = torch.tensor([1.5, 1.0, 1.0, 0.75])
    after = z0 * factor + torch.tensor([0.0, 2.0, 0.0, 0.0])
    torch.testing.assert_close(path.z[1], after)
    velocity = torch.tensor([0.5, 2.0, 0.0, -1.0])
    torch.testing.assert_close(path.speed[0], velocity.norm())
    torch.testing.assert_close(path.log_density, -1 - torch.arange(3.0) * factor.log().sum())
    torch.testing.assert_close(path.margin, torch.tensor([0.75, 0.75]))
    back = follow_path(run.flows.model, Backwards(0), z0, log_q0=-1.0, steps=2)
    torch.testing.assert_close(back.z[0], z0 * factor**2)
    shrink = torch.tensor([0.5, 1.0, 1.0, 1.25])
    torch.testing.assert_close(back.log_density[2], -1 - 2 * factor.log().sum() - 2 * shrink.log().sum())
    torch.testing.assert_close(back.margin, torch.tensor([0.5, 0.5]))
    turned = follow_path(run.flows.model, Switched(1, 0, restart=True), z0, log_q0=-1.0, steps=3)
    torch.testing.assert_close(turned.speed[:2], torch.ones(2))
    torch.testing.assert_close(turned.log_density, -1 - torch.tensor([0.0, 0, 0, 1]) * factor.log().sum())


def test_no_density_after_a_fold():
    """Catches a density that comes back after a fold, also on the way back and after a switch."""
    run = known([stretch(-0.4, 0.0, 0.0, 0.0), translation(1), translation(2)])
    z0 = torch.ones(4)
    path = follow_path(run.flows.model, Superposed(((0, 1.0),)), z0, log_q0=0.0, steps=4)
    torch.testing.assert_close(path.margin, 1 - 0.4 * torch.arange(1.0, 5.0))
    torch.testing.assert_close(path.log_density[:3], torch.tensor([0.0, -math.log(0.6), -math.log(0.2)]))
    assert path.log_density[3:].isnan().all()
    once = FunctionPotential(lambda z, t: -torch.where(t < 1, 2.0, 0.1) * z.square().sum(-1) / 2)
    early = known([once, translation(1), translation(2)], dynamics=PotentialFlow)
    path = follow_path(early.flows.model, Superposed(((0, 1.0),)), z0, log_q0=0.0, steps=3)
    torch.testing.assert_close(path.margin, torch.tensor([-1.0, 0.9, 0.9]))
    assert path.log_density[1:].isnan().all()
    fast = known([stretch(-1.5, 0.0, 0.0, 0.0), translation(1), translation(2)])
    turned = follow_path(fast.flows.model, Switched(0, 1, restart=True), z0, log_q0=0.0, steps=4)
    assert turned.log_density[1:].isnan().all()
    assert (turned.margin[2:] == 1).all()


def test_paths_that_have_met_are_said_and_not_drawn():
    """Catches a picture where a flow cannot be continued, and a page that fails for all others."""
    run = known([translation(1), stretch(-0.5, -0.5, -0.5, -0.5), translation(2)])
    page = Page(build_page(run, draw_starts(run.data, 1, seed=1)))
    (image,) = page.values["images"]
    assert "paths have met" in image["faults"]["switch 0,1 continue"]
    assert "switch 0,1 continue" not in image["paths"]
    assert "switch 0,1 restart" in image["paths"]


def test_the_plane_and_its_contours():
    """Catches projections that are not orthogonal, maps that are transposed, and the potential of another time."""
    run = known([clocked(1), translation(2), translation(3)], dynamics=PotentialFlow)
    origin, e = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.eye(4)
    plane = Plane.through(origin, origin + torch.stack([5 * e[2], 3 * e[1], e[0]]))
    assert plane.project(origin + 2 * e[2] - 7 * e[1] + 9 * e[3]).tolist() == [2, -7]
    assert plane.share == pytest.approx(34 / 35)
    assert plane.half == pytest.approx(1.15 * 5)
    maps = contours(run.flows.model, 0, plane, steps=2)
    line = 2 + torch.linspace(-plane.half, plane.half, 25)
    torch.testing.assert_close(maps, torch.arange(3.0)[:, None, None] * line[:, None].expand(25, 25))


def test_flows_by_construction_have_one_map():
    """Catches a map of the solution, which is not known where paths have met."""
    run = known([stretch(-1.0, 0.0, 0.0, 0.0), translation(2), translation(3)])
    plane = Plane.through(torch.zeros(4), torch.eye(4)[:2])
    maps = contours(run.flows.model, 0, plane, steps=3)
    line = torch.linspace(-plane.half, plane.half, 25)
    torch.testing.assert_close(maps, -(line.square() / 2).expand(1, 25, 25))


# The grid and the size


@pytest.mark.parametrize("count", range(1, 9))
def test_grids_hold_what_they_say(count):
    """Catches superpositions of three of many flows, and strengths of several that one flow alone does not have."""
    every = grids(range(count), steps=4)
    sizes = [len(grid.paths()) for grid in every]
    assert sizes == sorted(sizes, reverse=True)
    for grid in every:
        strengths = [[float(x) for x in name.split(",")] for name in grid.paths() if name[0].isdigit()]
        assert max(sum(x > 0 for x in own) for own in strengths) <= (3 if count == 3 else 2)
        assert {x for own in strengths for x in own} == {x for own in strengths if sum(map(bool, own)) < 2 for x in own}
        assert {f"back {k}" for k in range(count)} <= grid.paths().keys()


@pytest.mark.parametrize("limit", [130_000, 80_000])
def test_a_page_is_never_larger_than_its_limit(limit):
    """Catches an estimate in place of the size, and a grid that the page does not name."""
    generator = torch.Generator().manual_seed(0)
    noisy = known([translation(1), translation(2), translation(3)])
    noise = torch.rand(4, 4, generator=generator) * 60
    noisy.flows.model.decoder = lambda z: (z.sin() @ noise)[:, None, None].expand(-1, 3, 1, -1).abs() / 255
    text = build_page(noisy, draw_starts(noisy.data, 5, seed=0), limit)
    assert len(text.encode()) <= limit
    page = Page(text)
    images = len(page.values["images"])
    assert f"{images} start image{'s' if images > 1 else ''}, 3 flows, times 0 to 4." in text
    assert f"0, 1/{page.values['alone']}" in text or page.values["alone"] == 1


def test_images_that_do_not_fit_are_refused():
    """Catches a page without an image, or one above its limit."""
    run = known([translation(1), translation(2), translation(3)])
    with pytest.raises(ExperimentError, match=r"^images: expected pictures that fit into 20,000 bytes"):
        build_page(run, draw_starts(run.data, 2, seed=0), limit=20_000)


def test_a_grid_of_one_flow_and_one_step():
    """Catches a switch without another flow or a half time."""
    assert list(Grid((0,), 1, 2, 2, 1, switches=True).paths()) == ["0", "0.5", "1", "back 0"]


# Text from outside, and what the page may do


def test_names_of_a_run_are_text(bars, page):
    """Catches a name that ends a script or fills a place of the template."""
    assert page.values["names"] == list(HOSTILE)
    assert sum(tag == "script" for tag, _ in page.tags) == 2 + 2
    assert not any(tag in ("b", "img", "link", "iframe") for tag, _ in page.tags)


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(page):
    """Catches a policy that a change of the script leaves behind, and anything that is loaded from elsewhere."""
    (policy,) = (a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not any({"src", "href", "srcset"} & attributes.keys() for _, attributes in page.tags)


@pytest.mark.parametrize(
    ("options", "code", "cause"),
    [
        (["--images", "0"], 2, "images: expected a positive integer, got 0"),
        (["-o", "."], 2, "out: expected a file in a folder that is there, got ."),
        (["-o", "nowhere/explorer.html"], 2, "out: expected a file in a folder that is there"),
        (["--serve", "-o", "a.html"], 2, "out: expected none with --serve"),
        (["--port", "8000"], 2, "port: expected --serve with it"),
    ],
)
def test_wrong_options(bars, capsys, options, code, cause):
    """Catches arguments that are read and not checked."""
    assert main(["explore", str(bars / "flow"), *options]) == code
    assert cause in complaint(capsys)


def test_runs_without_such_flows(bars, tmp_path, capsys):
    """Catches a page of flows that do not compose, and of a run that was not evaluated."""
    assert main(["explore", str(bars / "poflow")]) == 2
    assert "explore: expected a run of the method flow, got one of poflow" in complaint(capsys)
    for name in ("config.json", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((bars / "flow" / name).read_bytes())
    assert main(["explore", str(tmp_path)]) == 1
    assert "expected an evaluated run" in complaint(capsys)


def test_flows_in_words():
    """Catches an error that is left out or exchanged with that of the still picture, and a certificate of another."""
    entry = {"samples": 12, "ratio": 1.005, "ratio_interval": [1.0, 1.02], "folded": 0.5, "dual": None}
    evaluation = {"result": {"errors": {"a": {"static": 8.0, "output": 2.0}}}, "transport": {"a": entry}}
    text = flow_in_words(evaluation, "a")
    assert text.startswith(f"Certificate: {certificate_in_words(entry)} Its frames")
    assert "by 2.0, summed over all pixels and times; the first picture held still differs by 8.0" in text
    assert flow_in_words(evaluation, "b") == "This flow was not certified."


# In a browser


@pytest.fixture(scope="module")
def browser():
    opened = Browser()
    yield opened
    opened.close()


def drawn(browser, expected):
    browser.wait(f"document.documentElement.dataset.drawn === {json.dumps(expected)}")
    address = browser.evaluate("document.getElementById('picture').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


@needs_chromium
def test_a_reader_moves_the_flows(bars, page, browser):
    """Catches sliders without an effect, a picture of another state, and errors and refusals in the console."""
    browser.said.clear()
    address = (bars / "flow" / "explorer.html").resolve().as_uri()
    browser.open(f"{address}#image=1&time=2&strength=0,1")
    assert np.array_equal(drawn(browser, "0,1 @ 1 @ 2"), page.cell(1, "0,1", 2))
    browser.evaluate("document.getElementById('time').focus()")
    browser.press("ArrowRight")
    assert np.array_equal(drawn(browser, "0,1 @ 1 @ 3"), page.cell(1, "0,1", 3))
    browser.evaluate("document.getElementById('strength-0').focus()")
    browser.press("ArrowRight")  # from 0 to the first strength of two flows at once
    assert np.array_equal(drawn(browser, "0.5,1 @ 1 @ 3"), page.cell(1, "0.5,1", 3))
    numbers = page.values["images"][1]["paths"]["0.5,1"]
    density = float(browser.evaluate("document.getElementById('log-text').textContent"))
    assert density == pytest.approx(numbers["log"][3], rel=5e-3)
    assert browser.evaluate("document.getElementById('speed-text').textContent") == "no step from here"
    x = 150 + 150 * numbers["xy"][6] / page.values["images"][1]["half"]
    assert float(browser.evaluate("document.getElementById('now').getAttribute('cx')")) == pytest.approx(x, abs=0.06)
    browser.evaluate("document.querySelector('input[value=switch]').click()")
    assert np.array_equal(drawn(browser, "switch 0,1 continue @ 1 @ 3"), page.cell(1, "switch 0,1 continue", 3))
    browser.evaluate("document.querySelector('input[value=back]').click()")
    assert np.array_equal(drawn(browser, "back 0 @ 1 @ 3"), page.cell(1, "back 0", 3))
    assert browser.evaluate("location.hash") == "#image=1&time=3&back=0"
    assert browser.evaluate("window.attacked") is None
    assert browser.evaluate("document.querySelector('label[for=strength-0]').textContent") == HOSTILE[0]
    assert browser.said == []


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits(bars, browser, width):
    """Catches a page that is wider than its window, and a control without a name."""
    browser.resize(width)
    browser.open((bars / "flow" / "explorer.html").resolve().as_uri())
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    controls = "[...document.querySelectorAll('input, select, button')]"
    named = "c.labels?.length || c.getAttribute('aria-label') || c.textContent"
    assert browser.evaluate(f"{controls}.filter(c => !({named})).length") == 0


@needs_chromium
def test_a_page_says_where_there_is_no_picture(tmp_path, browser):
    """Catches an old picture, and numbers of another path, where paths have met."""
    browser.said.clear()
    run = known([translation(1), stretch(-0.5, -0.5, -0.5, -0.5), translation(2)])
    (tmp_path / "met.html").write_text(build_page(run, draw_starts(run.data, 1, seed=1)))
    browser.open((tmp_path / "met.html").as_uri() + "#time=3&switch=0,1&clock=continue")
    browser.wait("document.documentElement.dataset.drawn === 'switch 0,1 continue @ 0 @ 3'")
    assert "paths have met" in browser.evaluate("document.getElementById('fault').textContent")
    assert browser.evaluate("document.getElementById('speed-text').textContent") == "none"
    assert browser.said == []


# Uploads


def picture(size=(40, 20), mode="RGB", format="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, 200 if mode in ("L", "I;16") else (200, 100, 0)).save(file, format)
    return file.getvalue()


def bomb():
    """The header of a PNG picture of 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 5, 5)])
def test_an_upload_becomes_an_image_of_the_model(tmp_path, shape):
    """Catches another shape or range, and channels in another order."""
    (tmp_path / "a.png").write_bytes(picture())
    image = decode_upload(tmp_path / "a.png", shape)
    assert image.shape == shape
    expected = [200, 100, 0] if shape[0] == 3 else [round(0.299 * 200 + 0.587 * 100)]
    torch.testing.assert_close(255 * image.mean((1, 2)), torch.tensor(expected).float(), atol=1, rtol=0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a not at all",
        picture(format="GIF"),
        picture()[:60],
        bomb(),
        picture(mode="I;16"),
        b"\x89PNG\r\n\x1a\n" + b"0" * MOST_BYTES,
    ],
    ids=["empty", "text", "gif", "truncated", "bomb", "16 bits", "large"],
)
def test_bad_uploads_are_refused(bars, tmp_path, content):
    """Catches an upload that is decoded without limit, and an error that shows what is in the file as HTML."""
    path = tmp_path / "<b>.png"
    path.write_bytes(content)
    with pytest.raises(DataError):
        decode_upload(path, (3, 8, 8))
    answered = answer(open_explorable(RunFolder(bars / "flow")), str(path), "")
    assert answered.startswith('<p role="alert">')
    assert "<b>" not in answered


def test_an_upload_is_answered_by_its_explorer(bars, tmp_path):
    """Catches the page of the test images in place of the upload's, and a frame that may do more than it has to."""
    run = open_explorable(RunFolder(bars / "flow"))
    (tmp_path / "a.png").write_bytes(picture(mode="L"))
    (frame,) = Page(answer(run, str(tmp_path / "a.png"), "")).tags
    assert frame[1]["sandbox"] == "allow-scripts"
    page = Page(frame[1]["srcdoc"])
    (image,) = page.values["images"]
    assert (page.picture(0, image["start"]) == 200).all()
    assert Page(answer(run, None, "<p>default</p>")).tags[0][1]["srcdoc"] == "<p>default</p>"


def test_serving_without_gradio(bars, monkeypatch):
    """Catches a traceback where the extra is missing."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ExperimentError, match=re.escape('pip install "latentflow-torch[explore]"')):
        build_application(open_explorable(RunFolder(bars / "flow")), 1, 0)
