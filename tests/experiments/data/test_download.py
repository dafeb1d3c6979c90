"""Downloads from a real server on this machine."""

import hashlib
import os
import signal
import threading
import time

import pooch
import pytest
from serving import CONTENT, HALF, SHA256, SIZE, Reply, wait_until

from latentflow_experiments.data import files as download_module
from latentflow_experiments.data.factors import PublicFile
from latentflow_experiments.data.files import DownloadError, retrieve
from latentflow_experiments.errors import DataError


def broken_off(server, folder, reply=None):
    """A first attempt that breaks off in the middle; gives the number of bytes that are kept."""
    with pytest.raises(DownloadError):
        retrieve(server.file([reply or Reply(stop=HALF), Reply(status=503)]), folder)
    kept = (folder / "file.bin.part").stat().st_size
    assert HALF - 2**17 < kept <= HALF
    server.requests.clear()
    return kept


def only_the_file(folder):
    assert [path.name for path in folder.iterdir()] == ["file.bin"]
    return (folder / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_download_is_whole_and_is_not_repeated(server, tmp_path, size):
    """Catches leftovers beside the file, and a second download of a file that is there."""
    file = server.file([Reply()], size=size)
    assert retrieve(file, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "file.bin"
    assert only_the_file(tmp_path / "new" / "folder")
    retrieve(file, tmp_path / "new" / "folder")
    assert [request["range"] for request in server.requests] == [None]


@pytest.mark.parametrize("size", [SIZE, None])
def test_the_same_call_goes_on_by_itself_while_there_is_progress(server, tmp_path, size):
    """Catches a download that has to be started again by hand after each break, and bytes that are sent twice."""
    retrieve(server.file([Reply(stop=HALF), Reply(stop=2 * HALF), Reply()], size=size), tmp_path)
    assert only_the_file(tmp_path)
    starts = [int((request["range"] or "bytes=0-")[6:-1]) for request in server.requests]
    assert starts[0] == 0
    assert HALF - 2**17 < starts[1] <= HALF
    assert 2 * HALF - 2**17 < starts[2] <= 2 * HALF


def test_the_next_call_asks_for_the_missing_bytes_only(server, tmp_path):
    """Catches a resumption that starts over, is off by one, or forgets which version it goes on with."""
    kept = broken_off(server, tmp_path)
    retrieve(server.file([Reply()]), tmp_path)
    assert only_the_file(tmp_path)
    assert server.requests == [{"path": "/a/file.bin", "range": f"bytes={kept}-", "if": '"1"', "sent": SIZE - kept}]


@pytest.mark.parametrize(
    ("etag", "modified", "expected"),
    [
        ('"1"', "Wed, 21 Oct 2015 07:28:00 GMT", '"1"'),
        ('W/"1"', "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ('W/"1"', None, None),
        (None, None, None),
    ],
)
def test_the_version_that_is_asked_for(server, tmp_path, etag, modified, expected):
    """Catches a weak ETag in If-Range, which servers must not accept, so that every resumption would start over."""
    kept = broken_off(server, tmp_path, Reply(stop=HALF, etag=etag, modified=modified))
    retrieve(server.file([Reply(etag=etag, modified=modified)]), tmp_path)
    assert only_the_file(tmp_path)
    assert [(r["range"], r["if"]) for r in server.requests] == [(f"bytes={kept}-", expected)]


@pytest.mark.parametrize("reply", [Reply(ranges=False), Reply(etag='"2"'), Reply(shift=3)])
def test_an_answer_that_does_not_go_on_starts_over(server, tmp_path, reply):
    """Catches a whole file, or another part than asked, that is appended to the part (no ranges, a new version)."""
    broken_off(server, tmp_path)
    retrieve(server.file([reply, Reply()]), tmp_path)
    assert only_the_file(tmp_path)
    assert server.requests[0]["if"] == '"1"'


def test_a_part_with_a_note_that_cannot_be_read_goes_on_without_it(server, tmp_path):
    kept = broken_off(server, tmp_path)
    (tmp_path / "file.bin.part.json").write_text('["')
    retrieve(server.file([Reply()]), tmp_path)
    assert [(r["range"], r["if"]) for r in server.requests] == [(f"bytes={kept}-", None)]


@pytest.mark.parametrize(("size", "requests"), [(SIZE, 0), (None, 1)])
def test_a_complete_part_is_not_asked_for_again(server, tmp_path, size, requests):
    """Catches a 416 that is taken for a failure: the whole file was there when the process was killed."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    retrieve(server.file([Reply()], size=size), tmp_path)
    assert only_the_file(tmp_path)
    assert [r["sent"] for r in server.requests] == [0] * requests


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_part_that_is_too_long_starts_over(server, tmp_path, size):
    """Catches a 416 for a part that is longer than the file being taken as complete."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    retrieve(server.file([Reply()], size=size), tmp_path)
    assert only_the_file(tmp_path)


def test_ctrl_c_keeps_the_part_and_the_next_call_goes_on(server, tmp_path):
    """Catches a part that is deleted, or an interrupt that is swallowed as one more failure."""
    server.part = tmp_path / "file.bin.part"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            retrieve(server.file([Reply(stop=HALF, then="interrupt")]), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    server.released.set()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.bin.part", "file.bin.part.json"]
    kept = (tmp_path / "file.bin.part").stat().st_size
    assert HALF - 2**16 < kept <= HALF
    server.requests.clear()
    retrieve(server.file([Reply()]), tmp_path)
    assert only_the_file(tmp_path)
    assert server.requests[0]["sent"] == SIZE - kept


def test_ctrl_c_while_the_hash_is_computed_keeps_all_bytes(server, tmp_path, monkeypatch):
    """Catches a part that is moved away before the file is known to be right."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pooch.core, "hash_matches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retrieve(server.file([Reply()]), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT
    server.requests.clear()
    retrieve(server.file([Reply()]), tmp_path)
    assert only_the_file(tmp_path)
    assert server.requests == []


def test_a_server_that_stalls_is_given_up(server, tmp_path, monkeypatch):
    """Catches a download without a timeout, which would hang for ever."""
    monkeypatch.setattr(download_module, "_TIMEOUT", (1.0, 0.2))
    with pytest.raises(DownloadError, match=r": the connection broke; [\d,]+ bytes are kept in .*file\.bin\.part for"):
        retrieve(server.file([Reply(stop=HALF, then="stall")]), tmp_path)


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_file_of_other_bytes_is_refused_and_leaves_nothing(server, tmp_path, size):
    """Catches a missing check of the hash, and a wrong part that every further attempt would complete."""
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DownloadError) as caught:
        retrieve(server.file([Reply(content=wrong)], size=size), tmp_path)
    assert f"wrong SHA-256, expected {SHA256}, got {hashlib.sha256(wrong).hexdigest()}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links(server, tmp_path, monkeypatch):
    """Catches a download that only works where files can have two names."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    retrieve(server.file([Reply()]), tmp_path)
    assert only_the_file(tmp_path)


def test_a_file_of_other_bytes_that_was_there_is_replaced(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"other")
    retrieve(server.file([Reply()]), tmp_path)
    assert only_the_file(tmp_path)


def test_a_page_instead_of_the_file_does_not_cost_what_has_arrived(server, tmp_path):
    """Catches a part that is overwritten by the log-in page of a network, which answers everything with 200."""
    kept = broken_off(server, tmp_path)
    with pytest.raises(DownloadError, match="expected a file of 1000003 bytes, got one of 12"):
        retrieve(server.file([Reply(content=b"please log in"[:12], ranges=False)]), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:kept]


def test_a_silent_end_of_a_file_of_known_size_is_no_wrong_hash(server, tmp_path):
    """Catches a part that is thrown away because a server without Content-Length closed the connection early."""
    retrieve(server.file([Reply(stop=HALF, length=False), Reply()]), tmp_path)
    assert only_the_file(tmp_path)
    assert server.requests[1]["sent"] == SIZE - HALF


@pytest.mark.parametrize("reply", [Reply(status=404), Reply(status=500), Reply(content=b"other")])
def test_the_next_address_is_tried(server, tmp_path, reply):
    """Catches a failure of the first address that ends everything."""
    retrieve(server.file([reply], [Reply()], size=None), tmp_path)
    assert only_the_file(tmp_path)
    assert [r["path"] for r in server.requests] == ["/a/file.bin", "/b/file.bin"]


def test_the_next_address_goes_on_with_what_the_first_gave(server, tmp_path):
    """Catches a version of one address that is asked for at another, which would make it start over."""
    retrieve(server.file([Reply(stop=HALF)], [Reply(etag='"b"')]), tmp_path)
    assert only_the_file(tmp_path)
    second = server.requests[1]
    assert (second["path"], second["if"]) == ("/b/file.bin", None)
    assert SIZE - HALF <= second["sent"] < SIZE - HALF + 2**17


def test_every_address_is_named_with_its_reason(server, tmp_path):
    closed = "http://127.0.0.1:9/file.bin"
    file = server.file([Reply(status=404)], [Reply(status=503)])
    file = PublicFile(file.name, (*file.addresses, closed), file.sha256, file.size)
    with pytest.raises(DownloadError) as caught:
        retrieve(file, tmp_path)
    one, two, _ = file.addresses
    reasons = f"{one}: HTTP status 404; {two}: HTTP status 503; {closed}: ConnectionError"
    assert str(caught.value) == f"could not download file.bin ({reasons})"
    assert [r["path"] for r in server.requests] == ["/a/file.bin", "/b/file.bin"]


def test_two_at_the_same_time_download_once(server, tmp_path):
    """Catches two runs that start together and write into the same part."""
    file = server.file([Reply(stop=HALF, then="stall"), Reply()])
    threads = [threading.Thread(target=retrieve, args=(file, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.requests)
    time.sleep(0.2)
    assert len(server.requests) == 1
    server.released.set()
    for thread in threads:
        thread.join()
    assert only_the_file(tmp_path)
    assert len(server.requests) == 2


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected a folder that can be written to, got .*file"):
        retrieve(PublicFile("file.bin", (), SHA256), tmp_path / "file" / "folder")
