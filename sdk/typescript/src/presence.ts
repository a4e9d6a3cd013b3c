/** Who is in one channel, kept current from the events. Pure. */
import type { Presence, PresenceEvent } from "./values.js"

const NOBODY: Presence = { userCount: 0, connectionCount: 0, userIds: undefined }

export class PresenceList {
  #current: Presence = NOBODY
  /** Undefined: not known, or too many to name. Changes then say nothing until all are named again. */
  #users: Set<number> | undefined

  get current(): Presence {
    return this.#current
  }

  apply(event: PresenceEvent): Presence {
    const { everyone, changes } = event
    if (everyone) this.#users = new Set(everyone)
    else if (!changes) this.#users = undefined
    else if (this.#users) {
      for (const id of changes.left) this.#users.delete(id)
      for (const id of changes.joined) this.#users.add(id)
    }
    this.#current = {
      userCount: event.userCount,
      connectionCount: event.connectionCount,
      userIds: this.#users && [...this.#users].sort((a, b) => a - b),
    }
    return this.#current
  }

  /** Nothing is known any more: the subscription is over. */
  forget(): void {
    this.#users = undefined
    this.#current = NOBODY
  }
}
