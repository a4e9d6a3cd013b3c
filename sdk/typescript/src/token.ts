/** Which token to use, and when the next one is due. Pure. */
import { RENEWAL_SPACING_MS_MAX, TIMER_MS_MAX } from "./limits.js"

/** Why a token is wanted: for a first login, before the one in use runs out, or after it was refused. */
export type TokenReason = "connect" | "renew" | "refused"

const RENEWAL_MS_MIN = 1_000

export class TokenKeeper {
  #token: string | undefined
  #expiresAt = Infinity
  #wasWelcomed = false
  #isRefused = false
  /** The least time to the next renewal; it grows while renewals come too soon. */
  #spacingMs = RENEWAL_MS_MIN

  /**
   * The token for the next connection, or why another one is to be fetched. One that was welcomed is
   * used again: a reconnect must cost no password hash.
   */
  forConnection(now: number): { token: string } | { reason: TokenReason } {
    if (this.#token !== undefined && now < this.#expiresAt) return { token: this.#token }
    if (this.#isRefused) return { reason: "refused" }
    return { reason: this.#wasWelcomed ? "renew" : "connect" }
  }

  /** Here is a new one. */
  fetched(token: string): void {
    this.#token = token
    this.#expiresAt = Infinity
    this.#wasWelcomed = false
    this.#isRefused = false
  }

  /** The server took it, and says until when. */
  accepted(expiresAt: number): void {
    this.#wasWelcomed = true
    this.#expiresAt = expiresAt
  }

  /** The server refused it. Answers whether it had been accepted before, and so may only be stale. */
  refused(): boolean {
    const wasWelcomed = this.#wasWelcomed
    this.#token = undefined
    this.#isRefused = true
    this.#wasWelcomed = false
    return wasWelcomed
  }

  forget(): void {
    this.#token = undefined
    this.#wasWelcomed = false
    this.#isRefused = false
  }

  /**
   * When to renew: after four fifths of what is left. If the two clocks disagree, that may be at once,
   * each time; so renewals that come soon get further and further apart.
   */
  renewalAt(now: number): number {
    const left = (this.#expiresAt - now) * 0.8
    const wait = Math.min(Math.max(left, this.#spacingMs), TIMER_MS_MAX)
    this.#spacingMs = left > this.#spacingMs ? RENEWAL_MS_MIN : Math.min(this.#spacingMs * 2, RENEWAL_SPACING_MS_MAX)
    return now + wait
  }
}
