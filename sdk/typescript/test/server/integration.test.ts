/** The public API against the real server. */
import assert from "node:assert/strict"
import { after, afterEach, before, test } from "node:test"
import { WebSocket } from "ws"
import { Hubbub, HubbubError, type ConnectionState, type Entry, type HubbubOptions } from "../../src/index.js"
import { Proxy } from "./proxy.js"
import { Server, SKIP } from "./server.js"

let server: Server
let chats: Hubbub[] = []
let errors: HubbubError[] = []
let channels = 0

before(async () => {
  if (!SKIP) server = await Server.start()
})
after(async () => {
  if (!SKIP) await server.stop()
})
afterEach(() => {
  for (const chat of chats) chat.disconnect()
  chats = []
  assert.deepEqual(errors.splice(0), [])
})

async function hubbub(options: Partial<HubbubOptions> & { url?: string } = {}): Promise<Hubbub> {
  const { token } = options.getToken ? { token: "" } : await server.login()
  const chat = new Hubbub(options.url ?? server.url, {
    getToken: async () => token,
    WebSocket,
    backoff: { minMs: 10, maxMs: 100 },
    ...options,
  })
  chat.on("error", (error) => errors.push(error))
  chats.push(chat)
  return chat
}

function freshName(): string {
  channels += 1
  return `channel-${channels}`
}

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof HubbubError ? error.code : String(error)),
  )

function brief(body: string): string {
  return body.length > 100 ? `${body.length} × ${body[0]}` : body
}

/** The first state that is so. */
function reached(chat: Hubbub, wanted: (state: ConnectionState) => boolean): Promise<ConnectionState> {
  if (wanted(chat.state)) return Promise.resolve(chat.state)
  return new Promise((resolve) => {
    const off = chat.on("state", (state) => {
      if (!wanted(state)) return
      off()
      resolve(state)
    })
  })
}

test("two users talk, and both see the same in the same order", { skip: SKIP }, async () => {
  const [ada, grace] = [await hubbub(), await hubbub()]
  const name = freshName()
  const info = await ada.createChannel({ name, topic: "Störungen & Dienste" })
  assert.deepEqual([info.name, info.topic, info.role, info.memberCount], [name, "Störungen & Dienste", "owner", 1])
  const seen: string[][] = [[], []]
  for (const [index, chat] of [ada, grace].entries()) {
    chat.channel(name).on("message", ({ userId, body }) => seen[index]?.push(`${userId}: ${brief(body)}`))
    await chat.channel(name).subscribe()
  }
  const bodies = ["hello", "grüße 👋", " ", "x".repeat(60_000)]
  for (const body of bodies) {
    const { sequence, durability } = await ada.channel(name).publish(body)
    assert.equal(durability, "fsynced")
    assert.equal((await grace.channel(name).publish(body)).sequence, sequence + 1)
  }
  while (ada.channel(name).position?.sequence !== 2 * bodies.length) {
    await new Promise((resolve) => ada.channel(name).on("entries", resolve))
  }
  const ids = [ada.user?.id, grace.user?.id]
  assert.deepEqual(seen[0], bodies.flatMap((body) => ids.map((id) => `${id}: ${brief(body)}`)))
  assert.deepEqual(seen[1], seen[0])
  const names = await ada.users([ada.user?.id ?? 0, grace.user?.id ?? 0, 4_000_000])
  assert.deepEqual([...names.values()], [ada.user?.name, grace.user?.name])
})

test("history is paged in both directions", { skip: SKIP }, async () => {
  const chat = await hubbub()
  const room = chat.channel(freshName())
  await chat.createChannel({ name: room.name })
  for (let number = 1; number <= 25; number += 1) await room.publish(`${number}`)
  const forwards: Entry[] = []
  for (let after = 0; after < 25; after = forwards.length) {
    forwards.push(...(await room.history({ after, limit: 10 })).entries)
  }
  assert.deepEqual(forwards.map(({ sequence }) => sequence), Array.from({ length: 25 }, (_, index) => index + 1))
  const backwards: Entry[] = []
  for (let before = 26; before > 1; before = backwards[0]?.sequence ?? 0) {
    backwards.unshift(...(await room.history({ before, limit: 10 })).entries)
  }
  assert.deepEqual(backwards, forwards)
  assert.deepEqual((await room.history({ limit: 3 })).entries, forwards.slice(22))
})

test("a publish by the same id is stored once, and another body by it is a conflict", { skip: SKIP }, async () => {
  const chat = await hubbub()
  const room = chat.channel(freshName())
  await chat.createChannel({ name: room.name })
  const first = await room.publish("once")
  const again = await room.publish("once", { clientMessageId: first.clientMessageId })
  assert.deepEqual([again.sequence, again.at], [first.sequence, undefined])
  const conflict = await room.publish("twice", { clientMessageId: first.clientMessageId }).catch((error: unknown) => error)
  assert.ok(conflict instanceof HubbubError)
  assert.deepEqual([conflict.code, conflict.number, conflict.retry], ["idempotency_conflict", 401, false])
  assert.equal(conflict.clientMessageId, first.clientMessageId)
  assert.equal((await room.history()).head, 1)
})

test("members come and go, and each change is an entry", { skip: SKIP }, async () => {
  const [ada, grace] = [await hubbub(), await hubbub()]
  const name = freshName()
  await ada.createChannel({ name, visibility: "private", posting: "members" })
  const [own, other] = [ada.channel(name), grace.channel(name)]
  assert.equal(await code(other.subscribe()), "unknown_channel")
  await grace.listChannels()
  const changes: unknown[] = []
  own.on("change", (change) => changes.push(change.kind === "membership" ? [change.memberId, change.role] : change.kind))
  await own.subscribe()
  const id = grace.user?.id ?? 0
  assert.deepEqual(await ada.findUsers(grace.user?.name ?? ""), [grace.user])
  assert.equal((await own.setMember(id)).role, "member")
  const ended = new Promise<HubbubError>((resolve) => other.on("ended", resolve))
  await other.subscribe()
  await other.publish("hello")
  assert.deepEqual((await own.members()).members.map(({ name }) => name), [ada.user?.name, grace.user?.name])
  assert.equal((await grace.memberships()).channels[0]?.name, name)
  assert.equal(await code(own.leave()), "last_owner")
  await own.removeMember(id)
  assert.equal((await ended).code, "not_a_member")
  assert.equal(other.state, "unsubscribed")
  await ada.updateChannel(name, { visibility: "public" })
  await other.join()
  await other.leave()
  assert.deepEqual(changes, [[id, "member"], [id, undefined], "settings", [id, "member"], [id, undefined]])
})

test("a channel is found, renamed, archived and deleted", { skip: SKIP }, async () => {
  const chat = await hubbub()
  const name = freshName()
  await chat.createChannel({ name, quota: { messagesMax: 100, bytesMax: 0 } })
  const room = chat.channel(name)
  await room.subscribe()
  const page = await chat.listChannels({ prefix: name, archived: false })
  assert.deepEqual(page.channels.map((channel) => channel.name), [name])
  await chat.updateChannel(name, { name: `${name}-new`, topic: "new" })
  assert.equal(room.name, `${name}-new`)
  await room.publish("by its number")
  assert.deepEqual((await room.info()).used, { messages: 1, bytes: 13 })
  await chat.updateChannel(room.name, { archived: true })
  assert.equal(await code(room.publish("too late")), "channel_archived")
  const kinds: string[] = []
  room.on("change", ({ kind }) => kinds.push(kind))
  const ended = new Promise<HubbubError>((resolve) => room.on("ended", resolve))
  await chat.deleteChannel(room.name)
  assert.equal((await ended).code, "unknown_channel")
  assert.deepEqual(kinds, ["deletion"])
  assert.equal(await code(chat.getChannel(room.name)), "unknown_channel")
})

test("a position of another epoch resets the channel, which then follows from its beginning", { skip: SKIP }, async () => {
  const chat = await hubbub()
  const room = chat.channel(freshName())
  await chat.createChannel({ name: room.name })
  await room.publish("one")
  const told: unknown[] = []
  room.on("reset", ({ head }) => told.push(head.sequence))
  const seen = new Promise((resolve) => room.on("entries", (entries, how) => resolve([entries[0]?.sequence, how])))
  const { epoch, head } = await room.subscribe({ since: { epoch: 1, sequence: 41 } })
  assert.deepEqual([told, head], [[1], 1])
  assert.deepEqual(await seen, [1, "replay"])
  assert.equal(room.position?.epoch, epoch)
})

test("a forged token is final", { skip: SKIP }, async () => {
  const forged = await hubbub({ getToken: async () => "a.b.c" })
  forged.connect()
  const state = await reached(forged, ({ state }) => state === "disconnected")
  assert.equal(state.state === "disconnected" && state.reason?.number, 4500)
})

test("a login is renewed on the open connection, and a dead one is noticed", { skip: SKIP }, async () => {
  process.env["HUBBUB__AUTH__ACCESS_TOKEN_LIFETIME"] = "3s"
  process.env["HUBBUB__LIMITS__PING_INTERVAL"] = "1s"
  process.env["HUBBUB__LIMITS__PONG_TIMEOUT"] = "1s"
  let own: Server
  try {
    own = await Server.start()
  } finally {
    for (const key of Object.keys(process.env)) if (key.startsWith("HUBBUB__")) delete process.env[key]
  }
  const proxy = await Proxy.start(own.address)
  try {
    const reasons: string[] = []
    let { token, refreshToken } = await own.login("renewing")
    const chat = await hubbub({
      url: proxy.url,
      getToken: async ({ reason }) => {
        reasons.push(reason)
        if (reason !== "connect") {
          const body = await own.post("/v1/token", { grant_type: "refresh_token", refresh_token: refreshToken })
          token = String(body["access_token"])
          refreshToken = String(body["refresh_token"])
        }
        return token
      },
    })
    let welcomes = 0
    chat.on("welcome", () => (welcomes += 1))
    await chat.createChannel({ name: "den" })
    const room = chat.channel("den")
    const seen: number[] = []
    room.on("message", ({ sequence }) => seen.push(sequence))
    await room.subscribe()
    await room.publish("before")
    await new Promise((resolve) => setTimeout(resolve, 3_600))
    await room.publish("after more than the life of a token")
    assert.equal(welcomes, 1, "on the same connection")
    assert.ok(reasons.length >= 2 && reasons.slice(1).every((reason) => reason === "renew"), reasons.join())
    // From now on nothing comes through, and nobody says so.
    proxy.plan({ faults: { stall: 1 } })
    const state = await reached(chat, ({ state }) => state === "connecting")
    assert.equal(state.state === "connecting" && state.reason?.code, "pong_timeout")
    proxy.plan({ faults: {} })
    await reached(chat, ({ state }) => state === "connected")
    await room.publish("here again")
    assert.deepEqual(seen, [1, 2, 3])
    chat.disconnect()
  } finally {
    await proxy.stop()
    await own.stop()
  }
})

test("a server that drains says so, and its clients come back", { skip: SKIP }, async () => {
  let own = await Server.start()
  const { address } = own
  const { token } = await own.login("patient")
  const chat = await hubbub({ url: own.url, getToken: async () => token })
  chat.connect()
  await reached(chat, ({ state }) => state === "connected")
  const goingAway = new Promise((resolve) => chat.on("goingAway", resolve))
  const folder = await own.kill("SIGTERM")
  await goingAway
  assert.equal(chat.state.state, "connecting")
  own = await Server.start({ folder, listen: address })
  chat.retryNow()
  await reached(chat, ({ state }) => state === "connected")
  chat.disconnect()
  await own.stop()
})
