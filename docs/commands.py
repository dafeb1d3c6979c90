"""The pages of the commands, written from the help of each: its options, with an example and exit codes.

``docs/conf.py`` calls :func:`write` before every build; a new option or command needs no edit of a page.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from unittest.mock import patch

from latentflow_experiments import cli

FOLDER = Path(__file__).parent / "api" / "commands"
EXAMPLES: Mapping[str, str] = {
    "train": "latentflow train mnist --cpu-minutes 30 --threads 1 --out runs/mnist",
    "evaluate": "latentflow evaluate runs/mnist",
    "measure": "latentflow measure runs/mnist --parts likelihood consistency",
    "generate": "latentflow generate runs/mnist --images one.png other.png",
    "compare": "latentflow compare runs/mnist runs/poflow --curves errors.png",
    "check": "latentflow check runs/mnist",
    "data": "latentflow data make shapes3d --size 96000",
    "reproduce": "latentflow reproduce table1 fig3 --budget laptop --seeds 3 --out reproduction --dry-run",
    "explore": "latentflow explore runs/mnist -o explorer.html",
    "push": "latentflow push runs/mnist my-name/mnist-flows --dry-run card",
}
"""A command that one would type, for each command."""

CODES = """Exit codes: 0 done; 1 it failed, and the last line on the standard error says what was expected; 2 wrong
usage; 130 stopped by Ctrl-C or TERM. `latentflow --tyro-print-completion bash` writes the completion for the shell,
also for zsh and tcsh."""


@dataclass
class Group:
    """Options that belong together.

    Attributes:
        title: What they are.
        about: A sentence about them.
        options: Each option with its value, and its help.
    """

    title: str
    about: str = ""
    options: list[tuple[str, str]] = field(default_factory=list)


def names() -> list[str]:
    """List the commands, in the order of the help."""
    return [command.__name__.lower() for command in get_args(cli.Command)]


def ask(*words: str) -> str:
    """Return the help of a command."""
    said = io.StringIO()
    width = patch.dict(os.environ, COLUMNS="100")  # a wider help has two columns of groups
    with width, redirect_stdout(said), suppress(SystemExit):
        cli.main([*words, "--help"])
    return said.getvalue()


def parse(text: str) -> tuple[str, list[Group]]:
    """Read a help: the sentences above its groups, and the options in them.

    A title has one space before it and a line of dashes below; an option two, or a mark where it is a command.
    """
    head: list[str] = []
    groups: list[Group] = []
    lines = [line.rstrip() for line in text.splitlines()]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r" \S", line) and re.match(r" -{9,}", below):
            groups.append(Group(line.strip()))
        elif not groups and not line.startswith("usage:"):
            head.append(line)
        elif groups and line.strip("- "):
            _read(groups[-1], line)
    return " ".join(" ".join(head).split()), groups


def _read(group: Group, line: str) -> None:
    """Read a line of a group: the beginning of an option, or more of its help."""
    begins = re.match(r"  -\S| {4}• ", line) or (group.title.startswith("positional") and re.match(r"  \S", line))
    if begins:
        name, _, about = line.replace("•", " ").strip().partition("  ")
        group.options.append((name.strip(), about.strip()))
    elif group.options:
        name, about = group.options[-1]
        group.options[-1] = name, f"{about} {line.strip()}".strip()
    else:
        group.about = f"{group.about} {line.strip()}".strip()


def lay_out(words: tuple[str, ...], level: int = 1) -> Iterator[str]:
    """Write the page of a command, with those of its own commands."""
    head, groups = parse(ask(*words))
    yield f"{'#' * level} latentflow {' '.join(words)}\n\n{head}\n"
    if len(words) == 1:
        yield f"```bash\n{EXAMPLES[words[0]]}\n```\n\n{CODES}\n"
    for group in groups:
        options = [(name, about) for name, about in group.options if not name.startswith("-h,")]
        if group.title == "subcommands":
            for name, _ in options:
                yield from lay_out((*words, name), level + 1)
            continue
        if options:
            yield f"{'#' * (level + 1)} {group.title[0].upper()}{group.title[1:]}\n\n{group.about}\n"
            yield "\n".join(f"`{name}`\n: {_escape(about) or 'No value.'}\n" for name, about in options)


def _escape(text: str) -> str:
    """Set options as code, and keep other signs of the help from being read as formulas or markup."""
    parts = re.split(r"(?<!\S)(--[a-z][\w-]*)", text)
    return "".join(
        f"`{part}`" if place % 2 else re.sub(r"([$*_<`])", r"\\\1", part) for place, part in enumerate(parts)
    )


def pages() -> dict[str, str]:
    """Return the text of the page of each command by its name."""
    return {name: "\n".join(lay_out((name,))) for name in names()}


def write(folder: Path = FOLDER) -> None:
    """Write the pages into a folder, with one that lists them; a page whose text has not changed is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    listed = "\n".join(texts)
    texts["index"] = f"# Commands\n\nWritten from the parser of the commands.\n\n```{{toctree}}\n{listed}\n```\n"
    for name, text in texts.items():
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
