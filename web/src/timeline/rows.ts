// The log → the rows of the list: day lines, messages that share a header with the one before, gaps,
// the unread line, what is outgoing. No DOM. A message at the end costs only its own rows.
import type { ChannelChange, Entry, Message } from "@hubbub/client";
import { dayStart } from "../time.ts";
import type { ChannelLog, Outgoing } from "./log.ts";

/** `sequence` ascends through the list; a row that is no entry has that of what follows it. */
export type Row =
  /** Above the first entry: the beginning of the channel, or what is still to be loaded. */
  | { readonly kind: "top"; readonly sequence: number; readonly isBeginning: boolean }
  | { readonly kind: "day"; readonly sequence: number; readonly at: number }
  | { readonly kind: "message"; readonly sequence: number; readonly message: Message; readonly isGrouped: boolean }
  | { readonly kind: "change"; readonly sequence: number; readonly change: ChannelChange }
  | { readonly kind: "gap"; readonly sequence: number; readonly to: number }
  | { readonly kind: "unread"; readonly sequence: number }
  | { readonly kind: "outgoing"; readonly sequence: number; readonly outgoing: Outgoing; readonly isGrouped: boolean };

/** Messages of one author share a header when no more than this lies between them. */
const GROUP_MS = 5 * 60_000;

/** When a message was written: that of an imported one is long before it was published. */
export function writtenAt(message: Message): number {
  return message.writtenAt ?? message.at;
}

export function keyOf(row: Row): string {
  switch (row.kind) {
    case "message":
    case "change":
      return `m:${row.sequence}`;
    case "outgoing":
      return `o:${row.outgoing.key}`;
    case "day":
      return `d:${row.sequence}`;
    case "gap":
      return `g:${row.sequence}-${row.to}`;
    case "top":
    case "unread":
      return row.kind;
  }
}

export class Rows {
  readonly list: Row[] = [];
  /** Where the day lines are in `list`. */
  readonly days: number[] = [];
  /** The line "new since you left" is drawn before the first entry from here on. */
  unreadFrom: number | undefined;

  #revision = -1;
  #unreadDrawn: number | undefined;
  /** The entries up to here are in `list`, and `list` without what is outgoing is this long. */
  #newest = 0;
  #settled = 0;
  #last: { userId: number; at: number } | undefined;
  #day = Number.NaN;
  #isUnreadDrawn = false;

  /** Makes `list` follow the log; returns how many of the first rows are as they were. */
  update(log: ChannelLog, me: number): number {
    const isTail = log.revision === this.#revision && this.unreadFrom === this.#unreadDrawn;
    if (!isTail) this.#restart(log);
    const kept = this.#settled;
    this.list.length = kept;
    while (this.days.length > 0 && this.days.at(-1)! >= kept) this.days.pop();

    const gaps = isTail ? [] : log.gaps();
    let gap = 0;
    for (const range of log.ranges) {
      if (range.to <= this.#newest) continue;
      for (let i = Math.max(0, this.#newest + 1 - range.from); i < range.entries.length; i++) this.#push(log, range.entries[i]!);
      this.#newest = range.to;
      if (gap < gaps.length) {
        const { from, to } = gaps[gap++]!;
        this.list.push({ kind: "gap", sequence: from, to });
        this.#last = undefined;
      }
    }
    this.#settled = this.list.length;
    this.#outgoing(log, me);
    return isTail ? kept : 0;
  }

  /** The first row of this sequence or a later one. */
  indexOf(sequence: number): number {
    let low = 0;
    let high = this.list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.list[middle]!.sequence < sequence) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The row of this very entry; -1 when it is not loaded. */
  indexOfEntry(sequence: number): number {
    for (let i = this.indexOf(sequence); this.list[i]?.sequence === sequence; i++) {
      if (isEntry(this.list[i]!)) return i;
    }
    return -1;
  }

  /** The day line that holds at this row; -1 above the first. */
  dayAt(index: number): number {
    let low = 0;
    let high = this.days.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.days[middle]! <= index) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  #restart(log: ChannelLog): void {
    this.#revision = log.revision;
    this.#unreadDrawn = this.unreadFrom;
    this.#newest = 0;
    this.#settled = 0;
    this.#last = undefined;
    this.#day = Number.NaN;
    this.#isUnreadDrawn = false;
    this.list.length = 0;
    this.days.length = 0;
    const isBeginning = log.head < log.start || log.oldest === log.start;
    this.list.push({ kind: "top", sequence: 0, isBeginning });
    this.#settled = 1;
  }

  #push(log: ChannelLog, entry: Entry): void {
    if (entry.kind === "unknown") return;
    const { sequence } = entry;
    this.#pushDay(entry.kind === "message" ? writtenAt(entry) : entry.at, sequence);
    if (!this.#isUnreadDrawn && this.unreadFrom !== undefined && sequence >= this.unreadFrom) {
      this.#isUnreadDrawn = true;
      // Without what is before it nobody knows whether this is the first.
      if (sequence === this.unreadFrom || log.entry(sequence - 1) !== undefined) {
        this.list.push({ kind: "unread", sequence });
        this.#last = undefined;
      }
    }
    if (entry.kind === "message") {
      this.list.push({ kind: "message", sequence, message: entry, isGrouped: this.#group(entry.userId, writtenAt(entry)) });
    } else {
      this.list.push({ kind: "change", sequence, change: entry });
      this.#last = undefined;
    }
  }

  #pushDay(at: number, sequence: number): void {
    const day = dayStart(at);
    if (day === this.#day) return;
    this.#day = day;
    this.#last = undefined;
    this.days.push(this.list.length);
    this.list.push({ kind: "day", sequence, at });
  }

  #group(userId: number, at: number): boolean {
    const last = this.#last;
    this.#last = { userId, at };
    return last !== undefined && last.userId === userId && at - last.at <= GROUP_MS && at >= last.at - GROUP_MS;
  }

  /** Rows that the next update makes again, so they leave no trace in the grouping. */
  #outgoing(log: ChannelLog, me: number): void {
    const [last, day] = [this.#last, this.#day];
    for (const outgoing of log.outgoing) {
      this.#pushDay(outgoing.at, Number.MAX_SAFE_INTEGER);
      const isGrouped = this.#group(me, outgoing.at);
      this.list.push({ kind: "outgoing", sequence: Number.MAX_SAFE_INTEGER, outgoing, isGrouped });
    }
    [this.#last, this.#day] = [last, day];
  }
}

export function isEntry(row: Row): boolean {
  return row.kind === "message" || row.kind === "change";
}
