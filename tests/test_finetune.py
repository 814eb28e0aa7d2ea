"""Fine-tuning: what trains and what stays, schedules, and every way a training can be cut short."""

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXTURE_PX as SIZE_PX
from conftest import write_textures
from torch import nn

from geoclass import backbones
from geoclass.datasets.tileset import TileSet, read_class_folders
from geoclass.errors import BundleError, GeoclassError
from geoclass.learning import finetune as module
from geoclass.learning.finetune import Recipe, Tuned, finetune, stages

torch.set_num_threads(1)
NORM = backbones.normalisation("efficientnet_lite0")
QUICK = Recipe(epochs=2, batch_size=8, augmentation="turns", patience=0, consistency=0.0)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[TileSet, TileSet]:
    """24 training and 9 validation tiles."""
    root = tmp_path_factory.mktemp("tiles")
    made = [
        read_class_folders(write_textures(root / str(seed), count, seed), SIZE_PX) for seed, count in ((0, 8), (1, 3))
    ]
    return made[0], made[1]


def lite0(classes: int = 3) -> nn.Module:
    return backbones.build("efficientnet_lite0", classes=classes)


def tune(
    tiles: tuple[TileSet, TileSet], recipe: Recipe = QUICK, network: nn.Module | None = None, **more: Any
) -> Tuned:
    options = {"input_px": 32, **more}
    return finetune(lite0() if network is None else network, *tiles, NORM, recipe, **options)


def the_run(tiles: tuple[TileSet, TileSet], recipe: Recipe, network: nn.Module | None = None) -> Any:
    return module._Run(lite0() if network is None else network, *tiles, NORM, recipe, 32, 0, torch.device("cpu"))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class TestLearning:
    def test_it_learns(self, tiles, tmp_path):
        more = read_class_folders(write_textures(tmp_path / "t", 30), SIZE_PX)
        seen: list[tuple[str, int, int]] = []
        recipe = replace(QUICK, epochs=4, learning_rate=2e-3)
        tuned = tune((more, tiles[1]), recipe, input_px=SIZE_PX, progress=lambda *step: seen.append(step))
        assert [epoch["epoch"] for epoch in tuned.history] == [1, 2, 3, 4] and tuned.note == ""
        best = min(tuned.history, key=lambda epoch: epoch["validation_loss"])
        assert best["validation_accuracy"] >= 0.7 and tuned.history[-1]["accuracy"] > 0.7  # a third is chance
        right = (tuned.logits.argmax(axis=1) == tiles[1].classes).mean()
        assert right == best["validation_accuracy"] and tuned.logits.shape == (9, 3)
        assert seen[0] == ("training", 1, 44) and seen[-1] == ("training", 44, 44)
        assert all(math.isfinite(value) for epoch in tuned.history for value in epoch.values())

    def test_the_state_gives_the_logits(self, tiles):
        tuned = tune(tiles, input_px=SIZE_PX)
        network = lite0()
        network.load_state_dict(tuned.state)
        x = (torch.from_numpy(tiles[1].read(np.arange(9))).float() - 127) / 128
        with torch.inference_mode():
            assert np.allclose(network.eval()(x).numpy(), tuned.logits, atol=1e-3)

    def test_one_seed_one_result_and_the_caller_keeps_his_random_numbers(self, tiles):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        recipe = replace(QUICK, augmentation="overhead", mixup=0.4, epochs=1)
        one, two, three = tune(tiles, recipe), tune(tiles, recipe), tune(tiles, recipe, seed=1)
        assert torch.equal(torch.rand(3), expected)
        assert same(one.state, two.state) and one.history == two.history
        assert not same(one.state, three.state)

    def test_early_stopping_keeps_the_best(self, tiles, monkeypatch):
        """Made losses: best at the second epoch; with a patience of 2 the fourth is the last."""
        losses = iter([2.0, 1.0, 1.5, 1.2, 0.1, 0.1])
        states: list[dict[str, torch.Tensor]] = []

        def made(run, network):
            states.append(copy.deepcopy(run.average.state_dict()))
            return np.zeros((9, 3), np.float32)

        monkeypatch.setattr(module._Run, "answers", made)
        monkeypatch.setattr(module, "_log_loss", lambda *_: next(losses))
        tuned = tune(tiles, replace(QUICK, epochs=6, patience=2))
        assert [epoch["validation_loss"] for epoch in tuned.history] == [2.0, 1.0, 1.5, 1.2]
        assert same(tuned.state, states[1]) and not same(tuned.state, states[3])

    def test_soft_labels_and_class_weights_move_the_loss(self, tiles):
        train = tiles[0]
        blurred = replace(train, fractions=np.full((24, 3), 1 / 3, np.float32))
        run = the_run((blurred, tiles[1]), QUICK)
        assert torch.allclose(run.targets, torch.full((24, 3), 1 / 3))
        unsure = tune((blurred, tiles[1]), replace(QUICK, smoothing=0.0))
        assert unsure.history[-1]["loss"] > 1.0  # not below log 3, what even shares leave, but for rounding
        first = np.array([3.0, 0.0, 0.0])
        only = the_run((replace(train, class_weights=first), tiles[1]), replace(QUICK, smoothing=0.0))
        other = np.flatnonzero(train.classes > 0)[:8]
        loss, _ = only._one_step(other, np.random.default_rng(0), torch.Generator().manual_seed(0))
        assert loss == 0

    def test_a_class_without_tiles_is_never_answered(self, tiles):
        scheme = tiles[0].scheme
        more = scheme.model_copy(
            update={"classes": (*scheme.classes, scheme.classes[0].model_copy(update={"id": 9, "name": "x"}))}
        )
        wide = tuple(replace(item, scheme=more) for item in tiles)
        tuned = tune(wide, network=lite0(4))
        assert tuned.logits.shape == (9, 4) and (tuned.logits[:, 3] < -9000).all()
        network = lite0(4)
        network.load_state_dict(tuned.state)
        with torch.inference_mode():
            said = network.eval()(3 * torch.randn(200, 3, 32, 32)).softmax(dim=1)
        assert float(said[:, 3].max()) == 0
        assert tuned.history[0]["loss"] < 8  # label smoothing did not meet an impossible class


class TestWhatTrains:
    def test_last_leaves_the_rest_as_it_was(self, tiles):
        """The statistics of batch normalisation among them."""
        network = lite0()
        before = copy.deepcopy(network.state_dict())
        tuned = tune(tiles, replace(QUICK, layers="last", learning_rate=1e-2), network)
        changed = {name for name in before if not torch.equal(before[name], tuned.state[name])}
        assert {name.split(".")[0] for name in changed} == {"conv_head", "bn2", "classifier"}
        assert "bn2.running_mean" in changed and "conv_head.weight" in changed

    def test_last_of_a_resnet_is_its_last_block(self, tiles):
        network = backbones.build("resnet18", classes=3, weights=None)
        before = copy.deepcopy(network.state_dict())
        state = tune(tiles, replace(QUICK, layers="last", epochs=1), network).state
        changed = {name for name in before if not torch.equal(before[name], state[name])}
        assert {".".join(name.split(".")[:2]) for name in changed} == {"layer4.1", "fc.weight", "fc.bias"}

    def test_all_trains_every_filter(self, tiles):
        network = lite0()
        before = copy.deepcopy(network.state_dict())
        state = tune(tiles, replace(QUICK, ema=0.0), network).state
        assert not [name for name, _ in network.named_parameters() if torch.equal(before[name], state[name])]

    @pytest.mark.parametrize(
        "name", ["efficientnet_lite0", "resnet18", "alexnet", "convnext_atto", "vit_tiny_patch16_224"]
    )
    def test_rates_fall_with_depth_and_every_parameter_is_in_one_group(self, name):
        network = backbones.build(name, classes=3, weights=None)
        recipe = Recipe(learning_rate=1.0, layer_decay=0.5)
        groups = module._parameter_groups(network, recipe)
        rate = {id(p): group["lr"] for group in groups for p in group["params"]}
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert len(rate) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
        named = dict(network.named_parameters())
        classifier = f"{backbones.classifier_name(network)}.weight"
        assert rate[id(named[classifier])] == max(rate.values()) == module.HEAD_RATE
        body = [
            rate[id(named[part])] for stage in stages(network) for part in stage if not part.startswith(classifier[:-7])
        ]
        assert body == sorted(body) and body[0] < 0.5 * body[-1] and len(set(body)) > 3
        assert all(
            decay[id(p)] == 0
            for key, p in named.items()
            if p.ndim == 1 and "classifier" not in key and "head" not in key and "fc" not in key
        )

    def test_the_schedule_warms_up_and_ends_at_nothing(self, tiles):
        recipe = replace(QUICK, epochs=10, learning_rate=1.0, layer_decay=1.0)
        run = the_run(tiles, recipe)
        rates = []
        for run.step in range(30):
            run._set_rate()
            rates.append(run.optimiser.param_groups[0]["lr"])
        assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1]) and max(rates) <= 1
        assert rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] < 0.01
        halfway = rates[3 + 27 // 2]
        assert halfway == pytest.approx(0.5, abs=0.03)

    def test_averaged_weights_are_the_average(self, tiles):
        """By hand: after each step past ← keep · past + (1 − keep) · now, keep growing up to ema."""
        run = the_run(tiles, replace(QUICK, ema=0.3, learning_rate=1e-2))
        name = "classifier.weight"
        mine = run.average.state_dict()[name].clone()
        random, draws = np.random.default_rng(0), torch.Generator().manual_seed(0)
        run.network.train()
        for step in range(1, 6):
            run._one_step(np.arange(8), random, draws)
            keep = min(0.3, (1 + step) / (10 + step))
            mine = keep * mine + (1 - keep) * run.network.state_dict()[name]
            assert torch.allclose(run.average.state_dict()[name], mine, atol=1e-6)
        assert not torch.equal(mine, run.network.state_dict()[name])

    def test_no_averaging(self, tiles):
        run = the_run(tiles, replace(QUICK, ema=0.0))
        run.network.train()
        run._one_step(np.arange(8), np.random.default_rng(0), torch.Generator().manual_seed(0))
        assert same(run.average.state_dict(), run.network.state_dict())

    @pytest.mark.parametrize(
        "name", ["efficientnet_lite0", "resnet18", "alexnet", "convnext_atto", "vit_tiny_patch16_224"]
    )
    def test_dropout_is_before_the_classifier_only(self, name):
        """Features fed to the classifier lose their share; the body is the same in every pass."""
        network = backbones.build(name, classes=3, weights=None)
        module._set_dropout(network, 0.5)
        fed: list[torch.Tensor] = []
        classifier = network.get_submodule(backbones.classifier_name(network))
        classifier.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
        network.train()
        for item in network.modules():
            if isinstance(item, nn.modules.batchnorm._BatchNorm):
                item.eval()
        with torch.inference_mode():
            x = torch.randn(2, 3, 224, 224)
            network(x)
            network(x)
            assert not torch.equal(fed[0], fed[1])
            if name != "alexnet":  # which has two layers of it, and a filter between
                kept = (fed[0] != 0) & (fed[1] != 0)
                assert 0.1 < float(kept.float().mean()) < 0.4 and torch.allclose(fed[0][kept], fed[1][kept], atol=1e-4)
            network.eval()
            network(x)
            network(x)
        assert torch.equal(fed[2], fed[3])

    def test_mixup_mixes_tiles_and_labels_alike(self, tiles, monkeypatch):
        """With the network replaced by one that shows its input: what the loss sees is the same mixture."""
        run = the_run(tiles, replace(QUICK, mixup=1.0, augmentation="none"))
        shown: list[torch.Tensor] = []
        targets: list[torch.Tensor] = []
        real = nn.functional.cross_entropy

        def watching(logits, target, **options):
            targets.append(target)
            return real(logits, target, **options)

        monkeypatch.setattr(
            run, "_normalised", lambda brightness: shown.append(brightness) or brightness[:, :, ::2, ::2]
        )
        monkeypatch.setattr(module.nn.functional, "cross_entropy", watching)
        at = np.array([0, 3, 8, 11, 16, 19, 20, 23])
        run._one_step(at, np.random.default_rng(1), torch.Generator().manual_seed(0))
        share = np.random.default_rng(1).beta(1.0, 1.0)
        pixels = torch.from_numpy(tiles[0].read(at)).float()
        labels = torch.eye(3)[torch.from_numpy(tiles[0].classes[at])]
        assert torch.allclose(shown[0], share * pixels + (1 - share) * pixels.flip(0), atol=1e-3)
        assert torch.allclose(targets[0], share * labels + (1 - share) * labels.flip(0), atol=1e-6)
        assert torch.allclose(targets[0].sum(dim=1), torch.ones(8))


class TestConsistency:
    def test_the_divergence_is_the_textbooks(self):
        """Symmetric Kullback–Leibler divergence, half of each way, mean over tiles."""
        a, b = torch.randn(5, 4), torch.randn(5, 4)
        p, q = a.softmax(dim=1).numpy(), b.softmax(dim=1).numpy()
        wanted = ((p * np.log(p / q)).sum(axis=1).mean() + (q * np.log(q / p)).sum(axis=1).mean()) / 2
        assert float(module._divergence(a, b)) == pytest.approx(wanted, rel=1e-4)
        assert float(module._divergence(a, a)) == pytest.approx(0, abs=1e-6)

    def test_it_adds_to_the_loss_and_changes_what_is_learnt(self, tiles):
        recipe = replace(QUICK, augmentation="overhead", epochs=1)
        plain, steady = tune(tiles, recipe), tune(tiles, replace(recipe, consistency=2.0))
        assert not same(plain.state, steady.state) and np.isfinite(steady.logits).all()
        assert same(steady.state, tune(tiles, replace(recipe, consistency=2.0)).state)


class TestInterrupted:
    RECIPE = replace(QUICK, epochs=4, augmentation="overhead", mixup=0.2, dropout=0.3)

    def stop_after(self, tiles, checkpoint: Path, epochs: int, **more: Any) -> None:
        def stop(epoch):
            if epoch["epoch"] > epochs:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tune(tiles, self.RECIPE, checkpoint=checkpoint, on_epoch=stop, **{"identity": "a", **more})

    def test_it_goes_on_after_the_last_whole_epoch(self, tiles, tmp_path):
        whole = tune(tiles, self.RECIPE)
        checkpoint = tmp_path / ".m.partial"
        self.stop_after(tiles, checkpoint, 2)
        seen: list[float] = []
        again = tune(
            tiles, self.RECIPE, checkpoint=checkpoint, identity="a", on_epoch=lambda epoch: seen.append(epoch["epoch"])
        )
        assert seen == [3, 4]
        assert same(whole.state, again.state) and whole.history == again.history
        assert np.array_equal(whole.logits, again.logits)
        finished = tune(tiles, self.RECIPE, checkpoint=checkpoint, identity="a")  # killed before the bundle was written
        assert same(whole.state, finished.state)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".m.partial"]

    def test_another_training_is_not_continued(self, tiles, tmp_path, caplog):
        checkpoint = tmp_path / ".m.partial"
        self.stop_after(tiles, checkpoint, 1)
        seen: list[float] = []
        tune(tiles, QUICK, checkpoint=checkpoint, identity="b", on_epoch=lambda epoch: seen.append(epoch["epoch"]))
        assert seen == [1, 2] and "of another training" in caplog.text

    @pytest.mark.parametrize("damage", ["cut", "text", "empty", "code", "parts"])
    def test_a_damaged_state_is_told(self, tiles, tmp_path, damage):
        checkpoint = tmp_path / ".m.partial"
        self.stop_after(tiles, checkpoint, 1)
        if damage == "code":
            torch.save(nn.Linear(2, 2), checkpoint)
        elif damage == "parts":
            parts = torch.load(checkpoint, weights_only=True)
            torch.save({key: value for key, value in parts.items() if key != "counts"}, checkpoint)
        else:
            whole = checkpoint.read_bytes()
            checkpoint.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no state", "empty": b""}[damage])
        with pytest.raises(BundleError, match="an interrupted training, cannot be read; remove it to begin anew"):
            tune(tiles, self.RECIPE, checkpoint=checkpoint, identity="a")


class TestNotANumber:
    def test_a_rate_beyond_reason(self, tiles):
        with pytest.raises(GeoclassError, match=r"NaN in epoch \d.*lower --learning-rate") as caught:
            tune(tiles, replace(QUICK, learning_rate=1e30, layer_decay=1.0, ema=0.0))
        assert "\n" not in str(caught.value)

    def test_the_best_state_so_far_is_kept(self, tiles, monkeypatch, caplog):
        whole = tune(tiles, replace(QUICK, epochs=3))
        real = module._Run._one_step

        def broken(run, *given):
            if run.epoch == 2:
                with torch.no_grad():
                    next(run.network.parameters()).fill_(math.nan)
            return real(run, *given)

        monkeypatch.setattr(module._Run, "_one_step", broken)
        tuned = tune(tiles, replace(QUICK, epochs=3))
        assert tuned.history == whole.history[:2]
        assert tuned.note.startswith(
            "the loss became NaN in epoch 3; the best state before it is kept; lower --learning-rate"
        )
        assert tuned.note in caplog.text
        assert all(bool(tensor.isfinite().all()) for tensor in tuned.state.values() if tensor.is_floating_point())
        assert np.isfinite(tuned.logits).all()

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_weights_that_break_in_the_last_step_of_an_epoch(self, tiles, monkeypatch, epoch):
        """The training loss was a number in every step; only the validation shows it."""
        real = module._Run._average

        def broken(run):
            real(run)
            if run.epoch == epoch and run.step == (epoch + 1) * run.steps:
                with torch.no_grad():
                    next(run.average.parameters()).fill_(math.nan)

        monkeypatch.setattr(module._Run, "_average", broken)
        if epoch == 0:
            with pytest.raises(GeoclassError, match="NaN in epoch 1; nothing could be kept"):
                tune(tiles)
        else:
            tuned = tune(tiles)
            assert len(tuned.history) == 1 and "NaN in epoch 2" in tuned.note


class TestMemory:
    @staticmethod
    def fails(monkeypatch, method: str, times: int, *, after: int = 0) -> list[int]:
        """A GPU that runs out of memory in `method`, `times` times, from its call number `after` on."""
        calls: list[int] = []
        real = getattr(module._Run, method)

        def limited(run, *given):
            calls.append(run.batch_size)
            if after < len(calls) <= after + times:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(run, *given)

        monkeypatch.setattr(module._Run, method, limited)
        return calls

    @pytest.mark.parametrize(("method", "after"), [("_one_step", 0), ("_one_step", 4), ("answers", 0), ("answers", 1)])
    def test_the_batch_is_halved_once_and_said(self, tiles, monkeypatch, caplog, method, after):
        calls = self.fails(monkeypatch, method, 1, after=after)
        tuned = tune(tiles)
        assert [epoch["epoch"] for epoch in tuned.history] == [1, 2]
        assert calls[after] == 8 and set(calls[after + 1 :]) == {4}
        assert "out of GPU memory: going on with a batch of 4" in caplog.text
        assert tuned.note == "GPU memory ran out, and the batch was halved to 4"
        assert tuned.history[-1]["learning_rate"] < 0.1 * QUICK.learning_rate * module.HEAD_RATE  # the schedule ends

    @pytest.mark.parametrize("batch", [8, 1])
    def test_not_twice(self, tiles, monkeypatch, batch):
        self.fails(monkeypatch, "_one_step", 2)
        with pytest.raises(
            GeoclassError, match=rf"out of GPU memory at a batch of {max(1, batch // 2)}; lower --batch-size"
        ):
            tune(tiles, replace(QUICK, batch_size=batch))

    def test_before_the_first_step(self, tiles, monkeypatch):
        self.fails(monkeypatch, "_start_head", 1)
        with pytest.raises(GeoclassError, match="out of GPU memory; lower --batch-size"):
            tune(tiles)

    def test_pictures_that_do_not_fit_in_memory_are_read_when_needed(self, tiles, monkeypatch):
        kept = tune(tiles)
        monkeypatch.setattr(module, "KEPT_BYTES", 0)
        assert same(kept.state, tune(tiles).state)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ({"epochs": 0}, "--epochs"), ({"batch_size": 0}, "--batch-size"), ({"learning_rate": 0.0}, "--learning-rate"),
            ({"learning_rate": math.nan}, "--learning-rate"), ({"smoothing": 1.0}, "--label-smoothing"),
            ({"dropout": 1.0}, "--dropout"), ({"dropout": math.nan}, "--dropout"), ({"ema": 1.5}, "--ema"),
            ({"ema": -0.1}, "--ema"), ({"mixup": -1.0}, "--mixup"), ({"weight_decay": -0.1}, "--weight-decay"),
            ({"patience": -1}, "--patience"), ({"consistency": -1.0}, "--consistency"), ({"consistency": math.nan}, "--consistency"), ({"layer_decay": 0.0}, "--layer-decay"), ({"layer_decay": 1.5}, "--layer-decay"),
        ],
    )  # fmt: skip
    def test_what_cannot_be(self, options, word):
        with pytest.raises(GeoclassError, match=word):
            Recipe(**options)

    def test_batches_larger_than_the_data(self, tiles):
        tuned = tune(tiles, replace(QUICK, batch_size=100))
        assert len(tuned.history) == 2 and np.isfinite(tuned.logits).all()

    def test_a_batch_of_one_is_told_where_it_cannot_be(self, tiles):
        """At 32 px the last layers of the network see one pixel: there is nothing to normalise by."""
        with pytest.raises(GeoclassError, match="--batch-size 2 or more"):
            tune(tiles, replace(QUICK, batch_size=1))
        assert logging.getLogger("geoclass.learning.finetune").level == logging.NOTSET
