"""Readers of streams: a Source, or a stream that is read on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from ..declaration.settings import ResolvedSettings
from ..errors import ConfigError
from ..events import Listener
from ..http.session import Session, SessionPool
from ..protocols import ParentPages

_lock = threading.Lock()
# The reader for which a task runs: a hook may read another stream of its Source through the methods of that stream.
_reading: ContextVar[Reader | None] = ContextVar("reading", default=None)


class Reader:
    """What reads streams: a Source, or a stream on its own.

    It owns the sessions of its reads. `options` are those that a Source gives to streams that do not declare them.
    """

    def __init__(
        self,
        open_session: Callable[[], Session],
        options: Mapping[str, Any] | None = None,
        source: object = None,
        members: Sequence[Reader] = (),
    ) -> None:
        self.sessions = SessionPool(open_session)
        self.options, self.source = options or {}, source
        self._members = members
        self._uses = 0
        self._open_sources: list[Reader] = []

    @contextmanager
    def joined(self) -> Generator[None]:
        """A block in which the streams of a Source use it, also where they are read through their own methods."""
        with _lock:
            self._uses += 1
            if self._uses == 1:
                for member in self._members:
                    member._open_sources.append(self)
        try:
            yield
        finally:
            with _lock:
                self._uses -= 1
                if not self._uses:
                    for member in self._members:
                        member._open_sources.remove(self)

    @contextmanager
    def reading(self) -> Generator[None]:
        """A block that runs for this reader, as do the tasks that are started in it."""
        previous = _reading.get()
        _reading.set(self)
        try:
            with self.joined():
                yield
        finally:
            _reading.set(previous)

    def choose(self, stream_name: str) -> Reader:
        """The reader of a stream, whose own reader this is: a Source that is open, or the stream itself.

        Of several Sources it is the one whose hook asks. Raises ConfigError outside of hooks.
        """
        with _lock:
            sources = list(self._open_sources)
        if (current := _reading.get()) in sources:
            return current
        if len(sources) > 1:
            raise ConfigError(
                f"stream {stream_name!r}: it belongs to several Sources that are open, and a read through its own "
                "methods does not say which of them it means",
                hint="read it through its Source, or create another instance for one of them",
            )
        return sources[0] if sources else self


class Binding:
    """What a stream is bound to in one run: its reader, its parents bound alike, and its resolved settings.

    `reader` is None until the run begins, if the stream is read through its own methods: a Source that is open then is
    the reader. `feed` has the pages of the parents that the run reads; None outside of a run.
    """

    def __init__(self, reader: Reader | None, parents: tuple[Any, ...]) -> None:
        self.reader, self.parents = reader, parents
        self.settings: ResolvedSettings | None = None
        self.is_checked = False
        self.feed: ParentPages | None = None

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that the reader gives to streams that do not declare them."""
        return {} if self.reader is None else self.reader.options

    def begin(self, reader: Reader) -> None:
        """Bind the stream and its ancestors to the reader of the run."""
        self.reader = reader
        if reader.options:
            self.settings = None  # they were resolved without the options
        for parent in self.parents:
            if hasattr(parent, "binding"):  # its `lease` says that __init__ does not call super()
                parent.binding.begin(reader)


class ListenerList(list[Listener]):
    """The listeners of a stream or a Source."""

    def add(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event; returns a function that removes it."""
        entry = partial(listener)  # a distinct entry, since the same listener may be added twice

        def unsubscribe() -> None:
            if any(listener is entry for listener in self):
                self[:] = [listener for listener in self if listener is not entry]

        self.append(entry)
        return unsubscribe
