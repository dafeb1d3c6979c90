"""The command ``latentflow``, also as ``python -m latentflow_experiments``.

Help, the version and a command that does not exist are answered here, without an import that takes time.
"""

from __future__ import annotations

import difflib
import io
import os
import signal
import sys
from contextlib import suppress

from latentflow_experiments.errors import FAILURE, INTERRUPTED, UNREAD, USAGE
from latentflow_experiments.memory import keep_memory
from latentflow_experiments.reproduce.parent import PARENT, end_with_parent

COMMANDS = {
    "train": "Train a model on sequences of images of one change each, then evaluate it.",
    "evaluate": "Measure the equivariance errors of a run on the test sequences and draw its flows.",
    "measure": "Measure more of an evaluated run, and write it into its folder.",
    "generate": "Transform images by the flows of an evaluated run: frames and a picture.",
    "explore": "Write one HTML file in which a reader moves the flows of an evaluated run.",
    "compare": "Print the errors of several evaluated runs and the transport of their flows as one table.",
    "push": "Share the model of an evaluated run on the Hugging Face hub, with a card.",
    "check": "Read every file of a run and say what is damaged.",
    "reproduce": "Reproduce tables and figures of the paper: train what they need, and write one report.",
    "data": "List, download, check, render and show data sets.",
}
"""The commands, with what each does."""

HELP = f"""usage: latentflow COMMAND [OPTIONS]

Flow factorized representation learning: train, evaluate and compare latent flows.

commands:
{chr(10).join(f"  {name:<9} {what}" for name, what in COMMANDS.items())}

options:
  -h, --help   Show this text; after a command, its options.
  --version    Show the version.
  --debug      Show the whole traceback of an error.

exit codes: 0 done, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C (a training run can be resumed)
first run:  latentflow train digits
your data:  latentflow train my.npz, or the path of a folder of frames or of clips"""


def main() -> int:
    """Run the command line of the experiments, or say how to install what it needs.

    Returns:
        The exit code; 130 after Ctrl-C, wherever it came, and 141 if the reader of the output has left, as ``head``
        does.
    """
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):
        code = _run()
    if code == INTERRUPTED:
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is saved: another Ctrl-C ends the process without a word
    return code


def _run() -> int:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before this process began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream that is closed or cannot seek
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(
                    errors="backslashreplace"
                )  # a name that the terminal cannot show is no reason to stop
    words = [word for word in sys.argv[1:] if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        return _end_output(HELP + "\n", 0 if words else USAGE)
    if words[0] == "--version":
        from latentflow._version import __version__  # noqa: PLC0415 - torch is not needed for it

        return _end_output(f"latentflow {__version__}\n", 0)
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return _refuse(f"command: expected one of {', '.join(COMMANDS)}, got {words[0]!a}{hint}", USAGE)
    if PARENT in os.environ:
        end_with_parent()
    # A thread that spins while it waits for one without a core makes a loaded machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_memory()
    try:
        from latentflow_experiments.cli import main as run  # noqa: PLC0415 - the extras may be missing
        from latentflow_experiments.training.processes import end_process  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        need = f"the command needs {error.name}, which is not installed"
        return _refuse(f'{need}: pip install "latentflow-torch[experiments]"', FAILURE)
    return end_process(_end_output("", run(words, debug="--debug" in sys.argv[1:])))


def _end_output(text: str, code: int) -> int:
    """Write the last of the output; return the exit code, which is another one if the output cannot be written."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        with suppress(OSError, ValueError):  # so that Python does not try again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return UNREAD
        return code or _refuse(f"the output: {error.strerror}", FAILURE)
    return code


def _refuse(message: str, code: int) -> int:
    print(f"latentflow: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
