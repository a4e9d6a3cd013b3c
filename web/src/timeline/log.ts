// What the page knows of one channel: sparse ranges of its entries, the holes between them, and what
// was written here and is not delivered yet. No DOM, no clock, no I/O.
//
// Invariants: ranges ascend and neither overlap nor touch; within a range every sequence is there
// once, in order; a message of ours is either outgoing or an entry, never both, in whichever order
// its acknowledgement and its delivery come.
import type { Entry } from "@hubbub/client";

/** Entries `from`…`to`, all of them: `entries[sequence - from]`. */
export interface Range {
  readonly from: number;
  readonly to: number;
  readonly entries: readonly Entry[];
}

/** Sequences `from`…`to` exist and are not loaded. */
export interface Gap {
  readonly from: number;
  readonly to: number;
}

/** Something written here that was not delivered yet. Its key is its client message id. */
export interface Outgoing {
  readonly key: string;
  readonly body: string;
  /** When it was written, by this computer's clock. */
  readonly at: number;
  readonly state: "pending" | "sent" | "failed";
  /** Known once it is sent. */
  readonly sequence?: number;
  /** Why it failed, as a clause that may be shown. */
  readonly error?: string;
}

interface OpenRange {
  from: number;
  to: number;
  entries: Entry[];
}

export class ChannelLog {
  /** The newest sequence that is known to exist; 0 in an empty channel. */
  head = 0;
  /** The oldest sequence that can be loaded. */
  readonly start = 1;
  /** Grows with every change but two: entries added after the newest, and changes of `outgoing`. */
  revision = 0;

  readonly #me: number;
  readonly #ranges: OpenRange[] = [];
  readonly #outgoing = new Map<string, Outgoing>();
  /** Sequences of entries made from an acknowledgement: the server's own word replaces them. */
  readonly #provisional = new Set<number>();

  constructor(me: number) {
    this.#me = me;
  }

  get ranges(): readonly Range[] {
    return this.#ranges;
  }

  /** In the order in which it was written. */
  get outgoing(): Iterable<Outgoing> {
    return this.#outgoing.values();
  }

  /** The newest entry that is loaded; 0 when none is. */
  get newest(): number {
    return this.#ranges.at(-1)?.to ?? 0;
  }

  /** The oldest entry that is loaded; 0 when none is. */
  get oldest(): number {
    return this.#ranges[0]?.from ?? 0;
  }

  /**
   * Takes entries in ascending order: live, replayed or a page of history; what is known already is
   * dropped. A hole between two of them becomes a gap.
   */
  add(entries: readonly Entry[]): void {
    for (let first = 0; first < entries.length; ) {
      let next = first + 1;
      while (next < entries.length && entries[next]!.sequence === entries[next - 1]!.sequence + 1) next++;
      this.#insert(first === 0 && next === entries.length ? entries : entries.slice(first, next));
      first = next;
    }
    for (const entry of entries) {
      if (entry.kind === "message" && entry.userId === this.#me && entry.clientMessageId !== undefined) {
        this.#outgoing.delete(entry.clientMessageId);
      }
    }
    this.reach(this.newest);
  }

  /**
   * The channel is known to go up to `head`: what is not loaded up to there shows as a gap. Call it
   * when nothing is under way that would fill it (a gap event, a page of history).
   */
  reach(head: number): void {
    if (head > this.head) {
      this.head = head;
      if (head > this.newest) this.revision++;
    }
    this.#settle();
  }

  /** Throws all entries away: the channel begins another life. What was not delivered stays. */
  reset(head: number): void {
    this.#ranges.length = 0;
    this.#provisional.clear();
    this.head = head;
    this.revision++;
    for (const [key, outgoing] of this.#outgoing) {
      // A sequence of the old numbering says nothing in the new one.
      if (outgoing.state === "sent") this.#outgoing.delete(key);
    }
  }

  /** Forgets what is before `sequence`; it can be loaded again. */
  forgetBefore(sequence: number): void {
    while (this.#ranges.length > 0 && this.#ranges[0]!.to < sequence) this.#ranges.shift();
    const first = this.#ranges[0];
    if (first !== undefined && first.from < sequence) {
      first.entries.splice(0, sequence - first.from);
      first.from = sequence;
    }
    for (const known of this.#provisional) if (known < sequence) this.#provisional.delete(known);
    this.revision++;
  }

  entry(sequence: number): Entry | undefined {
    const range = this.#ranges[this.#firstEndingAt(sequence)];
    return range === undefined ? undefined : range.entries[sequence - range.from];
  }

  /** The holes between what is loaded, and from there to the head. What is before it is no gap: it
   * is loaded when somebody scrolls there. */
  gaps(): Gap[] {
    const gaps: Gap[] = [];
    for (let i = 1; i < this.#ranges.length; i++) {
      gaps.push({ from: this.#ranges[i - 1]!.to + 1, to: this.#ranges[i]!.from - 1 });
    }
    if (this.#ranges.length > 0 && this.newest < this.head) gaps.push({ from: this.newest + 1, to: this.head });
    return gaps;
  }

  /** Something was written and is on its way, or is tried again. */
  publish(key: string, body: string, at: number): void {
    this.#outgoing.set(key, { key, body, at, state: "pending" });
  }

  /** The server has it; `at` is the server's time, absent or 0 when the answer did not say it. */
  acknowledge(key: string, sequence: number, at?: number): void {
    const outgoing = this.#outgoing.get(key);
    if (outgoing === undefined) return;
    this.#outgoing.set(key, { key, body: outgoing.body, at: at || outgoing.at, state: "sent", sequence });
    this.#settle();
  }

  fail(key: string, error: string): void {
    const outgoing = this.#outgoing.get(key);
    if (outgoing === undefined || outgoing.state === "sent") return;
    this.#outgoing.set(key, { key, body: outgoing.body, at: outgoing.at, state: "failed", error });
  }

  /** Pending again, with the same key: the server drops the second if it had the first. */
  retry(key: string): void {
    const outgoing = this.#outgoing.get(key);
    if (outgoing === undefined || outgoing.state !== "failed") return;
    this.#outgoing.set(key, { key, body: outgoing.body, at: outgoing.at, state: "pending" });
  }

  /** Gives up what failed. */
  discard(key: string): void {
    if (this.#outgoing.get(key)?.state === "failed") this.#outgoing.delete(key);
  }

  /**
   * What was acknowledged waits at the end until the log has come as far: its delivery is usually
   * next, and until then its place would show a hole that is none.
   */
  #settle(): void {
    for (const [key, outgoing] of this.#outgoing) {
      const { sequence, at, body } = outgoing;
      if (sequence === undefined || sequence > this.head) continue;
      this.#outgoing.delete(key);
      if (this.entry(sequence) !== undefined) continue;
      this.#provisional.add(sequence);
      this.#insert([{ kind: "message", sequence, at, userId: this.#me, body, clientMessageId: key }]);
    }
  }

  /** Index of the first range that ends at `sequence` or later. */
  #firstEndingAt(sequence: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ranges[middle]!.to < sequence) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** `run` has consecutive sequences. */
  #insert(run: readonly Entry[]): void {
    const from = run[0]!.sequence;
    const to = from + run.length - 1;
    const last = this.#ranges.at(-1);
    if (last !== undefined && last.to + 1 === from && this.head <= last.to) {
      for (const entry of run) last.entries.push(entry);
      last.to = to;
      return;
    }

    const first = this.#firstEndingAt(from - 1);
    let end = first;
    const merged: Entry[] = [];
    let next = from;
    while (end < this.#ranges.length && this.#ranges[end]!.from <= to + 1) {
      const range = this.#ranges[end++]!;
      for (; next < range.from; next++) merged.push(run[next - from]!);
      for (const known of range.entries) merged.push(this.#newer(known, run[known.sequence - from]));
      next = Math.max(next, range.to + 1);
    }
    for (; next <= to; next++) merged.push(run[next - from]!);
    const begin = merged[0]!.sequence;
    const touched = this.#ranges.slice(first, end);
    if (touched.length === 1 && touched[0]!.entries.length === merged.length && this.#provisional.size === 0) return;
    this.#ranges.splice(first, end - first, { from: begin, to: begin + merged.length - 1, entries: merged });
    this.revision++;
  }

  #newer(known: Entry, delivered: Entry | undefined): Entry {
    return delivered !== undefined && this.#provisional.delete(known.sequence) ? delivered : known;
  }
}
