"""Forests inside bundles: nothing but a sound forest is ever built from a file."""

import io
import zipfile

import numpy as np
import pytest
import skops.io
import torch
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from geoclass import backbones
from geoclass.bundle import Bundle, BundleMeta, load_bundle, save_bundle
from geoclass.errors import BundleError
from geoclass.forest import dump_forest, load_forest, probabilities
from geoclass.predict import Predictor
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

torch.set_num_threads(1)


def points(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 3
    return (rng.normal(0, 1, (count, 5)) + classes[:, None]).astype(np.float32), classes


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    return RandomForestClassifier(12, random_state=0).fit(*points())


def meta(**more) -> BundleMeta:
    norm = backbones.normalisation("resnet18")
    values = {
        "backbone": "resnet18", "scheme": load_scheme("rsscn7"), "sensor": load_sensor("rgb8"),
        "bands": ("red", "green", "blue"), "size_px": 32, "mean": norm.mean, "std": norm.std, "projection": 5,
        "created": "2020-01-01T00:00:00+00:00", "geoclass_version": "0.1.0",
    }  # fmt: skip
    return BundleMeta(**{**values, **more})


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(backbones.build("resnet18", classes=5, weights=None).state_dict())


def test_there_and_back(forest):
    back = load_forest(dump_forest(forest), "m.pt", inputs=5, classes=3)
    fresh, _ = points(200, 1)
    assert np.array_equal(back.predict_proba(fresh), forest.predict_proba(fresh))


def test_probabilities_are_never_0(forest):
    fresh, _ = points(200, 1)
    found = probabilities(forest, 100 * fresh, 7)
    assert found.shape == (200, 7) and found.dtype == np.float32
    assert found.min() > 0 and found.sum(axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert np.array_equal(found.argmax(axis=1), forest.predict(100 * fresh))
    assert set(found.argmax(axis=1)) <= {0, 1, 2}
    some = RandomForestClassifier(3, random_state=0).fit(points()[0], np.array([1, 4, 6])[points()[1]])
    assert set(probabilities(some, fresh, 7).argmax(axis=1)) <= {1, 4, 6}


class TestRefused:
    @pytest.mark.parametrize("other", ["logistic", "trees", "a function", "numbers"])
    def test_another_type_inside(self, other):
        made = {
            "logistic": LogisticRegression().fit(*points()),
            "trees": ExtraTreesClassifier(2).fit(*points()),
            "a function": make_pipeline(FunctionTransformer(np.exp), LogisticRegression()).fit(*points()),
            "numbers": {"a": np.arange(3)},
        }[other]
        with pytest.raises(BundleError, match=r"m.pt is refused: its (head is|forest holds)"):
            load_forest(skops.io.dumps(made), "m.pt")

    def test_a_forest_with_a_foreign_part(self, forest):
        copy = load_forest(dump_forest(forest), "m.pt")
        copy.extra = FunctionTransformer(io.open)
        with pytest.raises(BundleError, match=r"m\.pt is refused: its forest holds") as caught:
            load_forest(skops.io.dumps(copy), "m.pt")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("archive", [b"", b"PK\x03\x04", b"no archive", b"\x80\x04N."])
    def test_what_is_no_archive(self, archive):
        with pytest.raises(BundleError, match="its forest cannot be read"):
            load_forest(archive, "m.pt")

    def test_cut_and_turned_over_bytes(self, forest):
        """Whatever is damaged: a BundleError, or a forest that answers in shares."""
        whole = dump_forest(forest)
        rng = np.random.default_rng(0)
        fresh, _ = points(20, 2)
        for _ in range(40):
            broken = bytearray(whole)
            for at in rng.integers(0, len(whole), 3):
                broken[at] = int(rng.integers(256))
            try:
                found = load_forest(bytes(broken[: int(rng.choice([len(whole), rng.integers(1, len(whole))]))]), "m.pt")
            except BundleError as error:
                assert "\n" not in str(error)
                continue
            assert np.isfinite(probabilities(found, fresh, 7)).all()

    def test_a_compressed_archive(self, forest):
        """It could unpack to any size."""
        packed = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(dump_forest(forest))) as a,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as b,
        ):
            for name in a.namelist():
                b.writestr(name, a.read(name))
        with pytest.raises(BundleError, match="compressed"):
            load_forest(packed.getvalue(), "m.pt")

    @pytest.mark.parametrize("harm", ["ring", "outside", "feature", "classes", "none", "values"])
    def test_trees_that_lead_nowhere(self, harm):
        """scikit-learn walks trees without a look: a ring never ends, a child outside is read from foreign memory."""
        made = RandomForestClassifier(3, random_state=0).fit(*points())
        tree = made.estimators_[1].tree_
        values = tree.__getstate__()
        nodes = values["nodes"].copy()
        if harm == "ring":
            nodes["left_child"][0] = 0
        elif harm == "outside":
            nodes["right_child"][0] = 10**6
        elif harm == "feature":
            nodes["feature"][0] = 99
        elif harm == "values":
            values["values"][:] = np.nan
        values["nodes"] = nodes
        tree.__setstate__(values)
        if harm == "classes":
            made.classes_ = np.array([0, -2, 5])
        elif harm == "none":
            made.estimators_ = []
        with pytest.raises(BundleError, match="damaged or forged"):
            load_forest(dump_forest(made), "m.pt")

    def test_one_that_does_not_fit_its_network(self, forest, state):
        archive = dump_forest(forest)
        Predictor(Bundle(meta(), state, "", archive), load_sensor("rgb8"), device=torch.device("cpu"))
        for wrong in ({"inputs": 6}, {"classes": 2}):
            with pytest.raises(BundleError, match="does not fit its network and classes"):
                load_forest(archive, "m.pt", **wrong)


class TestInBundles:
    def test_there_and_back(self, forest, state, tmp_path):
        archive = dump_forest(forest)
        saved = save_bundle(tmp_path / "m.pt", meta(), state, forest=archive)
        loaded = load_bundle(tmp_path / "m.pt")
        assert loaded.forest == archive and loaded.digest == saved.digest

    def test_a_forest_and_no_projection_or_the_reverse(self, forest, state, tmp_path):
        wide = dict(backbones.build("resnet18", classes=7, weights=None).state_dict())
        save_bundle(tmp_path / "a.pt", meta(projection=None), wide, forest=dump_forest(forest))
        save_bundle(tmp_path / "b.pt", meta(), state)
        for name in ("a.pt", "b.pt"):
            with pytest.raises(BundleError, match="names a forest and holds none, or the reverse"):
                load_bundle(tmp_path / name)

    def test_a_changed_forest_is_seen(self, forest, state, tmp_path):
        save_bundle(tmp_path / "m.pt", meta(), state, forest=dump_forest(forest))
        other = RandomForestClassifier(12, random_state=1).fit(*points())
        parts = torch.load(tmp_path / "m.pt", weights_only=True)
        parts["forest"] = torch.frombuffer(bytearray(dump_forest(other)), dtype=torch.uint8)
        torch.save(parts, tmp_path / "m.pt")
        with pytest.raises(BundleError, match="changed or damaged"):
            load_bundle(tmp_path / "m.pt")

    @pytest.mark.parametrize("kind", ["repeated", "meta", "floats", "text", "square"])
    def test_what_is_no_row_of_bytes(self, state, tmp_path, kind):
        """A byte repeated by its strides would unpack to a terabyte."""
        strange = {
            "repeated": torch.zeros(1, dtype=torch.uint8).expand(10**12),
            "meta": torch.zeros(10**6, dtype=torch.uint8, device="meta"),
            "floats": torch.zeros(10),
            "text": "forest",
            "square": torch.zeros(2, 2, dtype=torch.uint8),
        }[kind]
        save_bundle(tmp_path / "m.pt", meta(), state)
        parts = torch.load(tmp_path / "m.pt", weights_only=True)
        torch.save({**parts, "forest": strange}, tmp_path / "m.pt")
        with pytest.raises(BundleError):
            load_bundle(tmp_path / "m.pt")
