/**
 * What survives a reconnect: the commands without an answer, and where each subscription stopped.
 * Pure: time and randomness are arguments, and what is to be done comes out as effects.
 *
 * A subscription accepts the next sequence only; anything else is a fault that ends the connection,
 * and the next one resumes from what was delivered.
 */
import type { Backoff } from "./backoff.js"
import type { Answer, ServerEvent } from "./codec.js"
import { commands, encode, type ChannelRef, type Command } from "./commands.js"
import { HubbubError, type Position } from "./errors.js"
import { SUBSCRIPTIONS_MAX } from "./limits.js"
import { overdue, PendingCommands, type Caller, type Pending } from "./pending.js"
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
  /** Whether there is a connection that is of use. */
  #isUp = false
  #lastKey = 0
  #effects: Effect<T>[] = []
  readonly #commands: PendingCommands<T>
  readonly #subscriptions = new Map<SubscriptionKey, Subscription<T>>()
  readonly #routes = new Map<number, Route>()
  readonly #backoff: () => Backoff

  constructor(options: SessionOptions) {
    this.#backoff = options.backoff
    this.#commands = new PendingCommands({
      ...options,
      send: (frame) => this.#effects.push({ do: "send", frame }),
      answer: (caller, answer) => this.#answer(caller, answer),
      settled: (...settled) => this.#settled(...settled),
    })
  }

  /** What is to be done, in order; each is given once. */
  effects(): Effect<T>[] {
    const effects = this.#effects
    this.#effects = []
    return effects
  }

  /** Takes a command of a caller, or throws what is wrong with it. */
  command(command: Command, ticket: T, deadline: number, now: number): void {
    if (!this.#commands.hasRoom) {
      throw new HubbubError("busy", "too many commands are under way", { retry: true })
    }
    this.#commands.submit(command, { for: "caller" }, now, { ticket, deadline })
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
      backoff: this.#backoff(),
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
    this.#commands.submit(commands.authenticate(token), { for: "login" }, now)
  }

  /** Has the server say something, if it is alive. */
  probe(now: number): void {
    this.#commands.submit(commands.users([]), { for: "probe" }, now)
  }

  /** There is a connection, and the server has welcomed it. */
  connected(welcome: Welcome, now: number): void {
    this.#isUp = true
    this.#commands.connected(welcome.messageBytesMax)
    // Subscriptions first: a message that is sent again below is then seen by its own sender.
    for (const key of [...this.#subscriptions.keys()]) this.#ask(key, now)
    this.#commands.resend(now)
  }

  /** The connection is gone. */
  disconnected(now: number): void {
    this.#isUp = false
    this.#routes.clear()
    // What was to be sent was for the connection that is gone.
    this.#effects = this.#effects.filter((effect) => effect.do !== "send" && effect.do !== "fault")
    this.#commands.disconnected(now)
    for (const [key, subscription] of [...this.#subscriptions]) {
      if (subscription.state === "dropped") this.#subscriptions.delete(key)
      else {
        if (subscription.state === "active") this.#deliver(key, { kind: "subscribing" })
        subscription.state = "idle"
      }
    }
  }

  /** Nobody tries for a connection any more: all who wait are told. Subscriptions stay for the next. */
  abandon(error: HubbubError, now: number): void {
    this.disconnected(now)
    this.#commands.abandon(error)
    for (const [key, subscription] of [...this.#subscriptions]) {
      if (!subscription.first) continue
      this.#subscriptions.delete(key)
      this.#answer(subscription.first, error)
    }
  }

  /** The server said something after its welcome. `uniform` is drawn evenly from 0 to 1. */
  event(event: ServerEvent, now: number, uniform: number): void {
    // After a fault nothing of this connection counts.
    if (!this.#isUp) return
    switch (event.kind) {
      case "messages":
        return this.#messages(event.channelId, event.entries)
      case "gap":
        return this.#gap(event.channelId, event.from, event.to)
      case "reply": {
        const wrong = this.#commands.reply(event.id, event.answer, now, uniform)
        if (wrong !== undefined) this.#fault(wrong)
        return
      }
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
    let earliest = this.#commands.nextTick()
    for (const { state, first } of this.#subscriptions.values()) {
      earliest = Math.min(earliest, typeof state === "object" ? state.retryAt : Infinity, first?.deadline ?? Infinity)
    }
    return earliest === Infinity ? undefined : earliest
  }

  /** Time has passed: retries what is due, and gives up what is overdue. */
  tick(now: number): void {
    const wrong = this.#commands.tick(now)
    if (wrong !== undefined) this.#fault(wrong)
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

  /** A command has its final answer. */
  #settled(id: number, { purpose, caller }: Pending<T>, answer: Answer | HubbubError, now: number, uniform: number): void {
    switch (purpose.for) {
      case "caller":
        if (!(answer instanceof HubbubError) && answer.kind === "history" && !isDense(answer.page.entries)) {
          this.#fault("a page of history has a hole")
          answer = new HubbubError("protocol", "a page of history has a hole", { retry: true })
        }
        if (caller) this.#answer(caller, answer)
        return
      case "subscribe":
        if (answer instanceof HubbubError) this.#refused(purpose.key, answer, now, uniform)
        else if (answer.kind === "subscribed") this.#subscribed(purpose.key, answer, now)
        return
      case "unsubscribe":
        // If it was refused, the server had ended it at the same moment.
        this.#left(purpose.channelId, id, now)
        if (caller) this.#answer(caller, { kind: "unsubscribed" })
        return
      case "login":
        if (answer instanceof HubbubError) this.#effects.push({ do: "renewed", outcome: answer })
        else if (answer.kind === "authenticated") this.#effects.push({ do: "renewed", outcome: answer.expiresAt })
        return
      case "probe":
        // A refusal is a sign of life as well.
        return
    }
  }

  #answer(caller: Caller<T>, answer: Answer | HubbubError): void {
    this.#effects.push({ do: "answer", ticket: caller.ticket, answer })
  }

  #fault(what: string): void {
    this.#isUp = false
    this.#commands.hold()
    const error = new HubbubError("protocol", what, { retry: true })
    this.#effects.push({ do: "fault", error })
  }

  // Subscriptions.

  #ask(key: SubscriptionKey, now: number): void {
    const subscription = this.#subscriptions.get(key)
    if (!this.#isUp || subscription?.state !== "idle") return
    // A dropped one of the same channel may still begin, and would have this one refused.
    for (const other of this.#subscriptions.values()) {
      if (other.state === "dropped" && mayBeSame(other.channel, subscription.channel)) return
    }
    subscription.state = "asked"
    const { channel, position, ephemeral } = subscription
    this.#commands.submit(commands.subscribe(channel, position, ephemeral), { for: "subscribe", key }, now)
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
    const leaving = this.#commands.submit(commands.unsubscribe(channelId), { for: "unsubscribe", channelId }, now, caller)
    this.#routes.set(channelId, { leaving })
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

function mayBeSame(a: ChannelRef, b: ChannelRef): boolean {
  // By name here and by number there: nobody knows.
  if ("id" in a) return !("id" in b) || a.id === b.id
  return !("name" in b) || a.name === b.name
}

function isDense(entries: Entry[]): boolean {
  return entries.every((entry, index) => index === 0 || entry.sequence === (entries[index - 1]?.sequence ?? 0) + 1)
}
