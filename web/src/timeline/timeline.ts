// The list of a channel's messages. This is its outside; the list itself follows.
import type { Source, TimelineEvents } from "./source.ts";

export class Timeline {
  constructor(root: HTMLElement, source: Source, events: TimelineEvents) {
    void root, source, events;
  }

  /** The log or a name changed. Cheap: the work is done once, in the next frame. */
  changed(): void {}
  /** Scrolls to the newest message and stays there as more come. */
  showNewest(): void {}
  /** Rejects when it cannot be loaded. */
  async jumpTo(sequence: number): Promise<void> {
    void sequence;
  }
  async jumpToDate(date: Date): Promise<void> {
    void date;
  }
  /** The line "new since you left" is drawn before this sequence. */
  markUnreadFrom(sequence: number | undefined): void {
    void sequence;
  }
  /** Scrolls to that line when it is not in view. */
  showUnread(): void {}
  focus(): void {}
  destroy(): void {}
}
