/** Who is told of what. A listener that throws, or whose promise fails, disturbs nobody else. */
export class Listeners<Calls extends { [K in keyof Calls]: unknown[] }> {
  readonly #lists = new Map<keyof Calls, ((...args: never[]) => unknown)[]>()
  readonly #failed: (event: keyof Calls, cause: unknown) => void

  constructor(failed: (event: keyof Calls, cause: unknown) => void) {
    this.#failed = failed
  }

  /** Calls `listener` from now on. The answer ends that. */
  on<K extends keyof Calls>(event: K, listener: (...args: Calls[K]) => unknown): () => void {
    // An own function each time, so that the same listener added twice is ended once by each answer.
    const entry = (...args: never[]): unknown => listener(...(args as unknown as Calls[K]))
    this.#lists.set(event, [...(this.#lists.get(event) ?? []), entry])
    return () => {
      const rest = (this.#lists.get(event) ?? []).filter((other) => other !== entry)
      this.#lists.set(event, rest)
    }
  }

  has(event: keyof Calls): boolean {
    return (this.#lists.get(event)?.length ?? 0) > 0
  }

  emit<K extends keyof Calls>(event: K, ...args: Calls[K]): void {
    // Lists are replaced and never changed, so a listener may add and end listeners.
    for (const entry of this.#lists.get(event) ?? []) {
      try {
        const result = (entry as (...args: Calls[K]) => unknown)(...args)
        if (result instanceof Promise) result.catch((cause: unknown) => this.#failed(event, cause))
      } catch (cause) {
        this.#failed(event, cause)
      }
    }
  }
}
