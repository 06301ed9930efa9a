"""Reading a pickle without running it: a small interpreter that makes plain values and refuses everything else.

The pickles of weight files need some thirty of the format's operations: those that make numbers, strings, tuples, lists
and dicts, and calls of a few known functions. Here a function is only its name, and what a call of it means is for the
caller to say, so that no file can have anything imported or executed. The operations are split by the standard
library's `pickletools`, which parses and does nothing else.
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
    """What a pickle names of a module, by name only.

    Attributes:
      name: module and name with a dot between, such as "collections.OrderedDict".
    """

    name: str


class RefusedGlobal(ValueError):
    """A pickle asks for something that is not on the list."""


def unpickle(
    data: bytes,
    *,
    max_operations: int,
    allowed: Collection[str],
    call: Callable[[str, tuple[Any, ...]], Any],
    load_persistent: Callable[[Any], Any],
) -> Any:
    """Interprets a pickle.

    Attributes that it sets on a dict, as torch does for the versions of modules, are left out.

    Args:
      data: the bytes of the pickle, of any protocol from 2 on.
      max_operations: how many operations it may have; each takes some 100 bytes and a microsecond.
      allowed: the dotted names that it may mention.
      call: given an allowed name and the arguments, returns what the pickle's call of it stands for.
      load_persistent: given a persistent id, returns what it stands for.

    Returns:
      Numbers, strings, None, tuples, lists, dicts, `Global`s, and what `call` and `load_persistent` returned.

    Raises:
      RefusedGlobal: the pickle mentions a name that is not in `allowed`.
      ValueError: it uses an operation that weights do not need, has too many, or is damaged.
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
            # Python warns of unknown escapes in the text of damaged operations.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if count >= max_operations:
                    raise ValueError(f"the pickle has more than {max_operations} operations, which weights do not need")
                if opcode.name != "STOP":
                    self.step(opcode.name, argument)
        result = self.pop()
        if self.stack or self.marks:
            raise ValueError("the pickle is damaged: values are left over at its end")
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
                        raise ValueError("the pickle is damaged: it calls what is not a function")
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
            raise ValueError("the pickle is damaged: it appends to what is not a list")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("the pickle is damaged: it sets items of what is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple of tuples that share their parts takes forever to hash.
            if not isinstance(key, _KEYS):
                raise ValueError(f"the pickle has a dict with keys of type {type(key).__name__}; expected strings")
            target[key] = value

    def floor(self) -> int:
        return self.marks[-1] if self.marks else 0

    def top(self) -> Any:
        if len(self.stack) <= self.floor():
            raise ValueError("the pickle is damaged: it takes a value that is not there")
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
