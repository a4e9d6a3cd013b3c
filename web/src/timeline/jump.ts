// Two ways to somewhere else in the list: the pill that leads back to the newest message, and the
// small form behind the day label.
import { fill, h, icon } from "../dom.ts";

export class NewestPill {
  readonly element: HTMLButtonElement;
  #label = "";

  constructor(onPress: () => void) {
    this.element = h("button", { type: "button", class: "timeline-pill", hidden: true, on: { click: onPress } });
  }

  /** `undefined`: there is nothing newer. */
  show(unseen: number | undefined): void {
    this.element.hidden = unseen === undefined;
    const label = unseen === undefined ? "" : unseen === 0 ? "Newest" : `${unseen > 999 ? "999+" : unseen} new`;
    if (label === "" || label === this.#label) return;
    this.#label = label;
    this.element.classList.toggle("has-new", unseen !== 0);
    fill(this.element, [icon("M10 4v11M5 10.5l5 5 5-5"), label]);
  }
}

/** Where `JumpForm` can lead. */
export interface Destinations {
  toDate(date: Date): Promise<void>;
  toBeginning(): Promise<void>;
  toUnread(): Promise<void>;
  toNewest(): void;
}

export class JumpForm {
  readonly element: HTMLFormElement;
  readonly #date: HTMLInputElement;
  readonly #failure: HTMLElement;
  readonly #unread: HTMLElement;
  readonly #closed: () => void;

  constructor(to: Destinations, opener: Node, closed: () => void) {
    this.#closed = closed;
    this.#failure = h("p", { class: "why", role: "alert", hidden: true });
    this.#date = h("input", { type: "date", name: "day", required: true, aria: { label: "Day" } });
    const go = (journey: () => Promise<void> | void) => () => void this.#leave(journey);
    this.#unread = h("button", { type: "button", class: "act", on: { click: go(() => to.toUnread()) } }, "First unread");
    this.element = h(
      "form",
      {
        class: "timeline-jump",
        hidden: true,
        aria: { label: "Go to" },
        on: {
          submit: (event) => {
            event.preventDefault();
            const [year, month, day] = this.#date.value.split("-").map(Number);
            void this.#leave(() => to.toDate(new Date(year!, month! - 1, day)));
          },
          keydown: (event) => {
            event.stopPropagation();
            if (event.key === "Escape") this.close();
          },
          focusout: (event) => {
            const next = event.relatedTarget;
            // The opener closes it by itself.
            if (next instanceof Node && next !== opener && !this.element.contains(next)) this.element.hidden = true;
          },
        },
      },
      h("div", { class: "line" }, this.#date, h("button", { type: "submit", class: "act" }, "Go")),
      h(
        "div",
        { class: "line" },
        h("button", { type: "button", class: "act", on: { click: go(() => to.toBeginning()) } }, "Beginning"),
        this.#unread,
        h("button", { type: "button", class: "act", on: { click: go(() => to.toNewest()) } }, "Newest"),
      ),
      this.#failure,
    );
  }

  /** `at`: the day that is being read. `hasUnread`: whether there is a first unread message. */
  toggle(at: number, hasUnread: boolean): void {
    if (!this.element.hidden) return this.close();
    this.#unread.hidden = !hasUnread;
    const date = new Date(at);
    const two = (number: number) => String(number).padStart(2, "0");
    this.#date.value = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    this.#failure.hidden = true;
    this.element.hidden = false;
    this.#date.focus();
  }

  close(): void {
    if (this.element.hidden) return;
    this.element.hidden = true;
    this.#closed();
  }

  async #leave(journey: () => Promise<void> | void): Promise<void> {
    try {
      await journey();
      this.close();
    } catch (error) {
      fill(this.#failure, [`That did not work: ${messageOf(error)}`]);
      this.#failure.hidden = false;
    }
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error && error.message !== "" ? error.message : "no answer";
}
