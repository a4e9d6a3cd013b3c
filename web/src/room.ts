// One channel as the page has it: what is known of its log, what was written here and is under way, how
// far it was read, who is here and who is writing.
import type { Channel, ChannelInfo, Entry, Presence, Settings } from "@hubbub/client";
import type { Names } from "./names";
import { ChannelLog, type Outgoing } from "./timeline/log";
import { writtenAt } from "./timeline/rows";
import type { Source } from "./timeline/source";
import { explain } from "./words";

const PAGE = 100;
const RANGE_PAGE = 200;
/** How long a message is tried, without a connection too, before it shows "try again". */
const PUBLISH_MS_MAX = 5 * 60_000;
/** For so long somebody is writing, unless told again. */
const TYPING_MS = 6_000;
/** What a channel that nobody looks at keeps of its log. */
const KEPT_MAX = 1_000;

/** A number of unread messages up to here is counted again without what is no message. */
const RECOUNTED_MAX = 50;

/** What a room tells of itself: `log` is drawn by the timeline, the rest by what is around it. */
export type RoomChange = "log" | "state" | "ended";

/** What was written in a channel and not sent. */
export type Left = { readonly channel: string; readonly draft: string; readonly outgoing: readonly Outgoing[] };

export class Room implements Source {
  readonly log: ChannelLog;
  readonly presence: () => Presence;
  /** Undefined until the server told. */
  info: ChannelInfo | undefined;
  /** Messages of others after `read`. */
  unread = 0;
  /** The last that was read; undefined: not known. */
  read: number | undefined;
  /** The first page is there. */
  loaded = false;
  /** Why the first page is not. */
  problem: string | undefined;
  draft = "";
  /** While the server is asked what it is. */
  asked: Promise<unknown> | undefined;
  /** When somebody last looked at it; 0: not since the page was loaded. */
  visitedAt = 0;
  readonly #typing = new Map<number, ReturnType<typeof setTimeout>>();
  readonly #off: (() => void)[];
  #epoch: number | undefined;
  /** Up to here `unread` has counted: a replay brings what the list of memberships said before. */
  #counted = 0;
  /** What the list of memberships said, and what came since; until `recount` has looked. */
  #doubt: { readonly read: number; readonly count: number; since: number } | undefined;
  #opened = false;
  #loading: Promise<void> | undefined;
  #subscribed: Promise<void> | undefined;
  #ended = false;
  #isDeleted = false;

  constructor(
    readonly handle: Channel,
    readonly me: number,
    readonly names: Names,
    readonly told: (room: Room, change: RoomChange) => void,
  ) {
    this.log = new ChannelLog(me);
    this.presence = () => handle.presence;
    this.#off = [
      handle.on("entries", (entries) => this.#take(entries)),
      handle.on("gap", ({ from, to }) => {
        this.unread += Math.max(0, to - Math.max(from - 1, this.#counted));
        this.#counted = Math.max(this.#counted, to);
        if (this.#opened) this.log.reach(to);
        this.#tell("log");
        this.#tell("state");
      }),
      handle.on("reset", ({ head }) => {
        this.#epoch = head.epoch;
        this.log.reset(0);
        this.read = undefined;
        this.unread = 0;
        this.#counted = 0;
        this.#doubt = undefined;
        this.loaded = false;
        if (this.#opened) void this.#loadNewest();
        this.#tell("log");
      }),
      handle.on("ended", () => {
        this.#ended = true;
        this.#tell("ended");
      }),
      handle.on("presence", () => this.#tell("state")),
      handle.on("typing", ({ userIds }) => {
        for (const id of userIds) if (id !== me) this.#isTyping(id);
        this.#tell("state");
      }),
      handle.on("readMarker", ({ position }) => {
        if (position.epoch === (this.#epoch ?? position.epoch)) this.#readUpTo(position.sequence);
      }),
    ];
  }

  get channel(): string {
    return this.info?.name ?? this.handle.name;
  }

  /** Why it cannot be shown any more, once it ended. */
  get ending(): string {
    return this.#isDeleted ? "It was deleted." : "You are no member any more.";
  }

  get isMember(): boolean {
    return this.info?.role !== undefined;
  }

  get typing(): readonly number[] {
    return [...this.#typing.keys()];
  }

  /** What the list of memberships says. */
  describe(info: ChannelInfo): void {
    this.info = info;
    if (info.readSequence === undefined || info.head === undefined) return;
    this.#epoch ??= info.head.epoch;
    // What this page knows already may be newer than the answer.
    if (info.head.epoch !== this.#epoch || info.head.sequence < this.#counted || info.readSequence < (this.read ?? 0)) return;
    const isKnown = this.read === info.readSequence && this.#counted === info.head.sequence;
    this.read = info.readSequence;
    this.#counted = info.head.sequence;
    if (isKnown) return;
    const count = info.unreadCount ?? 0;
    if (count === 0 || count > RECOUNTED_MAX) this.unread = count;
    else this.#doubt = { read: this.read, count, since: 0 };
  }

  /** The server counts all that lies after the marker; comings and goings, and what I wrote, are nothing
      to read. So a small number is looked at before it is shown. */
  async recount(): Promise<void> {
    const doubt = this.#doubt;
    if (doubt === undefined) return;
    let { count } = doubt;
    try {
      const { entries } = await this.handle.history({ after: doubt.read, limit: count });
      count = entries.filter((entry) => entry.kind === "message" && entry.userId !== this.me).length;
    } catch {
      // Then the server's number is the best there is.
    }
    if (this.#doubt !== doubt) return;
    this.#doubt = undefined;
    this.unread = count + doubt.since;
    this.#tell("state");
  }

  /** Live messages from here on, with who is here and who is writing. */
  subscribe(): Promise<void> {
    this.#subscribed ??= this.handle.subscribe({ ephemeral: true }).then(
      ({ epoch }) => {
        this.#epoch = epoch;
      },
      (error: unknown) => {
        this.#subscribed = undefined;
        throw error;
      },
    );
    return this.#subscribed;
  }

  /** Somebody looks at it: live messages are kept from now on, and the newest page is fetched. */
  open(): Promise<void> {
    this.#opened = true;
    if (this.loaded) return Promise.resolve();
    this.#loading ??= this.#loadNewest().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  close(): void {
    const { newest, oldest } = this.log;
    if (newest - oldest > KEPT_MAX) this.log.forgetBefore(newest - KEPT_MAX + 1);
  }

  forget(): void {
    for (const off of this.#off) off();
    for (const timer of this.#typing.values()) clearTimeout(timer);
    if (!this.#ended && this.handle.state !== "unsubscribed") {
      // Without a connection there is nothing to unsubscribe from.
      this.handle.unsubscribe().catch(() => undefined);
    }
  }

  async #loadNewest(): Promise<void> {
    this.problem = undefined;
    try {
      const page = await this.handle.history({ limit: PAGE });
      this.#epoch ??= page.epoch;
      this.log.add(page.entries);
      this.log.reach(page.head);
      this.loaded = true;
    } catch (error) {
      this.problem = explain(error);
    }
    this.#tell("log");
    this.#tell("state");
  }

  // --- The timeline's side.

  name(userId: number): string {
    return this.names.of(userId);
  }

  async loadBefore(sequence: number): Promise<void> {
    this.#add((await this.handle.history({ before: sequence, limit: PAGE })).entries);
  }

  async loadRange(from: number, to: number): Promise<void> {
    for (let next = from; next <= to; ) {
      const { entries } = await this.handle.history({ after: next - 1, limit: Math.min(RANGE_PAGE, to - next + 1) });
      const last = entries.at(-1);
      if (last === undefined || last.sequence < next) break;
      this.#add(entries);
      next = last.sequence + 1;
    }
  }

  async loadAround(sequence: number): Promise<void> {
    this.#add((await this.handle.history({ before: sequence + PAGE / 2, limit: PAGE })).entries);
  }

  /** Times never decrease within a channel, but where imported messages begin; so halving finds it in some 20 reads of
      one message. It goes by the times that the list shows. */
  async sequenceAt(date: Date): Promise<number> {
    let low = 1;
    let high = Math.max(1, this.log.head);
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const known = this.log.entry(middle) ?? (await this.handle.history({ after: middle - 1, limit: 1 })).entries[0];
      const at = known?.kind === "message" ? writtenAt(known) : known?.at;
      if (at === undefined || at >= date.getTime()) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  // --- Writing.

  /** Shows it at once, pending, and sends it; what fails stays, with "try again". */
  send(body: string): void {
    const key = messageKey();
    this.log.publish(key, body, Date.now());
    this.#publish(key, body);
  }

  retry(key: string): void {
    const body = this.#outgoing(key)?.body;
    if (body === undefined) return;
    this.log.retry(key);
    this.#publish(key, body);
  }

  discard(key: string): void {
    this.log.discard(key);
    this.#tell("log");
  }

  /** Messages that are not with the server yet: closing the page would lose them. */
  get unsent(): number {
    let count = 0;
    for (const outgoing of this.log.outgoing) if (outgoing.state !== "sent") count++;
    return count;
  }

  /** What was written here and is not with the server, as it can be taken over by another room. */
  get left(): Left {
    return { channel: this.channel, draft: this.draft, outgoing: [...this.log.outgoing].filter(({ state }) => state !== "sent") };
  }

  /** What somebody had written when the session ended. By their keys the server drops what it has already. */
  takeOver({ draft, outgoing }: Left): void {
    this.draft = draft;
    for (const { key, body, at } of outgoing) {
      this.log.publish(key, body, at);
      this.log.fail(key, "you were signed out");
    }
  }

  #publish(key: string, body: string): void {
    this.#tell("log");
    this.handle
      .publish(body, { clientMessageId: key, timeoutMs: PUBLISH_MS_MAX })
      .then(
        ({ sequence, at }) => this.log.acknowledge(key, sequence, at ?? 0),
        (error: unknown) => this.log.fail(key, explain(error)),
      )
      .then(() => this.#tell("log"));
  }

  #outgoing(key: string) {
    for (const outgoing of this.log.outgoing) if (outgoing.key === key) return outgoing;
    return undefined;
  }

  // --- Reading.

  /** Where the line "new since you left" belongs. */
  get unreadFrom(): number | undefined {
    if (this.read === undefined) return undefined;
    return this.unread > 0 || this.#unreadAfter(this.read) > 0 ? this.read + 1 : undefined;
  }

  /** The page showed everything up to here to somebody. */
  markRead(sequence: number): void {
    if (sequence <= (this.read ?? 0)) return;
    this.#readUpTo(sequence);
    if (!this.isMember) return;
    this.handle.markRead(sequence).catch(() => {
      // The marker is told again with the next message, and the server has the older one until then.
    });
  }

  #readUpTo(sequence: number): void {
    if (sequence <= (this.read ?? 0)) return;
    this.read = sequence;
    this.#doubt = undefined;
    this.unread = this.#opened ? this.#unreadAfter(sequence) : sequence >= this.handle.head ? 0 : Math.min(this.unread, this.handle.head - sequence);
    this.#tell("state");
  }

  #unreadAfter(sequence: number): number {
    let count = 0;
    for (const range of this.log.ranges) {
      for (let at = Math.max(range.from, sequence + 1); at <= range.to; at++) {
        const entry = range.entries[at - range.from];
        if (entry?.kind === "message" && entry.userId !== this.me) count++;
      }
    }
    return count;
  }

  // --- What comes.

  #take(entries: readonly Entry[]): void {
    if (this.#opened) this.#add(entries);
    for (const entry of entries) {
      if (entry.kind === "message") {
        this.#isNotTyping(entry.userId);
        if (entry.userId !== this.me && entry.sequence > Math.max(this.read ?? 0, this.#counted)) {
          this.unread++;
          if (this.#doubt !== undefined) this.#doubt.since++;
        }
      } else if (entry.kind === "settings" && entry.writtenAt === undefined && this.info !== undefined) {
        const { name, topic, visibility, posting, archived, quota } = entry satisfies Settings;
        this.info = { ...this.info, name, topic, visibility, posting, archived, quota };
      } else if (entry.kind === "membership" && entry.writtenAt === undefined && this.info !== undefined) {
        this.#member(entry.memberId, entry.role);
      } else if (entry.kind === "deletion") {
        this.#isDeleted = true;
      }
    }
    this.#counted = Math.max(this.#counted, entries.at(-1)?.sequence ?? 0);
    this.#tell("state");
  }

  #member(id: number, role: ChannelInfo["role"]): void {
    if (this.info === undefined || id !== this.me) return;
    this.info = { ...this.info, role };
  }

  #add(entries: readonly Entry[]): void {
    this.log.add(entries);
    this.#tell("log");
  }

  #isTyping(id: number): void {
    clearTimeout(this.#typing.get(id));
    this.#typing.set(
      id,
      setTimeout(() => {
        this.#typing.delete(id);
        this.#tell("state");
      }, TYPING_MS),
    );
  }

  #isNotTyping(id: number): void {
    clearTimeout(this.#typing.get(id));
    this.#typing.delete(id);
  }

  #tell(change: RoomChange): void {
    this.told(this, change);
  }
}

/** 63 random bits, never 0, as the protocol wants them. */
function messageKey(): string {
  const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2));
  return ((BigInt(high >>> 1) << 32n) | BigInt(low) | 1n).toString();
}
