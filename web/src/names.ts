// User numbers → names: asked for once, many at a time, and told when they are there.
import type { Hubbub } from "@hubbub/client";

const ASKED_MAX = 200;

export class Names {
  readonly #known = new Map<number, string>();
  readonly #wanted = new Set<number>();
  #asking = false;

  constructor(
    readonly hubbub: Hubbub,
    readonly changed: () => void,
  ) {}

  /** "" until it is known. */
  of(userId: number): string {
    const name = this.#known.get(userId);
    if (name !== undefined) return name;
    this.#wanted.add(userId);
    if (!this.#asking) {
      this.#asking = true;
      queueMicrotask(() => void this.#ask());
    }
    return "";
  }

  learn(userId: number, name: string): void {
    if (name !== "") this.#known.set(userId, name);
  }

  async #ask(): Promise<void> {
    while (this.#wanted.size > 0) {
      const ids = [...this.#wanted].slice(0, ASKED_MAX);
      for (const id of ids) this.#wanted.delete(id);
      let names: Map<number, string>;
      try {
        names = await this.hubbub.users(ids);
      } catch {
        // Whoever draws these next asks again; without a connection nobody can answer.
        break;
      }
      // A number that is nobody's is not asked for twice.
      for (const id of ids) this.#known.set(id, names.get(id) || `user ${id}`);
      this.changed();
    }
    this.#asking = false;
  }
}
