/** The contract's golden envelopes and code tables, which the Rust tests read as well. */
import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import { test } from "node:test"
import { fromBinary, fromJson, toBinary, type JsonValue } from "@bufbuild/protobuf"
import { decode, type ServerEvent } from "../../src/codec.js"
import { commands, encode, type Command } from "../../src/commands.js"
import { closed, HubbubError, refusal, TABLES } from "../../src/errors.js"
import { ClientEnvelopeSchema } from "../../src/gen/hubbub/v1/client_pb.js"
import { ServerEnvelopeSchema } from "../../src/gen/hubbub/v1/server_pb.js"

const CONTRACT = new URL("../../../../../tests/contract/", import.meta.url)

interface Golden {
  name: string
  type: string
  hex: string
  json: JsonValue
}
interface Code {
  number: number
  name: string
  again: boolean
}

function read<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(name, CONTRACT), "utf8")) as T
}

const goldens = read<Golden[]>("golden.json")
const codes = read<{ closes: Code[]; errors: Code[] }>("codes.json")

test("every golden envelope has the bytes and the meaning that the generated code gives it", () => {
  assert.ok(goldens.length > 40)
  for (const { name, type, hex, json } of goldens) {
    const bytes = Buffer.from(hex, "hex")
    if (type === "ClientEnvelope") {
      const envelope = fromJson(ClientEnvelopeSchema, json)
      assert.deepEqual(fromBinary(ClientEnvelopeSchema, bytes), envelope, name)
      assert.equal(Buffer.from(toBinary(ClientEnvelopeSchema, envelope)).toString("hex"), hex, name)
    } else if (type === "ServerEnvelope") {
      const envelope = fromJson(ServerEnvelopeSchema, json)
      assert.deepEqual(fromBinary(ServerEnvelopeSchema, bytes), envelope, name)
      assert.notEqual(decode(bytes).kind, "unknown", name)
    }
  }
})

test("the commands of this client are the golden bytes", () => {
  const quota = { messagesMax: 1_000_000, bytesMax: 1_073_741_824 }
  const made: { [name: string]: Command } = {
    "publish by channel id": commands.publish({ id: 3 }, "8110122033044055066", "hello"),
    "publish by channel name, text beyond ASCII": commands.publish({ name: "lobby" }, "1", "grüße 👋"),
    "subscribe, live messages only": commands.subscribe({ name: "lobby" }, undefined, false),
    "subscribe since a position": commands.subscribe({ id: 3 }, { epoch: 1_780_000_000, sequence: 41 }, false),
    unsubscribe: commands.unsubscribe(3),
    "history, the newest page": commands.history({ name: "lobby" }, undefined, undefined),
    "history before a sequence": commands.history({ id: 3 }, 101, undefined, 50),
    "history after a sequence": commands.history({ id: 3 }, undefined, 100_000, 200),
    authenticate: commands.authenticate("eyJhbGciOiJFZERTQSJ9.e30.c2ln"),
    users: commands.users([1, 2, 300]),
    "create channel": commands.createChannel({ name: "announcements" }),
    "create channel with all there is": commands.createChannel({
      name: "ops", topic: "Störungen & Dienste", visibility: "private", posting: "members", quota,
    }),
    "get channel": commands.getChannel({ name: "ops" }),
    "get presence": commands.getPresence({ name: "lobby" }),
    "send typing": commands.sendTyping({ id: 3 }),
    "mark read": commands.markRead({ id: 3 }, { epoch: 1_795_256_854, sequence: 6 }),
  }
  for (const [name, command] of Object.entries(made)) {
    const golden = goldens.find((one) => one.name === name && one.type === "ClientEnvelope")
    assert.ok(golden, `${name} is not in golden.json`)
    const { id } = golden.json as { id: number }
    assert.equal(Buffer.from(encode(id, command)).toString("hex"), golden.hex, name)
  }
})

test("what the server says beside the log is read from the golden bytes", () => {
  const event = (name: string) => {
    const golden = goldens.find((one) => one.name === name)
    assert.ok(golden, name)
    return decode(Buffer.from(golden.hex, "hex"))
  }
  const changes = { joined: [9], left: [300] }
  const position = { epoch: 1_795_256_854, sequence: 6 }
  assert.deepEqual(event("presence: changes"), {
    kind: "presence", channelId: 3, presence: { userCount: 2, connectionCount: 2, changes },
  })
  assert.deepEqual(event("typing"), { kind: "typing", channelId: 3, userIds: [7, 9] })
  assert.deepEqual(event("read marker"), { kind: "readMarker", channelId: 3, position })
  const reply = (name: string) => {
    const said = event(name)
    return said.kind === "reply" && said.answer
  }
  const everyone = [7, 300]
  assert.deepEqual(reply("reply: presence"), {
    kind: "presence", presence: { userCount: 2, connectionCount: 5, everyone },
  })
  assert.deepEqual(reply("reply: presence of too many to name"), {
    kind: "presence", presence: { userCount: 2000, connectionCount: 2400 },
  })
  const memberships = reply("reply: a membership with what is unread")
  assert.ok(memberships && !(memberships instanceof HubbubError) && memberships.kind === "channels")
  const [channel] = memberships.channels
  assert.deepEqual([channel?.head, channel?.readSequence, channel?.unreadCount], [position, 4, 2])
})

test("the tables of codes are those of the contract", () => {
  const table = (rows: Code[]) => rows.map(({ number, name, again }) => [number, [name, again]])
  assert.deepEqual([...TABLES.codes], table(codes.errors))
  assert.deepEqual([...TABLES.closes], table(codes.closes))
})

test("an unknown code is final, and an unknown close code goes by its range", () => {
  assert.deepEqual([refusal(999, "?").retry, refusal(500, "").retry], [false, true])
  assert.deepEqual([closed(4499, "").retry, closed(4500, "").retry, closed(4999, "").retry], [true, false, false])
  assert.deepEqual([closed(1001, "").retry, closed(1006, "").retry, closed(1012, "").retry], [true, true, true])
})

test("the hint of a close reason is read, and nonsense is not", () => {
  assert.equal(closed(1013, '{"code":503,"retry_after_ms":1500}').retryAfterMs, 1500)
  assert.equal(closed(1012, '{"retry_after_ms":99999999999}').retryAfterMs, 600_000)
  assert.equal(refusal(503, "", 4_000_000_000).retryAfterMs, 600_000)
  for (const reason of ["", "draining", "{", "{}", '{"retry_after_ms":"1"}', '{"retry_after_ms":-1}', '{"retry_after_ms":0}', "null"]) {
    assert.equal(closed(4000, reason).retryAfterMs, undefined, reason)
  }
})

test("what cannot be counted or read is a fault, and what cannot be sent an argument", () => {
  const isProtocol = (error: unknown) => error instanceof HubbubError && error.code === "protocol"
  const isArgument = (error: unknown) => error instanceof HubbubError && error.code === "invalid_argument"
  assert.throws(() => decode(Uint8Array.of(0xff, 0xff)), isProtocol)
  const gap = fromJson(ServerEnvelopeSchema, { gap: { channelId: 1, toSequence: "18446744073709551615" } })
  assert.throws(() => decode(toBinary(ServerEnvelopeSchema, gap)), isProtocol)
  for (const id of ["", "0", "-1", "1.5", "abc", "18446744073709551616"]) {
    assert.throws(() => encode(1, commands.publish({ id: 1 }, id, "x")), isArgument, id)
  }
  assert.throws(() => encode(1, commands.history({ id: 1 }, -1, undefined)), isArgument)
  assert.throws(() => encode(1, commands.users([-1])), isArgument)
  assert.throws(() => encode(1, commands.users([2 ** 32])), isArgument)
})

test("a frame of a later version is skipped, and an unknown record counts", () => {
  // Field 15 of the envelope, which this version does not know.
  assert.deepEqual(decode(Uint8Array.of(0x7a, 0x00)), { kind: "unknown" } satisfies ServerEvent)
  const run = fromJson(ServerEnvelopeSchema, { messages: { channelId: 1, firstSequence: "4", records: [{ userId: 2 }] } })
  const event = decode(toBinary(ServerEnvelopeSchema, run))
  assert.deepEqual(event.kind === "messages" && event.entries, [{ kind: "unknown", sequence: 4, at: 0, userId: 2 }])
})
