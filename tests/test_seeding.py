from __future__ import annotations

import torch

from pfedhr.seeding import generator, number, seeded


def test_a_name_is_a_number_for_ever() -> None:
    # Fixed here: a change would silently change every result ever made.
    assert number(0) == 2033344993903900207
    assert number(0, 3, "client00", "batches") == 2691850345335240273


def test_names_do_not_run_into_each_other() -> None:
    names = [(0,), (0, 1), (1,), (0, "1"), (0, 1, 1), (0, 11), (0, "a"), (0, "a", "b"), (0, "ab"), (1, "a")]
    assert len({number(*name) for name in names}) == len(names)


def test_the_same_name_gives_the_same_draws_whatever_was_drawn_before() -> None:
    first = torch.rand(3, generator=generator(0, 1, "x"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(3, generator=generator(0, 1, "x")))


def test_seeding_is_undone_afterwards() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(0, "inside"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "inside"):
        assert torch.equal(torch.rand(2), inside)
