"""A gateway in front of an application that listens, and a plain client of gRPC."""

import asyncio
import threading
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from mlkit.serving.gateway.messages import METHODS, SERVICE, message
from mlkit.serving.gateway.server import Gateway


class Client:
    """Calls methods by their names; the metadata of the last answer are in ``trailing``."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.channel = grpc.insecure_channel(
            target, options=[("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        )
        self.trailing: dict[str, str] = {}

    def start(self, method, request=None, *, timeout=30.0, **metadata):
        """Starts a call, and returns its future."""
        assert method in METHODS
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=message(f"{method}Request").SerializeToString,
            response_deserializer=message(f"{method}Response").FromString,
        )
        pairs = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        request = message(f"{method}Request")() if request is None else request
        return call.future(request, timeout=timeout, metadata=pairs)

    def __call__(self, method, request=None, **more):
        future = self.start(method, request, **more)
        try:
            return future.result()
        finally:
            self.trailing = dict(future.trailing_metadata())


@contextmanager
def running(gateway):
    """Runs a gateway on an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    try:
        wait(gateway.__aenter__())
        yield f"{gateway.host}:{gateway.port}"
        wait(gateway.__aexit__())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def through(listen):
    """Returns a function: ASGI application to the address of a gateway in front of it."""
    with ExitStack() as stack:

        def start(application, **options):
            gateway = Gateway(listen(application), **options)
            return stack.enter_context(running(gateway))

        yield start


@pytest.fixture(scope="module")
def dial():
    """Returns a function: address to a client."""
    with ExitStack() as stack:

        def connect(target):
            client = Client(target)
            stack.callback(client.channel.close)
            return client

        yield connect
