/** The client: one connection that comes back, and the channels on it. */
import type { Channel } from "./channel.js"
import type { ChannelInfo, Posting, Quota, User, Visibility, Welcome } from "./codec.js"
import { HubbubError } from "./errors.js"

export type ConnectionState =
  | { state: "disconnected"; reason?: HubbubError | undefined }
  | {
      state: "connecting"
      /** From 1, anew after each connection. */
      attempt: number
      /** While it waits: when the next attempt begins, in milliseconds of the clock. */
      retryAt?: number | undefined
      /** What ended the connection or the attempt before. */
      reason?: HubbubError | undefined
    }
  | { state: "connected" }

/** Why a token is wanted: for a first login, before the one in use runs out, or after it was refused. */
export type TokenReason = "connect" | "renew" | "refused"

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  setTimeout(run: () => void, delayMs: number): unknown
  clearTimeout(timer: unknown): void
}

export interface HubbubOptions {
  /** The only way to a token. Throw a `HubbubError` with `retry: false` when there is no login any more. */
  getToken: (why: { reason: TokenReason }) => Promise<string>
  /** For Node 20: that of the package `ws`. */
  WebSocket?: typeof WebSocket | undefined
  /** How long a command may take, reconnects included. 15,000 if you do not say. */
  timeoutMs?: number | undefined
  /** 500 to 20,000 if you do not say. */
  backoff?: { minMs: number; maxMs: number } | undefined
  /** For tests. */
  random?: (() => number) | undefined
  /** For tests. */
  clock?: Clock | undefined
}

/** What a client tells its listeners. */
export interface HubbubEvents {
  state: ConnectionState
  welcome: Welcome
  lagging: { outboxBytes: number }
  goingAway: { retryAfterMs: number }
  /** What nobody else is told: a listener that threw, a server that broke the protocol. */
  error: HubbubError
}

export interface ChannelPage {
  channels: ChannelInfo[]
  next?: string | undefined
}

const unbuilt = (): never => {
  throw new HubbubError("invalid_argument", "this is a skeleton; merge h-sdk again")
}

export class Hubbub {
  constructor(_url: string, _options: HubbubOptions) {}

  get state(): ConnectionState {
    return unbuilt()
  }

  /** Who is logged in, from the first welcome on. */
  get user(): User | undefined {
    return unbuilt()
  }

  connect(): void {
    unbuilt()
  }

  disconnect(): void {
    unbuilt()
  }

  /** Skips the wait before the next attempt. */
  retryNow(): void {
    unbuilt()
  }

  on<K extends keyof HubbubEvents>(_event: K, _listener: (event: HubbubEvents[K]) => unknown): () => void {
    return unbuilt()
  }

  channel(_name: string): Channel {
    return unbuilt()
  }

  users(_ids: number[]): Promise<Map<number, string>> {
    return unbuilt()
  }

  createChannel(_channel: {
    name: string
    topic?: string | undefined
    visibility?: Visibility | undefined
    posting?: Posting | undefined
    quota?: Quota | undefined
  }): Promise<ChannelInfo> {
    return unbuilt()
  }

  getChannel(_name: string): Promise<ChannelInfo> {
    return unbuilt()
  }

  listChannels(_options?: {
    prefix?: string | undefined
    after?: string | undefined
    limit?: number | undefined
    archived?: boolean | undefined
  }): Promise<ChannelPage> {
    return unbuilt()
  }

  updateChannel(
    _name: string,
    _changes: {
      name?: string | undefined
      topic?: string | undefined
      visibility?: Visibility | undefined
      posting?: Posting | undefined
      archived?: boolean | undefined
      quota?: Quota | undefined
    },
  ): Promise<ChannelInfo> {
    return unbuilt()
  }

  deleteChannel(_name: string): Promise<void> {
    return unbuilt()
  }

  memberships(_options?: { after?: string | undefined; limit?: number | undefined }): Promise<ChannelPage> {
    return unbuilt()
  }

  findUsers(_name: string): Promise<User[]> {
    return unbuilt()
  }
}
