// The small buttons of the message under the pointer or the keyboard: copy its text, copy its link.
// There is one set of them; it moves from row to row.
import { fill, h, icon } from "../dom.ts";
import type { Row } from "./rows.ts";
import { textOf } from "./row.ts";
import type { Source } from "./source.ts";

const COPY = "M7.5 7.5V4h8.5v8.5h-3.5M4 7.5h8.5V16H4z";
const LINK = "M8.5 11.5l3-3M9.5 6.5l1.7-1.7a2.8 2.8 0 014 4L13.5 10.5M10.5 13.5l-1.7 1.7a2.8 2.8 0 01-4-4l1.7-1.7";
const DONE = "M4.5 10.5l3.5 3.5 7.5-8";
const DONE_MS = 1_500;

export class Tools {
  readonly element: HTMLElement;
  readonly #source: Source;
  readonly #copy: HTMLButtonElement;
  readonly #link: HTMLButtonElement;
  readonly #said = h("span", { class: "unseen", role: "status" });
  #row: Row | undefined;
  #owner: HTMLElement | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(source: Source) {
    this.#source = source;
    this.#copy = h(
      "button",
      { type: "button", title: "Copy text (c)", aria: { label: "Copy text" }, on: { click: () => void this.copyText() } },
      icon(COPY),
    );
    this.#link = h(
      "button",
      { type: "button", title: "Copy link", aria: { label: "Copy link to this message" }, on: { click: () => void this.#copyLink() } },
      icon(LINK),
    );
    this.element = h("div", { class: "tools" }, this.#copy, this.#link, this.#said);
  }

  /** Shows the buttons on this row; `undefined` takes them away. */
  show(at: { row: Row; element: HTMLElement } | undefined): void {
    const isFor = at !== undefined && textOf(at.row) !== undefined;
    const owner = isFor ? at.element : undefined;
    this.#row = isFor ? at.row : undefined;
    if (owner === this.#owner) return;
    if (this.element.contains(document.activeElement)) this.#owner?.focus({ preventScroll: true });
    this.#reset();
    this.#owner = owner;
    if (owner === undefined) return this.element.remove();
    this.#link.hidden = at!.row.kind !== "message";
    owner.append(this.element);
  }

  /** The row was filled again, and lost the buttons with what was in it. */
  restore(element: HTMLElement): void {
    if (element === this.#owner) element.append(this.element);
  }

  async copyText(): Promise<void> {
    const text = this.#row === undefined ? undefined : textOf(this.#row);
    if (text !== undefined) await this.#put(text, this.#copy, COPY);
  }

  async #copyLink(): Promise<void> {
    if (this.#row?.kind !== "message") return;
    const url = new URL(location.href);
    url.hash = `${encodeURIComponent(this.#source.channel)}/${this.#row.sequence}`;
    await this.#put(url.href, this.#link, LINK);
  }

  async #put(text: string, button: HTMLButtonElement, path: string): Promise<void> {
    const isDone = await writeClipboard(text);
    this.#reset();
    fill(button, [isDone ? icon(DONE) : "no"]);
    this.#said.textContent = isDone ? "Copied" : "The browser did not allow that";
    this.#timer = setTimeout(() => {
      fill(button, [icon(path)]);
      this.#said.textContent = "";
    }, DONE_MS);
  }

  #reset(): void {
    clearTimeout(this.#timer);
    fill(this.#copy, [icon(COPY)]);
    fill(this.#link, [icon(LINK)]);
    this.#said.textContent = "";
  }
}

/** Over plain http on another machine there is no `navigator.clipboard`; the old way still works there. */
async function writeClipboard(text: string): Promise<boolean> {
  try {
    if (navigator.clipboard !== undefined) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // Refused, or the page lost the focus: the old way may still do.
  }
  const focused = document.activeElement;
  const area = h("textarea", { class: "unseen", readonly: true, aria: { hidden: true } });
  area.value = text;
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  return isDone;
}

