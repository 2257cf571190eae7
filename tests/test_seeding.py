from __future__ import annotations

import hashlib
import random

import torch

from pfedhr.seeding import generator, keyed, long_number, number, seeded


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


def test_a_keyed_generator_has_all_of_the_digest_as_its_state() -> None:
    digest = hashlib.shake_256(b"7/int:3/str:client00").digest(624 * 4)
    words = [int.from_bytes(digest[at : at + 4], "little") for at in range(0, len(digest), 4)]
    twin = random.Random()
    twin.setstate((3, (*words, 624), None))  # Python's mt19937, about to make its next 624 words
    drawn = torch.rand(2000, generator=keyed(7, 3, "client00"), dtype=torch.float32)
    assert drawn.mul(2**24).long().tolist() == [twin.getrandbits(32) & (2**24 - 1) for _ in range(2000)]


def test_a_keyed_generator_has_no_normal_number_left_from_before() -> None:
    torch.randn(3, dtype=torch.float64)
    torch.randn(3)
    one, other = keyed(7, "x"), keyed(7, "x")
    torch.randn(3, dtype=torch.float64, generator=other)
    other.set_state(keyed(7, "x").get_state())
    assert torch.equal(torch.randn(5, dtype=torch.float64, generator=one), torch.randn(5, dtype=torch.float64, generator=other))
    assert one.get_state().tolist() == other.get_state().tolist()


def test_secrets_that_agree_in_many_bits_give_other_draws() -> None:
    secrets = [5, 5 + 2**32, 5 + 2**63, 5 + 2**200]
    drawn = {tuple(torch.randn(4, generator=keyed(secret, "x")).tolist()) for secret in secrets}
    assert len(drawn) == len(secrets)
    assert len({long_number(secret, "x") for secret in secrets}) == len(secrets)
    assert long_number(5, "x").bit_length() > 200
