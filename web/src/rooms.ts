// The channels of this page: those that the user is a member of, and the one that is looked at.
import type { ChannelInfo, Hubbub } from "@hubbub/client";
import type { Names } from "./names";
import { Room, type RoomChange } from "./room";

/** A connection may have 1,000 subscriptions; the rest of the channels show no live count. */
const SUBSCRIBED_MAX = 900;
/** The list is asked for at most this often when somebody comes back to the page. */
const FRESH_MS = 30_000;

/** team-2 before team-10. */
const BY_NAME = new Intl.Collator("en", { numeric: true });

export class Rooms {
  readonly #byId = new Map<number, Room>();
  /** Opened by name, before its number is known. */
  readonly #byName = new Map<string, Room>();
  /** The list was there once. */
  known = false;
  #loadedAt = 0;
  #loading: Promise<void> | undefined;

  constructor(
    readonly hubbub: Hubbub,
    readonly me: number,
    readonly names: Names,
    readonly told: (room: Room, change: RoomChange) => void,
  ) {}

  /** Memberships, by name. */
  get list(): readonly Room[] {
    return [...this.#byId.values()].filter((room) => room.isMember).sort((one, other) => BY_NAME.compare(one.channel, other.channel));
  }

  get all(): Iterable<Room> {
    return new Set([...this.#byId.values(), ...this.#byName.values()]);
  }

  find(name: string): Room | undefined {
    for (const room of this.all) if (room.channel === name) return room;
    return undefined;
  }

  /** The room of this name, whether it exists or not: what is known of it comes later. */
  named(name: string): Room {
    let room = this.find(name);
    if (room === undefined) {
      room = new Room(this.hubbub.channel(name), this.me, this.names, this.told);
      this.#byName.set(name, room);
    }
    return room;
  }

  /** Takes what the server says of a channel. */
  take(info: ChannelInfo): Room {
    let room = this.#byId.get(info.id);
    if (room === undefined) {
      room = this.named(info.name);
      this.#byName.delete(info.name);
      this.#byId.set(info.id, room);
    }
    room.describe(info);
    this.told(room, "state");
    return room;
  }

  /** Asks the server what a room is; whoever asks meanwhile waits for the same answer. */
  ask(room: Room): Promise<unknown> {
    room.asked ??= this.hubbub
      .getChannel(room.channel)
      .then((info) => this.take(info))
      .finally(() => {
        room.asked = undefined;
      });
    return room.asked;
  }

  drop(room: Room): void {
    for (const [id, other] of this.#byId) if (other === room) this.#byId.delete(id);
    for (const [name, other] of this.#byName) if (other === room) this.#byName.delete(name);
    room.forget();
  }

  /** All memberships, anew: somebody may have invited the user meanwhile. */
  load(): Promise<void> {
    this.#loading ??= this.#load().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  loadIfOld(): Promise<void> {
    return Date.now() - this.#loadedAt < FRESH_MS ? Promise.resolve() : this.load();
  }

  async #load(): Promise<void> {
    const seen = new Set<number>();
    let after: string | undefined;
    do {
      const page = await this.hubbub.memberships({ after, limit: 200 });
      for (const info of page.channels) {
        seen.add(info.id);
        const room = this.take(info);
        if (seen.size <= SUBSCRIBED_MAX) {
          // It is tried again with the next list; a channel that went away is missing there.
          room.subscribe().catch(() => undefined);
        }
      }
      after = page.next;
    } while (after !== undefined && after !== "");
    for (const [id, room] of this.#byId) {
      if (!seen.has(id) && room.info !== undefined && room.isMember) room.describe({ ...room.info, role: undefined });
    }
    this.known = true;
    this.#loadedAt = Date.now();
    void this.#recount(seen);
  }

  /** One after another, so that what somebody looks at is answered first. */
  async #recount(ids: Iterable<number>): Promise<void> {
    for (const id of ids) await this.#byId.get(id)?.recount();
  }
}
