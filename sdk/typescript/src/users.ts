/** The names behind user numbers: remembered, and asked for in batches, one at a time. */
import { HubbubError } from "./errors.js"
import { USERS_MAX, USERS_PER_COMMAND, USERS_WAITING_MAX } from "./limits.js"
import type { User } from "./values.js"

interface Batch {
  ids: Set<number>
  names: Promise<Map<number, string>>
}

export class UserNames {
  readonly #known = new Map<number, string>()
  readonly #ask: (ids: number[]) => Promise<User[]>
  /** Batches that are not answered, in order. */
  #batches: Batch[] = []
  /** The one that still takes ids. */
  #open: Batch | undefined

  constructor(ask: (ids: number[]) => Promise<User[]>) {
    this.#ask = ask
  }

  learn(users: User[]): void {
    for (const { id, name } of users) {
      if (this.#known.size >= USERS_MAX) this.#known.clear()
      this.#known.set(id, name)
    }
  }

  /** Whoever does not exist is missing in the answer. */
  async lookUp(ids: number[]): Promise<Map<number, string>> {
    const names = new Map<number, string>()
    const batches = new Set<Batch>()
    for (const id of new Set(ids)) {
      const name = this.#known.get(id)
      if (name === undefined) batches.add(this.#batchOf(id))
      else names.set(id, name)
    }
    for (const batch of batches) {
      const found = await batch.names
      for (const id of ids) {
        const name = found.get(id)
        if (name !== undefined) names.set(id, name)
      }
    }
    return names
  }

  #batchOf(id: number): Batch {
    const waiting = this.#batches.find(({ ids }) => ids.has(id))
    if (waiting) return waiting
    if (this.#batches.length * USERS_PER_COMMAND >= USERS_WAITING_MAX) {
      throw new HubbubError("busy", "too many names are being asked for", { retry: true })
    }
    if (!this.#open || this.#open.ids.size >= USERS_PER_COMMAND) this.#open = this.#begin()
    this.#open.ids.add(id)
    return this.#open
  }

  #begin(): Batch {
    // After the one before, whatever becomes of that.
    const before = this.#batches.at(-1)?.names.then(ignore, ignore) ?? Promise.resolve()
    const ids = new Set<number>()
    const names = before.then(async () => {
      if (this.#open === batch) this.#open = undefined
      try {
        const users = await this.#ask([...ids])
        this.learn(users)
        return new Map(users.map(({ id, name }) => [id, name]))
      } finally {
        this.#batches = this.#batches.filter((other) => other !== batch)
      }
    })
    // Who asked hears of it; nobody may have got that far.
    names.catch(ignore)
    const batch: Batch = { ids, names }
    this.#batches.push(batch)
    return batch
  }
}

function ignore(): void {}
