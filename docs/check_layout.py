"""Check the layout of the built pages in headless Chromium: ``python docs/check_layout.py HTML``.

Every page is opened at 1280 and at 390 pixels, the pages of single names at 390 only. A page must not scroll sideways;
only tables and formulas in frames of their own may be wider than the column; every formula has to be drawn, from the
files of the build alone; no picture may be missing. The program prints what is wrong and ends with 1.
"""

from __future__ import annotations

import argparse
import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

WIDTHS = (1280, 390)
NARROW_ONLY = "api/generated/"  # pages of one form
PAGES_AT_ONCE = 24
HARNESS = """<!doctype html><meta charset="utf-8"><body><pre id="found">waiting</pre><script>
const pages = PAGES, widths = WIDTHS, NARROW = PREFIX, found = [];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
function inFrame(element, end) {
  for (let e = element; e && e !== end; e = e.parentElement) {
    const overflow = e.ownerDocument.defaultView.getComputedStyle(e).overflowX;
    if (overflow === "auto" || overflow === "scroll" || overflow === "hidden") return true;
  }
  return false;
}
async function check(page, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  const errors = [];
  frame.src = page;
  document.body.append(frame);
  await new Promise((done) => { frame.onload = done; });
  const view = frame.contentWindow, tree = frame.contentDocument;
  view.addEventListener("error", (event) => errors.push(event.message));
  if (tree.querySelector(".math")) {
    const drawing = () => view.MathJax && view.MathJax.startup && view.MathJax.startup.promise;
    for (let n = 0; n < 100 && !drawing(); n++) await pause(50);
    if (drawing()) await drawing();
    else errors.push("formulas are not drawn");
    const left = [...tree.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container")).length;
    if (left) errors.push(`${left} formulas are not drawn`);
    const bad = tree.querySelectorAll("mjx-merror").length;
    if (bad) errors.push(`${bad} formulas have errors`);
  }
  const root = tree.documentElement;
  if (root.scrollWidth > width + 1) errors.push(`the page is ${root.scrollWidth} pixels wide`);
  const article = tree.querySelector("article");
  if (article) {
    const limit = article.getBoundingClientRect().right + 10;  // titles reach 8 pixels beyond, by design
    const wide = [...article.querySelectorAll("*")].filter(
      (e) => e.getClientRects().length && e.getBoundingClientRect().right > limit && !inFrame(e, article));
    for (const e of wide.slice(0, 3)) {
      const text = (e.textContent || e.getAttribute("src") || "").trim().slice(0, 60);
      errors.push(`wider than its column: <${e.tagName.toLowerCase()} class="${e.className}"> ${text}`);
    }
  }
  for (const image of tree.images) if (image.complete && !image.naturalWidth) errors.push(`no picture at ${image.src}`);
  frame.remove();
  for (const error of errors) found.push({page, width, error});
}
(async () => {
  for (const width of widths) for (const page of pages) {
    if (page.startsWith(NARROW) && width > 400) continue;
    try { await check(page, width); } catch (error) { found.push({page, width, error: String(error)}); }
  }
  document.getElementById("found").textContent = "RESULT" + JSON.stringify(found) + "END";
})();
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the pages without a log."""

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def check(folder: Path, browser: str) -> list[dict[str, object]]:
    """Open all pages of a build; return what is wrong, with the page and the width."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
    handler = functools.partial(Quiet, directory=str(folder))
    found: list[dict[str, object]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        harness = folder / "layout-check.html"
        try:
            for begin in range(0, len(names), PAGES_AT_ONCE):
                some = names[begin : begin + PAGES_AT_ONCE]
                text = HARNESS.replace("PAGES", json.dumps(some), 1).replace("WIDTHS", json.dumps(WIDTHS), 1)
                text = text.replace("PREFIX", json.dumps(NARROW_ONLY), 1)
                harness.write_text(text, encoding="utf-8")
                command = [
                    browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
                    "--window-size=1400,1000", "--virtual-time-budget=120000", "--dump-dom",
                    f"http://127.0.0.1:{server.server_port}/{harness.name}?{begin}",
                ]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
                result = re.search(r"RESULT(.*?)END", done.stdout, flags=re.DOTALL)
                if result is None:
                    found.append({"page": some[0], "width": 0, "error": "the browser gave no answer"})
                else:
                    found += json.loads(html.unescape(result.group(1)))
        finally:
            harness.unlink(missing_ok=True)
            server.shutdown()
    return found


def find_browser() -> str | None:
    """Return the path of Chromium; None if it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a build; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("html", type=Path, help="the folder of the built pages")
    folder = parser.parse_args(arguments).html
    browser = find_browser()
    if browser is None:
        print("layout: expected chromium on PATH, got none; nothing was checked", file=sys.stderr)
        return 0
    count = len(list(folder.rglob("*.html")))
    if not count:
        parser.error(f"html: expected a folder of built pages, got {folder} without any")
    found = check(folder, browser)
    for entry in found:
        print(f"{entry['page']} at {entry['width']} pixels: {entry['error']}")
    print(f"layout: {count} pages at {' and '.join(map(str, WIDTHS))} pixels, {len(found)} faults")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
