from dataclasses import field as field
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")

@dataclass_transform(field_specifiers=(field,))
def record(plain: type[_T]) -> type[_T]: ...
def replace(value: _T, **changes: object) -> _T: ...
