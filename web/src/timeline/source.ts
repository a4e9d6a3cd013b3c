// What the timeline needs from a channel. The page implements it on an SDK channel, the demo and the
// tests on made-up messages; the timeline itself never talks to a server.
import type { ChannelLog } from "./log.ts";

export interface Source {
  /** The channel's name as it is now, for permalinks (`#lobby/812`). */
  readonly channel: string;
  readonly log: ChannelLog;
  /** The user that looks at the page. */
  readonly me: number;
  /** `""` until it is known; call `Timeline.changed()` when it is. */
  name(userId: number): string;
  /** Each fills the log and rejects with an error whose message may be shown. */
  loadBefore(sequence: number): Promise<void>;
  /** Both ends included; at most `RANGE_MESSAGES_MAX` sequences are asked for at a time. */
  loadRange(from: number, to: number): Promise<void>;
  loadAround(sequence: number): Promise<void>;
  /** The first sequence at or after this moment; the newest when there is none. */
  sequenceAt(date: Date): Promise<number>;
  retry(key: string): void;
  discard(key: string): void;
}

/** The most that one `loadRange` asks for: one page of the server's history. */
export const RANGE_MESSAGES_MAX = 200;

export interface TimelineEvents {
  /** The newest sequence that was in view while the page was looked at; only ever grows. */
  onReadUpTo(sequence: number): void;
  /** Whether the newest message is in view. */
  onAtNewest(isAtNewest: boolean): void;
  /** What stands above a channel's first message, instead of one plain sentence. */
  beginning?(): Node;
}
