"""The reference report's stack as a broadcaster: asyncio on uvloop, websockets, protobuf.

    python reference.py HOST PORT gather|broadcast

One process. A message that anybody sends is decoded, given a time, encoded once, and sent to
everybody, the sender included: with a `send` per client, or with `websockets.broadcast`.
"""

import asyncio
import sys
import time

import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed


def chat_message():
    """The message type, made here so that no compiler is needed."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="chat.proto", package="peers", syntax="proto3")
    message = file.message_type.add(name="ChatMessage")
    kinds = [
        ("user", field.TYPE_STRING),
        ("channel", field.TYPE_STRING),
        ("body", field.TYPE_STRING),
        ("timestamp", field.TYPE_DOUBLE),
    ]
    for number, (name, kind) in enumerate(kinds, 1):
        message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("peers.ChatMessage"))


ChatMessage = chat_message()
clients = set()


async def send(client, data):
    try:
        await client.send(data)
    except ConnectionClosed:
        pass


async def chat(client, has_broadcast):
    clients.add(client)
    try:
        async for received in client:
            message = ChatMessage.FromString(received)
            message.timestamp = time.time()
            data = message.SerializeToString()
            if has_broadcast:
                broadcast(clients, data)
            else:
                await asyncio.gather(*(send(it, data) for it in clients))
    except ConnectionClosed:
        pass
    finally:
        clients.discard(client)


async def main(host, port, way):
    has_broadcast = way == "broadcast"
    server = serve(
        lambda client: chat(client, has_broadcast),
        host,
        int(port),
        # The report found deflate to be half of the cost of sending, and left it off.
        compression=None,
        backlog=4096,
        # Who is busy is not to be taken for dead.
        ping_interval=None,
    )
    async with server as running:
        await running.serve_forever()


uvloop.run(main(*sys.argv[1:]))
