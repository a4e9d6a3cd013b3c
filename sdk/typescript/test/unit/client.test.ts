import assert from "node:assert/strict"
import { beforeEach, test } from "node:test"
import { Hubbub, HubbubError, type ConnectionState, type HubbubOptions } from "../../src/index.js"
import { TABLES } from "../../src/errors.js"
import { FakeClock, FakeWebSocket, settle, START } from "./bench.js"

const SECOND = 1_000
/** A server that need not be asked whether it is alive. */
const QUIET = { pingIntervalMs: 86_400_000 }

let clock: FakeClock
let asked: string[]
let errors: HubbubError[]
let states: ConnectionState[]

beforeEach(() => {
  clock = new FakeClock()
  asked = []
  errors = []
  states = []
  FakeWebSocket.opened = []
})

function hubbub(options: Partial<HubbubOptions> = {}): Hubbub {
  const chat = new Hubbub("ws://test/v1/ws", {
    getToken: async ({ reason }) => {
      asked.push(reason)
      return `token ${asked.length}`
    },
    WebSocket: FakeWebSocket,
    clock,
    random: () => 0.5,
    ...options,
  })
  chat.on("error", (error) => errors.push(error))
  chat.on("state", (state) => states.push(state))
  return chat
}

async function connected(options: Partial<HubbubOptions> = {}, welcome = {}): Promise<Hubbub> {
  const chat = hubbub(options)
  chat.connect()
  await settle()
  FakeWebSocket.last.welcome(welcome)
  return chat
}

function lastReason(): string | undefined {
  const state = states.at(-1)
  return state?.state === "connecting" ? state.reason?.code : undefined
}

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof HubbubError ? error.code : String(error)),
  )

test("it connects with the token in the subprotocol, and knows who it is", async () => {
  const chat = await connected()
  const { url, protocols } = FakeWebSocket.last
  assert.equal(url, "ws://test/v1/ws")
  assert.deepEqual(protocols, ["hubbub.v1.proto", `hubbub.bearer.${Buffer.from("token 1").toString("base64url")}`])
  assert.deepEqual(asked, ["connect"])
  assert.deepEqual(chat.user, { id: 7, name: "ada" })
  assert.deepEqual(states.map(({ state }) => state), ["connecting", "connected"])
})

test("the first command connects by itself, and none after disconnect does", async () => {
  const chat = hubbub()
  const info = chat.getChannel("lobby")
  await settle()
  FakeWebSocket.last.welcome()
  assert.equal(FakeWebSocket.last.frames.length, 1)
  chat.disconnect()
  assert.equal(await code(info), "disconnected")
  assert.equal(await code(chat.getChannel("lobby")), "disconnected")
  assert.equal(await code(chat.channel("lobby").subscribe()), "disconnected")
  assert.equal(FakeWebSocket.opened.length, 1)
  assert.equal(FakeWebSocket.last.closedWith, 1000)
  assert.equal(clock.timers, 0)
})

test("reconnects use the token again, back off with jitter, and begin anew after a steady time", async () => {
  await connected()
  const waits: number[] = []
  for (let attempt = 0; attempt < 8; attempt += 1) {
    FakeWebSocket.last.end(1006)
    const state = states.at(-1)
    assert.ok(state?.state === "connecting" && state.retryAt !== undefined)
    assert.equal(state.attempt, attempt + 1)
    waits.push(state.retryAt - clock.now())
    await clock.pass(state.retryAt - clock.now())
    assert.equal(FakeWebSocket.opened.length, attempt + 2)
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000])
  assert.deepEqual(asked, ["connect"])
  FakeWebSocket.last.welcome()
  await clock.pass(20 * SECOND)
  FakeWebSocket.last.end(1006)
  const state = states.at(-1)
  assert.ok(state?.state === "connecting")
  assert.equal((state.retryAt ?? 0) - clock.now(), 250)
})

test("what the server says about coming back wins", async () => {
  await connected()
  FakeWebSocket.last.end(1013, '{"code":503,"retry_after_ms":7000}')
  await clock.pass(6_999)
  assert.equal(FakeWebSocket.opened.length, 1)
  await clock.pass(1)
  FakeWebSocket.last.welcome()
  FakeWebSocket.last.say({ case: "goingAway", value: { retryAfterMs: 9000 } })
  FakeWebSocket.last.end(1006)
  await clock.pass(8_999)
  assert.equal(FakeWebSocket.opened.length, 2)
  await clock.pass(1)
  assert.equal(FakeWebSocket.opened.length, 3)
})

test("retryNow skips the wait", async () => {
  const chat = await connected()
  chat.retryNow()
  FakeWebSocket.last.end(4000, '{"retry_after_ms":60000}')
  assert.equal(FakeWebSocket.opened.length, 1)
  chat.retryNow()
  assert.equal(FakeWebSocket.opened.length, 2)
})

test("retryNow finds out at once that a connection is dead", async () => {
  const chat = await connected()
  chat.retryNow()
  await clock.pass(9_999)
  assert.equal(states.at(-1)?.state, "connected")
  chat.retryNow()
  await clock.pass(1)
  assert.equal(states.at(-1)?.state, "connecting")
  assert.equal(lastReason(), "pong_timeout")
})

for (const [number, [name, reconnects]] of [...TABLES.closes, [1001, ["", true]], [4499, ["", true]], [4999, ["", false]]] as const) {
  test(`after close code ${number} ${name} it ${reconnects ? "comes back" : "stays away"}`, async () => {
    const chat = hubbub()
    chat.connect()
    await settle()
    FakeWebSocket.last.end(number)
    await clock.pass(SECOND)
    assert.equal(FakeWebSocket.opened.length, reconnects ? 2 : 1)
    if (!reconnects) {
      assert.ok(chat.state.state === "disconnected")
      assert.equal(chat.state.reason?.number, number)
      assert.equal(await code(chat.getChannel("lobby")), chat.state.reason?.code)
    }
    assert.deepEqual(asked, number === 4001 ? ["connect", "refused"] : ["connect"])
  })
}

test("a token that was good and is refused is replaced once", async () => {
  const chat = await connected()
  FakeWebSocket.last.end(1006)
  await clock.pass(SECOND)
  FakeWebSocket.last.end(4500)
  await clock.pass(SECOND)
  assert.deepEqual(asked, ["connect", "refused"])
  FakeWebSocket.last.end(4500)
  assert.equal(chat.state.state, "disconnected")
})

test("a getToken that fails is called again, unless it says that there is no login", async () => {
  let failures = 0
  const chat = hubbub({
    getToken: () => {
      failures += 1
      if (failures === 1) throw new TypeError("no network")
      if (failures === 2) return new Promise<string>(() => {})
      return Promise.reject(new HubbubError("not_authenticated", "signed out"))
    },
  })
  chat.connect()
  await clock.pass(250)
  assert.equal(failures, 2)
  await clock.pass(15 * SECOND)
  assert.ok(states.at(-1)?.state === "connecting", "the second did not answer in time")
  await clock.pass(SECOND)
  assert.equal(failures, 3)
  assert.ok(chat.state.state === "disconnected")
  assert.equal(chat.state.reason?.code, "not_authenticated")
})

test("the login is renewed on the connection, one call at a time", async () => {
  let answer: ((token: string) => void) | undefined
  let calls = 0
  await connected({
    getToken: () => {
      calls += 1
      return calls === 1 ? Promise.resolve("first") : new Promise((resolve) => (answer = resolve))
    },
  }, QUIET)
  await clock.pass(47 * 60 * SECOND)
  assert.equal(calls, 1)
  await clock.pass(60 * SECOND)
  assert.equal(calls, 2)
  await clock.pass(5 * SECOND)
  answer?.("second")
  await settle()
  const id = FakeWebSocket.last.id("authenticate")
  const value = { userId: 7, name: "ada", expiresAt: BigInt(clock.now() / SECOND + 100) }
  FakeWebSocket.last.say({ case: "reply", value: { id, result: { case: "authenticated", value } } })
  FakeWebSocket.last.end(1006)
  await clock.pass(SECOND)
  assert.match(FakeWebSocket.last.protocols[1] ?? "", new RegExp(Buffer.from("second").toString("base64url")))
  FakeWebSocket.last.welcome({ ...QUIET, expiresAt: BigInt(Math.floor(clock.now() / SECOND) + 100) })
  await clock.pass(81 * SECOND)
  assert.equal(calls, 3)
})

test("two clocks that disagree make no loop of renewals", async () => {
  const chat = hubbub()
  chat.connect()
  await settle()
  const expiresAt = BigInt(START / SECOND - 3600)
  FakeWebSocket.last.welcome({ expiresAt, pingIntervalMs: 3_600_000 })
  for (let minute = 0; minute < 600; minute += 1) {
    await clock.pass(SECOND)
    for (const frame of FakeWebSocket.last.frames.splice(0)) {
      const value = { userId: 7, name: "ada", expiresAt }
      FakeWebSocket.last.say({ case: "reply", value: { id: frame.id, result: { case: "authenticated", value } } })
    }
  }
  assert.ok(asked.length > 5 && asked.length < 20, `${asked.length} calls in ten minutes`)
})

test("a refused renewal is reported, and the connection lives on", async () => {
  const chat = await connected({}, QUIET)
  await clock.pass(48 * 60 * SECOND)
  const id = FakeWebSocket.last.id("authenticate")
  FakeWebSocket.last.say({ case: "reply", value: { id, result: { case: "error", value: { code: 208 } } } })
  assert.deepEqual(errors.map(({ code }) => code), ["wrong_user"])
  assert.equal(chat.state.state, "connected")
})

test("a server that falls silent is asked, and then given up", async () => {
  const chat = await connected()
  await clock.pass(25 * SECOND)
  const id = FakeWebSocket.last.id("users")
  FakeWebSocket.last.say({ case: "reply", value: { id, result: { case: "users", value: {} } } })
  await clock.pass(24 * SECOND)
  assert.equal(FakeWebSocket.last.frames.length, 1)
  await clock.pass(SECOND)
  assert.equal(FakeWebSocket.last.frames.length, 2)
  await clock.pass(9_999)
  assert.equal(chat.state.state, "connected")
  await clock.pass(1)
  assert.equal(lastReason(), "pong_timeout")
  assert.deepEqual(errors, [])
})

test("a connection without a welcome is given up, and one that begins otherwise too", async () => {
  hubbub().connect()
  await clock.pass(15 * SECOND)
  assert.equal(lastReason(), "timeout")
  await clock.pass(SECOND)
  FakeWebSocket.last.messages(1, 1, "too early")
  assert.deepEqual(errors.map(({ code }) => code), ["protocol"])
  await clock.pass(SECOND)
  FakeWebSocket.last.onmessage?.({ data: "text" })
  assert.equal(errors.length, 2)
  assert.equal(FakeWebSocket.last.closedWith, 1000)
})

test("messages come once and in order, and the position follows each of them", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const seen: unknown[] = []
  room.on("message", (message) => seen.push([message.sequence, message.body, room.position]))
  room.on("entries", (entries, how) => seen.push([how, entries.length]))
  room.on("state", (state) => seen.push(state))
  const begun = room.subscribe({ since: { epoch: 5, sequence: 1 } })
  FakeWebSocket.last.subscribed(3, 2)
  assert.deepEqual(await begun, { epoch: 5, head: 2 })
  FakeWebSocket.last.messages(3, 2, "b", "c")
  assert.deepEqual(seen, [
    "subscribing", "subscribed",
    [2, "b", { epoch: 5, sequence: 2 }], ["replay", 1],
    [3, "c", { epoch: 5, sequence: 3 }], ["live", 1],
  ])
  assert.deepEqual([room.id, room.head, room.state], [3, 3, "subscribed"])
  assert.equal(await code(room.subscribe()), "already_subscribed")
})

test("a hole is reported, never shown, and healed by resuming", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const seen: number[] = []
  room.on("message", ({ sequence }) => seen.push(sequence))
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  FakeWebSocket.last.messages(3, 1, "a")
  FakeWebSocket.last.messages(3, 3, "c")
  FakeWebSocket.last.messages(3, 2, "b")
  assert.deepEqual([seen, errors.map(({ code }) => code)], [[1], ["protocol"]])
  assert.equal(room.state, "subscribing")
  await clock.pass(SECOND)
  FakeWebSocket.last.welcome()
  FakeWebSocket.last.subscribed(3, 3)
  FakeWebSocket.last.messages(3, 2, "b", "c")
  assert.deepEqual(seen, [1, 2, 3])
})

test("a listener that throws or rejects is reported and disturbs nobody", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const seen: string[] = []
  room.on("message", () => {
    throw new Error("mine")
  })
  room.on("message", () => Promise.reject(new Error("later")))
  const off = room.on("message", ({ body }) => seen.push(body))
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  FakeWebSocket.last.messages(3, 1, "a")
  off()
  FakeWebSocket.last.messages(3, 2, "b")
  await settle()
  assert.deepEqual(seen, ["a"])
  assert.deepEqual(errors.map(({ code, cause }) => [code, (cause as Error).message]), [
    ["listener", "mine"], ["listener", "mine"], ["listener", "later"], ["listener", "later"],
  ])
})

test("a listener may end the subscription, and begin it again", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const seen: string[] = []
  room.on("message", ({ body }) => {
    seen.push(body)
    if (seen.length > 1) return
    void room.unsubscribe()
    void room.subscribe({ since: room.position })
  })
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  FakeWebSocket.last.messages(3, 1, "a", "b")
  assert.deepEqual(seen, ["a"])
  FakeWebSocket.last.subscribed(3, 2)
  FakeWebSocket.last.messages(3, 2, "b")
  assert.deepEqual(seen, ["a", "b"])
  assert.equal(room.state, "subscribed")
})

test("a subscription that was ended before it began does not end the one after it", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const first = code(room.subscribe())
  void room.unsubscribe()
  void room.subscribe()
  assert.equal(await first, "not_subscribed")
  assert.equal(room.state, "subscribing")
})

test("disconnect keeps subscriptions, which resume with connect and a token of its own", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  FakeWebSocket.last.messages(3, 1, "a")
  const publish = code(room.publish("b"))
  chat.disconnect()
  assert.equal(await publish, "disconnected")
  assert.equal(room.state, "subscribing")
  await clock.pass(60 * SECOND)
  chat.connect()
  await settle()
  assert.deepEqual(asked, ["connect", "connect"])
  FakeWebSocket.last.welcome()
  const [frame] = FakeWebSocket.last.frames
  assert.ok(frame?.command.case === "subscribe")
  assert.equal(frame.command.value.since?.sequence, 1n)
})

test("a publish is retried by the same id, and its error says which", async () => {
  const chat = await connected()
  const publish = chat.channel("lobby").publish("hello", { timeoutMs: 5 * SECOND })
  const outcome = publish.catch((error: unknown) => error)
  const [first] = FakeWebSocket.last.frames
  FakeWebSocket.last.end(1006)
  await clock.pass(SECOND)
  FakeWebSocket.last.welcome()
  assert.deepEqual(FakeWebSocket.last.frames, [first])
  await clock.pass(5 * SECOND)
  const error = await outcome
  assert.ok(error instanceof HubbubError && first?.command.case === "publish")
  assert.deepEqual([error.code, error.retry], ["timeout", true])
  assert.equal(error.clientMessageId, String(first.command.value.clientMessageId))
})

test("a renamed channel stays the same object, and is asked for by its number", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const changes: string[] = []
  room.on("change", ({ kind }) => changes.push(kind))
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  const settings = (channelName: string, writtenAtMs = 0n) =>
    ({ userId: 7, writtenAtMs, content: { case: "settings" as const, value: { channelName } } })
  const records = [settings("hall"), settings("imported", 5n)]
  FakeWebSocket.last.say({ case: "messages", value: { channelId: 3, firstSequence: 1n, timestampMs: 1n, records } })
  assert.deepEqual([room.name, changes], ["hall", ["settings", "settings"]])
  assert.equal(chat.channel("hall"), room)
  assert.notEqual(chat.channel("lobby"), room)
  void code(room.publish("x"))
  const frame = FakeWebSocket.last.frames.at(-1)
  assert.ok(frame?.command.case === "publish")
  assert.deepEqual(frame.command.value.channel, { case: "channelId", value: 3 })
})

test("a channel that is no more is ended, and its name is free again", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  const ended: string[] = []
  room.on("ended", ({ code }) => ended.push(code))
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  FakeWebSocket.last.say({ case: "subscriptionEnded", value: { channelId: 3, error: { code: 300 } } })
  assert.deepEqual([ended, room.state, room.id], [["unknown_channel"], "unsubscribed", undefined])
  void room.subscribe()
  FakeWebSocket.last.subscribed(9, 0, 6)
  assert.equal(room.id, 9)
})

test("presence is kept current, and forgotten with the subscription", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  void room.subscribe({ ephemeral: true })
  FakeWebSocket.last.subscribed(3)
  const say = (users: object, userCount: number) =>
    FakeWebSocket.last.say({ case: "presence", value: { channelId: 3, userCount, connectionCount: userCount, ...users } })
  say({ users: { case: "everyone", value: { userIds: [9, 7] } } }, 2)
  const shown = () => [room.presence.userCount, room.presence.connectionCount, room.presence.userIds]
  assert.deepEqual(shown(), [2, 2, [7, 9]])
  say({ users: { case: "changes", value: { joined: [8], left: [9] } } }, 2)
  assert.deepEqual(room.presence.userIds, [7, 8])
  say({}, 600)
  assert.deepEqual(shown(), [600, 600, undefined])
  say({ users: { case: "changes", value: { joined: [10] } } }, 601)
  assert.equal(room.presence.userIds, undefined, "changes of what is not known")
  say({ users: { case: "everyone", value: { userIds: [7] } } }, 1)
  assert.deepEqual(room.presence.userIds, [7])
  void room.unsubscribe()
  assert.deepEqual(shown(), [0, 0, undefined])
})

test("typing sends one frame in three seconds, and none while not subscribed", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  room.typing()
  assert.equal(FakeWebSocket.last.frames.length, 0)
  void room.subscribe()
  FakeWebSocket.last.subscribed(3)
  const sent = () => FakeWebSocket.last.frames.filter(({ command }) => command.case === "sendTyping").length
  for (let tenth = 0; tenth < 60; tenth += 1) {
    room.typing()
    await clock.pass(100)
  }
  assert.equal(sent(), 2)
})

test("of the read markers that wait the newest wins, and one is under way", async () => {
  const chat = await connected()
  const room = chat.channel("lobby")
  assert.equal(await code(room.markRead(1)), "not_subscribed")
  void room.subscribe()
  FakeWebSocket.last.subscribed(3, 9)
  const done: number[] = []
  for (const sequence of [1, 2, 5, 4]) void room.markRead(sequence).then(() => done.push(sequence))
  const marks = () => FakeWebSocket.last.frames.flatMap(({ command }) =>
    command.case === "markRead" ? [Number(command.value.position?.sequence)] : [])
  const answer = () => FakeWebSocket.last.say({
    case: "reply",
    value: { id: FakeWebSocket.last.id("markRead"), result: { case: "readMarker", value: { channelId: 3 } } },
  })
  await settle()
  assert.deepEqual(marks(), [1])
  answer()
  await settle()
  assert.deepEqual([marks(), done], [[1, 5], [1]])
  answer()
  await settle()
  assert.deepEqual([marks(), done], [[1, 5], [1, 2, 5, 4]])
})

test("names are asked for once, in batches of 200, one at a time", async () => {
  const chat = await connected()
  const ids = Array.from({ length: 450 }, (_, index) => index + 10)
  const names = chat.users(ids)
  const more = chat.users([10, 11, 7])
  for (const size of [200, 200, 50]) {
    await settle()
    const frame = FakeWebSocket.last.frames.at(-1)
    assert.ok(frame?.command.case === "users")
    assert.equal(frame.command.value.userIds.length, size)
    const users = frame.command.value.userIds.filter((id) => id !== 11).map((userId) => ({ userId, name: `name ${userId}` }))
    FakeWebSocket.last.say({ case: "reply", value: { id: frame.id, result: { case: "users", value: { users } } } })
  }
  assert.equal((await names).size, 449)
  assert.deepEqual([...(await more)], [[7, "ada"], [10, "name 10"]], "who does not exist is missing")
  assert.equal((await chat.users([12])).get(12), "name 12")
  assert.equal(FakeWebSocket.last.frames.length, 3)
})

test("an address that is none, and a world without WebSocket, are told at once", () => {
  const isArgument = (error: unknown) => error instanceof HubbubError && error.code === "invalid_argument"
  assert.throws(() => hubbub({}) && new Hubbub("https://test", { getToken: async () => "" }), isArgument)
  const { WebSocket } = globalThis
  if (WebSocket === undefined) assert.throws(() => new Hubbub("ws://test", { getToken: async () => "" }), isArgument)
})

test("a WebSocket that cannot be made ends it with the reason", async () => {
  class Refusing extends FakeWebSocket {
    constructor() {
      super("", [])
      throw new SyntaxError("mixed content")
    }
  }
  const chat = hubbub({ WebSocket: Refusing })
  const publish = code(chat.channel("lobby").publish("x"))
  await settle()
  assert.equal(chat.state.state, "disconnected")
  assert.equal(await publish, "invalid_argument")
})
