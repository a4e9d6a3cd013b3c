// A channel's messages as somebody reads them: what loads when they scroll, what counts as read, where
// the keyboard is, what is said about what is not in view. Where rows are is list.ts.
import { dayName, dayStart } from "../time.ts";
import { DayLabel } from "./day.ts";
import { JumpForm, messageOf, NewestPill } from "./jump.ts";
import { List } from "./list.ts";
import { keyOf, type Row } from "./rows.ts";
import { RANGE_MESSAGES_MAX, type Source, type TimelineEvents } from "./source.ts";
import { Tools } from "./tools.ts";

/** Earlier messages are asked for when fewer screens than this are left above. */
const SCREENS_AHEAD = 2;
/** Further up than this, the pill leads back even when there is nothing new. */
const PILL_SCREENS = 0.75;
/** Where a day's row is when the name in it lies exactly under the day label; and where the label's
 * lower edge is, which the next day's row pushes up. Both as timeline.css has it. */
const DAY_LINE_TOP_PX = -6;
const DAY_BOTTOM_PX = 38;

export class Timeline {
  readonly #root: HTMLElement;
  readonly #source: Source;
  readonly #events: TimelineEvents;
  readonly #list: List;
  readonly #day: DayLabel;
  readonly #jump: JumpForm;
  readonly #pill: NewestPill;
  readonly #tools: Tools;

  readonly #expanded = new Map<string, number>();
  /** What is being loaded, or why it could not be, by the row's key: "" while it is under way. */
  readonly #loading = new Map<string, string>();
  /** After a jump to what was not loaded, the gap beside it is loaded as one scrolls there. */
  #isWandering = false;
  #isAtNewest: boolean | undefined;
  #readUpTo = 0;
  /** The newest sequence when the newest was last in view: what came since is new. */
  #seen = 0;

  constructor(root: HTMLElement, source: Source, events: TimelineEvents) {
    this.#root = root;
    this.#source = source;
    this.#events = events;
    this.#tools = new Tools(source);
    const beginning = events.beginning?.bind(events);
    this.#list = new List(source, {
      look: () => ({ source, now: Date.now(), expanded: this.#expanded, loading: this.#loading, beginning }),
      refilled: (element) => this.#tools.restore(element),
      drawn: () => this.#drawn(),
    });
    this.#day = new DayLabel(() => this.#jump.toggle(this.#dayInView() ?? Date.now(), this.#list.rows.unreadFrom !== undefined));
    this.#jump = new JumpForm(
      {
        toDate: (date) => this.jumpToDate(date),
        toBeginning: () => this.jumpTo(source.log.start),
        toUnread: () => this.jumpTo(this.#list.rows.unreadFrom ?? source.log.head),
        toNewest: () => this.showNewest(),
      },
      this.#day.button,
      // Where one arrived, or where one was: the form goes, and what had the focus with it.
      () => this.focus(),
    );
    this.#pill = new NewestPill(() => {
      this.showNewest();
      this.focus();
    });
    root.classList.add("timeline");
    root.append(this.#list.scroller, this.#day.element, this.#jump.element, this.#pill.element);

    const { log, scroller } = this.#list;
    scroller.addEventListener("keydown", this.#onKey);
    log.addEventListener("click", this.#onClick);
    log.addEventListener("focusin", this.#onFocusIn);
    log.addEventListener("pointerover", this.#onPointerOver);
    log.addEventListener("pointerleave", this.#onPointerLeave);
    document.addEventListener("visibilitychange", this.#list.schedule);
    window.addEventListener("focus", this.#list.schedule);
    this.#list.schedule();
  }

  /** The log or a name changed. Cheap: the work is done once, in the next frame. */
  changed(): void {
    this.#list.changed();
  }

  /** Scrolls to the newest message and stays there as more come. */
  showNewest(): void {
    const { log } = this.#source;
    this.#isWandering = false;
    this.#list.current = undefined;
    this.#list.scrollToEnd();
    if (log.newest > 0 && log.newest < log.head) this.#load("newest", () => this.#source.loadBefore(log.head + 1));
  }

  /** Rejects when it cannot be loaded. */
  async jumpTo(sequence: number): Promise<void> {
    if (this.#source.log.entry(sequence) === undefined) {
      await this.#source.loadAround(sequence);
      this.#isWandering = true;
      this.changed();
    }
    this.#mark(`m:${sequence}`);
    this.#list.scrollTo(sequence, 0.3);
  }

  async jumpToDate(date: Date): Promise<void> {
    await this.jumpTo(await this.#source.sequenceAt(date));
  }

  /** The line "new since you left" is drawn before this sequence. */
  markUnreadFrom(sequence: number | undefined): void {
    if (this.#list.rows.unreadFrom === sequence) return;
    this.#list.rows.unreadFrom = sequence;
    this.changed();
  }

  /** Scrolls to that line, if what it stands before is loaded; stays at the newest when all fits below
   * it. Called before the first frame it says where reading begins. */
  showUnread(): void {
    const { unreadFrom } = this.#list.rows;
    if (unreadFrom !== undefined && this.#source.log.entry(unreadFrom) !== undefined) this.#list.scrollTo(unreadFrom, 0.2);
  }

  /** Puts the keyboard on the message that it was on, or on the newest in view. */
  focus(): void {
    this.#list.render();
    const index = this.#currentIndex() ?? this.#step(this.#list.inView()[1] + 1, -1);
    if (index === undefined) this.#list.scroller.focus({ preventScroll: true });
    else this.#list.focusRow(index);
  }

  destroy(): void {
    this.#list.destroy();
    document.removeEventListener("visibilitychange", this.#list.schedule);
    window.removeEventListener("focus", this.#list.schedule);
    this.#root.replaceChildren();
    this.#root.classList.remove("timeline");
  }

  // --- after each frame ---

  #drawn(): void {
    const { rows, room, viewHeight, isAtEnd } = this.#list;
    const { log } = this.#source;
    const [first, last] = this.#list.inView();
    const isAtNewest = isAtEnd && log.newest >= log.head;

    const focused = document.activeElement;
    this.#showDay(first);
    this.#sayRead(isAtNewest ? rows.list.length - 1 : last);
    // Who opens a channel has seen all but what is unread.
    if (this.#isAtNewest === undefined) this.#seen = (rows.unreadFrom ?? log.head + 1) - 1;
    this.#seen = isAtNewest ? log.head : Math.max(this.#seen, this.#readUpTo);
    const unseen = Math.max(0, log.head - this.#seen);
    const isFar = room.below > viewHeight * PILL_SCREENS || log.newest < log.head;
    this.#pill.show(isAtNewest || (unseen === 0 && !isFar) ? undefined : unseen);
    const isGone =
      (focused === this.#pill.element && this.#pill.element.hidden) ||
      (focused === this.#day.button && this.#day.element.hidden);
    if (isGone) this.#list.scroller.focus({ preventScroll: true });
    if (isAtNewest !== this.#isAtNewest) {
      this.#isAtNewest = isAtNewest;
      // What is loaded while somebody reads further up is no news to be read out.
      this.#list.log.setAttribute("aria-live", isAtNewest ? "polite" : "off");
      this.#events.onAtNewest(isAtNewest);
    }
    if (room.above < viewHeight * SCREENS_AHEAD) this.#loadEarlier();
    if (this.#isWandering) this.#loadGapInView(first, last);
  }

  #showDay(first: number): void {
    const { rows } = this.#list;
    let day = rows.dayAt(first);
    const next = rows.days[day + 1];
    const nextTop = next === undefined ? Number.POSITIVE_INFINITY : this.#list.topOf(next);
    // A line is its own label until it would go further up than the label lies.
    if (nextTop <= DAY_LINE_TOP_PX) day++;
    const index = rows.days[day];
    const row = index === undefined ? undefined : rows.list[index]!;
    if (row?.kind !== "day" || this.#list.topOf(index!) > DAY_LINE_TOP_PX) return this.#day.show(undefined, 0);
    // At the newest message nobody wonders which day it is, and the label would only lie over a text.
    const isNow = this.#list.isAtEnd && next === undefined && dayStart(row.at) === dayStart(Date.now());
    if (isNow && this.#jump.element.hidden && document.activeElement !== this.#day.button) return this.#day.show(undefined, 0);
    this.#day.show(dayName(row.at, Date.now()), Math.min(0, Math.round(nextTop - DAY_BOTTOM_PX)));
  }

  #dayInView(): number | undefined {
    const { rows } = this.#list;
    const row = rows.list[rows.days[rows.dayAt(this.#list.inView()[0])] ?? -1];
    return row?.kind === "day" ? row.at : undefined;
  }

  #sayRead(index: number): void {
    if (document.visibilityState !== "visible" || !document.hasFocus()) return;
    const { list } = this.#list.rows;
    for (let i = index; i > 0; i--) {
      const row = list[i]!;
      if (row.kind !== "message" && row.kind !== "change") continue;
      if (row.sequence > this.#readUpTo) {
        this.#readUpTo = row.sequence;
        this.#events.onReadUpTo(row.sequence);
      }
      return;
    }
  }

  // --- loading ---

  #loadEarlier(): void {
    const { log } = this.#source;
    const from = log.oldest;
    if (from <= log.start || this.#loading.has("top")) return;
    this.#load("top", async () => {
      await this.#source.loadBefore(from);
      if (log.oldest === from) throw new Error("nothing came");
    });
  }

  #loadGapInView(first: number, last: number): void {
    const { list } = this.#list.rows;
    for (let i = first; i <= last; i++) {
      const row = list[i]!;
      if (row.kind !== "gap" || this.#loading.has(keyOf(row))) continue;
      const isFromAbove = this.#list.isGoingDown ?? this.#list.topOf(i) > this.#list.viewHeight / 2;
      this.#loadGap(row, isFromAbove ? "first" : "last");
    }
  }

  #loadGap(gap: Row & { kind: "gap" }, side: "first" | "last"): void {
    const { sequence: from, to } = gap;
    const [begin, end] =
      side === "first" ? [from, Math.min(to, from + RANGE_MESSAGES_MAX - 1)] : [Math.max(from, to - RANGE_MESSAGES_MAX + 1), to];
    this.#load(keyOf(gap), () => this.#source.loadRange(begin, end));
  }

  /** One at a time for each key. A failure stays until somebody tries again: it is shown in the row. */
  #load(key: string, job: () => Promise<void>): void {
    if (this.#loading.get(key) === "") return;
    this.#loading.set(key, "");
    this.changed();
    job().then(
      () => this.#loading.delete(key),
      (error: unknown) => this.#loading.set(key, messageOf(error)),
    ).finally(() => this.changed());
  }

  // --- the keyboard and the pointer ---

  readonly #onKey = (event: KeyboardEvent): void => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.#list.rowOf(event.target);
    const isInside = at !== undefined && event.target !== at.element;
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      // Code that scrolls keeps its arrows only sideways.
      const by = event.key === "ArrowUp" ? -1 : 1;
      const from = this.#currentIndex() ?? this.#list.inView()[1] + (by < 0 ? 1 : 0);
      const index = this.#step(from, by);
      if (index !== undefined) this.#list.focusRow(index);
      else if (by > 0) this.showNewest();
    } else if (event.key === "End" && !isInside) {
      this.showNewest();
      this.focus();
    } else if (event.key === "Home" && !isInside) {
      const index = this.#step(0, 1);
      if (index !== undefined) this.#list.focusRow(index);
    } else if (event.key === "c" && at !== undefined && !isInside) {
      this.#tools.show(at);
      void this.#tools.copyText();
    } else {
      return;
    }
    event.preventDefault();
  };

  #currentIndex(): number | undefined {
    const { current, rows } = this.#list;
    if (current === undefined) return undefined;
    const index = current.startsWith("m:")
      ? rows.indexOfEntry(Number(current.slice(2)))
      : rows.list.findLastIndex((row) => keyOf(row) === current);
    return index < 0 ? undefined : index;
  }

  /** The next row that the keyboard can be on. */
  #step(from: number, by: 1 | -1): number | undefined {
    const { list } = this.#list.rows;
    for (let i = from + by; i >= 0 && i < list.length; i += by) {
      const { kind } = list[i]!;
      if (kind !== "day" && kind !== "unread" && kind !== "top") return i;
    }
    return undefined;
  }

  readonly #onClick = (event: MouseEvent): void => {
    const at = this.#list.rowOf(event.target);
    if (at === undefined || !(event.target instanceof Element)) return;
    const { row, key, element } = at;
    const action = event.target.closest<HTMLElement>("[data-act]")?.dataset["act"];
    switch (action) {
      case "expand":
        this.#list.hold();
        this.#expanded.set(key, (this.#expanded.get(key) ?? 0) + 1);
        return this.changed();
      case "collapse":
        this.#expanded.delete(key);
        return this.changed();
      case "retry":
        if (row.kind === "outgoing") this.#source.retry(row.outgoing.key);
        return this.changed();
      case "discard":
        if (row.kind === "outgoing") this.#source.discard(row.outgoing.key);
        return this.changed();
      case "earlier":
        this.#loading.delete("top");
        return this.#loadEarlier();
      case "gap-first":
      case "gap-last":
        if (row.kind === "gap") this.#loadGap(row, action === "gap-first" ? "first" : "last");
        return;
    }
    // A tap shows the buttons of the message; it takes no selection and no link away.
    const isPlain = event.target.closest("a, button, pre") === null && (getSelection()?.isCollapsed ?? true);
    if (isPlain) element.focus({ preventScroll: true });
  };

  readonly #onFocusIn = (event: FocusEvent): void => {
    const at = this.#list.rowOf(event.target);
    if (at === undefined) return;
    this.#list.current = at.key;
    this.#tools.show(at);
  };

  readonly #onPointerOver = (event: PointerEvent): void => {
    if (event.pointerType !== "mouse") return;
    const at = this.#list.rowOf(event.target);
    if (at !== undefined) this.#tools.show(at);
  };

  readonly #onPointerLeave = (): void => {
    this.#tools.show(this.#list.rowOf(document.activeElement));
  };

  #mark(key: string): void {
    this.#list.elementOf(this.#list.marked)?.classList.remove("marked");
    this.#list.marked = key;
    this.#list.current = key;
    this.#list.elementOf(key)?.classList.add("marked");
  }
}
