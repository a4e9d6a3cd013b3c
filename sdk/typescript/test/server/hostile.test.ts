/** What a bad network does, and the audit: nothing acknowledged is lost, and nothing comes twice. */
import assert from "node:assert/strict"
import { after, afterEach, before, test } from "node:test"
import { WebSocket } from "ws"
import { Hubbub, HubbubError, type Channel, type Entry } from "../../src/index.js"
import { Proxy, type Fault, type Plan } from "./proxy.js"
import { Server, SKIP } from "./server.js"

const FAULTS: { [fault in Fault]: number } = {
  drop: 0.01, repeat: 0.01, delay: 0.05, cut: 0.01, close: 0.02, stall: 0.003, "half-open": 0.1,
}
const HINT = (code: number) => JSON.stringify({ code, retry_after_ms: 50 })
const CLOSES: [number, string][] = [
  [4000, HINT(603)], [4001, ""], [4002, ""], [4008, ""], [4010, ""], [4013, HINT(503)], [4029, ""],
  [1011, ""], [1012, HINT(603)], [1013, HINT(503)], [4500, ""], [4501, ""], [4503, ""], [4505, ""], [4506, ""],
]
const CHANNELS = ["one", "two"]
const CLIENTS = 4
const MESSAGES = 60

let server: Server
/** What a test has opened. */
let chats: Hubbub[] = []
let proxies: Proxy[] = []
let unexpected: string[] = []

afterEach(async () => {
  for (const chat of chats) {
    // Without the program that comes back.
    chat.connect = () => {}
    chat.disconnect()
  }
  for (const proxy of proxies) await proxy.stop()
  chats = []
  proxies = []
  assert.deepEqual(unexpected.splice(0), [])
})

before(async () => {
  if (!SKIP) server = await Server.start()
})
after(async () => {
  if (!SKIP) await server.stop()
})

/** What one subscriber has seen of one channel, and the audit of it. */
class Seen {
  readonly entries = new Map<number, Entry>()
  /** The last that was delivered, or left out by a gap. */
  last = 0
  paging: Promise<void> = Promise.resolve()
  readonly gaps: [number, number][] = []
  readonly #wrong: string[] = []

  constructor(channel: Channel, who: string) {
    channel.on("entries", (entries) => {
      for (const entry of entries) this.#take(entry, who)
    })
    channel.on("gap", ({ from, to }) => {
      if (from !== this.last + 1) this.#wrong.push(`${who}: a gap from ${from} after ${this.last}`)
      this.last = to
      this.gaps.push([from, to])
      this.paging = this.paging.then(() => this.#page(channel, from, to))
    })
    channel.on("reset", () => this.#wrong.push(`${who}: a reset`))
  }

  check(head: number): void {
    assert.deepEqual(this.#wrong, [])
    assert.deepEqual([...this.entries.keys()].sort((a, b) => a - b), Array.from({ length: head }, (_, index) => index + 1))
  }

  #take(entry: Entry, who: string): void {
    if (entry.sequence !== this.last + 1) this.#wrong.push(`${who}: ${entry.sequence} after ${this.last}`)
    this.last = entry.sequence
    this.entries.set(entry.sequence, entry)
  }

  async #page(channel: Channel, from: number, to: number): Promise<void> {
    for (let after = from - 1; after < to; ) {
      const { entries } = await persist(() => channel.history({ after, limit: to - after }))
      for (const entry of entries) {
        if (this.entries.has(entry.sequence)) this.#wrong.push(`${entry.sequence} twice`)
        if (entry.sequence <= to) this.entries.set(entry.sequence, entry)
        after = entry.sequence
      }
    }
  }
}

/** Tries until it passes: what a program does that wants it done. */
async function persist<T>(attempt: (error: HubbubError | undefined) => Promise<T>): Promise<T> {
  let last: HubbubError | undefined
  for (let tries = 0; tries < 200; tries += 1) {
    try {
      return await attempt(last)
    } catch (error) {
      assert.ok(error instanceof HubbubError, String(error))
      last = error
      // It may have been turned away for good, until its program logs in again.
      if (!error.retry) await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  throw last ?? new Error("never tried")
}

async function until(what: string, holds: () => boolean, deadlineMs = 10_000): Promise<void> {
  for (const end = Date.now() + deadlineMs; !holds(); ) {
    if (Date.now() > end) throw new Error(`in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** A client whose program logs in again whenever the server turned it away. */
function hubbub(url: string, token: string): Hubbub {
  const chat = new Hubbub(url, {
    getToken: async () => token,
    WebSocket,
    timeoutMs: 800,
    backoff: { minMs: 10, maxMs: 100 },
  })
  chat.on("error", ({ code, message }) => {
    // What the proxy does to frames looks like a server that breaks the protocol.
    if (code !== "protocol") unexpected.push(message)
  })
  chat.on("state", ({ state }) => {
    if (state === "disconnected") setTimeout(() => chat.connect(), 5)
  })
  chats.push(chat)
  return chat
}

async function misbehaving(plan?: Plan): Promise<Proxy> {
  const proxy = await Proxy.start(server.address, plan)
  proxies.push(proxy)
  return proxy
}

test("nothing is lost, doubled or out of order, whatever the network does", { skip: SKIP, timeout: 60_000 }, async () => {
  const honest = hubbub(server.url, (await server.login("auditor")).token)
  const epochs = new Map<string, number>()
  for (const name of CHANNELS) {
    await honest.createChannel({ name })
    epochs.set(name, (await honest.channel(name).history()).epoch)
  }
  let seed = 20_261_122
  const random = (): number => {
    seed = (Math.imul(seed ^ (seed >>> 15), 0x85ebca6b) + 0x9e3779b9) | 0
    return ((seed ^ (seed >>> 13)) >>> 0) / 2 ** 32
  }
  const hostile: Plan = { faults: FAULTS, closes: CLOSES, random }
  const proxy = await misbehaving(hostile)
  const acknowledged = new Map<string, [channel: string, sequence: number]>()
  const seen: [string, Seen][] = []
  const publishing = Array.from({ length: CLIENTS }, async (_, number) => {
    const chat = hubbub(proxy.url, (await server.login(`client-${number}`)).token)
    for (const name of CHANNELS) {
      const channel = chat.channel(name)
      seen.push([name, new Seen(channel, `client ${number} in ${name}`)])
      await persist(() => channel.subscribe({ since: { epoch: epochs.get(name) ?? 0, sequence: 0 } }))
    }
    for (let message = 0; message < MESSAGES; message += 1) {
      const name = CHANNELS[message % CHANNELS.length] ?? ""
      const body = `${message} of ${number}`
      const { sequence } = await persist((error) =>
        chat.channel(name).publish(body, { clientMessageId: error?.clientMessageId, timeoutMs: 500 }))
      acknowledged.set(body, [name, sequence])
    }
  })
  await Promise.all(publishing)
  // Calm again: what was dropped at the very end is noticed with the next message.
  proxy.plan({ faults: {} })
  proxy.breakAll()
  for (const name of CHANNELS) {
    const { sequence: head } = await honest.channel(name).publish("the end")
    const mine = seen.filter(([other]) => other === name).map(([, one]) => one)
    await until(`all have seen ${head} of ${name}`, () => mine.every(({ last }) => last >= head))
    await Promise.all(mine.map(({ paging }) => paging))
    const stored: Entry[] = []
    while (stored.length < head) stored.push(...(await honest.channel(name).history({ after: stored.length, limit: 200 })).entries)
    const bodies = stored.map((entry) => (entry.kind === "message" ? entry.body : ""))
    assert.equal(new Set(bodies).size, bodies.length, "no message was stored twice")
    for (const [body, [where, sequence]] of acknowledged) {
      if (where === name) assert.equal(bodies[sequence - 1], body, "what was acknowledged is in history, there")
    }
    assert.equal(bodies.length, (CLIENTS * MESSAGES) / CHANNELS.length + 1)
    for (const one of mine) {
      one.check(head)
      for (const [sequence, entry] of one.entries) assert.deepEqual(entry, stored[sequence - 1])
    }
  }
  for (const fault of Object.keys(FAULTS) as Fault[]) {
    assert.ok((proxy.done.get(fault) ?? 0) > 0, `${fault} did not happen: this test shows less than it says`)
  }
  assert.ok(proxy.connections > CLIENTS * 3)
})

test("a subscriber that was away too long gets a gap, and pages it", { skip: SKIP }, async () => {
  const proxy = await misbehaving()
  const honest = hubbub(server.url, (await server.login("writer")).token)
  const reader = hubbub(proxy.url, (await server.login("reader")).token)
  await honest.createChannel({ name: "busy" })
  const { epoch } = await honest.channel("busy").history()
  const seen = new Seen(reader.channel("busy"), "reader")
  await reader.channel("busy").subscribe({ since: { epoch, sequence: 0 } })
  await honest.channel("busy").publish("before")
  await until("the first", () => seen.last === 1)
  proxy.plan({ faults: { "half-open": 1 } })
  proxy.breakAll()
  // More than the server replays from memory.
  const body = "x".repeat(8_000)
  for (let round = 0; round < 5; round += 1) {
    await Promise.all(Array.from({ length: 100 }, () => honest.channel("busy").publish(body, { timeoutMs: 10_000 })))
  }
  proxy.plan({ faults: {} })
  proxy.breakAll()
  await until("all", () => seen.last === 501)
  await seen.paging
  assert.ok(seen.gaps.length > 0, "there was a gap")
  seen.check(501)
})

test("a server that is killed and comes back loses nothing that it acknowledged", { skip: SKIP }, async () => {
  let own = await Server.start()
  const { address } = own
  try {
    const { token } = await own.login("survivor")
    const chat = hubbub(own.url, token)
    await chat.createChannel({ name: "den" })
    const room = chat.channel("den")
    const seen = new Seen(room, "survivor")
    await room.subscribe()
    const bodies = Array.from({ length: 40 }, (_, index) => `message ${index}`)
    const publishing = (async () => {
      for (const body of bodies) {
        await persist((error) => room.publish(body, { clientMessageId: error?.clientMessageId }))
      }
    })()
    await until("some", () => seen.last >= 10)
    const folder = await own.kill()
    own = await Server.start({ folder, listen: address })
    await publishing
    await until("all", () => seen.last === bodies.length)
    seen.check(bodies.length)
    assert.deepEqual([...seen.entries.values()].map((entry) => entry.kind === "message" && entry.body), bodies)
  } finally {
    await own.stop()
  }
})
