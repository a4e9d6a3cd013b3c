/** One channel: its subscription, and what can be done in it. */
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
} from "./codec.js"
import type { HubbubError, Position } from "./errors.js"

export type SubscriptionState = "unsubscribed" | "subscribing" | "subscribed"

/** What a channel tells its listeners. */
export interface ChannelEvents {
  /** A message that people wrote. */
  message: Message
  /** A change of members or settings, or the end of the channel. */
  change: ChannelChange
  /** Both, a run at a time, in order: `[entries, how]`. */
  entries: { entries: Entry[]; how: "live" | "replay" }
  /** These are not delivered, both included: page them from `history`. What comes after follows. */
  gap: { from: number; to: number }
  /** The numbering began anew: throw away what you have. The channel follows from its first message. */
  reset: { head: Position }
  state: SubscriptionState
  /** The server ended the subscription, for good. */
  ended: HubbubError
  /** Who is in the channel, after each change. With `ephemeral`. */
  presence: Presence
  /** These users are writing, for 6 seconds or until a message of theirs. With `ephemeral`. */
  typing: { userIds: number[] }
  /** This user has read on, on another connection. With `ephemeral`. */
  readMarker: { position: Position }
}

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

export interface Channel {
  readonly name: string
  readonly id: number | undefined
  readonly state: SubscriptionState
  /** The last that was delivered. */
  readonly position: Position | undefined
  /** The newest sequence that is known of. */
  readonly head: number
  readonly presence: Presence

  /** Calls `listener` for each; the answer ends that. */
  on<K extends keyof ChannelEvents>(event: K, listener: ChannelListener<K>): () => void

  subscribe(options?: SubscribeOptions): Promise<{ epoch: number; head: number }>
  unsubscribe(): Promise<void>
  publish(body: string, options?: PublishOptions): Promise<Published>
  history(options?: HistoryOptions): Promise<HistoryPage>
  typing(): void
  markRead(sequence: number): Promise<void>
  getPresence(): Promise<Presence>
  info(): Promise<ChannelInfo>
  join(): Promise<Member>
  leave(): Promise<Member>
  members(options?: {
    after?: string | undefined
    limit?: number | undefined
  }): Promise<{ members: Member[]; next?: string | undefined }>
  setMember(userId: number, role?: Role): Promise<Member>
  removeMember(userId: number): Promise<Member>
}

/** `entries` is called with two arguments, every other event with one. */
export type ChannelListener<K extends keyof ChannelEvents> = K extends "entries"
  ? (entries: Entry[], how: "live" | "replay") => unknown
  : (event: ChannelEvents[K]) => unknown
