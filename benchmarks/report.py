"""The page: its tables are written from the numbers, its prose is left alone."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping

from benchmarks.record import Part, Record
from latentflow_experiments.reports.tables import table, write_block

UNMEASURED = "Not measured yet."


def render(page: str, parts: Iterable[Part], records: Mapping[str, Record]) -> str:
    """Write every block of a page anew.

    A block lies between ``<!-- begin NAME -->`` and ``<!-- end -->``. ``NAME`` is ``machine``, ``aims`` or a part.

    Args:
        page: The page.
        parts: The parts.
        records: Their numbers, by name.

    Returns:
        The page with new blocks.

    Raises:
        ValueError: If the blocks of the page are not those of the parts, each once.
    """
    blocks = {"machine": machine(records), "aims": aims(parts, records)}
    for part in parts:
        record = records.get(part.name)
        blocks[part.name] = f"{part.tables(record.comparisons)}\n\n{spread(record)}" if record else UNMEASURED
    found = re.findall(r"<!-- begin ([\w ]+) -->", page)
    if sorted(found) != sorted(blocks):
        raise ValueError(f"page: expected the blocks {sorted(blocks)}, each once, got {sorted(found)}")
    for name, content in blocks.items():
        page = write_block(page, name, content)
    return page


def machine(records: Mapping[str, Record]) -> str:
    """Say where, when and with which versions the parts were measured; those that share all of it share a line."""
    where: dict[str, list[str]] = {}
    for name, record in records.items():
        facts = record.provenance
        versions = [f"Python {facts['python']}", f"latentflow {facts['latentflow']}"]
        versions += [f"{library} {version}" for library, version in facts["libraries"].items() if version]
        line = (
            f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads for torch, "
            f"{facts['system']}; {', '.join(versions)}"
        )
        where.setdefault(line, []).append(f"{name} ({facts['date'][:10]}, commit `{facts['commit']}`)")
    return "\n\n".join(f"{', '.join(names)}: {line}." for line, names in where.items()) or UNMEASURED


def aims(parts: Iterable[Part], records: Mapping[str, Record]) -> str:
    """List what was to be reached and what was, and say for what is missed why."""
    rows, reasons = [], []
    for part in parts:
        if part.name not in records:
            continue
        for aim in part.aims(records[part.name].comparisons):
            rows.append([part.name, aim.text, aim.measured, "met" if aim.met else "missed"])
            if not aim.met:
                reasons.append(f"- *{part.name}: {aim.text}.* {aim.reason[0].upper()}{aim.reason[1:]}.")
    if not rows:
        return UNMEASURED
    text = table(["part", "aim", "measured", ""], rows, left=4)
    return "\n\n".join([text, "What is missed, and why:", "\n".join(reasons)]) if reasons else text


def spread(record: Record) -> str:
    """Say how much the samples of a part scatter."""
    timings = [timing for comparison in record.comparisons for timing in comparison.timings.values()]
    widths = [(timing.upper - timing.lower) / timing.median for timing in timings]
    counts = [timing.samples for timing in timings]
    samples = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    return (
        f"{samples} samples of each; the distance between their quartiles is typically "
        f"{100 * statistics.median(widths):.1f} % of the median, at most {100 * max(widths):.0f} %."
    )
