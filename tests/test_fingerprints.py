"""Digests of input files: they tell every change, whichever way the pieces are shared out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclass import files
from geoclass.files import fingerprint, fingerprints


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 16 bytes, read 5 at a time."""
    monkeypatch.setattr(files, "PIECE_BYTES", 16)
    monkeypatch.setattr(files, "BUFFER_BYTES", 5)


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


class TestWhole:
    @settings(max_examples=60, deadline=None)
    @given(content=st.binary(min_size=1, max_size=70), data=st.data())
    def test_any_changed_byte_any_cut_and_any_more_is_told(self, tmp_path_factory, content, data):
        folder = tmp_path_factory.mktemp("f")
        at = data.draw(st.integers(0, len(content) - 1))
        changed = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
        others = [changed, content[:at], content + content[at : at + 1]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "PIECE_BYTES", 16)
            patch.setattr(files, "BUFFER_BYTES", 5)
            same = fingerprint(written(folder, "a", content))
            assert fingerprint(written(folder, "b", content)) == same, "the name is no part of it"
            assert same not in fingerprints([written(folder, f"o{k}", other) for k, other in enumerate(others)])

    def test_pieces_may_not_change_places(self, tmp_path, small_pieces):
        one, two = bytes(range(16)), bytes(range(100, 116))
        found = fingerprints([written(tmp_path, "a", one + two), written(tmp_path, "b", two + one)])
        assert found[0] != found[1]

    def test_of_many_files_each_gets_its_own(self, tmp_path, small_pieces):
        paths = [written(tmp_path, f"{k}", bytes([k]) * 17 * k) for k in range(20)]
        assert fingerprints(paths) == [fingerprint(path) for path in paths]
        assert len(set(fingerprints(paths))) == 20
        assert fingerprints([]) == []


def test_a_huge_file_is_read_in_places(tmp_path, monkeypatch):
    """Its first and last bytes, and others spread evenly, count; what lies between does not."""
    monkeypatch.setattr(files, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(files, "SAMPLE_BYTES", 4)
    content = bytearray(256 * 100)
    before = fingerprint(written(tmp_path, "a", content))
    told = []
    for at in range(len(content)):
        if at % 37 and at not in (0, len(content) - 1):
            continue
        changed = bytearray(content)
        changed[at] = 1
        if fingerprint(written(tmp_path, "b", changed)) != before:
            told.append(at)
    assert told[0] == 0 and told[-1] == len(content) - 1
    assert 10 < len(told) < 100
    assert fingerprint(written(tmp_path, "c", content + b"\0")) != before, "its size counts"
