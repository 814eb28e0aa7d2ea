"""The registry: a bundle is pushed, promoted and used by name; everything else is refused in one line."""

import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import missing

from geoclass.bundle import load_bundle, save_bundle
from geoclass.cli import main
from geoclass.errors import BundleError, GeoclassError
from geoclass.history import registry, runs, tracking


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking database; making one takes seconds."""
    if find_spec("mlflow") is None:
        missing("MLflow is not installed: pip install 'geoclass[mlflow]'")
    path = tmp_path_factory.mktemp("empty") / "mlruns.db"
    tracking.connect(str(path))
    return path


@pytest.fixture
def store(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a fresh store in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(empty, folder / "mlruns.db")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def two(tiny_bundle: Path, store: Path) -> tuple[Path, Path]:
    """Two bundles in the current folder that differ in their classifier."""
    first = load_bundle(tiny_bundle)
    shutil.copy(tiny_bundle, store / "m.pt")
    training = {"cross_validated_accuracy": 0.875, "test_accuracy": 0.85}
    state = {name: tensor + 1 if name == "classifier.bias" else tensor for name, tensor in first.state.items()}
    save_bundle(store / "n.pt", first.meta.model_copy(update={"training": training}), state)
    return Path("m.pt"), Path("n.pt")


def refused(reference: str, *words: str, kind: type[GeoclassError] = GeoclassError) -> None:
    with pytest.raises(kind) as caught:
        registry.resolve(reference)
    said = str(caught.value)
    assert "\n" not in said and all(word in said for word in words), said


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words], env={"COLUMNS": "160"})
    return done.exit_code, done.output


class TestResolve:
    def test_a_path_is_itself_and_needs_nothing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        for path in ("m.pt", "models/x.pt", "/a/models:/b.pt", "models"):
            assert registry.resolve(path) == Path(path) and registry.resolve(Path(path)) == Path(path)

    def test_without_mlflow_a_name_says_what_to_install(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mlruns.db").touch()
        monkeypatch.setitem(sys.modules, "mlflow", None)
        refused("models:/county@production", "pip install 'geoclass[mlflow]'")

    def test_without_a_registry_none_is_made(self, empty, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        refused("models:/county@production", "no registry here", "MLFLOW_TRACKING_URI")
        assert not (tmp_path / "mlruns.db").exists()

    @pytest.mark.parametrize(
        "text", ["models:/", "models:/county", "models:/county@", "models:/a/b/c", "models:/@production"]
    )
    def test_what_is_no_reference(self, text):
        refused(text, "models:/NAME@production")

    def test_by_stage_version_and_latest(self, two):
        digests = [load_bundle(path).digest for path in two]
        assert [registry.push(path, "county") for path in two] == [(1, True), (2, True)]
        registry.promote("county", 1, "production")
        for reference, digest in (
            ("models:/county@production", digests[0]), ("models:/county/1", digests[0]), ("models:/county/production", digests[0]),
            ("models:/county@latest", digests[1]), ("models:/county/2", digests[1]), ("models:/county@Production", digests[0]),
        ):  # fmt: skip
            path = registry.resolve(reference)
            assert path.suffix == ".pt" and load_bundle(path).digest == digest
            assert path.parent == registry.cache_folder()
        assert len(list(registry.cache_folder().iterdir())) == 2, "each is fetched once, and nothing half fetched stays"

    def test_a_fetched_bundle_needs_the_artifacts_no_more(self, two, store):
        registry.push(two[0], "county")
        path = registry.resolve("models:/county/1")
        shutil.rmtree(store / "mlartifacts")
        assert registry.resolve("models:/county/1") == path
        path.unlink()
        refused("models:/county/1", "cannot be fetched")

    def test_another_registry_with_the_same_name_is_another_bundle(self, two, store, empty):
        registry.push(two[0], "county")
        first = registry.resolve("models:/county/1")
        shutil.copy(empty, store / "mlruns.db")
        registry.push(two[1], "county")
        second = registry.resolve("models:/county/1")
        assert first != second and load_bundle(second).digest == load_bundle(two[1]).digest

    def test_unknown_names_versions_and_stages(self, two):
        registry.push(two[0], "county")
        for reference in ("models:/town/1", "models:/town@latest", "models:/county/7", "models:/county@staging"):
            refused(reference, "geoclass models list", reference.split("/")[1].split("@")[0])

    def test_what_is_no_bundle(self, store):
        client, uri = tracking.connect()
        client.create_registered_model("odd")
        for number, names in enumerate(([], ["a.txt"], ["a.pt", "b.pt"], ["forged.pt"]), start=1):
            tracker = tracking.Tracker(uri, "geoclass", "odd", parameters={}, tags={}, dataset={})
            for name in names:
                torch.save(torch.nn.Linear(2, 2), store / name) if name == "forged.pt" else (store / name).write_text(
                    "x"
                )
                tracker.artifact(store / name, "bundle")
            source = f"{client.get_run(tracker.run_id).info.artifact_uri}/bundle"
            client.create_model_version("odd", source=source, run_id=tracker.run_id)
            if number > 1 and number < 4:
                refused(f"models:/odd/{number}", "not one bundle", kind=BundleError)
        refused("models:/odd/1", "odd", "artifacts")
        with pytest.raises(BundleError, match="is refused"):
            load_bundle(registry.resolve("models:/odd/4"))


class TestPush:
    def test_the_same_bundle_is_one_version(self, two):
        assert registry.push(two[0], "county") == (1, True)
        assert registry.push(two[0], "county") == (1, False)
        assert registry.push(two[0], "town") == (1, True)

    def test_it_belongs_to_the_run_that_made_it(self, two, store):
        digest = load_bundle(two[0]).digest
        with runs.start_run("m.pt", {"lr": 1}, {}, track=True) as run:
            run.finish("m.pt", digest, {"accuracy": 0.5})
        registry.push("m.pt", "county")
        client, _ = tracking.connect()
        assert client.get_model_version("county", "1").run_id == run.record.tracked.run_id
        assert len(tracking.read_runs()) == 1
        shutil.copy("n.pt", "m.pt")  # another bundle than the record tells of
        registry.push("m.pt", "county")
        assert client.get_model_version("county", "2").run_id != run.record.tracked.run_id
        assert load_bundle(registry.resolve("models:/county/2")).digest == load_bundle("n.pt").digest

    def test_no_bundle_and_no_name_are_refused_before_anything_is_written(self, two, store):
        (store / "x.pt").write_bytes(b"nothing")
        with pytest.raises(BundleError, match="not a model bundle"):
            registry.push("x.pt", "county")
        for name in ("a/b", "a@b", "", "a:b", "../x", "it's"):
            with pytest.raises(GeoclassError, match="cannot be the name of a model"):
                registry.push("m.pt", name)
        assert registry.registered() == [] and tracking.read_runs() == []


class TestPromote:
    def stages(self) -> dict[int, str]:
        return {item.version: item.stage for item in registry.registered()}

    def test_a_stage_has_one_version_and_a_version_one_stage(self, two):
        for path in two:
            registry.push(path, "county")
        assert registry.promote("county", "latest", "staging") == (2, None)
        assert registry.promote("county", 1, "production") == (1, None)
        assert self.stages() == {1: "production", 2: "staging"}
        assert registry.promote("county", "2", "production") == (2, 1)
        assert self.stages() == {1: "", 2: "production"}
        assert registry.promote("county", 2, "production") == (2, None)
        assert registry.promote("county", "production", "archived") == (2, None)
        assert self.stages() == {1: "", 2: "archived"}
        refused("models:/county@production", "production")
        registry.promote("county", 2, "staging")
        assert self.stages() == {1: "", 2: "staging"}

    def test_bad_use(self, two):
        registry.push(two[0], "county")
        for name, version, stage in (
            ("county", 9, "production"), ("town", 1, "production"), ("town", "latest", "staging"), ("county", "first", "staging"),
            ("county", "staging", "production"), ("county", 1, "Nowhere"), ("co/unty", 1, "staging"), ("county", -1, "staging"),
        ):  # fmt: skip
            with pytest.raises(GeoclassError) as caught:
                registry.promote(name, version, stage)
            assert "\n" not in str(caught.value)
        assert self.stages() == {1: ""}


class TestCommandLine:
    def test_push_promote_list_and_use(self, two, store):
        code, said = command("models", "push", "n.pt", "--name", "county")
        assert code == 0 and "version 1 of county" in said
        assert command("models", "push", "m.pt", "--name", "county")[0] == 0
        assert "already" in command("models", "push", "m.pt", "--name", "county")[1]
        code, said = command("models", "promote", "county", "1", "--stage", "production")
        assert code == 0 and "version 1 of county is production" in said
        assert "in place of version 1" in command("models", "promote", "county", "latest", "--stage", "production")[1]
        code, said = command("models", "list")
        assert code == 0 and all(word in said for word in ("m.pt", "n.pt", "rsscn7", "85.0%", "county", "production"))
        told = json.loads(command("models", "list", "--json")[1])
        assert [row["stage"] for row in told["registered"]] == ["production", ""] and told["registered"][1][
            "accuracy"
        ] == 0.85
        assert {row["path"] for row in told["bundles"]} == {"m.pt", "n.pt"}
        code, said = command("models", "export", "models:/county/1", "--to", "safetensors", "-o", "out.safetensors")
        assert code == 0 and (store / "out.safetensors").is_file(), said

    def test_list_without_mlflow_tells_of_the_bundles_here(self, two, store, monkeypatch, caplog):
        (store / "x.pt").write_bytes(b"nothing")
        monkeypatch.setitem(sys.modules, "mlflow", None)
        monkeypatch.setattr(tracking, "installed", lambda: False)
        code, said = command("models", "list")
        assert code == 0 and all(
            word in said for word in ("m.pt", "n.pt", "efficientnet_lite0", "85.0%", load_bundle("m.pt").digest[:12])
        )
        assert "x.pt" not in said and "x.pt" in caplog.text
        for words in (("push", "m.pt", "--name", "county"), ("promote", "county", "1", "--stage", "production")):
            code, said = command("models", *words)
            assert code == 2 and "pip install 'geoclass[mlflow]'" in said and said.count("\n") == 1

    def test_no_server(self, two, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        for words in (("push", "m.pt", "--name", "c"), ("promote", "c", "1", "--stage", "staging"), ("list",)):
            code, said = command("models", *words)
            assert code == 2 and "no MLflow server answers" in said and said.count("\n") == 1
        refused("models:/c/1", "no MLflow server answers")

    def test_nothing_is_left_in_the_environment_but_what_is_meant(self, two):
        registry.push(two[0], "county")
        assert "MLFLOW_TRACKING_URI" not in os.environ and os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
