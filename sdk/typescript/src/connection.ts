/**
 * The way to the server: getting a token, connecting, noticing that the server is dead, renewing the
 * login, waiting before the next attempt. Pure: time and randomness are arguments, and what is to be
 * done comes out as effects.
 */
import type { Backoff } from "./backoff.js"
import { closed, HubbubError } from "./errors.js"
import { TokenKeeper, type TokenReason } from "./token.js"
import type { Welcome } from "./values.js"

export type ConnectionState =
  | {
      state: "disconnected"
      /** Absent: it was asked for, or never connected. */
      reason?: HubbubError | undefined
    }
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

export type ConnectionEffect =
  /** The answer is for `gotToken`, with the same serial. */
  | { do: "getToken"; reason: TokenReason; serial: number }
  | { do: "open"; token: string }
  /** Politely, or because nobody is there. */
  | { do: "close"; politely: boolean }
  | { do: "welcome"; welcome: Welcome }
  /** Commands and subscriptions wait for the next connection. */
  | { do: "lost" }
  /** Nobody tries any more. */
  | { do: "abandon"; reason: HubbubError }
  | { do: "authenticate"; token: string }
  | { do: "probe" }
  | { do: "state"; state: ConnectionState }
  | { do: "report"; error: HubbubError }

type Link =
  | { is: "off" }
  | { is: "waiting"; until: number }
  | { is: "token" }
  | { is: "opening"; deadline: number }
  | { is: "open"; since: number; heard: number; probedUntil?: number; pingIntervalMs: number; pongTimeoutMs: number; renewAt?: number }

export interface ConnectionOptions {
  backoff: Backoff
  /** A connection that held this long starts the back-off anew. */
  steadyMs: number
  /** For a token, and from the first byte to the welcome. */
  timeoutMs: number
}

export class Connection {
  #link: Link = { is: "off" }
  #state: ConnectionState = { state: "disconnected" }
  #attempt = 0
  #reason: HubbubError | undefined
  /** When `going_away` asked to come back. */
  #retryAfterMs: number | undefined
  /** Until when the one call of `getToken` may take, while one is under way; and which it is. */
  #askingUntil: number | undefined
  #askingSerial = 0
  /** The token that was sent for a renewal and is not answered yet. */
  #renewal: string | undefined
  #effects: ConnectionEffect[] = []
  readonly #token = new TokenKeeper()
  readonly #options: ConnectionOptions

  constructor(options: ConnectionOptions) {
    this.#options = options
  }

  get state(): ConnectionState {
    return this.#state
  }

  effects(): ConnectionEffect[] {
    const effects = this.#effects
    this.#effects = []
    return effects
  }

  connect(now: number): void {
    if (this.#link.is !== "off") return
    this.#attempt = 0
    this.#reason = undefined
    this.#try(now)
  }

  disconnect(): void {
    if (this.#link.is === "off") return
    this.#effects.push({ do: "close", politely: true })
    this.#end(undefined)
  }

  /**
   * Skips the wait before the next attempt. While connected it asks whether the server still answers:
   * who comes back from another network or from sleep has a connection that is dead and does not know.
   */
  retryNow(now: number): void {
    const link = this.#link
    if (link.is === "waiting") this.#try(now)
    else if (link.is === "open" && link.probedUntil === undefined) {
      link.probedUntil = now + link.pongTimeoutMs
      this.#effects.push({ do: "probe" })
    }
  }

  /** `getToken` has answered. */
  gotToken(serial: number, answer: string | HubbubError, now: number, uniform: number): void {
    // A call that had been given up; another user may be logging in by now.
    if (this.#askingUntil === undefined || serial !== this.#askingSerial) return
    this.#askingUntil = undefined
    const link = this.#link
    if (typeof answer === "string") {
      if (link.is === "open") {
        this.#renewal = answer
        this.#effects.push({ do: "authenticate", token: answer })
        return
      }
      this.#token.fetched(answer)
      if (link.is === "token") this.#open(answer, now)
      return
    }
    if (link.is === "token") {
      if (answer.retry) this.#lost(answer, answer.retryAfterMs, now, uniform)
      else this.#end(answer)
    } else {
      // The login holds a while yet. If no attempt passes until then, the server closes with 4001,
      // and the next connection asks for a token and fails for all to see.
      if (answer.retry && link.is === "open") link.renewAt = now + (answer.retryAfterMs ?? this.#options.steadyMs * uniform)
      this.#effects.push({ do: "report", error: answer })
    }
  }

  /** The server said something. */
  heard(now: number): void {
    if (this.#link.is !== "open") return
    this.#link.heard = now
    delete this.#link.probedUntil
  }

  /** The server welcomed us. */
  welcomed(welcome: Welcome, now: number): void {
    if (this.#link.is !== "opening") return
    this.#token.accepted(welcome.expiresAt)
    // A second at least: no server's word may make a loop of it.
    const pingIntervalMs = Math.max(welcome.pingIntervalMs, 1_000)
    const pongTimeoutMs = Math.max(welcome.pongTimeoutMs, 1_000)
    const renewAt = this.#token.renewalAt(now)
    this.#link = { is: "open", since: now, heard: now, pingIntervalMs, pongTimeoutMs, renewAt }
    this.#attempt = 0
    this.#reason = undefined
    this.#effects.push({ do: "welcome", welcome })
    this.#become({ state: "connected" })
  }

  /** Whether the first frame is still to come. */
  get isOpening(): boolean {
    return this.#link.is === "opening"
  }

  /** A renewal was answered: until when the login holds now, or why not. */
  renewed(outcome: number | HubbubError, now: number): void {
    if (outcome instanceof HubbubError) {
      // The connection lives on with the login that it has.
      this.#effects.push({ do: "report", error: outcome })
    } else if (this.#link.is === "open") {
      if (this.#renewal !== undefined) this.#token.fetched(this.#renewal)
      this.#token.accepted(outcome)
      this.#link.renewAt = this.#token.renewalAt(now)
    }
    this.#renewal = undefined
  }

  /** The server will close, and says when to come back. */
  goingAway(retryAfterMs: number): void {
    this.#retryAfterMs = retryAfterMs || undefined
  }

  /** The WebSocket is closed. */
  closed(number: number, reason: string, now: number, uniform: number): void {
    if (this.#link.is !== "opening" && this.#link.is !== "open") return
    const error = closed(number, reason)
    const isAboutToken = error.code === "invalid_token" || error.code === "token_expired"
    const wasWelcomed = isAboutToken && this.#token.refused()
    // A token that was good once may only have become stale: one more attempt with a fresh one.
    if (error.retry || wasWelcomed) this.#lost(error, error.retryAfterMs, now, uniform)
    else this.#end(error)
  }

  /** The connection is of no use any more. */
  failed(error: HubbubError, now: number, uniform: number): void {
    if (this.#link.is !== "opening" && this.#link.is !== "open") return
    this.#effects.push({ do: "close", politely: false })
    // A silent server is the network's doing, and the state tells; a fault is a bug of somebody.
    if (error.code === "protocol") this.#effects.push({ do: "report", error })
    this.#lost(error, undefined, now, uniform)
  }

  /** It cannot even be tried: the browser refuses the address. */
  impossible(error: HubbubError): void {
    this.#end(error)
  }

  nextTick(): number | undefined {
    const link = this.#link
    let earliest = this.#askingUntil ?? Infinity
    if (link.is === "waiting") earliest = Math.min(earliest, link.until)
    if (link.is === "opening") earliest = Math.min(earliest, link.deadline)
    if (link.is === "open") {
      earliest = Math.min(earliest, link.probedUntil ?? link.heard + link.pingIntervalMs, link.renewAt ?? Infinity)
    }
    return earliest === Infinity ? undefined : earliest
  }

  tick(now: number, uniform: number): void {
    if (this.#askingUntil !== undefined && this.#askingUntil <= now) {
      const error = new HubbubError("token", "getToken did not answer in time", { retry: true })
      this.gotToken(this.#askingSerial, error, now, uniform)
    }
    const link = this.#link
    if (link.is === "waiting" && link.until <= now) this.#try(now)
    else if (link.is === "opening" && link.deadline <= now) {
      this.failed(new HubbubError("timeout", "the server did not welcome in time", { retry: true }), now, uniform)
    } else if (link.is === "open") {
      if (link.renewAt !== undefined && link.renewAt <= now) {
        delete link.renewAt
        this.#ask("renew", now)
      }
      if (link.probedUntil !== undefined && link.probedUntil <= now) {
        this.failed(new HubbubError("pong_timeout", "the server has fallen silent", { retry: true }), now, uniform)
      } else if (link.probedUntil === undefined && link.heard + link.pingIntervalMs <= now) {
        link.probedUntil = now + link.pongTimeoutMs
        this.#effects.push({ do: "probe" })
      }
    }
  }

  #try(now: number): void {
    this.#attempt += 1
    const next = this.#token.forConnection(now)
    if ("token" in next) this.#open(next.token, now)
    else {
      this.#link = { is: "token" }
      this.#ask(next.reason, now)
      this.#become({ state: "connecting", attempt: this.#attempt, reason: this.#reason })
    }
  }

  #open(token: string, now: number): void {
    this.#link = { is: "opening", deadline: now + this.#options.timeoutMs }
    this.#retryAfterMs = undefined
    this.#effects.push({ do: "open", token })
    this.#become({ state: "connecting", attempt: this.#attempt, reason: this.#reason })
  }

  /** One call at a time: what is under way already serves. */
  #ask(reason: TokenReason, now: number): void {
    if (this.#askingUntil !== undefined) return
    this.#askingUntil = now + this.#options.timeoutMs
    this.#askingSerial += 1
    this.#effects.push({ do: "getToken", reason, serial: this.#askingSerial })
  }

  #lost(reason: HubbubError, retryAfterMs: number | undefined, now: number, uniform: number): void {
    if (this.#link.is === "open" && now - this.#link.since >= this.#options.steadyMs) this.#options.backoff.reset()
    this.#renewal = undefined
    this.#reason = reason
    const until = now + this.#options.backoff.next(uniform, retryAfterMs ?? this.#retryAfterMs)
    this.#retryAfterMs = undefined
    this.#link = { is: "waiting", until }
    this.#effects.push({ do: "lost" })
    this.#become({ state: "connecting", attempt: this.#attempt + 1, retryAt: until, reason })
  }

  #end(reason: HubbubError | undefined): void {
    this.#link = { is: "off" }
    // Who connects next may be somebody else.
    this.#token.forget()
    this.#askingUntil = undefined
    this.#renewal = undefined
    this.#retryAfterMs = undefined
    this.#options.backoff.reset()
    this.#effects.push({ do: "abandon", reason: reason ?? new HubbubError("disconnected", "the client was disconnected") })
    this.#become({ state: "disconnected", reason })
  }

  #become(state: ConnectionState): void {
    const before = this.#state
    this.#state = state
    const isSame =
      before.state === "connecting" && state.state === "connecting" &&
      before.attempt === state.attempt && before.retryAt === state.retryAt && before.reason === state.reason
    if (!isSame) this.#effects.push({ do: "state", state })
  }
}
