"""The options of a run that takes no time, and the line that a failing command ends with."""

SMALL = ["--dim", "3", "--hidden", "5", "--width", "8", "--batch-size", "6", "--device", "cpu", "--precision", "32"]


def complaint(capsys):
    """Return the last line of the standard error, which names the error; there is no traceback above it."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("latentflow: error: ")
    assert "Traceback" not in "".join(lines)
    return lines[-1]
