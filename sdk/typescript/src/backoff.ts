/**
 * How long to wait before the next attempt. Pure: the caller brings the randomness.
 *
 * Exponential with full jitter: the n-th wait is drawn evenly from zero up to a ceiling that doubles.
 * The jitter is full because clients of one server lose their connections together, and must not come
 * back together.
 */
export class Backoff {
  #attempts = 0
  readonly #minMs: number
  readonly #maxMs: number

  constructor(minMs: number, maxMs: number) {
    this.#minMs = minMs
    this.#maxMs = maxMs
  }

  /**
   * The next wait in milliseconds. `uniform` is drawn evenly from 0 up to, not including, 1. What the
   * server asked for wins: it knows how many others are waiting.
   */
  next(uniform: number, retryAfterMs?: number): number {
    // Past the thirtieth doubling the maximum rules in any case.
    const ceiling = Math.min(this.#minMs * 2 ** Math.min(this.#attempts, 30), this.#maxMs)
    this.#attempts += 1
    return retryAfterMs ?? Math.round(ceiling * uniform)
  }

  /** Begins anew, after a success. */
  reset(): void {
    this.#attempts = 0
  }
}
