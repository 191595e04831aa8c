# SPDX-License-Identifier: Apache-2.0
"""The order of samples: the published one, the same for any number of workers, in updates that end with an epoch."""

from __future__ import annotations

import pytest
import torch

from lightwam.train.loader import Loader, Order, joined


class Numbers:
    """Samples that say which they are."""

    def __getitem__(self, wanted: tuple[int, int]) -> dict[str, object]:
        row, epoch = wanted
        return {"row": torch.tensor(row), "epoch": torch.tensor(epoch), "text": f"row {row}"}


def test_an_epoch_is_the_published_permutation_cut_into_batches() -> None:
    order = Order((7,), batch=3, seed=5)
    permutation = torch.randperm(7, generator=torch.Generator().manual_seed(5)).tolist()
    assert order.batches == 3 and order.updates == 3
    assert [order.rows(number) for number in range(3)] == [permutation[:3], permutation[3:6], permutation[6:]]
    second = torch.randperm(7, generator=torch.Generator().manual_seed(6)).tolist()
    assert order.rows(3) == second[:3]


def test_several_processes_take_turns_and_fill_up_from_the_start() -> None:
    order = Order((7,), batch=2, seed=5, world=2)
    permutation = torch.randperm(7, generator=torch.Generator().manual_seed(5)).tolist()
    dealt = [order.rows(number, rank) for number in range(2) for rank in range(2)]
    assert order.batches == 2
    assert dealt == [permutation[0:2], permutation[2:4], permutation[4:6], [permutation[6], permutation[0]]]
    few = Order((3,), batch=4, seed=0, world=3)
    assert few.batches == 1 and [len(few.rows(0, rank)) for rank in range(3)] == [4, 4, 4]


def test_two_processes_see_what_one_accumulates() -> None:
    one, two = Order((16,), 2, 1, accumulation=2), Order((16,), 2, 1, world=2)
    for step in range(8):
        alone = [one.rows(number) for number in one.numbers(step)]
        assert alone == [two.rows(number, rank) for number in two.numbers(step) for rank in range(2)]


def test_an_epoch_ends_an_update() -> None:
    order = Order((5,), batch=1, seed=0, accumulation=2)
    assert order.updates == 3
    assert [list(order.numbers(step)) for step in range(4)] == [[0, 1], [2, 3], [4], [5, 6]]


def test_data_sets_have_their_shares() -> None:
    order = Order((10, 30), batch=40, seed=0, shares=(0.5, 0.5))
    rows = order.rows(0)
    assert sum(row < 10 for row in rows) == 20 and len(rows) == 40


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_starts_anywhere_and_does_not_depend_on_workers(workers: int) -> None:
    order = Order((5,), batch=2, seed=3, accumulation=2)
    loaded = list(Loader(Numbers(), order, workers=workers).updates(1, 4))
    wanted = [[order.rows(number) for number in order.numbers(step)] for step in range(1, 4)]
    assert [[batch["row"].tolist() for batch in update] for update in loaded] == wanted
    assert loaded[0][0]["text"] == [f"row {row}" for row in wanted[0][0]]
    assert [batch["epoch"].tolist()[0] for update in loaded for batch in update] == [0, 1, 1, 1]
    assert list(Loader(Numbers(), order).updates(2, 2)) == []


def test_samples_are_joined() -> None:
    batch = joined([{"a": torch.zeros(2), "text": "x"}, {"a": torch.ones(2), "text": "y"}])
    assert batch["a"].tolist() == [[0, 0], [1, 1]] and batch["text"] == ["x", "y"]
