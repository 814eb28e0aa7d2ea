"""The journal: parts come back as they went in, another run is refused, a kill leaves nothing half-written."""

import numpy as np
import pytest

from geoclass.errors import OutputError
from geoclass.journal import Journal, Part


def part(tiles: int = 5, classified: int = 3) -> Part:
    rng = np.random.default_rng(tiles)
    return Part(
        columns=np.arange(tiles, dtype=np.int64) - 2,
        rows=np.arange(tiles, dtype=np.int64) + 20_000,
        valid_fraction=rng.random(tiles).astype(np.float32),
        classified=np.arange(tiles) < classified,
        probabilities=rng.dirichlet(np.ones(4), classified).astype(np.float32),
        thumbnails=rng.integers(0, 256, (classified, 6, 6, 3)).astype(np.uint8),
        read_seconds=0.25,
        network_seconds=1.5,
    )


@pytest.mark.parametrize(("tiles", "classified"), [(5, 3), (4, 0), (1, 1)])
def test_a_part_comes_back_as_it_was(tmp_path, tiles, classified):
    with Journal(tmp_path / ".x.journal", {"model": "abc"}) as journal:
        journal.write(7, part(tiles, classified))
    with Journal(tmp_path / ".x.journal", {"model": "abc"}) as journal:
        assert journal.done == {7}
        back, went = journal.read(7), part(tiles, classified)
    for name in vars(went):
        assert np.array_equal(getattr(back, name), getattr(went, name)), name


def test_another_run_is_refused_and_restarted_on_demand(tmp_path):
    with Journal(tmp_path / ".x.journal", {"model": "abc", "inputs": "1"}) as journal:
        journal.write(0, part())
    with pytest.raises(OutputError, match=r"other model.*--overwrite"):
        Journal(tmp_path / ".x.journal", {"model": "def", "inputs": "1"})
    with Journal(tmp_path / ".x.journal", {"model": "def", "inputs": "1"}, restart=True) as journal:
        assert journal.done == set()


def test_one_run_at_a_time(tmp_path):
    with Journal(tmp_path / ".x.journal", {}), pytest.raises(OutputError, match="another geoclass run"):
        Journal(tmp_path / ".x.journal", {})


def test_what_a_kill_leaves_is_not_taken_for_a_part(tmp_path):
    with Journal(tmp_path / ".x.journal", {}) as journal:
        journal.write(0, part())
        (journal.folder / "tmp-part-000001.arrow").write_bytes(b"half")
    with Journal(tmp_path / ".x.journal", {}) as journal:
        assert journal.done == {0}


def test_a_damaged_part_is_named(tmp_path):
    with Journal(tmp_path / ".x.journal", {}) as journal:
        journal.write(0, part())
        (journal.folder / "part-000000.arrow").write_bytes(b"broken")
        with pytest.raises(OutputError, match=r"part-000000\.arrow is damaged"):
            journal.read(0)


def test_publishing_moves_files_and_discard_leaves_nothing(tmp_path):
    with Journal(tmp_path / ".x.journal", {}) as journal:
        stage = journal.stage()
        (stage / "x.txt").write_text("done")
        assert journal.publish([stage / "x.txt"], tmp_path) == [tmp_path / "x.txt"]
        journal.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
