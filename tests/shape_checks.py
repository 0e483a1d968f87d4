"""The checker of types and shapes that tests put around every function of the package (see pyproject.toml).

The import hook of jaxtyping says where. What it puts there is replaced by ``checked``, which finds the same for less:
jaxtyping's own decorator checks all arguments twice, before and after, and binds every call to a signature.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from io import TextIOBase
from types import FunctionType, SimpleNamespace
from typing import Any, Self, TextIO, TypeVar, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

T = TypeVar("T", bound=Callable[..., Any])

# Methods are wrapped one by one, where Self has no class to mean; of a TextIO, beartype asks for attributes that
# io.StringIO lacks; and an int is a float, as PEP 484 has it.
meanings = FrozenDict({Self: Any, TextIO: TextIOBase})
typechecker = beartype(
    conf=BeartypeConf(hint_overrides=meanings, is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)
)
one_call = jaxtyping.jaxtyped("context")  # in which a name of an axis has one size
known: dict[tuple[int, str], Any] = {}


def checked(thing: T, *, typechecker: Callable[[T], T]) -> T:
    """A function whose arguments and result are checked, or a dataclass of which those of its ``__init__`` are."""
    if isinstance(thing, type):
        if dataclasses.is_dataclass(thing) and isinstance(made := vars(thing).get("__init__"), FunctionType):
            thing.__init__ = made if hasattr(made, "__wrapped__") else checked(made, typechecker=typechecker)
        return thing
    if inspect.isgeneratorfunction(thing):  # its arguments are checked when it is called, not at its first step
        return originally(thing, typechecker=typechecker)
    meant = resolved(thing)
    inner = typechecker(meant)
    functools.update_wrapper(inner, thing)  # with annotations as they are written, for whoever reads them later
    if not any(map(has_shape, meant.__annotations__.values())):
        return inner

    @functools.wraps(inner)
    def call(*arguments: Any, **options: Any) -> Any:
        with one_call:
            return inner(*arguments, **options)

    return call  # type: ignore[return-value]


def resolved(thing: FunctionType) -> FunctionType:
    """A copy of a function whose annotations are what they mean."""
    copy = FunctionType(thing.__code__, thing.__globals__, thing.__name__, thing.__defaults__, thing.__closure__)
    copy.__kwdefaults__, copy.__module__, copy.__qualname__ = thing.__kwdefaults__, thing.__module__, thing.__qualname__
    copy.__annotations__ = {name: meaning(hint, thing.__globals__) for name, hint in thing.__annotations__.items()}
    return copy


def meaning(hint: Any, names: dict[str, Any]) -> Any:
    """What an annotation says; anything, where its names are not known at run time."""
    if not isinstance(hint, str):
        return hint
    if (key := (id(names), hint)) not in known:
        try:
            spoken = SimpleNamespace(__annotations__={"x": hint})
            known[key] = get_type_hints(spoken, names, include_extras=True)["x"]
        except Exception:
            return Any  # it may be known later
    return known[key]


def has_shape(hint: Any) -> bool:
    """Whether an annotation names axes."""
    is_shape = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_shape or any(map(has_shape, get_args(hint)))


originally = jaxtyping.jaxtyped
jaxtyping.jaxtyped = functools.partial(functools.partial, checked)  # type: ignore[assignment]
