/**
 * The client: performs what the connection and the session want done, and feeds them what happened.
 * They decide; this file only has the clock, the WebSocket, the promises and the listeners.
 */
import { Backoff } from "./backoff.js"
import { Channel, type ChannelHost } from "./channel.js"
import { decode, type Answer, type AnswerKind, type ServerEvent } from "./codec.js"
import {
  commands,
  type Command,
  type ListOptions,
  type NewChannel,
  type PageOptions,
  type SettingsUpdate,
} from "./commands.js"
import { Connection, type ConnectionEffect, type ConnectionState } from "./connection.js"
import { HubbubError } from "./errors.js"
import { BACKOFF_MAX_MS, BACKOFF_MIN_MS, CHANNELS_MAX, REPLY_TIMEOUTS_MAX, TIMEOUT_MS, TIMER_MS_MAX } from "./limits.js"
import { Listeners } from "./listeners.js"
import { Session, type Delivery, type Effect, type SubscriptionKey } from "./session.js"
import { openSocket, type Socket, type WebSocketClass } from "./socket.js"
import type { TokenReason } from "./token.js"
import { UserNames } from "./users.js"
import type { ChannelInfo, User, Welcome } from "./values.js"

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  setTimeout(run: () => void, delayMs: number): unknown
  clearTimeout(timer: unknown): void
}

export interface HubbubOptions {
  /**
   * The only way to a token. Throw a `HubbubError` with `retry: false` when there is no login any
   * more; after anything else that is thrown it is called again.
   */
  getToken: (why: { reason: TokenReason }) => Promise<string>
  /** For Node 20: that of the package `ws`. */
  WebSocket?: WebSocketClass | undefined
  /** How long a command may take, reconnects included. 15,000 if you do not say. */
  timeoutMs?: number | undefined
  /** 500 to 20,000 if you do not say. */
  backoff?: { minMs: number; maxMs: number } | undefined
  /** For tests. */
  random?: (() => number) | undefined
  /** For tests. */
  clock?: Clock | undefined
}

/** What a client tells its listeners, and with which arguments. */
export interface HubbubEvents {
  state: [state: ConnectionState]
  welcome: [welcome: Welcome]
  lagging: [lagging: { outboxBytes: number }]
  goingAway: [goingAway: { retryAfterMs: number }]
  /** What nobody else is told: a listener that threw, a server that broke the protocol. */
  error: [error: HubbubError]
}

export interface ChannelPage {
  channels: ChannelInfo[]
  next?: string | undefined
}

type Ticket = (answer: Answer | HubbubError) => void

const CLOCK: Clock = {
  now: () => Date.now(),
  setTimeout: (run, delayMs) => setTimeout(run, delayMs),
  clearTimeout: (timer) => clearTimeout(timer as Parameters<typeof clearTimeout>[0]),
}

export class Hubbub {
  readonly #url: string
  readonly #getToken: HubbubOptions["getToken"]
  readonly #WebSocket: WebSocketClass
  readonly #timeoutMs: number
  readonly #random: () => number
  readonly #clock: Clock
  readonly #connection: Connection
  readonly #session: Session<Ticket>
  readonly #host: ChannelHost
  readonly #channels = new Map<string, Channel>()
  readonly #deliveries = new Map<SubscriptionKey, (delivery: Delivery) => void>()
  readonly #names: UserNames
  readonly #listeners: Listeners<HubbubEvents>
  #socket: Socket | undefined
  #user: User | undefined
  #timer: { handle: unknown } | undefined
  /** The first call that needs a connection makes one. */
  #isFresh = true
  #isPerforming = false

  /** `url` is `ws://…/v1/ws` or `wss://…/v1/ws`. */
  constructor(url: string, options: HubbubOptions) {
    if (!/^wss?:\/\//.test(url)) throw new HubbubError("invalid_argument", `${url} is no WebSocket URL`)
    const WebSocket: WebSocketClass | undefined = options.WebSocket ?? globalThis.WebSocket
    if (WebSocket === undefined) {
      throw new HubbubError("invalid_argument", "there is no WebSocket here: pass that of the package ws")
    }
    this.#url = url
    this.#getToken = options.getToken
    this.#WebSocket = WebSocket
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS
    this.#random = options.random ?? Math.random
    this.#clock = options.clock ?? CLOCK
    const { minMs, maxMs } = options.backoff ?? { minMs: BACKOFF_MIN_MS, maxMs: BACKOFF_MAX_MS }
    const backoff = (): Backoff => new Backoff(minMs, maxMs)
    this.#connection = new Connection({ backoff: backoff(), steadyMs: maxMs, timeoutMs: this.#timeoutMs })
    this.#session = new Session({ backoff, replyTimeoutMs: this.#timeoutMs * REPLY_TIMEOUTS_MAX })
    this.#listeners = new Listeners((event, cause) => {
      const error = new HubbubError("listener", `a listener of ${event} threw`, { cause })
      // Not to the listener of errors that threw: it would throw again.
      if (event === "error") console.error("hubbub:", error, cause)
      else this.#report(error)
    })
    this.#names = new UserNames(async (ids) => (await this.#command(commands.users(ids))).users)
    this.#host = {
      now: () => this.#clock.now(),
      command: (command, timeoutMs) => this.#command(command, timeoutMs),
      subscribe: (...args) => this.#subscribe(...args),
      renamed: (channel, before) => this.#renamed(channel, before),
      report: (error) => this.#report(error),
    }
  }

  get state(): ConnectionState {
    return this.#connection.state
  }

  /** Who is logged in, from the first welcome on. */
  get user(): User | undefined {
    return this.#user
  }

  /** Connects, and again whenever the connection breaks. The first command does it by itself. */
  connect(): void {
    this.#isFresh = false
    this.#run((now) => this.#connection.connect(now))
  }

  /**
   * Ends that. All that waits for an answer fails with `disconnected`; subscriptions stay, and resume
   * where they stopped with the next `connect`.
   */
  disconnect(): void {
    this.#isFresh = false
    this.#run(() => this.#connection.disconnect())
  }

  /** Skips the wait before the next attempt. While connected: asks at once whether the server still answers. */
  retryNow(): void {
    this.#run((now) => this.#connection.retryNow(now))
  }

  /** Calls `listener` for each. The answer ends that. */
  on<K extends keyof HubbubEvents>(event: K, listener: (...args: HubbubEvents[K]) => unknown): () => void {
    return this.#listeners.on(event, listener)
  }

  /** The channel of this name: the same object each time, also after a renaming that it has seen. */
  channel(name: string): Channel {
    const known = this.#channels.get(name)
    if (known) return known
    if (this.#channels.size >= CHANNELS_MAX) {
      for (const [other, { state }] of this.#channels) {
        if (state === "unsubscribed") this.#channels.delete(other)
      }
    }
    const channel = new Channel(this.#host, name)
    this.#channels.set(name, channel)
    return channel
  }

  /** The names behind these numbers; remembered. Who does not exist is missing. */
  users(ids: number[]): Promise<Map<number, string>> {
    return this.#names.lookUp(ids)
  }

  /** All users of exactly this name. */
  async findUsers(name: string): Promise<User[]> {
    const { users } = await this.#command(commands.findUsers(name))
    this.#names.learn(users)
    return users
  }

  /** If a reply is lost on the way, the attempt that follows is told `channel_exists`. */
  async createChannel(channel: NewChannel): Promise<ChannelInfo> {
    return (await this.#command(commands.createChannel(channel))).channel
  }

  async getChannel(name: string): Promise<ChannelInfo> {
    return (await this.#command(commands.getChannel({ name }))).channel
  }

  /** A page of the public channels, by name. While `next` is there, ask again with `after`. */
  async listChannels(options: ListOptions = {}): Promise<ChannelPage> {
    const { channels, next } = await this.#command(commands.listChannels(options))
    return { channels, next }
  }

  /** Changes what is named, and leaves the rest. */
  async updateChannel(name: string, changes: SettingsUpdate): Promise<ChannelInfo> {
    return (await this.#command(commands.updateChannel({ name }, changes))).channel
  }

  /** Removes a channel and all that is in it, for good. */
  async deleteChannel(name: string): Promise<void> {
    await this.#command(commands.deleteChannel({ name }))
  }

  /** A page of the channels that the user is a member of, private ones too. */
  async memberships(options: PageOptions = {}): Promise<ChannelPage> {
    const { channels, next } = await this.#command(commands.listMemberships(options))
    return { channels, next }
  }

  async #command<K extends AnswerKind>(
    command: Command<K>,
    timeoutMs = this.#timeoutMs,
  ): Promise<Extract<Answer, { kind: K }>> {
    this.#ensure()
    return new Promise((resolve, reject) => {
      const ticket = (answer: Answer | HubbubError): void => {
        if (answer instanceof HubbubError) reject(answer)
        // The session has compared the kinds.
        else resolve(answer as Extract<Answer, { kind: K }>)
      }
      this.#run((now) => this.#session.command(command, ticket, now + timeoutMs, now))
    })
  }

  #subscribe(...[channel, options, begun, deliver]: Parameters<ChannelHost["subscribe"]>): () => Promise<void> {
    this.#ensure()
    let key: SubscriptionKey = 0
    const end = (): Promise<void> => {
      this.#deliveries.delete(key)
      return new Promise((resolve, reject) => {
        const ticket = (answer: Answer | HubbubError): void =>
          answer instanceof HubbubError ? reject(answer) : resolve()
        this.#run((now) => this.#session.unsubscribe(key, now, { ticket, deadline: now + this.#timeoutMs }))
      })
    }
    const ticket = (answer: Answer | HubbubError): void => {
      if (answer instanceof HubbubError) this.#deliveries.delete(key)
      begun(answer)
    }
    this.#run((now) => {
      key = this.#session.subscribe(channel, options, ticket, now + this.#timeoutMs, now)
      this.#deliveries.set(key, deliver)
    })
    return end
  }

  #renamed(channel: Channel, before: string): void {
    if (this.#channels.get(before) === channel) this.#channels.delete(before)
    // Who already has a subscription by that name keeps it: both are the same channel, then.
    const other = this.#channels.get(channel.name)
    if (!other || other.state === "unsubscribed") this.#channels.set(channel.name, channel)
  }

  /** There must be a connection, or somebody who tries for one. */
  #ensure(): void {
    if (this.#isFresh) this.connect()
    const { state } = this
    if (state.state !== "disconnected") return
    throw state.reason ?? new HubbubError("disconnected", "the client is not connected")
  }

  #report(error: HubbubError): void {
    if (this.#listeners.has("error")) this.#listeners.emit("error", error)
    else console.error("hubbub:", error)
  }

  /**
   * An input, and then all that follows from it. A listener's calls come back here: they only queue.
   * `arms`: the input may have set or ended a time limit.
   */
  #run(input: (now: number) => void, arms = true): void {
    input(this.#clock.now())
    if (arms) this.#disarm()
    if (this.#isPerforming) return
    this.#isPerforming = true
    try {
      for (;;) {
        const wanted = this.#connection.effects()
        const effects = this.#session.effects()
        if (wanted.length === 0 && effects.length === 0) break
        // All but deliveries may have set or ended a time limit.
        if (wanted.length > 0 || effects.some((effect) => effect.do !== "deliver")) this.#disarm()
        for (const effect of wanted) this.#connect(effect)
        for (const effect of effects) this.#perform(effect)
      }
    } finally {
      this.#isPerforming = false
    }
    if (!this.#timer) this.#arm()
  }

  #perform(effect: Effect<Ticket>): void {
    const now = this.#clock.now()
    switch (effect.do) {
      case "send":
        return this.#socket?.send(effect.frame)
      case "answer":
        return effect.ticket(effect.answer)
      case "deliver":
        this.#deliveries.get(effect.key)?.(effect.delivery)
        if (effect.delivery.kind === "ended") this.#deliveries.delete(effect.key)
        return
      case "renewed":
        return this.#connection.renewed(effect.outcome, now)
      case "goingAway":
        this.#connection.goingAway(effect.retryAfterMs)
        return this.#listeners.emit("goingAway", { retryAfterMs: effect.retryAfterMs })
      case "lagging":
        return this.#listeners.emit("lagging", { outboxBytes: effect.outboxBytes })
      case "fault":
        return this.#connection.failed(effect.error, now, this.#random())
    }
  }

  #connect(effect: ConnectionEffect): void {
    const now = this.#clock.now()
    switch (effect.do) {
      case "getToken":
        return this.#askForToken(effect.reason, effect.serial)
      case "open":
        return this.#open(effect.token)
      case "close":
        this.#socket?.close(effect.politely)
        this.#socket = undefined
        return
      case "welcome":
        this.#user = effect.welcome.user
        this.#names.learn([effect.welcome.user])
        this.#session.connected(effect.welcome, now)
        return this.#listeners.emit("welcome", effect.welcome)
      case "lost":
        this.#socket = undefined
        return this.#session.disconnected(now)
      case "abandon":
        this.#socket = undefined
        return this.#session.abandon(effect.reason, now)
      case "authenticate":
        return this.#session.authenticate(effect.token, now)
      case "probe":
        return this.#session.probe(now)
      case "state":
        return this.#listeners.emit("state", effect.state)
      case "report":
        return this.#report(effect.error)
    }
  }

  #askForToken(reason: TokenReason, serial: number): void {
    const give = (answer: string | HubbubError): void =>
      this.#run((now) => this.#connection.gotToken(serial, answer, now, this.#random()))
    // In a function of its own, so that one that throws is as good as one that rejects.
    const ask = async (): Promise<string> => await this.#getToken({ reason })
    ask().then(give, (cause: unknown) => {
      const words = "getToken failed"
      give(cause instanceof HubbubError ? cause : new HubbubError("token", words, { retry: true, cause }))
    })
  }

  #open(token: string): void {
    try {
      const socket = openSocket(this.#WebSocket, this.#url, token, {
        frame: (bytes) => this.#frame(bytes),
        closed: (code, reason) =>
          this.#run((now) => this.#connection.closed(code, reason, now, this.#random())),
      })
      this.#socket = socket
    } catch (cause) {
      const error = new HubbubError("invalid_argument", "the WebSocket cannot be opened", { cause })
      this.#connection.impossible(error)
    }
  }

  #frame(bytes: Uint8Array | undefined): void {
    let event: ServerEvent
    try {
      if (!bytes) throw new HubbubError("protocol", "a frame of text came")
      event = decode(bytes)
      if (this.#connection.isOpening !== (event.kind === "welcome")) {
        throw new HubbubError("protocol", "the connection did not begin with one welcome")
      }
    } catch (error) {
      const why = error instanceof HubbubError ? error : new HubbubError("protocol", "a frame", { cause: error })
      return this.#run((now) => this.#connection.failed(why, now, this.#random()))
    }
    // Messages are many, and set no timer.
    const arms = event.kind === "reply" || event.kind === "welcome" || event.kind === "subscriptionEnded"
    this.#run((now) => {
      this.#connection.heard(now)
      if (event.kind === "welcome") this.#connection.welcomed(event.welcome, now)
      else this.#session.event(event, now, this.#random())
    }, arms)
  }

  #disarm(): void {
    if (this.#timer) this.#clock.clearTimeout(this.#timer.handle)
    this.#timer = undefined
  }

  /** One timer, for whatever comes first. */
  #arm(): void {
    const at = Math.min(this.#connection.nextTick() ?? Infinity, this.#session.nextTick() ?? Infinity)
    if (at === Infinity) return
    const delayMs = Math.min(Math.max(at - this.#clock.now(), 0), TIMER_MS_MAX)
    const handle = this.#clock.setTimeout(() => {
      this.#run((now) => {
        this.#connection.tick(now, this.#random())
        this.#session.tick(now)
      })
    }, delayMs)
    this.#timer = { handle }
  }
}
