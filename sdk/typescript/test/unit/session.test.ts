import assert from "node:assert/strict"
import { beforeEach, test } from "node:test"
import { Backoff } from "../../src/backoff.js"
import type { Answer, ServerEvent } from "../../src/codec.js"
import { commands } from "../../src/commands.js"
import { HubbubError, refusal } from "../../src/errors.js"
import { COMMAND_BYTES_MAX, COMMANDS_MAX } from "../../src/limits.js"
import { Session, type Delivery, type Effect } from "../../src/session.js"
import { messages, sent, WELCOME } from "./bench.js"

const SECOND = 1_000

let now = 0
let session: Session<string>
let effects: Effect<string>[] = []

beforeEach(() => {
  now = 0
  effects = []
  session = new Session({ backoff: () => new Backoff(500, 20_000), replyTimeoutMs: 30 * SECOND })
})

/** What was wanted since the last look, by kind. */
function look() {
  effects = session.effects()
  return {
    frames: effects.flatMap((effect) => (effect.do === "send" ? [sent(effect.frame)] : [])),
    answers: effects.flatMap((effect) => (effect.do === "answer" ? [[effect.ticket, brief(effect.answer)]] : [])),
    deliveries: effects.flatMap((effect) => (effect.do === "deliver" ? [[effect.key, deliverySays(effect.delivery)]] : [])),
    faults: effects.flatMap((effect) => (effect.do === "fault" ? [effect.error.message] : [])),
  }
}

function brief(answer: Answer | HubbubError): string {
  return answer instanceof HubbubError ? answer.code : answer.kind
}

function deliverySays(delivery: Delivery): string {
  switch (delivery.kind) {
    case "entries":
      return `${delivery.how} ${delivery.entries.map(({ sequence }) => sequence).join()}`
    case "gap":
      return `gap ${delivery.from}-${delivery.to}`
    case "reset":
      return `reset ${delivery.head.epoch}/${delivery.head.sequence}`
    case "subscribed":
      return `subscribed ${delivery.position.epoch}/${delivery.position.sequence} of ${delivery.head}`
    case "ended":
      return `ended ${delivery.error.code}`
    default:
      return delivery.kind
  }
}

function event(event: ServerEvent): void {
  session.event(event, now, 0.5)
}

function reply(id: number, answer: Answer | HubbubError): void {
  event({ kind: "reply", id, answer })
}

function publish(ticket: string, deadline = 15 * SECOND): void {
  session.command(commands.publish({ name: "lobby" }, "42", ticket), ticket, now + deadline, now)
}

const PUBLISHED: Answer = { kind: "published", channelId: 3, epoch: 9, sequence: 1, durability: "fsynced" }

function subscribed(head: number, epoch = 9): Answer {
  return { kind: "subscribed", channelId: 3, name: "lobby", epoch, head }
}

function run(first: number, count = 1): void {
  event({ kind: "messages", channelId: 3, entries: messages(first, count) })
}

/** A subscription that is active, with its key and the id of the last command. */
function active(since?: { epoch: number; sequence: number }, head = since?.sequence ?? 0): number {
  session.connected(WELCOME, now)
  const key = session.subscribe({ name: "lobby" }, { since }, "subscribe", now + 15 * SECOND, now)
  const id = look().frames[0]?.id ?? 0
  reply(id, subscribed(head))
  look()
  return key
}

test("a command waits for a connection and is answered once", () => {
  publish("one")
  assert.deepEqual(look().frames, [])
  session.connected(WELCOME, now)
  const [frame] = look().frames
  assert.equal(frame?.command.case, "publish")
  reply(1, PUBLISHED)
  assert.deepEqual(look().answers, [["one", "published"]])
})

test("a retried publish is the same bytes, and comes after the subscriptions", () => {
  active()
  publish("one")
  const [before] = look().frames
  session.disconnected(now)
  assert.deepEqual(look().deliveries, [[1, "subscribing"]])
  session.connected(WELCOME, now)
  const { frames } = look()
  assert.deepEqual(frames.map(({ command }) => command.case), ["subscribe", "publish"])
  assert.deepEqual(frames[1], before)
})

test("a command that may pass later is sent again until its deadline, and then says why not", () => {
  session.connected(WELCOME, now)
  publish("one", 2 * SECOND)
  look()
  reply(1, refusal(500, "busy", 700))
  assert.deepEqual(look().answers, [])
  assert.equal(session.nextTick(), 700)
  now = 700
  session.tick(now)
  assert.deepEqual(look().frames.map(({ id }) => id), [1])
  reply(1, refusal(500, "busy", 5_000))
  assert.deepEqual(look().answers, [["one", "busy"]], "a wait beyond the deadline is not begun")
  assert.equal(session.nextTick(), undefined)
})

test("a refusal that is final is told at once", () => {
  session.connected(WELCOME, now)
  publish("one")
  look()
  reply(1, refusal(203, "no"))
  assert.deepEqual(look().answers, [["one", "forbidden"]])
})

test("every command has a deadline, connected or not, and a late reply is known", () => {
  publish("offline", SECOND)
  session.tick((now = SECOND))
  assert.deepEqual(look().answers, [["offline", "timeout"]])
  session.connected(WELCOME, now)
  assert.deepEqual(look().frames, [], "nobody waits for it any more")
  publish("online", SECOND)
  session.tick((now = 2 * SECOND))
  assert.deepEqual(look().answers, [["online", "timeout"]])
  reply(2, PUBLISHED)
  const { answers, faults } = look()
  assert.deepEqual([answers, faults], [[], []])
})

test("a server that answers nothing loses the connection", () => {
  session.connected(WELCOME, now)
  publish("one")
  look()
  assert.equal(session.nextTick(), 15 * SECOND)
  session.tick((now = 15 * SECOND))
  assert.equal(session.nextTick(), 30 * SECOND)
  session.tick((now = 30 * SECOND))
  assert.match(look().faults[0] ?? "", /has had no reply/)
})

test("commands are bounded by number and by bytes", () => {
  const isBusy = (error: unknown) => error instanceof HubbubError && error.code === "busy" && error.retry
  for (let count = 0; count < COMMANDS_MAX; count += 1) publish(`${count}`)
  assert.throws(() => publish("one too many"), isBusy)
  session.tick(15 * SECOND)
  publish("there is room again")
  session.tick(30 * SECOND)
  const mebibyte = "x".repeat(1024 * 1024)
  for (let bytes = 0; bytes < COMMAND_BYTES_MAX; bytes += mebibyte.length) publish(mebibyte)
  assert.throws(() => publish("x"), isBusy)
})

test("a frame that the server would not take is refused here", () => {
  session.connected({ ...WELCOME, messageBytesMax: 100 }, now)
  publish("x".repeat(101))
  const { answers, frames } = look()
  assert.deepEqual([answers[0]?.[1], frames], ["message_too_large", []])
  session.subscribe({ name: "n".repeat(101) }, {}, "subscribe", now + SECOND, now)
  assert.deepEqual(look().answers, [["subscribe", "message_too_large"]])
  assert.equal(session.nextTick(), undefined)
})

for (const [what, answer] of [
  ["nobody asked for", () => reply(99, PUBLISHED)],
  ["of another kind", () => reply(1, { kind: "unsubscribed" })],
  ["to a frame that could not be read", () => reply(0, refusal(100, "bad"))],
] as const) {
  test(`a reply ${what} is a fault, and the command is sent again`, () => {
    session.connected(WELCOME, now)
    publish("one")
    look()
    answer()
    assert.equal(look().faults.length, 1)
    reply(1, PUBLISHED)
    assert.deepEqual(look().answers, [], "nothing of this connection counts any more")
    session.disconnected(now)
    session.connected(WELCOME, now)
    assert.equal(look().frames[0]?.command.case, "publish")
    reply(1, PUBLISHED)
    assert.deepEqual(look().answers, [["one", "published"]])
  })
}

test("a subscription delivers in order, and tells a replay from what is live", () => {
  const key = active({ epoch: 9, sequence: 2 }, 5)
  run(3, 4)
  run(7)
  assert.deepEqual(look().deliveries, [[key, "replay 3,4,5"], [key, "live 6"], [key, "live 7"]])
})

test("a reconnect resumes after the last that was delivered", () => {
  const key = active()
  run(1, 3)
  session.disconnected(now)
  look()
  session.connected(WELCOME, now)
  const [frame] = look().frames
  assert.ok(frame?.command.case === "subscribe")
  assert.deepEqual(frame.command.value.channel, { case: "channelId", value: 3 }, "by number")
  assert.equal(frame.command.value.since?.sequence, 3n)
  reply(frame.id, subscribed(5))
  event({ kind: "gap", channelId: 3, from: 4, to: 4 })
  run(5)
  assert.deepEqual(look().deliveries, [[key, "subscribed 9/3 of 5"], [key, "gap 4-4"], [key, "replay 5"]])
})

for (const [what, misbehave] of [
  ["a hole", () => run(3)],
  ["a repeat", () => (run(1), run(1))],
  ["a gap elsewhere", () => event({ kind: "gap", channelId: 3, from: 2, to: 3 })],
  ["a gap backwards", () => event({ kind: "gap", channelId: 3, from: 1, to: 0 })],
  ["a channel without a subscription", () => event({ kind: "messages", channelId: 4, entries: messages(1) })],
  ["a second welcome", () => event({ kind: "welcome", welcome: WELCOME })],
] as const) {
  test(`${what} is a fault and never delivered`, () => {
    active()
    misbehave()
    run(2)
    const { faults, deliveries } = look()
    assert.equal(faults.length, 1)
    assert.ok(deliveries.length <= 1)
    session.disconnected(now)
    session.connected(WELCOME, now)
    assert.equal(look().frames[0]?.command.case, "subscribe")
  })
}

for (const [what, head, epoch] of [["in another epoch", 9, 10], ["behind the position", 1, 9]] as const) {
  test(`resuming ${what} without a word is a fault`, () => {
    active({ epoch: 9, sequence: 2 })
    session.disconnected(now)
    session.connected(WELCOME, now)
    reply(look().frames[0]?.id ?? 0, subscribed(head, epoch))
    assert.match(look().faults[0] ?? "", /resumed from another place/)
  })
}

for (const number of [305, 306]) {
  test(`refusal ${number} of a position resets, and the channel follows from its first message`, () => {
    session.connected(WELCOME, now)
    const key = session.subscribe({ name: "lobby" }, { since: { epoch: 1, sequence: 41 } }, "subscribe", SECOND, now)
    reply(look().frames[0]?.id ?? 0, refusal(number, "", 0, { epoch: 9, sequence: 2 }))
    const { deliveries, frames, answers } = look()
    assert.deepEqual([deliveries, answers], [[[key, "reset 9/2"]], []])
    assert.ok(frames[0]?.command.case === "subscribe")
    assert.deepEqual([frames[0].command.value.since?.epoch, frames[0].command.value.since?.sequence], [9, 0n])
    reply(frames[0].id, subscribed(2))
    run(1, 2)
    assert.deepEqual(look().deliveries, [[key, "subscribed 9/0 of 2"], [key, "replay 1,2"]])
  })
}

test("a position that is refused again and again is a fault", () => {
  session.connected(WELCOME, now)
  session.subscribe({ name: "lobby" }, { since: { epoch: 9, sequence: 0 } }, "subscribe", SECOND, now)
  reply(look().frames[0]?.id ?? 0, refusal(305, "", 0, { epoch: 9, sequence: 2 }))
  assert.match(look().faults[0] ?? "", /without naming a usable one/)
})

test("a subscription that the server ends is tried again if that may help, and else is over", () => {
  const key = active()
  event({ kind: "subscriptionEnded", channelId: 3, error: refusal(503, "", 300) })
  assert.deepEqual(look().deliveries, [[key, "subscribing"]])
  session.tick((now = 300))
  reply(look().frames[0]?.id ?? 0, subscribed(0))
  event({ kind: "subscriptionEnded", channelId: 3, error: refusal(309, "") })
  assert.deepEqual(look().deliveries, [[key, "subscribed 9/0 of 0"], [key, "subscribing"], [key, "ended not_a_member"]])
  session.disconnected(now)
  session.connected(WELCOME, now)
  assert.deepEqual(look().frames, [])
})

test("a first subscribe has a deadline, and what begins after it is ended", () => {
  session.connected(WELCOME, now)
  session.subscribe({ name: "lobby" }, {}, "subscribe", SECOND, now)
  const id = look().frames[0]?.id ?? 0
  session.tick((now = SECOND))
  assert.deepEqual(look().answers, [["subscribe", "timeout"]])
  reply(id, subscribed(4))
  assert.equal(look().frames[0]?.command.case, "unsubscribe")
})

test("after unsubscribe nothing is delivered, and what was under way is no fault", () => {
  const key = active()
  session.unsubscribe(key, now, { ticket: "unsubscribe", deadline: SECOND })
  const id = look().frames[0]?.id ?? 0
  run(1)
  event({ kind: "presence", channelId: 3, presence: { userCount: 1, connectionCount: 1 } })
  reply(id, { kind: "unsubscribed" })
  const { deliveries, answers, faults } = look()
  assert.deepEqual([deliveries, answers, faults], [[], [["unsubscribe", "unsubscribed"]], []])
})

test("a channel is subscribed again at once, however the replies overtake one another", () => {
  const first = active()
  session.unsubscribe(first, now)
  const second = session.subscribe({ id: 3 }, {}, "again", now + SECOND, now)
  const [leave, begin] = look().frames
  assert.deepEqual([leave?.command.case, begin?.command.case], ["unsubscribe", "subscribe"])
  reply(begin?.id ?? 0, subscribed(0))
  reply(leave?.id ?? 0, { kind: "unsubscribed" })
  run(1)
  assert.deepEqual(look().deliveries, [[second, "subscribed 9/0 of 0"], [second, "live 1"]])
})

test("a subscription waits for a dropped one of the same channel", () => {
  session.connected(WELCOME, now)
  const first = session.subscribe({ name: "lobby" }, {}, "first", SECOND, now)
  session.unsubscribe(first, now)
  session.subscribe({ name: "lobby" }, {}, "second", SECOND, now)
  session.subscribe({ name: "other" }, {}, "other", SECOND, now)
  const { frames, answers } = look()
  assert.deepEqual(frames.length, 2, "the first, and the other channel")
  assert.deepEqual(answers, [["first", "not_subscribed"]])
  reply(frames[0]?.id ?? 0, subscribed(0))
  assert.deepEqual(look().frames.map(({ command }) => command.case), ["unsubscribe", "subscribe"])
})

test("when nobody tries any more, all who wait are told, and subscriptions stay", () => {
  const key = active()
  publish("one")
  session.subscribe({ name: "other" }, {}, "other", SECOND, now)
  session.unsubscribe(999, now, { ticket: "nothing to end", deadline: SECOND })
  session.abandon(new HubbubError("disconnected", ""), now)
  const { answers, deliveries } = look()
  assert.deepEqual(answers, [["nothing to end", "unsubscribed"], ["one", "disconnected"], ["other", "disconnected"]])
  assert.deepEqual(deliveries, [[key, "subscribing"]])
  session.connected(WELCOME, now)
  assert.equal(look().frames.length, 1)
})

test("what the server says beside the log reaches its subscription", () => {
  const key = active()
  event({ kind: "presence", channelId: 3, presence: { userCount: 1, connectionCount: 1 } })
  event({ kind: "typing", channelId: 3, userIds: [1] })
  event({ kind: "readMarker", channelId: 3, position: { epoch: 9, sequence: 1 } })
  event({ kind: "typing", channelId: 4, userIds: [1] })
  event({ kind: "unknown" })
  const { deliveries, faults } = look()
  assert.deepEqual(deliveries, [[key, "presence"], [key, "typing"], [key, "readMarker"]])
  assert.deepEqual(faults, [])
})

test("a page of history with a hole is no page", () => {
  session.connected(WELCOME, now)
  session.command(commands.history({ id: 3 }, undefined, undefined), "page", now + SECOND, now)
  look()
  const entries = [...messages(1), ...messages(3)]
  reply(1, { kind: "history", channelId: 3, page: { entries, epoch: 9, head: 3 } })
  assert.deepEqual(look().answers, [["page", "protocol"]])
})

// Against a naive server: one channel, random faults, and every sequence comes once and in order.
for (let seed = 1; seed <= 60; seed += 1) {
  test(`nothing is lost or doubled, whatever happens to the frames (seed ${seed})`, () => {
    let state = seed * 2_654_435_761
    const random = (): number => {
      state = (Math.imul(state ^ (state >>> 15), 0x85ebca6b) + 0x9e3779b9) | 0
      return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32
    }
    const log: string[] = []
    const ids = new Map<string, number>()
    const acknowledged = new Map<string, number>()
    const seen: number[] = []
    let subscribedFrom: number | undefined
    let isUp = false
    let toClient: ServerEvent[] = []
    const key = session.subscribe({ name: "lobby" }, { since: { epoch: 9, sequence: 0 } }, "subscribe", 1e9, now)

    const serve = (frame: ReturnType<typeof sent>): void => {
      const answer = (answer: Answer) => toClient.push({ kind: "reply", id: frame.id, answer })
      const { command } = frame
      if (command.case === "subscribe") {
        subscribedFrom = Number(command.value.since?.sequence ?? 0)
        answer(subscribed(log.length))
        if (log.length > subscribedFrom) {
          const behind = log.length - subscribedFrom
          const skipped = random() < 0.3 ? 1 + Math.floor(random() * behind) : 0
          if (skipped) toClient.push({ kind: "gap", channelId: 3, from: subscribedFrom + 1, to: subscribedFrom + skipped })
          const rest = log.length - subscribedFrom - skipped
          if (rest) toClient.push({ kind: "messages", channelId: 3, entries: messages(subscribedFrom + skipped + 1, rest) })
        }
      } else if (command.case === "publish") {
        let sequence = ids.get(command.value.body)
        if (sequence === undefined) {
          log.push(command.value.body)
          ids.set(command.value.body, (sequence = log.length))
          if (subscribedFrom !== undefined) toClient.push({ kind: "messages", channelId: 3, entries: messages(sequence) })
        }
        answer({ ...PUBLISHED, sequence } as Answer)
      }
    }
    const perform = (): void => {
      for (let again = true; again; ) {
        again = false
        for (const effect of session.effects()) {
          again = true
          if (effect.do === "send" && isUp) serve(sent(effect.frame))
          else if (effect.do === "fault") down()
          else if (effect.do === "answer" && !(effect.answer instanceof HubbubError) && effect.answer.kind === "published") {
            acknowledged.set(effect.ticket, effect.answer.sequence)
          } else if (effect.do === "deliver" && effect.key === key) {
            if (effect.delivery.kind === "entries") seen.push(...effect.delivery.entries.map(({ sequence }) => sequence))
            if (effect.delivery.kind === "gap") {
              for (let sequence = effect.delivery.from; sequence <= effect.delivery.to; sequence += 1) seen.push(sequence)
            }
          }
        }
      }
    }
    const down = (): void => {
      isUp = false
      subscribedFrom = undefined
      toClient = []
      session.disconnected(now)
    }
    const step = (faults: boolean): void => {
      if (!isUp) {
        isUp = true
        session.connected(WELCOME, now)
      }
      perform()
      if (faults && random() < 0.1) return down()
      const event = toClient.shift()
      if (!event) return
      const chance = faults ? random() : 1
      if (chance >= 0.06) session.event(event, now, random())
      if (chance >= 0.03 && chance < 0.09) session.event(event, now, random())
      perform()
    }
    for (let round = 0; round < 120; round += 1) {
      now += 50
      if (round < 80 && random() < 0.5) session.command(commands.publish({ id: 3 }, `${round + 1}`, `${round}`), `${round}`, 1e9, now)
      session.tick(now)
      step(round < 100)
    }
    // A reply that was dropped is missed by its own time limit.
    now += 31 * SECOND
    session.tick(now)
    for (let round = 0; round < 400; round += 1) step(false)
    // What was dropped at the very end is missed with the next message, as in life.
    session.command(commands.publish({ id: 3 }, "999", "last"), "last", 1e9, now)
    for (let round = 0; round < 400; round += 1) step(false)
    assert.deepEqual(seen, log.map((_, index) => index + 1))
    assert.equal(acknowledged.size, log.length, "each publish was acknowledged")
    for (const [body, sequence] of acknowledged) assert.equal(log[sequence - 1], body)
  })
}
