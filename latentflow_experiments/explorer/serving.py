"""The explorer on this machine, for images of one's own: ``latentflow explore RUN --serve``."""

from __future__ import annotations

import io
import warnings
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from latentflow_experiments.data import Source
from latentflow_experiments.errors import ExperimentError, UsageError
from latentflow_experiments.explorer.page import Explorable, build_page, draw_starts, open_explorable
from latentflow_experiments.reading import brief, read_limited, reading
from latentflow_experiments.runs import RunFolder

if TYPE_CHECKING:
    import gradio

__all__ = ["answer", "build_application", "decode_upload", "serve"]

MOST_BYTES = 2**22
"""The largest size of an uploaded file, in bytes."""

MOST_PIXELS = 2**24
"""The largest number of pixels of an uploaded picture."""

FORMATS, SUFFIXES = ("PNG", "JPEG"), (".png", ".jpg", ".jpeg")
USERS = 2  # uploads that are worked on at once; others wait
WAITING = 16  # uploads that may wait
KEPT = 3600  # seconds for which the server keeps an uploaded file
NOTE = (
    "The start image is an upload, reduced to the size of the model's images; the model may never have seen its like."
)


def decode_upload(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Decode an uploaded picture and make it an image of a model: cut around its centre, and reduced.

    Args:
        path: The file, of anybody.
        shape: The shape of an image of the model, ``(channels, height, width)``.

    Returns:
        The image, of that shape, in [0, 1].

    Raises:
        DataError: If it is no PNG or JPEG picture, or damaged, or larger than 4 MiB or 16 megapixels.
    """
    channels, height, width = shape
    data = io.BytesIO(read_limited(path, MOST_BYTES))
    with reading(Path(path.name), "a PNG or JPEG picture"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opened = Image.open(data, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("a file of another kind") from None
        with opened as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels, more than {MOST_PIXELS:,}")
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {picture.mode}; expected 8 bits a channel")
            opaque = picture.convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(opaque, (width, height), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(fitted, np.float32) / 255)
    return pixels.reshape(height, width, channels).permute(2, 0, 1)


def answer(run: Explorable, path: str | None, default: str) -> str:
    """Answer an upload: by the explorer of that image, or by a sentence that says what is wrong with it.

    Args:
        run: The flows.
        path: The uploaded file; None if it was taken away.
        default: The page without an upload.

    Returns:
        HTML in which every text from outside is escaped.
    """
    if path is None:
        return framed(default)
    try:
        image = decode_upload(Path(path), run.data.shape)
        return framed(build_page(run, image.unsqueeze(0).to(run.device), note=NOTE))
    except ExperimentError as error:
        return f'<p role="alert">{escape(str(error))}</p>'


def framed(page: str) -> str:
    """Put a page into a frame of another one, in which it can do nothing but run its own script."""
    return (
        f'<iframe title="Explorer" sandbox="allow-scripts" srcdoc="{escape(page)}" '
        'style="width: 100%; height: 85vh; border: 0"></iframe>'
    )


def build_application(run: Explorable, count: int, seed: int) -> gradio.Blocks:
    """Build the page with the upload, by gradio.

    Args:
        run: The flows.
        count: The number of test images to start with.
        seed: The seed of their draw.

    Returns:
        The application, which is not running yet.

    Raises:
        UsageError: If gradio is not installed, or ``count`` is not positive.
    """
    if count < 1:
        raise UsageError(f"images: expected a positive integer, got {count}")
    try:
        import gradio  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise UsageError('serve: expected gradio, got none: pip install "latentflow-torch[explore]"') from None
    default = build_page(run, draw_starts(run.data, count, seed).to(run.device))

    def shown(path: str | None) -> str:
        return answer(run, path, default)

    with gradio.Blocks(title="latentflow explore", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as application:
        upload = gradio.File(
            label="An image of your own, PNG or JPEG", file_types=[".png", ".jpg", ".jpeg"], height=120
        )
        view = gradio.HTML(framed(default))
        upload.change(shown, upload, view, concurrency_limit=USERS, api_visibility="private")
    return application.queue(max_size=WAITING, api_open=False)


def serve(
    folder: RunFolder,
    count: int = 6,
    seed: int = 0,
    port: int | None = None,
    source: Source | None = None,
    device: str = "cpu",
    *,
    trust: bool = False,
) -> None:
    """Serve the explorer on the loopback address of this machine until Ctrl-C.

    Args:
        folder: The run.
        count: The number of test images to start with.
        seed: The seed of their draw.
        port: The port; None for the first free one from 7860 on.
        source: Where the data files are.
        device: Where to compute.
        trust: See :func:`open_run`.

    Raises:
        ExperimentError: If the run or its data cannot be read, or it was not evaluated.
        UsageError: If the method of the run has no flows that are superposed, gradio is not installed, or the port is
            taken.
    """
    with folder.measuring():
        run = open_explorable(folder, source, device, trust=trust)
    application = build_application(run, count, seed)
    try:
        _, address, _ = application.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            max_file_size=MOST_BYTES,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UsageError(f"port: expected one that is free, got {port or 'none'} ({brief(error)})") from error
    print(f"serving on {address}, for this machine only; stop by Ctrl-C", flush=True)
    application.block_thread()
