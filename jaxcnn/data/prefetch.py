"""Prepares batches ahead of their use, in a thread."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Done(NamedTuple):
    """Ends the items of a thread: with an exception, or at their end."""

    error: BaseException | None


def ahead(items: Iterable[T], size: int, on_wait: Callable[[], object] = lambda: None) -> Generator[T, None, None]:
    """Yields items that a thread prepares ahead, in their order.

    An exception in the thread is raised where its item would be. Closing the iterator, also by leaving a
    `contextlib.closing`, waits for the item that is being prepared, closes a generator of items, and ends the thread.

    The thread does not see settings of JAX that hold for one thread, such as `with jax.enable_x64(True)`. For items
    that depend on them, use `size=0`.

    Args:
      items: the items to prepare; the thread iterates over them.
      size: greatest number of items that wait; 0 uses no thread.
      on_wait: called before waiting for an item that the thread has not prepared yet.

    Yields:
      The items.
    """
    if size == 0:
        yield from items
        return
    ready: SimpleQueue[Any] = SimpleQueue()
    room, stop = threading.Semaphore(size), threading.Event()

    def prepare() -> None:
        try:
            for item in _while_wanted(items, room, stop):
                ready.put(item)
            ready.put(_Done(None))
        except BaseException as error:
            ready.put(_Done(error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=prepare, name="jaxcnn batches", daemon=True)
    thread.start()
    try:
        while True:
            if ready.empty():
                on_wait()
            if isinstance(item := ready.get(), _Done):
                break
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        room.release()
        thread.join()


def _while_wanted(items: Iterable[T], room: threading.Semaphore, stop: threading.Event) -> Iterator[T]:
    """Yields items one by one, each only when there is room for it; ends when stopped."""
    iterator = iter(items)
    while room.acquire() and not stop.is_set():
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item
