/** One channel: its subscription, and what can be done in it. */
import type { Answer, AnswerKind } from "./codec.js"
import { commands, newMessageId, type ChannelRef, type Command, type PageOptions } from "./commands.js"
import { HubbubError, type Position } from "./errors.js"
import { TYPING_INTERVAL_MS } from "./limits.js"
import { Listeners } from "./listeners.js"
import { PresenceList } from "./presence.js"
import type { Delivery } from "./session.js"
import type {
  ChannelChange,
  ChannelInfo,
  Entry,
  HistoryPage,
  Member,
  Message,
  Presence,
  Published,
  Role,
} from "./values.js"

export type SubscriptionState = "unsubscribed" | "subscribing" | "subscribed"

/** What a channel tells its listeners, and with which arguments. */
export interface ChannelEvents {
  /** A message that people wrote. */
  message: [message: Message]
  /** A change of members or settings, or the end of the channel. */
  change: [change: ChannelChange]
  /**
   * All that the log holds, a run at a time, in order; after the events of its single entries.
   * `replay`: it was there before the subscription began or resumed.
   */
  entries: [entries: Entry[], how: "live" | "replay"]
  /** These are not delivered, both included: page them from `history`. What comes after follows. */
  gap: [gap: { from: number; to: number }]
  /** The numbering began anew: throw away what you have. The channel follows from its first message. */
  reset: [reset: { head: Position }]
  state: [state: SubscriptionState]
  /** The server ended the subscription, for good. */
  ended: [error: HubbubError]
  /** Who is in the channel, after each change. This and the next two: with `ephemeral`. */
  presence: [presence: Presence]
  /** These users are writing, for 6 seconds or until a message of theirs. */
  typing: [typing: { userIds: number[] }]
  /** This user has read on, on another connection. */
  readMarker: [marker: { position: Position }]
}

export type ChannelListener<K extends keyof ChannelEvents> = (...args: ChannelEvents[K]) => unknown

export interface SubscribeOptions {
  /** Where you stopped: what came since then is delivered first. */
  since?: Position | undefined
  /** Presence, typing and read markers too. */
  ephemeral?: boolean | undefined
}

export interface PublishOptions {
  /** To retry a publish whose outcome is not known: the id in the error. */
  clientMessageId?: string | undefined
  timeoutMs?: number | undefined
}

export interface HistoryOptions {
  /** The page that ends just before this sequence. */
  before?: number | undefined
  /** The page that begins just after this sequence. Neither: the newest page. */
  after?: number | undefined
  limit?: number | undefined
}

/** What a channel needs of its client. */
export interface ChannelHost {
  now(): number
  command<K extends AnswerKind>(command: Command<K>, timeoutMs?: number): Promise<Extract<Answer, { kind: K }>>
  /** Answers the subscription's end. `begun` is told before the first delivery, or why there is none. */
  subscribe(
    channel: ChannelRef,
    options: SubscribeOptions,
    begun: (answer: Answer | HubbubError) => void,
    deliver: (delivery: Delivery) => void,
  ): () => Promise<void>
  renamed(channel: Channel, before: string): void
  report(error: HubbubError): void
}

/** Made by `Hubbub.channel`. */
export class Channel {
  #name: string
  #id: number | undefined
  #state: SubscriptionState = "unsubscribed"
  #position: Position | undefined
  #head = 0
  /** The last that the server named, for `markRead`. */
  #epoch: number | undefined
  /** Ends the subscription, while there is one; a new one each time, so it also tells them apart. */
  #end: (() => Promise<void>) | undefined
  #typedAt = -Infinity
  #marking: Promise<void> | undefined
  /** The newest sequence that waits for the marker under way. */
  #markNext: { sequence: number; done: Promise<void> } | undefined
  readonly #presence = new PresenceList()
  readonly #listeners: Listeners<ChannelEvents>
  readonly #host: ChannelHost

  constructor(host: ChannelHost, name: string) {
    this.#host = host
    this.#name = name
    this.#listeners = new Listeners((event, cause) => {
      host.report(new HubbubError("listener", `a listener of ${event} threw`, { cause }))
    })
  }

  /** Its name now: it follows a renaming while subscribed. */
  get name(): string {
    return this.#name
  }

  /** Known from the first answer on. */
  get id(): number | undefined {
    return this.#id
  }

  get state(): SubscriptionState {
    return this.#state
  }

  /** The last that was delivered: what to subscribe `since`, also after the end of a subscription. */
  get position(): Position | undefined {
    return this.#position && { ...this.#position }
  }

  /** The newest sequence that is known of. */
  get head(): number {
    return this.#head
  }

  /** Who is in the channel, as far as is known: kept current with `ephemeral`. */
  get presence(): Presence {
    return this.#presence.current
  }

  /** Calls `listener` for each. The answer ends that. */
  on<K extends keyof ChannelEvents>(event: K, listener: ChannelListener<K>): () => void {
    return this.#listeners.on(event, listener)
  }

  /**
   * Starts delivery, and keeps it up over reconnects without hole or repeat, until `unsubscribe` or
   * the event `ended`. Resolves when the server has begun.
   */
  subscribe(options: SubscribeOptions = {}): Promise<{ epoch: number; head: number }> {
    return new Promise((resolve, reject) => {
      if (this.#end) {
        reject(new HubbubError("already_subscribed", `${this.#name} is subscribed already`, { number: 303 }))
        return
      }
      let end: (() => Promise<void>) | undefined
      let isRefused = false
      const begun = (answer: Answer | HubbubError): void => {
        if (answer instanceof HubbubError) {
          isRefused = true
          if (end && this.#end === end) this.#over(answer)
          reject(answer)
        } else if (answer.kind === "subscribed") resolve({ epoch: answer.epoch, head: answer.head })
      }
      try {
        end = this.#host.subscribe(this.#ref(), options, begun, (delivery) => {
          if (end && this.#end === end) this.#deliver(delivery, end)
        })
        // At once, without a word with the server.
        if (isRefused) return
        this.#end = end
        this.#become("subscribing")
      } catch (error) {
        reject(error)
      }
    })
  }

  /** Ends delivery at once; resolves when the server knows. */
  unsubscribe(): Promise<void> {
    const end = this.#end
    if (!end) return Promise.resolve()
    this.#over()
    return end()
  }

  /**
   * Adds a message, and resolves when it is durable. Sent again over reconnects until `timeoutMs` has
   * passed, by the same id, so that it is stored once. After `timeout`, `disconnected` or `internal`
   * nobody knows whether it was; publish it again with the error's `clientMessageId`.
   */
  async publish(body: string, options: PublishOptions = {}): Promise<Published> {
    const clientMessageId = options.clientMessageId ?? newMessageId()
    try {
      const command = commands.publish(this.#ref(), clientMessageId, body)
      const { epoch, sequence, at, durability, channelId } = await this.#command(command, options.timeoutMs)
      this.#learn(channelId, epoch, sequence)
      return { epoch, sequence, at, clientMessageId, durability }
    } catch (error) {
      throw error instanceof HubbubError ? error.about(clientMessageId) : error
    }
  }

  /** A page of the log, ascending. It may be shorter than `limit` without being the last. */
  async history(options: HistoryOptions = {}): Promise<HistoryPage> {
    const { before, after, limit } = options
    const { page, channelId } = await this.#command(commands.history(this.#ref(), before, after, limit))
    this.#learn(channelId, page.epoch, page.head)
    return page
  }

  /** The user is writing. Call it with each key: one frame in 3 seconds is sent, and none when not connected. */
  typing(): void {
    const now = this.#host.now()
    if (this.#state !== "subscribed" || now - this.#typedAt < TYPING_INTERVAL_MS) return
    this.#typedAt = now
    this.#command(commands.sendTyping(this.#ref()), TYPING_INTERVAL_MS).catch((error: unknown) => {
      // What may pass later is too late by then.
      if (error instanceof HubbubError && !error.retry) this.#host.report(error)
    })
  }

  /** The user has read up to here. One marker at a time is under way; of those that wait, the newest wins. */
  markRead(sequence: number): Promise<void> {
    if (!this.#marking) {
      const done = this.#mark(sequence).finally(() => {
        this.#marking = undefined
      })
      this.#marking = done
      return done
    }
    if (this.#markNext) {
      this.#markNext.sequence = Math.max(this.#markNext.sequence, sequence)
      return this.#markNext.done
    }
    const goOn = (): Promise<void> => {
      const next = this.#markNext?.sequence ?? sequence
      this.#markNext = undefined
      return this.markRead(next)
    }
    const done = this.#marking.then(goOn, goOn)
    this.#markNext = { sequence, done }
    return done
  }

  /** Asks who is in the channel now. */
  async getPresence(): Promise<Presence> {
    const { presence } = await this.#command(commands.getPresence(this.#ref()))
    // By itself: the list that events keep current has its own order.
    return new PresenceList().apply(presence)
  }

  /** Asks what the channel is now. */
  async info(): Promise<ChannelInfo> {
    const { channel } = await this.#command(commands.getChannel(this.#ref()))
    this.#learn(channel.id, channel.head?.epoch, channel.head?.sequence)
    return channel
  }

  join(): Promise<Member> {
    return this.#member(commands.join(this.#ref()))
  }

  leave(): Promise<Member> {
    return this.#member(commands.leave(this.#ref()))
  }

  /** A page of the members, by number. */
  async members(options: PageOptions = {}): Promise<{ members: Member[]; next?: string | undefined }> {
    const { members, next } = await this.#command(commands.listMembers(this.#ref(), options))
    return { members, next }
  }

  /** Invites a user, or gives a member another role. */
  setMember(userId: number, role?: Role): Promise<Member> {
    return this.#member(commands.setMember(this.#ref(), userId, role))
  }

  removeMember(userId: number): Promise<Member> {
    return this.#member(commands.removeMember(this.#ref(), userId))
  }

  async #member(command: Command<"member">): Promise<Member> {
    const { member, channelId } = await this.#command(command)
    this.#learn(channelId)
    return member
  }

  async #mark(sequence: number): Promise<void> {
    // Of its own, so that it comes after the caller has its promise.
    await Promise.resolve()
    if (this.#epoch === undefined) {
      throw new HubbubError("not_subscribed", "nothing of this channel was read yet", { number: 304 })
    }
    await this.#command(commands.markRead(this.#ref(), { epoch: this.#epoch, sequence }))
  }

  /** By number as soon as it is known: the name may change. */
  #ref(): ChannelRef {
    return this.#id === undefined ? { name: this.#name } : { id: this.#id }
  }

  async #command<K extends AnswerKind>(
    command: Command<K>,
    timeoutMs?: number,
  ): Promise<Extract<Answer, { kind: K }>> {
    try {
      return await this.#host.command(command, timeoutMs)
    } catch (error) {
      // Deleted, perhaps, and there may be another one of this name by the next call.
      if (error instanceof HubbubError && error.code === "unknown_channel" && !this.#end) this.#id = undefined
      throw error
    }
  }

  #learn(id: number, epoch?: number, head?: number): void {
    this.#id = id
    if (epoch !== undefined && epoch !== this.#epoch) {
      this.#epoch = epoch
      this.#head = 0
    }
    if (head !== undefined) this.#head = Math.max(this.#head, head)
  }

  #deliver(delivery: Delivery, end: () => Promise<void>): void {
    switch (delivery.kind) {
      case "subscribing":
        return this.#become("subscribing")
      case "subscribed":
        this.#learn(delivery.channelId, delivery.epoch, delivery.head)
        this.#rename(delivery.name)
        this.#position = delivery.position
        return this.#become("subscribed")
      case "entries":
        return this.#entries(delivery.entries, delivery.how, end)
      case "gap":
        this.#advance(delivery.to)
        return this.#listeners.emit("gap", { from: delivery.from, to: delivery.to })
      case "reset":
        this.#epoch = delivery.head.epoch
        this.#head = delivery.head.sequence
        this.#position = { epoch: delivery.head.epoch, sequence: 0 }
        return this.#listeners.emit("reset", { head: delivery.head })
      case "presence":
        return this.#listeners.emit("presence", this.#presence.apply(delivery.presence))
      case "typing":
        return this.#listeners.emit("typing", { userIds: delivery.userIds })
      case "readMarker":
        return this.#listeners.emit("readMarker", { position: delivery.position })
      case "ended":
        this.#over(delivery.error)
        return this.#listeners.emit("ended", delivery.error)
    }
  }

  #entries(entries: Entry[], how: "live" | "replay", end: () => Promise<void>): void {
    for (const entry of entries) {
      this.#advance(entry.sequence)
      // What was imported is history and changes nothing.
      if (entry.kind === "settings" && entry.writtenAt === undefined) this.#rename(entry.name)
      if (entry.kind === "message") this.#listeners.emit("message", entry)
      else if (entry.kind !== "unknown") this.#listeners.emit("change", entry)
      // A listener may have ended the subscription.
      if (this.#end !== end) return
    }
    this.#listeners.emit("entries", entries, how)
  }

  #advance(sequence: number): void {
    this.#position = { epoch: this.#position?.epoch ?? 0, sequence }
    this.#head = Math.max(this.#head, sequence)
  }

  #rename(name: string): void {
    const before = this.#name
    if (name === before) return
    this.#name = name
    this.#host.renamed(this, before)
  }

  #over(error?: HubbubError): void {
    this.#end = undefined
    this.#presence.forget()
    if (error?.code === "unknown_channel") this.#id = undefined
    this.#become("unsubscribed")
  }

  #become(state: SubscriptionState): void {
    if (state === this.#state) return
    this.#state = state
    this.#listeners.emit("state", state)
  }
}
