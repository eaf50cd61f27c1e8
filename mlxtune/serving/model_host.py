"""The server's model process: unloaded after a time without requests, and loaded again by the next one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import Closeable
from mlxtune.serving.api import ApiError
from mlxtune.serving.client import Client
from mlxtune.serving.protocol import Ready


class ModelHost(Closeable):
    """Starts a model process, and replaces it when it is needed after it was unloaded or has died.

    ``start`` returns a new client. The process ends ``keep_alive`` seconds after its last request, which frees its memory and the
    accelerator; 0 keeps it. Waits until the base is loaded, and raises any error from loading. Except for the creation and :meth:`close`, methods
    belong to the server's event loop.
    """

    def __init__(self, start: Callable[[], Client], keep_alive: float = 0.0) -> None:
        self._start, self.keep_alive = start, keep_alive
        self._client: Client | None = None
        self._users = 0
        self._lock = asyncio.Lock()  # held while the process starts or ends
        self._timer: asyncio.TimerHandle | None = None
        self._unloading: asyncio.Task[None] | None = None  # kept, because the event loop holds only a weak reference
        self.ready: Ready
        self._restart()

    @property
    def loaded(self) -> bool:
        return self._client is not None and self._client.alive

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Return a client with a loaded base, which stays loaded within the context. Raises ``ApiError``."""
        self._users += 1
        if self._timer:
            self._timer.cancel()
        try:
            async with self._lock:
                if not self.loaded:
                    await asyncio.to_thread(self._restart)
            assert self._client
            yield self._client
        except MlxtuneError as error:
            raise ApiError(503, f"{error.message} {error.hint}".strip(), code="server_error") from error
        finally:
            self._users -= 1
            if self.keep_alive and not self._users:
                self._timer = asyncio.get_running_loop().call_later(self.keep_alive, self._begin_unloading)

    def close(self) -> None:
        """End the process. Called after the event loop has ended."""
        if self._client:
            self._client.close()

    def _restart(self) -> None:
        self.close()
        self._client = None
        client = self._start()
        try:
            self.ready = client.ready()
        except BaseException:
            client.close()
            raise
        self._client = client

    def _begin_unloading(self) -> None:
        self._unloading = asyncio.ensure_future(self._unload())

    async def _unload(self) -> None:
        async with self._lock:
            if self._client and not self._users:
                client, self._client = self._client, None
                await asyncio.to_thread(client.close)
