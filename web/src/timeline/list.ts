// The virtual list: only the rows around what is in view are elements, two spacers stand for the
// others. It knows where things are, not what is to be done about it: that is timeline.ts.
//
// Invariants: what is being read does not move when rows come, go or turn out to be of another height
// than guessed: the spacer above takes that up (`#drift`), and gives it to the scroll position when
// nobody scrolls. A frame reads, writes, has one layout for the rows that are new, and writes the
// rest. A row that has the focus keeps it, or leaves it with the list until it is back.
import { h } from "../dom.ts";
import { Heights } from "./heights.ts";
import { estimate, fillRow, type Look, signature } from "./row.ts";
import { isEntry, keyOf, type Row, Rows } from "./rows.ts";
import type { Source } from "./source.ts";

/** Rows are drawn this far above and below what is in view. */
const OVERSCAN_PX = 500;
/** Never more elements than this, however low the rows are. */
const ROWS_MAX = 180;
/** Nearer to the end than this, the list stays at the end. */
const AT_END_PX = 8;
/** Nobody scrolls any more after this long without a scroll event. */
const SCROLL_REST_MS = 150;
/** What a frame does again when rows measured less than was guessed, and more of them are needed. */
const PASSES_MAX = 4;
/** The padding below the last row, and the room that the day label needs at the top. */
const FOOT_PX = 12;
const HEAD_PX = 52;
/** At the newest message, more entries than the first are cut down to the second: they can be loaded
 * again. Measured heights go when there are twice as many. */
const ENTRIES_MAX = 60_000;
const ENTRIES_KEPT = 10_000;

interface Drawn {
  readonly element: HTMLElement;
  row: Row;
  looks: string;
  height: number;
}

/** A row by what lasts when rows come and go before it, and where it is in the content. */
interface Anchor {
  readonly sequence: number;
  readonly kind: Row["kind"];
  readonly y: number;
}

export interface ListHooks {
  look(): Look;
  /** Another row's element was filled, and lost what others had put into it. */
  refilled(element: HTMLElement): void;
  /** A frame is done: what is in view, or where, may have changed. */
  drawn(): void;
}

export class List {
  readonly rows = new Rows();
  readonly scroller: HTMLElement;
  readonly log: HTMLElement;
  /** The key of the row that the keyboard is on. */
  current: string | undefined;
  /** The key of the row that is shown as the one that was looked for. */
  marked: string | undefined;

  readonly #source: Source;
  readonly #hooks: ListHooks;
  readonly #above = h("div", { class: "spacer" });
  readonly #below = h("div", { class: "spacer" });
  readonly #resized: ResizeObserver;
  readonly #heights = new Heights();
  readonly #drawn = new Map<string, Drawn>();
  /** What the rows of entries measured, by sequence: better than a guess when they are back. */
  #measured = new Map<number, number>();
  #first = 0;
  #end = 0;
  /** Row i begins at `#drift + #heights.before(i)` in the scrolled content. */
  #drift = 0;
  #view = { height: 0, column: 0 };
  #spacing = { above: 0, below: 0 };

  #isAtEnd = true;
  #wanted: { sequence: number; part: number } | undefined;
  #isChanged = true;
  #isResized = false;
  /** The heights of all rows are of another width. */
  #isStale = false;
  #frame = 0;
  #lastScroll = 0;
  #lastTop = 0;
  /** Which way somebody scrolled last. */
  #isGoingDown: boolean | undefined;
  #rest: ReturnType<typeof setTimeout> | undefined;
  /** The row with the focus went out of the drawn ones; the scroller has it meanwhile. */
  #keepsFocus = false;

  constructor(source: Source, hooks: ListHooks) {
    this.#source = source;
    this.#hooks = hooks;
    this.log = h("div", { class: "timeline-rows", role: "log", aria: { live: "polite", label: "Messages" } });
    this.log.append(this.#above, this.#below);
    this.scroller = h("div", { class: "timeline-scroll", tabindex: -1, role: "group", aria: { label: "Conversation" } }, this.log);
    this.scroller.addEventListener("scroll", this.#onScroll, { passive: true });
    this.scroller.addEventListener("focusout", () => (this.#keepsFocus = false));
    this.#resized = new ResizeObserver(this.#onResize);
    this.#resized.observe(this.scroller);
  }

  /** Whether the last row is in view, and stays there as more come. */
  get isAtEnd(): boolean {
    return this.#isAtEnd;
  }

  get isGoingDown(): boolean | undefined {
    return this.#isGoingDown;
  }

  get viewHeight(): number {
    return this.#view.height;
  }

  /** How much content is above and below what is in view. */
  get room(): { above: number; below: number } {
    const y = this.scroller.scrollTop - this.#drift;
    return { above: y, below: Math.max(0, this.#heights.total + FOOT_PX - this.#view.height - y) };
  }

  changed(): void {
    this.#isChanged = true;
    this.schedule();
  }

  readonly schedule = (): void => {
    this.#frame ||= requestAnimationFrame(() => this.render());
  };

  scrollToEnd(): void {
    this.#wanted = undefined;
    this.#isAtEnd = true;
    this.#isResized = true;
    this.schedule();
  }

  /** Scrolls until the row of `sequence` begins at this part of the height of the view. */
  scrollTo(sequence: number, part: number): void {
    this.#wanted = { sequence, part };
    this.#isGoingDown = undefined;
    this.#isAtEnd = false;
    this.#isResized = true;
    this.schedule();
  }

  /** Lets the view stay where it is even at the end: something in it is about to grow. */
  hold(): void {
    this.#isAtEnd = false;
  }

  /** The indices of the first and the last row in view; the last is -1 when there are none. */
  inView(): [number, number] {
    const y = this.scroller.scrollTop - this.#drift;
    const last = this.rows.list.length === 0 ? -1 : this.#heights.find(y + this.#view.height - FOOT_PX);
    return [this.#heights.find(y), last];
  }

  /** Where a row begins, from the top of what is in view. */
  topOf(index: number): number {
    return this.#spare + this.#drift + this.#heights.before(index) - this.scroller.scrollTop;
  }

  /** What few messages leave of the view: they lie at its end, where the next one is written. */
  get #spare(): number {
    return Math.max(0, this.#view.height - FOOT_PX - this.#heights.total);
  }

  elementOf(key: string | undefined): HTMLElement | undefined {
    return key === undefined ? undefined : this.#drawn.get(key)?.element;
  }

  /** The row whose element this is, or is in. */
  rowOf(node: unknown): { row: Row; key: string; element: HTMLElement } | undefined {
    const element = node instanceof Element ? node.closest<HTMLElement>(".row") : null;
    if (element === null) return undefined;
    for (const [key, drawn] of this.#drawn) if (drawn.element === element) return { row: drawn.row, key, element };
    return undefined;
  }

  /** Moves the keyboard to a row, and the view as far as that needs. */
  focusRow(index: number): void {
    const row = this.rows.list[index];
    if (row === undefined) return;
    this.current = keyOf(row);
    const top = this.topOf(index);
    const bottom = top + this.#heights.at(index);
    let by = 0;
    if (top < HEAD_PX) by = top - HEAD_PX;
    else if (bottom > this.#view.height - FOOT_PX) by = Math.min(bottom - this.#view.height + FOOT_PX, top - HEAD_PX);
    if (by !== 0) {
      this.#isAtEnd = false;
      this.scroller.scrollTop += by;
      this.#onScroll();
      this.render();
    } else {
      this.#rove();
    }
    this.elementOf(this.current)?.focus({ preventScroll: true });
  }

  destroy(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = -1;
    clearTimeout(this.#rest);
    this.#resized.disconnect();
  }

  /** One frame. */
  render(): void {
    if (this.#frame > 0) cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#view.height === 0) this.#measureView();
    if (this.#view.height === 0) return;

    const scrollTop = this.scroller.scrollTop;
    const anchor = this.#anchor(scrollTop);
    const isChanged = this.#isChanged;
    const added = isChanged ? this.#update() : 0;
    if (isChanged) this.#holdStill(anchor);
    let top = scrollTop;
    for (let pass = 0; pass < PASSES_MAX; pass++) {
      top = this.#target(scrollTop);
      const isDue = (isChanged || this.#isResized) && pass === 0;
      const isMoved = this.#window(top, isDue);
      if (!isMoved && !isDue) break;
      this.#draw(pass === 0 ? added : 0);
      // Before the layout that measuring needs: were the content shorter, the browser would scroll.
      this.#writeSpacers();
      if (!this.#measure()) break;
      this.#holdStill(anchor);
    }
    this.#isChanged = this.#isResized = false;
    this.#settle(scrollTop);
    this.#hooks.drawn();
  }

  // --- what a frame does, in its order ---

  /** The row that must not move: the first entry that is at least partly in view; but a gap that somebody comes to
   * from above, so that what is loaded first takes its place. */
  #anchor(scrollTop: number): Anchor | undefined {
    const { list } = this.rows;
    const from = this.#heights.find(scrollTop - this.#drift);
    let index = from;
    const isRead = (row: Row) => isEntry(row) || (row.kind === "gap" && this.#isGoingDown === true);
    while (index < list.length && index < from + 20 && !isRead(list[index]!)) index++;
    const row = list[index] ?? list[from];
    if (row === undefined) return undefined;
    return { sequence: row.sequence, kind: row.kind, y: this.#drift + this.#heights.before(row === list[index] ? index : from) };
  }

  /** Makes the rows follow the log; returns how many more there are at the end. */
  #update(): number {
    const { log, me } = this.#source;
    if (this.#isAtEnd && log.newest - log.oldest > ENTRIES_MAX) log.forgetBefore(log.newest - ENTRIES_KEPT);
    if (this.#measured.size > 2 * ENTRIES_MAX) this.#measured = new Map();
    const { list } = this.rows;
    const before = list.length;
    const kept = this.rows.update(log, me);
    this.#heights.truncate(this.#isStale ? 0 : kept);
    this.#isStale = false;
    for (let i = this.#heights.count; i < list.length; i++) this.#heights.push(this.#guess(list[i]!));
    return kept === 0 ? 0 : Math.max(0, list.length - before);
  }

  #guess(row: Row): number {
    const known = isEntry(row) ? this.#measured.get(row.sequence) : this.#drawn.get(keyOf(row))?.height;
    return known ?? estimate(row, this.#view.column);
  }

  #holdStill(anchor: Anchor | undefined): void {
    if (anchor === undefined) return;
    const { list } = this.rows;
    let index = this.rows.indexOf(anchor.sequence);
    for (let i = index; list[i]?.sequence === anchor.sequence; i++) if (list[i]!.kind === anchor.kind) index = i;
    this.#drift = anchor.y - this.#heights.before(index);
  }

  /** Where the view is to be: where it is, unless it stays at the end or was sent somewhere. */
  #target(scrollTop: number): number {
    if (!this.#isAtEnd && this.#wanted === undefined) return scrollTop;
    this.#drift = 0;
    const most = Math.max(0, this.#heights.total + FOOT_PX - this.#view.height);
    if (this.#wanted === undefined) return most;
    const { sequence, part } = this.#wanted;
    const index = this.rows.indexOfEntry(sequence);
    const y = this.#heights.before(index < 0 ? this.rows.indexOf(sequence) : index);
    return Math.max(0, Math.min(most, y - this.#view.height * part));
  }

  /**
   * Chooses the rows that are drawn; returns whether they are others than before. There is slack on
   * both sides, so that not every frame of a scroll draws.
   */
  #window(top: number, isDue: boolean): boolean {
    const { list } = this.rows;
    const [from, to] = [top - this.#drift, top - this.#drift + this.#view.height];
    const isCovered = (slack: number) =>
      this.#end <= list.length &&
      this.#heights.before(this.#first) <= Math.max(0, from - slack) &&
      this.#heights.before(this.#end) >= Math.min(this.#heights.total, to + slack);
    const isFull = this.#end - this.#first >= ROWS_MAX;
    if (!isDue && isCovered(isFull ? 0 : OVERSCAN_PX / 2)) return false;
    let first = this.#heights.find(from - OVERSCAN_PX);
    let end = list.length === 0 ? 0 : this.#heights.find(to + OVERSCAN_PX) + 1;
    if (end - first > ROWS_MAX) {
      const inView = this.#heights.find(from);
      first = Math.max(first, inView - ROWS_MAX / 4);
      end = Math.min(end, first + ROWS_MAX);
    }
    const isMoved = first !== this.#first || end !== this.#end;
    this.#first = first;
    this.#end = end;
    return isMoved;
  }

  #draw(added: number): void {
    const { list } = this.rows;
    const look = this.#hooks.look();
    const keys = list.slice(this.#first, this.#end).map(keyOf);
    const keep = new Set(keys);
    this.#adoptDelivered(keep);
    const isFirstTime = this.#drawn.size === 0;
    for (const [key, drawn] of this.#drawn) if (!keep.has(key)) this.#remove(key, drawn);

    // A few rows that come at the end while somebody looks there come softly.
    const soft = this.#isAtEnd && !isFirstTime && added <= 4 ? list.length - added : list.length;
    let next = this.#above.nextElementSibling;
    for (const [i, key] of keys.entries()) {
      const row = list[this.#first + i]!;
      let drawn = this.#drawn.get(key);
      if (drawn === undefined) {
        // A line between messages is no stop for the keyboard: one that is would have to have a value.
        const isLine = row.kind === "day" || row.kind === "unread";
        drawn = { element: h("div", isLine ? {} : { tabindex: -1 }), row, looks: "", height: 0 };
        this.#drawn.set(key, drawn);
        this.#resized.observe(drawn.element);
      }
      const isNew = drawn.looks === "";
      this.#fill(drawn, row, key, look);
      if (isNew && this.#first + i >= soft) drawn.element.classList.add("enters");
      if (drawn.element === next) next = next.nextElementSibling;
      else this.log.insertBefore(drawn.element, next);
    }
    this.#rove();
    if (this.#keepsFocus && document.activeElement === this.scroller) {
      this.elementOf(this.current)?.focus({ preventScroll: true });
    }
  }

  #fill(drawn: Drawn, row: Row, key: string, look: Look): void {
    const looks = `${row.kind}|${signature(row, key, look)}`;
    const isSame = drawn.looks === looks && !(row.kind === "message" && drawn.row.kind === "message" && row.message !== drawn.row.message);
    drawn.row = row;
    if (isSame) return;
    drawn.looks = looks;
    const { element } = drawn;
    const active = document.activeElement;
    const hadFocus = active !== null && active !== element && element.contains(active);
    fillRow(element, row, key, look);
    if (key === this.marked) element.classList.add("marked");
    this.#hooks.refilled(element);
    if (hadFocus && !element.contains(document.activeElement)) element.focus({ preventScroll: true });
  }

  #remove(key: string, drawn: Drawn): void {
    const { element } = drawn;
    if (element.contains(document.activeElement)) {
      this.scroller.focus({ preventScroll: true });
      this.#keepsFocus = true;
    }
    this.#resized.unobserve(element);
    element.remove();
    this.#drawn.delete(key);
  }

  /** The element of what was outgoing becomes that of the delivered message: it stays in its place. */
  #adoptDelivered(keep: ReadonlySet<string>): void {
    for (let i = this.#first; i < this.#end; i++) {
      const row = this.rows.list[i]!;
      if (row.kind !== "message" || row.message.clientMessageId === undefined) continue;
      const [from, to] = [`o:${row.message.clientMessageId}`, keyOf(row)];
      const drawn = this.#drawn.get(from);
      if (drawn === undefined || keep.has(from) || this.#drawn.has(to)) continue;
      this.#drawn.delete(from);
      this.#drawn.set(to, drawn);
      if (this.current === from) this.current = to;
    }
  }

  /** Reads how high the drawn rows are; returns whether one is of another height than thought. */
  #measure(): boolean {
    let isOff = false;
    for (let i = this.#first; i < this.#end; i++) {
      const row = this.rows.list[i]!;
      const drawn = this.#drawn.get(keyOf(row))!;
      drawn.height = drawn.element.getBoundingClientRect().height;
      if (isEntry(row)) this.#measured.set(row.sequence, drawn.height);
      if (Math.abs(drawn.height - this.#heights.at(i)) < 0.01) continue;
      this.#heights.set(i, drawn.height);
      isOff = true;
    }
    return isOff;
  }

  /** Ends a frame: the scroll position is written only where it must be. */
  #settle(scrollTop: number): void {
    let to = this.#target(scrollTop);
    if (!this.#isAtEnd && this.#wanted === undefined && this.#drift !== 0) {
      const isScrolling = performance.now() - this.#lastScroll < SCROLL_REST_MS;
      // A scroll position that is written stops a scroll, so the drift waits; but not at the top,
      // where it would be seen, nor when there is no room above to take it up.
      const isDue = this.#first === 0 || this.#drift + this.#heights.before(this.#first) < 0;
      if (isDue || !isScrolling) {
        to = scrollTop - this.#drift;
        this.#drift = 0;
      }
    }
    this.#wanted = undefined;
    this.#writeSpacers();
    if (Math.abs(to - this.scroller.scrollTop) >= 0.5) this.scroller.scrollTop = to;
    this.#lastTop = this.scroller.scrollTop;
    // No scroll event tells of an end that was reached without scrolling.
    if (this.room.below <= AT_END_PX) this.#isAtEnd = true;
  }

  #writeSpacers(): void {
    const above = Math.max(0, this.#spare + this.#drift + this.#heights.before(this.#first));
    const below = Math.max(0, this.#heights.total - this.#heights.before(this.#end));
    if (above !== this.#spacing.above) this.#above.style.setProperty("height", `${above}px`);
    if (below !== this.#spacing.below) this.#below.style.setProperty("height", `${below}px`);
    this.#spacing = { above, below };
  }

  /** Exactly one drawn row can be reached with Tab: the current one, or the last. */
  #rove(): void {
    let chosen = this.elementOf(this.current);
    for (let i = this.#end - 1; chosen === undefined && i >= this.#first; i--) {
      const row = this.rows.list[i]!;
      if (isEntry(row) || row.kind === "outgoing") chosen = this.elementOf(keyOf(row));
    }
    for (const { element } of this.#drawn.values()) {
      const tabIndex = element === chosen ? 0 : -1;
      if (element.tabIndex !== tabIndex && element.hasAttribute("tabindex")) element.tabIndex = tabIndex;
    }
  }

  // --- what the browser says ---

  readonly #onScroll = (): void => {
    this.#lastScroll = performance.now();
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollTop !== this.#lastTop) this.#isGoingDown = scrollTop > this.#lastTop;
    this.#lastTop = scrollTop;
    if (this.#wanted === undefined) this.#isAtEnd = scrollHeight - scrollTop - clientHeight <= AT_END_PX;
    clearTimeout(this.#rest);
    this.#rest = setTimeout(this.schedule, SCROLL_REST_MS + 10);
    this.schedule();
  };

  readonly #onResize = (entries: readonly ResizeObserverEntry[]): void => {
    for (const { target, borderBoxSize } of entries) {
      if (target === this.scroller) {
        this.#measureView();
        continue;
      }
      const height = borderBoxSize[0]?.blockSize ?? 0;
      for (const drawn of this.#drawn.values()) {
        if (drawn.element === target && Math.abs(drawn.height - height) > 0.4) this.#isResized = true;
      }
    }
    if (this.#isResized) this.schedule();
  };

  #measureView(): void {
    const { clientHeight, clientWidth } = this.scroller;
    // The guesses follow the width; what was measured at another width is only a guess as well.
    const style = getComputedStyle(this.log);
    const column = Math.min(Number.parseFloat(style.getPropertyValue("--line-px")) || 560, clientWidth - 76);
    if (column !== this.#view.column) {
      this.#measured = new Map();
      this.#isStale = this.#isChanged = true;
    }
    this.#view = { height: clientHeight, column };
    this.#isResized = true;
  }
}
