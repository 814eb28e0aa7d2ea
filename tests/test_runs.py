"""Run records and run tracking: every way a training can end is told, and two runs are compared, here and in MLflow."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import free_port, missing
from PIL import Image

from geoclass.bundle import load_bundle
from geoclass.cli import main
from geoclass.errors import GeoclassError
from geoclass.history import registry, runs, tracking
from geoclass.history.record import flat

DATASET = {"name": "data", "fingerprint": "ab" * 16, "tiles": 120, "classes": {"Field": 60, "Forest": 60}}


def record_run(out: Path, parameters: dict | None = None, accuracy: float = 0.75, **options: object) -> runs.RunRecord:
    """A whole run of three epochs."""
    with runs.start_run(out, parameters or {"head": "svm", "recipe": {"lr": 0.1}}, DATASET, **options) as run:
        for epoch in range(1, 4):
            run.log_metrics({"loss": 1 / epoch}, epoch)
            run.log_metrics({"validation_accuracy": accuracy - 0.1 / epoch}, epoch)
        out.write_bytes(b"a bundle")
        run.finish(out, "d" * 32, {"accuracy": accuracy})
    return run.record


def command(*words: object) -> tuple[int, str]:
    """What the command line says."""
    done = CliRunner().invoke(main, [str(word) for word in words], env={"COLUMNS": "160"})
    return done.exit_code, done.output


def refused(reference: object, *words: str, **options: object) -> None:
    with pytest.raises(GeoclassError) as caught:
        runs.find_run(reference, **options)
    said = str(caught.value)
    assert "\n" not in said and all(word in said for word in words), said


class TestRecord:
    def test_everything_comes_back(self, tmp_path):
        made = record_run(tmp_path / "m.pt", device="cpu")
        (read,) = runs.find_runs(tmp_path)
        assert read.file == tmp_path / "m.run.json"
        assert read.model_copy(update={"file": None}) == made
        assert read.status == "finished" and read.reason == "" and read.seconds >= 0
        assert read.parameters == {"head": "svm", "recipe.lr": 0.1} and read.dataset == DATASET
        assert read.metrics == {"accuracy": 0.75} and read.bundle.path == "m.pt" and read.bundle.digest == "d" * 32
        assert [row["epoch"] for row in read.history] == [1, 2, 3]
        assert read.history[1] == {"epoch": 2, "loss": 0.5, "validation_accuracy": 0.7}
        assert read.environment["device"] == "cpu" and read.environment["torch"] and read.environment["cores"] >= 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt", "m.run.json"]

    def test_ids_sort_by_time(self, tmp_path):
        first = record_run(tmp_path / "z.pt")
        time.sleep(1.1)
        second = record_run(tmp_path / "a.pt")
        assert first.id < second.id and len(first.id) == len("20200101-000000-abcd")
        assert [run.id for run in runs.find_runs(tmp_path)] == [second.id, first.id]

    def test_numbers_that_json_lacks(self, tmp_path):
        with runs.start_run(
            tmp_path / "m.pt", {"rate": np.float32(0.5), "path": Path("x"), "bands": ("r", "g")}, {}
        ) as run:
            run.log_metrics({"loss": float("nan"), "other": np.float64(2)}, 1)
            run.finish(tmp_path / "m.pt", "d", {"loss": float("inf")})
        (read,) = runs.find_runs(tmp_path)
        assert read.history == [{"epoch": 1, "loss": None, "other": 2}] and read.metrics == {"loss": None}
        assert read.parameters == {"rate": 0.5, "path": "x", "bands": '["r", "g"]'}
        assert "NaN" not in read.file.read_text() and "Infinity" not in read.file.read_text()

    def test_plots_are_named_from_the_record(self, tmp_path):
        (tmp_path / "plots").mkdir()
        with runs.start_run(tmp_path / "m.pt", {}, {}) as run:
            run.log_plot(tmp_path / "plots" / "curves.png")
            run.log_plot(tmp_path / "plots" / "curves.png")
        assert runs.find_runs(tmp_path)[0].plots == ["plots/curves.png"]

    @pytest.mark.parametrize(
        ("error", "status", "reason"),
        [
            (KeyboardInterrupt(), "interrupted", ""),
            (GeoclassError("the loss\n is NaN; lower --lr"), "failed", "the loss is NaN; lower --lr"),
            (ValueError("two\nlines"), "failed", "ValueError: two lines"),
            (SystemExit(3), "interrupted", ""),
        ],
    )
    def test_an_end_before_time_is_told_and_goes_on(self, tmp_path, error, status, reason):
        with pytest.raises(type(error)), runs.start_run(tmp_path / "m.pt", {}, {}) as run:
            run.log_metrics({"loss": 1.0}, 1)
            raise error
        (read,) = runs.find_runs(tmp_path)
        assert (read.status, read.reason, read.bundle) == (status, reason, None)
        assert read.finished and len(read.history) == 1

    def test_a_killed_run_is_seen_to_be_dead(self, tmp_path):
        code = (
            "import os, sys; from geoclass.history.runs import start_run; run = start_run(sys.argv[1], {}, {}); "
            "run.log_metrics({'loss': 1}, 1); print('mlflow' in sys.modules, 'torch' in sys.modules); sys.stdout.flush(); os._exit(9)"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "m.pt"], capture_output=True, text=True)
        assert done.stdout.split() == ["False", "False"], done.stderr
        (read,) = runs.find_runs(tmp_path)
        assert read.status == "running" and read.shown_status == "killed"
        with runs.start_run(tmp_path / "n.pt", {}, {}) as run:
            assert run.record.shown_status == "running"

    def test_an_unfinished_run_is_continued(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), runs.start_run(tmp_path / "m.pt", {"lr": 1}, {}) as run:
            run.log_metrics({"loss": 3.0}, 1)
            run.log_metrics({"loss": 2.0}, 2)
            raise KeyboardInterrupt
        with runs.start_run(tmp_path / "m.pt", {"lr": 1}, {}, resume=True) as again:
            again.log_metrics({"loss": 1.5}, 2)
            again.log_metrics({"loss": 1.0}, 3)
            again.finish(tmp_path / "m.pt", "d", {})
        (read,) = runs.find_runs(tmp_path)
        assert read.id == run.record.id and [row["loss"] for row in read.history] == [3.0, 1.5, 1.0]

    def test_the_record_of_an_earlier_bundle_is_kept(self, tmp_path):
        first = record_run(tmp_path / "m.pt", accuracy=0.5)
        second = record_run(tmp_path / "m.pt", accuracy=0.6, resume=True)
        assert {run.id for run in runs.find_runs(tmp_path)} == {first.id, second.id} and first.id != second.id
        assert runs.find_run(tmp_path / "m.pt").id == second.id
        with pytest.raises(KeyboardInterrupt), runs.start_run(tmp_path / "m.pt", {}, {}):
            raise KeyboardInterrupt
        assert runs.find_run(tmp_path / "m.pt").id == second.id, "the interrupted run made no bundle"
        assert len(runs.find_runs(tmp_path)) == 3

    def test_trouble_with_the_record_does_not_stop_a_training(self, tmp_path, caplog):
        folder = tmp_path / "out"
        with runs.start_run(folder / "m.pt", {}, {}) as run:
            shutil.rmtree(folder)
            folder.write_text("in the way")
            run.log_metrics({"loss": 1.0}, 1)
        assert "not up to date" in caplog.text
        with pytest.raises(GeoclassError, match="cannot write"):
            runs.start_run(folder / "m.pt", {}, {})

    def test_passwords_are_not_recorded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["/bin/geoclass", "train", "d", "--tracking-uri", "https://me:secret@host/x"])
        record = record_run(tmp_path / "m.pt")
        assert record.command == "geoclass train d --tracking-uri https://***@host/x"
        assert "secret" not in (tmp_path / "m.run.json").read_text()


class TestFind:
    def test_broken_records_are_left_out_and_named(self, tmp_path, caplog):
        (tmp_path / "deep" / "er").mkdir(parents=True)
        good = record_run(tmp_path / "deep" / "er" / "m.pt")
        (tmp_path / "a.run.json").write_text("{")
        (tmp_path / "b.run.json").write_text('{"id": "x"}')
        (tmp_path / "c.run.json").write_text('{"id": "x", "started": "now", "status": "asleep"}')
        (tmp_path / "d.run.json").write_bytes(b"\xff\xfe\x00")
        with caplog.at_level(logging.WARNING):
            assert [run.id for run in runs.find_runs(tmp_path)] == [good.id]
        assert all(f"{name}.run.json" in caplog.text for name in "abcd")

    def test_by_every_reference(self, tmp_path):
        record = record_run(tmp_path / "m.pt")
        for reference in (record.id, record.id[:17], tmp_path / "m.pt", tmp_path / "m.run.json"):
            assert runs.find_run(reference, tmp_path).id == record.id

    def test_bad_references(self, tmp_path):
        record = record_run(tmp_path / "m.pt")
        record_run(tmp_path / "n.pt")
        (tmp_path / "alone.pt").write_bytes(b"")
        refused(record.id[:8], "start of 2 runs", record.id, folder=tmp_path)
        refused("77777777", "no run '77777777'", "geoclass runs list", folder=tmp_path)
        refused(tmp_path / "none.pt", "no bundle", "none.pt")
        refused(tmp_path / "none.run.json", "cannot read", "none.run.json")
        refused(tmp_path / "alone.pt", "alone.run.json")
        refused(tmp_path, "give a bundle")
        with pytest.raises(GeoclassError, match="no such folder"):
            runs.find_runs(tmp_path / "nowhere")


class TestCompare:
    def test_what_differs_and_how_much_is_the_same(self, tmp_path):
        a = record_run(tmp_path / "a.pt", {"head": "svm", "lr": 0.1, "seed": 1, "only_a": True}, 0.75)
        b = record_run(tmp_path / "b.pt", {"head": "logistic", "lr": 0.3, "seed": 1}, 0.5)
        b = b.model_copy(update={"dataset": {**b.dataset, "tiles": 100}, "seconds": (a.seconds or 0) + 2})
        found = runs.compare(a, b)
        rows = {(row.section, row.name): (row.a, row.b, row.delta) for row in found.differences}
        assert rows.pop(("run", "seconds"))[2] == pytest.approx(2)
        assert rows.pop(("parameters", "lr")) == (0.1, 0.3, pytest.approx(0.2))
        assert rows == {
            ("parameters", "head"): ("svm", "logistic", None),
            ("parameters", "only_a"): (True, None, None),
            ("dataset", "tiles"): (120, 100, -20),
            ("metrics", "accuracy"): (0.75, 0.5, -0.25),
        }
        same = 1 + (len(flat(DATASET)) - 1) + len(a.environment) + 2  # seed, data, environment, status and hash
        assert found.same == same

    def test_a_run_is_the_same_as_itself(self, tmp_path):
        a = record_run(tmp_path / "a.pt")
        assert runs.compare(a, a).differences == ()

    def test_numbers_kept_as_text_are_those_numbers(self, tmp_path):
        a = record_run(tmp_path / "a.pt", {"lr": 0.1, "flag": True, "none": None})
        text = a.model_copy(update={"parameters": {"lr": "0.1", "flag": "True", "none": "None"}})
        assert [row.name for row in runs.compare(a, text).differences] == ["none"]


class TestCommandLine:
    def test_list_show_and_compare(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        a = record_run(tmp_path / "a.pt", {"head": "svm", "epochs": 9}, 0.75)
        b = record_run(tmp_path / "b.pt", {"head": "logistic", "epochs": 9}, 0.5)
        code, said = command("runs", "list")
        assert code == 0 and all(word in said for word in (a.id, b.id, "a.pt", "finished", "accuracy 0.75", "data"))
        code, said = command("runs", "show", "a.pt")
        assert code == 0 and all(
            word in said for word in (a.id, "head: svm", "tiles: 120", "validation_accuracy", "0.716667")
        )
        code, said = command("runs", "compare", "a.pt", b.id)
        assert code == 0 and all(word in said for word in ("head", "svm", "logistic", "-0.25", "are the same"))
        assert "epochs" not in said
        code, said = command("runs", "compare", "a.pt", "b.pt", "--json")
        assert {"section": "parameters", "name": "head", "a": "svm", "b": "logistic", "delta": None} in json.loads(
            said
        )["differences"]
        assert {row["id"] for row in json.loads(command("runs", "list", "--json")[1])} == {a.id, b.id}
        assert json.loads(command("runs", "show", "b.pt", "--json")[1])["metrics"] == {"accuracy": 0.5}

    def test_bad_use_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "no runs here" in command("runs", "list")[1]
        for words in (("runs", "show", "x"), ("runs", "compare", "x", "y"), ("runs", "list", "nowhere")):
            code, said = command(*words)
            assert code == 2 and said.startswith("geoclass: error: ") and said.count("\n") == 1


class TestWithoutMlflow:
    def test_it_is_asked_for_by_name_only_when_wanted(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        record_run(tmp_path / "m.pt")
        for wanted in ({"track": True}, {"tracking_uri": "x.db"}):
            with pytest.raises(GeoclassError, match=r"pip install 'geoclass\[mlflow\]'"):
                runs.start_run(tmp_path / "n.pt", {}, {}, **wanted)
        assert not (tmp_path / "n.run.json").exists()


# From here on MLflow itself.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tracking database in it."""
    if find_spec("mlflow") is None:
        missing("MLflow is not installed: pip install 'geoclass[mlflow]'")
    folder = tmp_path_factory.mktemp("store")
    tracking.connect(str(folder / "mlruns.db"))
    return folder


@pytest.fixture(scope="module")
def pair(store: Path) -> tuple[runs.RunRecord, runs.RunRecord]:
    """Two runs, recorded in JSON and in MLflow."""
    uri = str(store / "mlruns.db")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(store / "curve.png")
    parameters = {"head": "svm", "seed": 1, "recipe": {"lr": 0.1}}
    a = record_run(store / "first.pt", parameters, 0.75, tracking_uri=uri)
    with runs.start_run(store / "second.pt", {**parameters, "head": "logistic"}, DATASET, tracking_uri=uri) as run:
        run.log_metrics({"loss": 0.25}, 1)
        run.log_plot(store / "curve.png")
        (store / "second.pt").write_bytes(b"another")
        run.finish(store / "second.pt", "e" * 32, {"accuracy": 0.8125})
    return a, run.record


@pytest.fixture(scope="module")
def server(store: Path, pair: object) -> Iterator[str]:
    """MLflow's own server over that database."""
    address = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store / 'mlruns.db'}", "--host", "127.0.0.1",
        "--port", address.rpartition(":")[2], "--workers", "1", "--artifacts-destination", str(store / "served"),
    ]  # fmt: skip
    with (store / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=store, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (store / "server.log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


class TestTracking:
    def test_nothing_is_sent_to_its_makers(self, store):
        from mlflow.telemetry.utils import is_telemetry_disabled

        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true" and is_telemetry_disabled()

    def test_mlflow_has_what_the_record_has(self, store, pair):
        uri = str(store / "mlruns.db")
        told = {run.id: run for run in runs.tracked_runs(uri)}
        for record in pair:
            read = told[record.id]
            assert read.status == "finished" and read.tracked == record.tracked and read.bundle == record.bundle
            assert read.parameters == {key: str(value) for key, value in record.parameters.items()}
            assert read.metrics.items() >= record.metrics.items()
            assert read.dataset["fingerprint"] == DATASET["fingerprint"] and read.environment["torch"]

    def test_a_run_is_found_on_mlflow_with_its_epochs(self, store, pair, tmp_path):
        found = runs.find_run(pair[0].tracked.run_id[:12], tmp_path, str(store / "mlruns.db"))
        assert found.id == pair[0].id and found.file is None
        assert [row["loss"] for row in found.history] == [1.0, 0.5, pytest.approx(1 / 3)]

    def test_artifacts_dataset_and_reason(self, store, pair):
        client, uri = tracking.connect(str(store / "mlruns.db"))
        run = client.get_run(pair[1].tracked.run_id)
        assert run.info.artifact_uri.startswith((store / "mlartifacts").as_uri())
        paths = {item.path for folder in ("bundle", "plots") for item in client.list_artifacts(run.info.run_id, folder)}
        assert paths == {"bundle/second.pt", "plots/curve.png"}
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("data", DATASET["fingerprint"])
        for error, status in ((KeyboardInterrupt, "KILLED"), (GeoclassError, "FAILED")):
            with pytest.raises(error), runs.start_run(store / "bad.pt", {}, {}, uri, experiment="other") as bad:
                raise error("out of luck")
            ended = client.get_run(bad.record.tracked.run_id)
            assert ended.info.status == status
        assert ended.data.tags["geoclass.reason"] == "out of luck"

    def test_a_continued_run_is_one_run_there_too(self, store):
        uri = str(store / "mlruns.db")
        with pytest.raises(KeyboardInterrupt), runs.start_run(store / "c.pt", {}, {}, uri, experiment="other") as run:
            raise KeyboardInterrupt
        with runs.start_run(store / "c.pt", {}, {}, uri, experiment="other", resume=True) as again:
            pass
        assert again.record.tracked == run.record.tracked
        assert tracking.connect(uri)[0].get_run(run.record.tracked.run_id).info.status == "FINISHED"

    def test_the_default_store_is_a_file_in_this_folder(self, store, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.chdir(store)
        assert tracking.tracking_uri() == f"sqlite:///{store / 'mlruns.db'}" and tracking.has_store()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://a:b@host")
        assert tracking.tracking_uri() == "https://a:b@host" and tracking.tracking_uri("x.db").endswith("/x.db")

    def test_no_server_is_told_soon_and_in_one_line(self, tmp_path):
        start = time.perf_counter()
        with pytest.raises(GeoclassError) as caught:
            runs.start_run(tmp_path / "m.pt", {}, {}, f"http://me:pw@127.0.0.1:{free_port()}")
        said = str(caught.value)
        assert "no MLflow server answers" in said and "\n" not in said and "pw" not in said and "--tracking-uri" in said
        assert time.perf_counter() - start < 10 and not (tmp_path / "m.run.json").exists()
        with pytest.raises(GeoclassError, match="refuses"):
            tracking.connect("gopher://nowhere")

    def test_a_silent_server_is_given_up(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            start = time.perf_counter()
            with pytest.raises(GeoclassError, match="no MLflow server answers"):
                tracking.connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
            assert time.perf_counter() - start < 15

    def test_a_server_that_goes_away_does_not_stop_a_training(self, store, tmp_path, caplog):
        with runs.start_run(tmp_path / "m.pt", {}, {}, str(store / "mlruns.db"), experiment="other") as run:
            from mlflow import MlflowClient

            run.tracker.client = MlflowClient(f"http://127.0.0.1:{free_port()}")
            run.log_metrics({"loss": 1.0}, 1)
            run.log_metrics({"loss": 0.5}, 2)
        (read,) = runs.find_runs(tmp_path)
        assert read.status == "finished" and len(read.history) == 2 and "tracking stopped" in read.notes[0]
        assert caplog.text.count("no longer tracked") == 1


class TestServer:
    def test_a_run_and_its_bundle_over_http(self, server, tmp_path):
        record = record_run(tmp_path / "m.pt", tracking_uri=server, experiment="served")
        (told,) = runs.tracked_runs(server, "served")
        assert told.id == record.id and told.bundle == record.bundle

    def test_a_bundle_is_registered_promoted_and_fetched_over_http(self, server, tiny_bundle, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        with runs.start_run(tmp_path / "tiny.pt", {}, {}, server, experiment="served") as run:
            shutil.copy(tiny_bundle, tmp_path / "tiny.pt")
            run.finish(tmp_path / "tiny.pt", load_bundle(tiny_bundle).digest, {})
        assert registry.push(tmp_path / "tiny.pt", "county") == (1, True)
        assert registry.promote("county", "latest", "production") == (1, None)
        path = registry.resolve("models:/county@production")
        assert path != tmp_path / "tiny.pt" and load_bundle(path).digest == load_bundle(tiny_bundle).digest
        assert [(item.name, item.stage) for item in registry.registered()] == [("county", "production")]

    def test_compared_in_the_terminal_and_in_the_browser(self, server, store, pair, chromium, tmp_path):
        from playwright.sync_api import expect, sync_playwright

        a, b = pair
        code, said = command("runs", "compare", a.id, b.id, "--tracking-uri", server, "--folder", tmp_path)
        assert code == 0 and all(word in said for word in ("svm", "logistic", "+0.0625"))
        code, said = command("runs", "list", "--tracking-uri", server)
        assert code == 0 and a.id in said and b.id in said
        client, _ = tracking.connect(server)
        experiment = client.get_experiment_by_name("geoclass").experiment_id
        ids = [record.tracked.run_id for record in pair]
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.goto(f"{server}/#/experiments/{experiment}/runs")
            for record in pair:
                expect(page.get_by_text(record.id).first).to_be_visible(timeout=30_000)
            page.screenshot(path=tmp_path / "runs.png")
            page.goto(f"{server}/#/compare-runs?runs={json.dumps(ids)}&experiments={json.dumps([experiment])}")
            for word in (a.id, b.id, "svm", "logistic", "accuracy", "0.75", "0.813"):
                expect(page.get_by_text(word, exact=word in ("0.75", "0.813")).first).to_be_attached(timeout=30_000)
            page.get_by_text("0.813", exact=True).scroll_into_view_if_needed()
            page.screenshot(path=tmp_path / "compare.png")
            browser.close()
