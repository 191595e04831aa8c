# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one does: DDP and FSDP2, states of other numbers of processes, what goes wrong."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.built_once import BuiltOnce
from helpers.model_tiny import build, tiny
from helpers.ranks import (
    OPTIONS,
    World,
    advance,
    all_that_ends_badly,
    all_that_ends_well,
    free_port,
    run_ranks,
    train,
    without_futures,
)
from lightwam.errors import CheckpointError, ConfigError, DeviceError, DistributedError
from lightwam.train import TrainStep
from lightwam.train.distributed import use_world
from lightwam.train.networks import PolicyNetworks
from lightwam.train.sharding import SharedModel, frozen_as

STEPS = 2


@pytest.fixture(autouse=True)
def _outside_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def trained(built_once: BuiltOnce) -> Path:
    """Three steps of one process on four batches each, two more, and what two processes made of the same."""

    def build(root: Path) -> None:
        step, figures = train(World(), "ddp", STEPS, 4)
        torch.save(step.state(), root / "start.pt")
        result = {"figures": figures, "state": step.state(), "weights": step.full_weights()}
        result["more"] = [advance(step, World(), 4) for _ in range(2)]
        torch.save({**result, "end": step.state()}, root / "one.pt")
        without_futures(World(), root, 4)
        for process in run_ranks(all_that_ends_well.__name__, root, steps=STEPS):
            assert process.status == 0, process.text

    return built_once("ranks", build)


def read(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def assert_figures(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_train_as_one(trained: Path, sharding: str) -> None:
    """Losses, gradient norms (before clipping), rates; weights, averages and the optimizer's tensors move alike."""
    one, two = read(trained / "one.pt"), read(trained / "results.pt")[sharding]
    assert_figures(two["figures"], one["figures"])
    assert two["figures"][0]["grad_norm"] > 0 and two["state"].step == STEPS
    assert set(two["weights"]) == set(one["weights"])
    for part in ("weights", "average"):
        for name, value in getattr(one["state"], part).items():
            if "in_proj_bias" not in name:  # the bias of keys has no gradient but rounding
                torch.testing.assert_close(getattr(two["state"], part)[name], value, rtol=1e-4, atol=1e-5)
    for name, state in one["state"].optimizer.items():
        torch.testing.assert_close(two["state"].optimizer[name], state, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_weights_without_a_gradient_and_an_evaluation(trained: Path, sharding: str) -> None:
    """Without a video pass its head stays as it is; FSDP2 evaluates through its parts."""
    one, two = read(trained / "actions1.pt")["ddp"], read(trained / "actions2.pt")[sharding]
    assert_figures(two["figures"], one["figures"])
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    unmoved = dict(PolicyNetworks(build(tiny()), None).named_parameters())
    same = [name for name, value in one["weights"].items() if name in unmoved and torch.equal(value, unmoved[name])]
    assert any("head" in name for name in same)
    for name in same:
        assert torch.equal(two["weights"][name], one["weights"][name])


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_go_on_from_what_one_saved(trained: Path, sharding: str) -> None:
    one, two = read(trained / "one.pt"), read(trained / "crossed.pt")[sharding]
    assert_figures(two["figures"], one["more"])
    assert two["state"].step == one["end"].step == STEPS + 2


def test_one_process_goes_on_from_what_two_saved(trained: Path) -> None:
    step, _ = train(World(), "ddp", 0, 4)
    step.load(read(trained / "results.pt")["fsdp"]["state"])
    assert_figures([advance(step, World(), 4) for _ in range(2)], read(trained / "one.pt")["more"])


def test_a_loss_of_one_rank_that_is_not_finite_stops_all(trained: Path) -> None:
    told = [(trained / f"told{rank}.txt").read_text() for rank in range(2)]
    assert told[0] == told[1] and told[0].startswith("1 step 1: loss is nan")


def test_what_goes_wrong_ends_all_ranks(tmp_path: Path) -> None:
    first, last = run_ranks(all_that_ends_badly.__name__, tmp_path, steps=100000)
    assert (tmp_path / "refused0.txt").read_text() == "LightWAMError: refused on purpose"
    assert (tmp_path / "refused1.txt").read_text() == "SystemExit: 2"  # the first one's line says it
    assert last.status == 9 and first.status == 2, first.text
    line = first.text.strip().split("\n")[-1]
    assert line.startswith("DistributedError: rank 0 of 2 lost the others (") and "go on from the newest save" in line


def of_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int, port: int, **other: str) -> None:
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**place, **other}.items():
        monkeypatch.setenv(name, str(value))


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        of_rank(monkeypatch, 0, 2, other.getsockname()[1])
        with pytest.raises(DistributedError, match=r"127\.0\.0\.1:\d+ is taken.* another port"):
            use_world("cpu", 1).__enter__()


def test_a_process_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    of_rank(monkeypatch, 0, 2, free_port())
    with pytest.raises(DistributedError, match=r"rank 0 of 2 did not find the others at .* within 1 s") as caught:
        use_world("cpu", 1).__enter__()
    assert "\n" not in str(caught.value)


def test_variables_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    with use_world() as world:
        assert (world.rank, world.size, world.is_first, world.device.type) == (0, 1, True, "cpu")
        assert world.mean({"a": 2.0}) == {"a": 2.0} and world.gather(3) == [3] and world.agree(4) == 4
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE, .* not set beside RANK: start processes with torchrun"):
        use_world().__enter__()
    of_rank(monkeypatch, 2, 2, 1)
    with pytest.raises(ConfigError, match="RANK is 2 of WORLD_SIZE 2"):
        use_world().__enter__()
    of_rank(monkeypatch, 0, 2, 1, RANK="x")
    with pytest.raises(ConfigError, match="hold no number"):
        use_world().__enter__()
    of_rank(monkeypatch, 0, 2, 1)
    with pytest.raises(ConfigError, match="--device cuda:1 under torchrun"):
        use_world("cuda:1").__enter__()
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            use_world("cuda").__enter__()


def test_states_of_another_model_are_refused() -> None:
    step, _ = train(World(), "ddp", 1, 1)
    state = step.state()
    name = next(iter(state.weights))
    before = step.full_weights()
    del state.weights[name]
    with pytest.raises(CheckpointError, match=f"training state .trained weights.*1 missing: {name}"):
        step.load(state)
    state = step.state()
    state.average = None
    with pytest.raises(CheckpointError, match="averaged weights: only one has them"):
        step.load(state)
    state = step.state()
    state.optimizer[name]["exp_avg"] = torch.zeros(1, 2, 3)
    with pytest.raises(CheckpointError, match=r"exp_avg of .* has shape \(1, 2, 3\)"):
        step.load(state)
    assert all(torch.equal(before[key], value) for key, value in step.full_weights().items())


def test_the_frozen_part_has_no_masters_and_no_optimizer_state() -> None:
    step, _ = train(World(), "ddp", 0, 1)
    model = frozen_as(step.model, torch.bfloat16)
    types = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    half = TrainStep(model, autocast=torch.bfloat16, **OPTIONS)
    advance(half, World(), 1)
    assert set(half.state().optimizer) == set(half.names) == {n for n, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(ConfigError, match="sharding is 'zero'"):
        SharedModel(model, sharding="zero")  # type: ignore[arg-type]
