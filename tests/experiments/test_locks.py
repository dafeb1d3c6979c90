"""A folder has one owner; the death of the owner sets it free."""

import errno
import multiprocessing
import os
import signal
import sys

import pytest

from latentflow_experiments import locks
from latentflow_experiments.errors import DataError, ExperimentError, printable
from latentflow_experiments.locks import LOCK, held, held_folder, owned

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
FORK = multiprocessing.get_context("fork") if sys.platform != "win32" else None


def _own(folder, ready, leave):
    with owned(folder, "making images"):
        ready.set()
        leave.wait(30)


@pytest.fixture
def owner(tmp_path):
    """Another process that owns a folder."""
    ready, leave = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_own, args=(tmp_path / "set", ready, leave))
    process.start()
    assert ready.wait(30)
    yield process, leave
    process.kill()
    process.join()


def test_the_second_is_refused_with_the_name_of_the_first(tmp_path, owner):
    """Catches two runs of one name, of which one leaves its configuration beside the weights of the other."""
    process, leave = owner
    with pytest.raises(ExperimentError) as caught, owned(tmp_path / "set", "training"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'set'}: expected a folder that no other process writes to, got one of process {process.pid}, "
        "which is making images; wait for it"
    )
    leave.set()
    process.join(30)
    with owned(tmp_path / "set", "training"):
        assert (tmp_path / "set" / LOCK).read_text() == f"{os.getpid()} training\n"
    assert list((tmp_path / "set").iterdir()) == []


def test_a_killed_owner_leaves_the_folder_free(tmp_path, owner):
    """Catches a lock file that counts as long as it is there."""
    process, _ = owner
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert (tmp_path / "set" / LOCK).exists()
    with owned(tmp_path / "set", "training"):
        pass


def test_a_forked_child_does_not_keep_the_folder(tmp_path):
    """Catches a worker that lives on after its killed parent and holds the lock that it has inherited."""
    with owned(tmp_path, "training"):
        pid = os.fork()
        if not pid:
            signal.pause()
            os._exit(0)
    try:
        with owned(tmp_path, "training"):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_removed_lock_file_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """Catches a second owner that locks the file which the first one is just removing."""
    path, lock = tmp_path / LOCK, locks._lock
    path.touch()

    def remove_once(descriptor):
        lock(descriptor)
        monkeypatch.setattr(locks, "_lock", lock)
        path.unlink()

    monkeypatch.setattr(locks, "_lock", remove_once)
    with owned(tmp_path, "training"), pytest.raises(ExperimentError), owned(tmp_path, "training"):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)])
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path, make):
    """Catches a hang on a pipe, and a write through a link."""
    make(tmp_path / LOCK)
    with pytest.raises(ExperimentError, match="expected a folder that can be written to"), owned(tmp_path, "training"):
        pass


def test_a_file_system_without_locks_or_room_goes_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(os, "write", full)
    with owned(tmp_path, "training"), held_folder(tmp_path):
        pass


def _wait(folder, queue):
    with held_folder(folder):
        queue.put("held")


def test_the_waiting_lock_waits(tmp_path):
    """Catches a second download that is refused, or writes into the file of the first."""
    queue = FORK.Queue()
    with held_folder(tmp_path):
        process = FORK.Process(target=_wait, args=(tmp_path, queue))
        process.start()
        process.join(0.3)
        assert process.is_alive()
        assert queue.empty()
    assert queue.get(timeout=30) == "held"
    process.join()


def test_readers_share_a_lock(tmp_path):
    (tmp_path / "a").touch()
    with (
        (tmp_path / "a").open() as first,
        (tmp_path / "a").open() as second,
        held(first.fileno(), alone=False),
        held(second.fileno(), alone=False),
    ):
        pass


def test_control_characters_never_reach_the_terminal():
    """Catches a file name that clears the screen, colours it, adds a line, or turns the text around."""
    text = "a\x1b[2J\nb\r\x07\x9b\u202ec\udcff é"
    assert printable(text) == "a\\x1b[2J\\nb\\r\\x07\\x9b\\u202ec\\udcff é"
    assert str(DataError(text)) == printable(text) == printable(printable(text))
    assert printable("x" * 50, longest=10) == "xxxxxxx..."
