"""Matching pursuit: the fast path against the plain one, and what the literature proves about both."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from monoscope import ops
from monoscope.ops import pursuit, reference

Method = Literal["mp", "omp"]
METHODS: tuple[Method, ...] = ("mp", "omp")


def unit_rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return rows / rows.norm(dim=1, keepdim=True)


def problem(n: int = 70, d: int = 20, n_rows: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_(), unit_rows(n_rows, d).requires_grad_()


@pytest.mark.parametrize("with_gram", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_fast_path_equals_reference_in_value_and_gradient(
    method: Method, with_gram: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pursuit, "BLOCK_ENTRIES", 13 * 90)
    if not with_gram:
        monkeypatch.setattr(pursuit, "MOST_GRAM_ENTRIES", 0)
    weight = torch.randn(70, 90, generator=torch.Generator().manual_seed(2))
    results = []
    for fast in (True, False):
        x, rows = problem()
        acts = ops.pursue(x, rows, 7, method).dense() if fast else reference.pursue(x, rows, 7, method)
        ((acts * weight).sum() + (x.detach() - acts @ rows).pow(2).sum()).backward()
        results.append((acts.detach(), x.grad, rows.grad))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_the_reference_is_its_finite_difference(method: Method) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    rows = unit_rows(9, 6, dtype=torch.float64).requires_grad_()
    # Rows leave the sphere under finite differences, where mp is still the plain recursion; its choices stay the same.
    assert torch.autograd.gradcheck(lambda x, rows: ops.pursue(x, rows, 3, method).dense(), (x, rows))


def test_a_precomputed_gram_changes_nothing() -> None:
    x, rows = (t.detach() for t in problem())
    with_gram = ops.pursue(x, rows, 7, gram=rows @ rows.T)
    assert torch.equal(with_gram.dense(), ops.pursue(x, rows, 7).dense())


def test_a_row_chosen_twice_accumulates_into_one_entry() -> None:
    # Two rows 60 degrees apart: the residual of either leans on the other, and every choice halves it.
    rows = torch.tensor([[1.0, 0.0], [0.5, 3**0.5 / 2]])
    x = torch.tensor([[1.0, 0.4]])
    acts = ops.pursue(x, rows, 6)
    assert acts.l0().item() == 2
    assert acts.coo()[1].sort().values.tolist() == [0, 1]
    error = (x - acts.dense() @ rows).norm()
    torch.testing.assert_close(error, torch.tensor(0.4 / 2**5), rtol=1e-4, atol=0)
    first = ops.pursue(x, rows, 1).dense()[0, 0]
    assert acts.dense()[0, 0] < first  # later visits to the first row took some of it back


@pytest.mark.parametrize("method", METHODS)
def test_more_choices_never_leave_more_error(method: Method) -> None:
    x, rows = (t.detach() for t in problem())
    errors = torch.stack([(x - ops.pursue(x, rows, k, method).dense() @ rows).norm(dim=1) for k in range(1, 12)])
    assert (errors.diff(dim=0) <= 1e-5).all()


def test_orthogonal_pursuit_leaves_nothing_along_the_rows_it_used() -> None:
    x, rows = (t.detach() for t in problem())

    def left(method: Method) -> float:
        acts = ops.pursue(x, rows, 6, method).dense()
        return torch.where(acts != 0, (x - acts @ rows) @ rows.T, 0.0).abs().max().item()

    assert left("omp") < 1e-5
    assert left("mp") > 0.1


def test_incoherent_rows_give_back_the_planted_support_and_coefficients() -> None:
    # Identity and Hadamard bases: mutual coherence 1/8 in 64 dimensions, so that K < (1 + 8) / 2 is exact.
    hadamard = torch.ones(1, 1)
    for _ in range(6):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    rows = torch.cat([torch.eye(64), hadamard / 8])
    coherence = (rows @ rows.T - torch.eye(128)).abs().max().item()
    n_active = 4
    assert n_active < (1 + 1 / coherence) / 2
    generator = torch.Generator().manual_seed(4)
    support = torch.rand(200, 128, generator=generator).argsort(1)[:, :n_active]
    signs = torch.randint(0, 2, (200, n_active), generator=generator) * 2 - 1.0
    values = (torch.rand(200, n_active, generator=generator) + 0.5) * signs
    truth = torch.zeros(200, 128).scatter(1, support, values)
    found = ops.pursue(truth @ rows, rows, n_active, "omp").dense()
    assert torch.equal(found != 0, truth != 0)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_token_that_is_explained_is_finished(method: Method) -> None:
    rows = unit_rows(30, 12)
    acts = ops.pursue(torch.cat([rows * 3.0, -rows, torch.zeros(2, 12)]), rows, 5, method)
    assert acts.l0().tolist() == [1] * 60 + [0, 0]
    torch.testing.assert_close(acts.dense(), torch.cat([3 * torch.eye(30), -torch.eye(30), torch.zeros(2, 30)]))


@pytest.mark.parametrize("method", METHODS)
def test_fewer_rows_than_choices(method: Method) -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(5))
    assert ops.pursue(x, torch.zeros(0, 8), 4, method).dense().shape == (5, 0)
    rows = unit_rows(3, 8)
    acts = ops.pursue(x.view(1, 5, 8), rows, 6, method)
    assert acts.dense().shape == (1, 5, 3)
    torch.testing.assert_close(acts.dense()[0], reference.pursue(x, rows, 6, method), rtol=1e-4, atol=1e-5)


STOPS: list[dict[str, Any]] = [
    {"positive": True},
    {"positive": True, "tolerance": 1.5},
    {"positive": True, "until_repeat": True},
    {"tolerance": 1.5, "until_repeat": True},
]


@pytest.mark.parametrize("stop", STOPS)
def test_positive_choices_and_early_ends_are_the_same_on_both_paths(stop: dict[str, Any]) -> None:
    x, rows = (t.detach() for t in problem())
    fast = ops.pursue(x, rows, 9, **stop)
    plain = reference.pursue(x, rows, 9, "mp", **stop)
    assert torch.equal(fast.dense() != 0, plain != 0)
    torch.testing.assert_close(fast.dense(), plain, rtol=1e-4, atol=1e-5)
    if stop.get("positive"):
        assert (plain >= 0).all()
    assert (plain != 0).sum() < (reference.pursue(x, rows, 9, "mp") != 0).sum()


def test_a_tolerance_ends_a_token_at_the_first_step_that_leaves_less() -> None:
    x, rows = (t.detach() for t in problem())
    acts = ops.pursue(x, rows, 30, tolerance=1.5).dense()
    left = (x - acts @ rows).norm(dim=1)
    assert (left < 1.5).all()
    for i in range(len(x)):
        steps = [ops.pursue(x[i : i + 1], rows, k).dense() for k in range(1, 31)]
        first = next(step for step in steps if (x[i] - step[0] @ rows).norm() < 1.5)
        torch.testing.assert_close(acts[i], first[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", STOPS)
def test_gradient_of_early_ends_is_that_of_the_choices_made(stop: dict[str, Any]) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    rows = unit_rows(9, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, rows: ops.pursue(x, rows, 4, **stop).dense(), (x, rows))
