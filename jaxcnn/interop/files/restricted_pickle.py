"""Reads pickles without executing them: a small interpreter that builds plain values and refuses everything else.

The pickles of weight files need only the operations that build numbers, strings, tuples, lists and dicts, and calls of
a few known functions. Here a function is only a name, and the caller decides the result of its call. So no file can
import or execute anything. The standard library's `pickletools` parses the operations; it does not execute them.
"""

import pickletools
import warnings
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from jaxcnn.interop.files.opened import unquoted

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, bytes, int, float, bool, type(None))


class Global(NamedTuple):
    """The name of an attribute of a module in a pickle; it is not imported.

    Attributes:
      name: dotted name, such as "collections.OrderedDict".
    """

    name: str


class RefusedGlobal(ValueError):
    """A pickle names an attribute that is not allowed."""


def unpickle(
    data: bytes,
    *,
    max_operations: int,
    allowed: Collection[str],
    call: Callable[[str, tuple[Any, ...]], Any],
    load_persistent: Callable[[Any], Any],
) -> Any:
    """Interprets a pickle.

    Attributes that the pickle sets on a dict, as torch does for the versions of modules, are ignored.

    Args:
      data: the bytes of the pickle, of any protocol from 2 on.
      max_operations: largest number of operations, which bounds the memory and time.
      allowed: the dotted names that the pickle may use.
      call: given an allowed name and the arguments, returns the result of the call.
      load_persistent: given a persistent id, returns its value.

    Returns:
      Numbers, strings, None, tuples, lists, dicts, `Global`s, and the results of `call` and `load_persistent`.

    Raises:
      RefusedGlobal: the pickle uses a name that is not in `allowed`.
      ValueError: the pickle uses an unsupported operation, has too many operations, or is damaged.
    """
    try:
        return _Machine(allowed, call, load_persistent).run(data, max_operations)
    except (IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"the pickle is damaged ({unquoted(f'{type(error).__name__}: {error}', 200)})") from error


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(
        self,
        allowed: Collection[str],
        call: Callable[[str, tuple[Any, ...]], Any],
        load_persistent: Callable[[Any], Any],
    ) -> None:
        self.allowed, self.call, self.load_persistent = allowed, call, load_persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes, max_operations: int) -> Any:
        with warnings.catch_warnings():
            # Python warns about unknown escapes in the strings of damaged operations.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if count >= max_operations:
                    raise ValueError(f"the pickle has more than {max_operations} operations, more than weights need")
                if opcode.name != "STOP":
                    self.step(opcode.name, argument)
        result = self.pop()
        if self.stack or self.marks:
            raise ValueError("the pickle is damaged: values are left on the stack at its end")
        return result

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
        else:
            match name:
                case "PROTO" | "FRAME":
                    pass
                case "MARK":
                    self.marks.append(len(self.stack))
                case "TUPLE":
                    self.stack.append(tuple(self.pop_to_mark()))
                case "EMPTY_LIST":
                    self.stack.append([])
                case "EMPTY_DICT":
                    self.stack.append({})
                case "APPEND":
                    self.extend([self.pop()])
                case "APPENDS":
                    self.extend(self.pop_to_mark())
                case "SETITEM":
                    value, key = self.pop(), self.pop()
                    self.update([key, value])
                case "SETITEMS":
                    self.update(self.pop_to_mark())
                case "BINPUT" | "LONG_BINPUT":
                    self.memo[argument] = self.top()
                case "MEMOIZE":
                    self.memo[len(self.memo)] = self.top()
                case "BINGET" | "LONG_BINGET":
                    self.stack.append(self.memo[argument])
                case "GLOBAL":
                    self.mention(*argument.split(" ", 1))
                case "STACK_GLOBAL":
                    attribute, module = self.pop(), self.pop()
                    self.mention(module, attribute)
                case "REDUCE":
                    arguments, function = self.pop(), self.pop()
                    if not isinstance(function, Global) or type(arguments) is not tuple:
                        raise ValueError("the pickle is damaged: it calls a value that is not a function")
                    self.stack.append(self.call(function.name, arguments))
                case "BUILD":
                    self.pop()
                    if not isinstance(self.top(), dict):
                        raise ValueError("the pickle sets attributes of something that is not a dict, got a BUILD")
                case "BINPERSID":
                    self.stack.append(self.load_persistent(self.pop()))
                case _:
                    raise ValueError(f"the pickle uses the operation {name}, which weights do not need")

    def mention(self, module: Any, attribute: Any) -> None:
        name = f"{module}.{attribute}"
        if not isinstance(module, str) or not isinstance(attribute, str) or name not in self.allowed:
            raise RefusedGlobal(unquoted(name, 200))
        self.stack.append(Global(name))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise ValueError("the pickle is damaged: it appends to a value that is not a list")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("the pickle is damaged: it sets items of a value that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nested tuples that share their parts can take exponential time to hash.
            if not isinstance(key, _KEYS):
                raise ValueError(f"the pickle has a dict with keys of type {type(key).__name__}; expected strings")
            target[key] = value

    def floor(self) -> int:
        return self.marks[-1] if self.marks else 0

    def top(self) -> Any:
        if len(self.stack) <= self.floor():
            raise ValueError("the pickle is damaged: it uses a value that does not exist")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        del self.stack[-1]
        return value

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items
