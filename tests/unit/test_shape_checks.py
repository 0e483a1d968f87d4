"""The checker of types and shapes finds what is wrong, and is around the package's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from shape_checks import checked, typechecker
from torch import Tensor

from monoscope import ops

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


def around(thing: Any) -> Any:
    return checked(thing, typechecker=typechecker)


@around
def product(a: Float[Tensor, "n d"], b: Float[Tensor, "d m"] | None, *, wrong: bool = False) -> Float[Tensor, "n m"]:
    assert b is not None
    return (a @ b).T if wrong else a @ b


def test_axes_of_arguments_and_result_agree() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    assert product(a, b).shape == (2, 4)
    assert product(torch.ones(5, 3), b).shape == (5, 4)  # another call, other sizes
    with pytest.raises(TypeCheckError, match="violates type hint"):
        product(a, torch.ones(2, 4))
    with pytest.raises(TypeCheckError):
        product(a, b, wrong=True)
    with pytest.raises(TypeCheckError):
        product(a.long(), b)
    with pytest.raises(TypeError, match="missing 1 required"):
        product(a)


def test_a_call_inside_a_call_has_axes_of_its_own() -> None:
    @around
    def twice(a: Float[Tensor, "n d"]) -> Float[Tensor, "d n"]:
        return product(product(a, torch.ones(3, 7)), torch.ones(7, 2)).T.new_zeros(3, 2)

    assert twice(torch.ones(2, 3)).shape == (3, 2)
    with pytest.raises(TypeCheckError):
        twice(torch.ones(4, 3))


def test_types_without_shapes() -> None:
    @around
    def repeat(text: str, n: int, then: Callable[[], Unknown] | None = None) -> list[str]:
        return [text] * n if n else text  # type: ignore[return-value]

    assert repeat("a", 2) == ["a", "a"]
    with pytest.raises(TypeCheckError):
        repeat("a", "2")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        repeat("a", 0)


def test_dataclasses_and_generators() -> None:
    @around
    @dataclass(frozen=True, slots=True)
    class Pair:
        x: Float[Tensor, "n d"]
        y: Float[Tensor, " n"]

    @around
    def rows(x: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, " d"]]:
        yield from x

    assert Pair(torch.ones(2, 3), torch.ones(2)).y.shape == (2,)
    with pytest.raises(TypeCheckError):
        Pair(torch.ones(2, 3), torch.ones(3))
    assert len(list(rows(torch.ones(2, 3)))) == 2
    with pytest.raises(TypeCheckError):
        rows(torch.ones(2))


def test_annotations_stay_as_they_were_written() -> None:
    def later(x: Float[Tensor, " n"], y: Unknown) -> Unknown:
        return y

    before = dict(later.__annotations__)
    assert around(later).__annotations__ == before
    assert later.__annotations__ == before


def test_the_package_is_checked(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("left out of this run")
    with pytest.raises(TypeCheckError, match="decode"):
        ops.decode(torch.ones(2, 3), torch.zeros(2, 4, dtype=torch.long), torch.ones(5, 6))  # type: ignore[arg-type]
