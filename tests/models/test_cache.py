import threading

import pytest

from mlkit.models import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(text):
    return lambda folder: (folder / "file").write_text(text)


def test_the_environment_names_the_folder(folder):
    assert cache.cache_dir() == folder


def test_without_it_the_users_cache_folder_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("MLKIT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir().name == "mlkit"


def test_a_key_changes_with_every_part_and_with_a_files_contents(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    before = cache.content_key(["a", file])
    file.write_bytes(b"2")
    assert before != cache.content_key(["a", file])
    assert cache.content_key(["ab", "c"]) != cache.content_key(["a", "bc"])


def test_an_entry_is_built_once():
    cache.entry("k", write("first"))
    assert (cache.entry("k", write("second")) / "file").read_text() == "first"


def test_a_build_that_fails_leaves_nothing(folder):
    def build(fresh):
        (fresh / "half").write_text("")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.entry("k", build)
    assert list(folder.iterdir()) == []


def test_of_two_that_build_at_once_the_first_to_finish_stays(folder):
    both_build = threading.Barrier(2)
    found = []

    def take(text):
        def build(fresh):
            both_build.wait(5)
            (fresh / "file").write_text(text)

        found.append((cache.entry("k", build) / "file").read_text())

    threads = [threading.Thread(target=take, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert [path.name for path in folder.iterdir()] == ["k"]


def test_a_discarded_entry_is_built_anew():
    cache.discard(cache.entry("k", write("damaged")))
    assert (cache.entry("k", write("whole")) / "file").read_text() == "whole"
