/**
 * What survives a reconnect: the commands without an answer, and where each subscription stopped.
 * Pure: time and randomness are arguments, and what is to be done comes out as effects.
 *
 * A command's frame is encoded once and sent again byte for byte, so a retried publish carries the
 * client message id of the first attempt. A subscription accepts the next sequence only; anything
 * else is a fault that ends the connection, and the next one resumes from what was delivered.
 */
import type { Backoff } from "./backoff.js"
import type { Answer, AnswerKind, ServerEvent } from "./codec.js"
import { commands, encode, type ChannelRef, type Command } from "./commands.js"
import { HubbubError, refusal, type Position } from "./errors.js"
import { COMMAND_BYTES_MAX, COMMANDS_MAX, SUBSCRIPTIONS_MAX } from "./limits.js"
import type { Entry, PresenceEvent, Welcome } from "./values.js"

/** A subscription's number within its session. */
export type SubscriptionKey = number

/** What a subscription brings. */
export type Delivery =
  | { kind: "subscribing" }
  | { kind: "subscribed"; channelId: number; name: string; epoch: number; head: number; position: Position }
  | { kind: "entries"; entries: Entry[]; how: "live" | "replay" }
  | { kind: "gap"; from: number; to: number }
  | { kind: "reset"; head: Position }
  | { kind: "presence"; presence: PresenceEvent }
  | { kind: "typing"; userIds: number[] }
  | { kind: "readMarker"; position: Position }
  | { kind: "ended"; error: HubbubError }

/** What the session wants done. `T` is the caller's ticket for an answer. */
export type Effect<T> =
  | { do: "send"; frame: Uint8Array<ArrayBuffer> }
  | { do: "answer"; ticket: T; answer: Answer | HubbubError }
  | { do: "deliver"; key: SubscriptionKey; delivery: Delivery }
  /** The login was renewed on the connection, or not: it then lives on with the one that it has. */
  | { do: "renewed"; outcome: number | HubbubError }
  | { do: "goingAway"; retryAfterMs: number }
  | { do: "lagging"; outboxBytes: number }
  /** The connection is of no use any more. */
  | { do: "fault"; error: HubbubError }

type Purpose =
  | { for: "caller" }
  | { for: "subscribe"; key: SubscriptionKey }
  | { for: "unsubscribe"; channelId: number }
  | { for: "login" }
  | { for: "probe" }

type Wait = { on: "connection" } | { on: "reply"; since: number } | { on: "time"; until: number }

/** A command without a final answer. */
interface Pending<T> {
  frame: Uint8Array<ArrayBuffer>
  expects: AnswerKind
  purpose: Purpose
  /** Who waits, and until when. After the deadline nobody: the entry stays for a late reply. */
  caller?: Caller<T> | undefined
  backoff: Backoff
  wait: Wait
  /** The last refusal, told to the caller when the deadline comes. */
  refusal?: HubbubError
}

interface Caller<T> {
  ticket: T
  deadline: number
}

interface Subscription<T> {
  channel: ChannelRef
  ephemeral: boolean
  /** The last that was delivered. Undefined: live only, and the server has not answered yet. */
  position: Position | undefined
  /** The newest sequence when the server last answered: what comes up to it is a replay. */
  head: number
  /** Who waits for the first answer. */
  first: Caller<T> | undefined
  /** `dropped`: nobody reads it any more, but the server's answer is still to come. */
  state: "idle" | "asked" | "active" | "dropped" | { retryAt: number }
  channelId?: number
  backoff: Backoff
}

/** Which subscription a channel's messages belong to; a number: none, until this command is answered. */
type Route = { key: SubscriptionKey } | { leaving: number }

export interface SessionOptions {
  backoff: () => Backoff
  /** A frame without a reply for so long ends the connection. */
  replyTimeoutMs: number
}

export class Session<T> {
  /** The largest frame that the server takes; undefined without a connection. */
  #messageBytesMax: number | undefined
  #lastId = 0
  #lastKey = 0
  #commandBytes = 0
  #effects: Effect<T>[] = []
  readonly #commands = new Map<number, Pending<T>>()
  readonly #subscriptions = new Map<SubscriptionKey, Subscription<T>>()
  readonly #routes = new Map<number, Route>()
  readonly #options: SessionOptions

  constructor(options: SessionOptions) {
    this.#options = options
  }

  /** What is to be done, in order; each is given once. */
  effects(): Effect<T>[] {
    const effects = this.#effects
    this.#effects = []
    return effects
  }

  /** Takes a command of a caller, or throws what is wrong with it. */
  command(command: Command, ticket: T, deadline: number, now: number): void {
    if (this.#commands.size >= COMMANDS_MAX || this.#commandBytes >= COMMAND_BYTES_MAX) {
      throw new HubbubError("busy", "too many commands are under way", { retry: true })
    }
    this.#submit(command, { for: "caller" }, now, { ticket, deadline })
  }

  /** Begins a subscription. The answer is for the ticket, and then deliveries come. */
  subscribe(
    channel: ChannelRef,
    options: { since?: Position | undefined; ephemeral?: boolean | undefined },
    ticket: T,
    deadline: number,
    now: number,
  ): SubscriptionKey {
    if (this.#subscriptions.size >= SUBSCRIPTIONS_MAX) {
      throw new HubbubError("too_many", "this client has too many subscriptions")
    }
    // Finds out now whether it can be encoded.
    encode(0, commands.subscribe(channel, options.since, false))
    this.#lastKey += 1
    this.#subscriptions.set(this.#lastKey, {
      channel,
      ephemeral: options.ephemeral ?? false,
      position: options.since && { ...options.since },
      head: 0,
      first: { ticket, deadline },
      state: "idle",
      backoff: this.#options.backoff(),
    })
    this.#ask(this.#lastKey, now)
    return this.#lastKey
  }

  /** Ends a subscription: nothing of it is delivered any more. The ticket hears of the server's answer. */
  unsubscribe(key: SubscriptionKey, now: number, caller?: Caller<T>): void {
    const subscription = this.#subscriptions.get(key)
    if (subscription?.first) {
      const error = new HubbubError("not_subscribed", "the subscription was ended before it began")
      this.#answer(subscription.first, error)
      subscription.first = undefined
    }
    if (subscription?.state === "active" && subscription.channelId !== undefined) {
      this.#subscriptions.delete(key)
      this.#leave(subscription.channelId, now, caller)
      return
    }
    if (subscription?.state === "asked" || subscription?.state === "dropped") subscription.state = "dropped"
    else this.#subscriptions.delete(key)
    if (caller) this.#answer(caller, { kind: "unsubscribed" })
  }

  /** Renews the login. */
  authenticate(token: string, now: number): void {
    this.#submit(commands.authenticate(token), { for: "login" }, now)
  }

  /** Has the server say something, if it is alive. */
  probe(now: number): void {
    this.#submit(commands.users([]), { for: "probe" }, now)
  }

  /** There is a connection, and the server has welcomed it. */
  connected(welcome: Welcome, now: number): void {
    this.#messageBytesMax = welcome.messageBytesMax
    // Subscriptions first: a message that is sent again below is then seen by its own sender.
    for (const key of [...this.#subscriptions.keys()]) this.#ask(key, now)
    for (const [id, pending] of [...this.#commands]) {
      if (pending.wait.on === "connection") this.#send(id, pending, now)
    }
  }

  /** The connection is gone. */
  disconnected(): void {
    this.#messageBytesMax = undefined
    this.#routes.clear()
    // What was to be sent was for the connection that is gone.
    this.#effects = this.#effects.filter((effect) => effect.do !== "send" && effect.do !== "fault")
    for (const [id, pending] of [...this.#commands]) {
      if (pending.purpose.for === "unsubscribe") {
        // It ended with the connection.
        this.#remove(id)
        if (pending.caller) this.#answer(pending.caller, { kind: "unsubscribed" })
      } else if (pending.purpose.for !== "caller" || !pending.caller) {
        this.#remove(id)
      } else if (pending.wait.on === "reply") {
        pending.wait = { on: "connection" }
      }
    }
    for (const [key, subscription] of [...this.#subscriptions]) {
      if (subscription.state === "dropped") this.#subscriptions.delete(key)
      else {
        if (subscription.state === "active") this.#deliver(key, { kind: "subscribing" })
        subscription.state = "idle"
      }
    }
  }

  /** Nobody tries for a connection any more: all who wait are told. Subscriptions stay for the next. */
  abandon(error: HubbubError): void {
    this.disconnected()
    for (const [id, pending] of [...this.#commands]) {
      this.#remove(id)
      if (pending.caller) this.#answer(pending.caller, error)
    }
    for (const [key, subscription] of [...this.#subscriptions]) {
      if (!subscription.first) continue
      this.#subscriptions.delete(key)
      this.#answer(subscription.first, error)
    }
  }

  /** The server said something after its welcome. `uniform` is drawn evenly from 0 to 1. */
  event(event: ServerEvent, now: number, uniform: number): void {
    // After a fault nothing of this connection counts.
    if (this.#messageBytesMax === undefined) return
    switch (event.kind) {
      case "messages":
        return this.#messages(event.channelId, event.entries)
      case "gap":
        return this.#gap(event.channelId, event.from, event.to)
      case "reply":
        return this.#reply(event.id, event.answer, now, uniform)
      case "presence":
        return this.#pass(event.channelId, { kind: "presence", presence: event.presence })
      case "typing":
        return this.#pass(event.channelId, { kind: "typing", userIds: event.userIds })
      case "readMarker":
        return this.#pass(event.channelId, { kind: "readMarker", position: event.position })
      case "subscriptionEnded": {
        const route = this.#routes.get(event.channelId)
        if (!route || "leaving" in route) return
        this.#routes.delete(event.channelId)
        return this.#refused(route.key, event.error, now, uniform)
      }
      case "goingAway":
        this.#effects.push({ do: "goingAway", retryAfterMs: event.retryAfterMs })
        return
      case "lagging":
        this.#effects.push({ do: "lagging", outboxBytes: event.outboxBytes })
        return
      case "welcome":
        return this.#fault("a second welcome came")
      case "unknown":
        // Of a later version of the server.
        return
    }
  }

  /** The earliest moment at which `tick` has something to do. */
  nextTick(): number | undefined {
    let earliest = Infinity
    for (const { wait, caller } of this.#commands.values()) {
      const waits = wait.on === "time" ? wait.until : wait.on === "reply" ? wait.since + this.#options.replyTimeoutMs : Infinity
      earliest = Math.min(earliest, waits, caller?.deadline ?? Infinity)
    }
    for (const { state, first } of this.#subscriptions.values()) {
      earliest = Math.min(earliest, typeof state === "object" ? state.retryAt : Infinity, first?.deadline ?? Infinity)
    }
    return earliest === Infinity ? undefined : earliest
  }

  /** Time has passed: retries what is due, and gives up what is overdue. */
  tick(now: number): void {
    for (const [id, pending] of [...this.#commands]) {
      const { caller, wait } = pending
      if (caller && caller.deadline <= now) {
        this.#answer(caller, pending.refusal ?? overdue())
        pending.caller = undefined
        if (wait.on !== "reply") this.#remove(id)
      } else if (wait.on === "time" && wait.until <= now) {
        this.#send(id, pending, now)
      }
      if (wait.on === "reply" && wait.since + this.#options.replyTimeoutMs <= now) {
        return this.#fault(`command ${id} has had no reply`)
      }
    }
    for (const [key, subscription] of [...this.#subscriptions]) {
      const { first, state } = subscription
      if (first && first.deadline <= now) {
        subscription.first = undefined
        this.#answer(first, overdue())
        this.unsubscribe(key, now)
      } else if (typeof state === "object" && state.retryAt <= now) {
        subscription.state = "idle"
        this.#ask(key, now)
      }
    }
  }

  // Commands.

  #submit(command: Command, purpose: Purpose, now: number, caller?: Caller<T>): void {
    const id = this.#unusedId()
    const frame = encode(id, command)
    const pending: Pending<T> = {
      frame,
      expects: command.answer,
      purpose,
      caller,
      backoff: this.#options.backoff(),
      wait: { on: "connection" },
    }
    this.#commands.set(id, pending)
    this.#commandBytes += frame.length
    this.#send(id, pending, now)
  }

  #unusedId(): number {
    do {
      // 0 is the id of a frame that the server could not read.
      this.#lastId = this.#lastId < 0xffff_ffff ? this.#lastId + 1 : 1
    } while (this.#commands.has(this.#lastId))
    return this.#lastId
  }

  #remove(id: number): void {
    this.#commandBytes -= this.#commands.get(id)?.frame.length ?? 0
    this.#commands.delete(id)
  }

  #send(id: number, pending: Pending<T>, now: number): void {
    if (this.#messageBytesMax === undefined) {
      pending.wait = { on: "connection" }
    } else if (pending.frame.length > this.#messageBytesMax) {
      // The server would close the connection with 1009, and this client would come back with the
      // same frame.
      this.#refusedCommand(id, pending, refusal(102, "The message is larger than the server takes."), now, 0)
    } else {
      pending.wait = { on: "reply", since: now }
      this.#effects.push({ do: "send", frame: pending.frame })
    }
  }

  #reply(id: number, answer: Answer | HubbubError, now: number, uniform: number): void {
    const pending = this.#commands.get(id)
    if (!pending || pending.wait.on !== "reply") {
      const words = answer instanceof HubbubError ? `: ${answer.message}` : ""
      return this.#fault(`a reply came for command ${id}, which is not under way${words}`)
    }
    if (answer instanceof HubbubError) return this.#refusedCommand(id, pending, answer, now, uniform)
    if (answer.kind !== pending.expects) return this.#fault(`a reply of the wrong kind came for command ${id}`)
    this.#remove(id)
    const { purpose, caller } = pending
    switch (purpose.for) {
      case "subscribe":
        if (answer.kind === "subscribed") this.#subscribed(purpose.key, answer, now)
        return
      case "unsubscribe":
        this.#left(purpose.channelId, id, now)
        break
      case "login":
        if (answer.kind === "authenticated") this.#effects.push({ do: "renewed", outcome: answer.expiresAt })
        return
      case "probe":
        return
      case "caller":
        break
    }
    if (answer.kind === "history" && !isDense(answer.page.entries)) {
      // The page is answered as what it is: of no use.
      const error = new HubbubError("protocol", "a page of history has a hole")
      if (caller) this.#answer(caller, error)
      return this.#fault(error.message)
    }
    if (caller) this.#answer(caller, answer)
  }

  #refusedCommand(id: number, pending: Pending<T>, error: HubbubError, now: number, uniform: number): void {
    const { purpose, caller } = pending
    switch (purpose.for) {
      case "caller": {
        const until = now + pending.backoff.next(uniform, error.retryAfterMs)
        if (error.retry && caller && until < caller.deadline) {
          pending.wait = { on: "time", until }
          pending.refusal = error
          return
        }
        this.#remove(id)
        if (caller) this.#answer(caller, error)
        return
      }
      case "subscribe":
        this.#remove(id)
        return this.#refused(purpose.key, error, now, uniform)
      case "unsubscribe":
        // The server ended it at the same moment, so there is nothing left to end.
        this.#remove(id)
        this.#left(purpose.channelId, id, now)
        if (caller) this.#answer(caller, { kind: "unsubscribed" })
        return
      case "login":
        this.#remove(id)
        this.#effects.push({ do: "renewed", outcome: error })
        return
      case "probe":
        // A refusal is a sign of life as well.
        this.#remove(id)
    }
  }

  #answer(caller: Caller<T>, answer: Answer | HubbubError): void {
    this.#effects.push({ do: "answer", ticket: caller.ticket, answer })
  }

  #fault(what: string): void {
    this.#messageBytesMax = undefined
    const error = new HubbubError("protocol", what, { retry: true })
    this.#effects.push({ do: "fault", error })
  }

  // Subscriptions.

  #ask(key: SubscriptionKey, now: number): void {
    const subscription = this.#subscriptions.get(key)
    if (this.#messageBytesMax === undefined || subscription?.state !== "idle") return
    // A dropped one of the same channel may still begin, and would have this one refused.
    for (const other of this.#subscriptions.values()) {
      if (other.state === "dropped" && mayBeSame(other.channel, subscription.channel)) return
    }
    subscription.state = "asked"
    const { channel, position, ephemeral } = subscription
    this.#submit(commands.subscribe(channel, position, ephemeral), { for: "subscribe", key }, now)
  }

  #subscribed(key: SubscriptionKey, answer: Extract<Answer, { kind: "subscribed" }>, now: number): void {
    const subscription = this.#subscriptions.get(key)
    if (!subscription) return
    const { channelId, name, epoch, head } = answer
    if (subscription.state === "dropped") {
      this.#subscriptions.delete(key)
      this.#leave(channelId, now)
      return this.#askIdle(now)
    }
    const asked = subscription.position
    if (asked && (asked.epoch !== epoch || asked.sequence > head)) {
      return this.#fault(`channel ${name} resumed from another place than was asked for`)
    }
    const position = asked ?? { epoch, sequence: head }
    subscription.position = position
    subscription.state = "active"
    subscription.head = head
    // From here on by number: the name may change.
    subscription.channel = { id: channelId }
    subscription.channelId = channelId
    subscription.backoff.reset()
    this.#routes.set(channelId, { key })
    this.#deliver(key, { kind: "subscribed", channelId, name, epoch, head, position: { ...position } })
    if (subscription.first) {
      this.#answer(subscription.first, answer)
      subscription.first = undefined
    }
  }

  /** The server refused to begin a subscription, or ended it. */
  #refused(key: SubscriptionKey, error: HubbubError, now: number, uniform: number): void {
    const subscription = this.#subscriptions.get(key)
    if (!subscription) return
    if (subscription.state === "dropped") {
      this.#subscriptions.delete(key)
      return this.#askIdle(now)
    }
    if (subscription.state === "active") this.#deliver(key, { kind: "subscribing" })
    if (error.code === "epoch_changed" || error.code === "position_ahead") {
      const { head } = error
      const { position } = subscription
      if (!head || (position?.epoch === head.epoch && position.sequence === 0)) {
        return this.#fault("a position was refused without naming a usable one")
      }
      subscription.position = { epoch: head.epoch, sequence: 0 }
      subscription.state = "idle"
      this.#deliver(key, { kind: "reset", head })
      return this.#ask(key, now)
    }
    const retryAt = now + subscription.backoff.next(uniform, error.retryAfterMs)
    if (error.retry && retryAt < (subscription.first?.deadline ?? Infinity)) {
      subscription.state = { retryAt }
      return
    }
    this.#subscriptions.delete(key)
    if (subscription.first) this.#answer(subscription.first, error)
    else this.#deliver(key, { kind: "ended", error })
  }

  #leave(channelId: number, now: number, caller?: Caller<T>): void {
    this.#submit(commands.unsubscribe(channelId), { for: "unsubscribe", channelId }, now, caller)
    this.#routes.set(channelId, { leaving: this.#lastId })
  }

  #left(channelId: number, id: number, now: number): void {
    // Replies may overtake one another: the channel may be subscribed again by now.
    const route = this.#routes.get(channelId)
    if (route && "leaving" in route && route.leaving === id) this.#routes.delete(channelId)
    this.#askIdle(now)
  }

  #askIdle(now: number): void {
    for (const key of [...this.#subscriptions.keys()]) this.#ask(key, now)
  }

  #messages(channelId: number, entries: Entry[]): void {
    const found = this.#route(channelId)
    const first = entries[0]
    const last = entries[entries.length - 1]
    if (!found || !first || !last) return
    const [key, subscription, position] = found
    const due = position.sequence + 1
    if (first.sequence !== due) {
      return this.#fault(`channel ${channelId} delivered ${first.sequence} where ${due} was due`)
    }
    position.sequence = last.sequence
    const split = Math.max(0, Math.min(entries.length, subscription.head - first.sequence + 1))
    const [replay, live] = [entries.slice(0, split), entries.slice(split)]
    if (replay.length > 0) this.#deliver(key, { kind: "entries", entries: replay, how: "replay" })
    if (live.length > 0) this.#deliver(key, { kind: "entries", entries: live, how: "live" })
  }

  #gap(channelId: number, from: number, to: number): void {
    const found = this.#route(channelId)
    if (!found) return
    const [key, , position] = found
    const due = position.sequence + 1
    if (from !== due || to < from) {
      return this.#fault(`channel ${channelId} has a gap from ${from} to ${to} where ${due} was due`)
    }
    position.sequence = to
    this.#deliver(key, { kind: "gap", from, to })
  }

  /** What is not in the log. It may come a moment late, and then it says nothing. */
  #pass(channelId: number, delivery: Delivery): void {
    const route = this.#routes.get(channelId)
    if (route && "key" in route) this.#deliver(route.key, delivery)
  }

  #deliver(key: SubscriptionKey, delivery: Delivery): void {
    this.#effects.push({ do: "deliver", key, delivery })
  }

  /** The subscription behind a channel; undefined if what came for it is to be dropped. */
  #route(channelId: number): [SubscriptionKey, Subscription<T>, Position] | undefined {
    const route = this.#routes.get(channelId)
    if (route && "leaving" in route) return undefined
    const subscription = route && this.#subscriptions.get(route.key)
    if (!route || !subscription?.position) {
      this.#fault(`messages came for channel ${channelId}, which is not subscribed`)
      return undefined
    }
    return [route.key, subscription, subscription.position]
  }
}

function overdue(): HubbubError {
  return new HubbubError("timeout", "no answer came in time", { retry: true })
}

function mayBeSame(a: ChannelRef, b: ChannelRef): boolean {
  // By name here and by number there: nobody knows.
  if ("id" in a) return !("id" in b) || a.id === b.id
  return !("name" in b) || a.name === b.name
}

function isDense(entries: Entry[]): boolean {
  return entries.every((entry, index) => index === 0 || entry.sequence === (entries[index - 1]?.sequence ?? 0) + 1)
}
